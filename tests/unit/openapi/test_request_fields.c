/* The request schemas of docs/openapi.json say what the server's table of fields does. */
#include <criterion/criterion.h>
#include <stdint.h>
#include <string.h>
#include <jansson.h>

#include "common/error.h"
#include "common/json.h"
#include "server/api/fields.h"
#include "tests/support/json_pointer.h"

static const struct {
    const char *schema;
    enum field_endpoints endpoint;
} requests[] = {{"#/components/schemas/ChatCompletionRequest", FIELD_CHAT},
                {"#/components/schemas/CompletionRequest", FIELD_COMPLETIONS},
                {"#/components/schemas/TokenizeRequest", FIELD_TOKENIZE},
                {"#/components/schemas/DetokenizeRequest", FIELD_DETOKENIZE}};

static json_t *document;

static void load(void)
{
    struct error err = {0};
    document = json_read_file("docs/openapi.json", 4 << 20, &err);
    cr_assert_not_null(document, "%s", err.message);
}

static void unload(void)
{
    json_decref(document);
}

TestSuite(request_fields, .init = load, .fini = unload);

static const json_t *follow(const json_t *schema)
{
    const char *reference = json_string_value(json_object_get(schema, "$ref"));
    return reference ? json_pointer_resolve(document, reference) : schema;
}

static const json_t *properties_of(size_t request)
{
    return json_object_get(json_pointer_resolve(document, requests[request].schema), "properties");
}

static unsigned type_named(const char *name)
{
    static const struct {
        const char *name;
        unsigned type;
    } types[] = {{"boolean", FIELD_BOOLEAN}, {"integer", FIELD_INTEGER}, {"number", FIELD_NUMBER},
                 {"string", FIELD_STRING},   {"array", FIELD_ARRAY},     {"object", FIELD_OBJECT}};
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        if (strcmp(types[i].name, name) == 0) {
            return types[i].type;
        }
    }
    return 0; /* null */
}

/* Of a schema and its branches; words are strings. */
static unsigned types_of(const json_t *schema)
{
    schema = follow(schema);
    const json_t *type = json_object_get(schema, "type");
    unsigned types = json_is_string(type) ? type_named(json_string_value(type)) : 0;
    for (size_t i = 0; i < json_array_size(type); i++) {
        types |= type_named(json_string_value(json_array_get(type, i)));
    }
    const json_t *branches = json_object_get(schema, "anyOf");
    for (size_t i = 0; i < json_array_size(branches); i++) {
        types |= types_of(json_array_get(branches, i));
    }
    return json_object_get(schema, "enum") ? FIELD_STRING : types;
}

static void expect_bound(const struct field *field, const json_t *schema, const char *keyword,
                         bool bounded, double value)
{
    const json_t *bound = json_object_get(schema, keyword);
    cr_expect_eq(bound != NULL, bounded, "%s: %s", field->name, keyword);
    if (bound && bounded) {
        cr_expect_eq(json_number_value(bound), value, "%s: %s", field->name, keyword);
    }
}

static void expect_range(const struct field *field, const json_t *schema)
{
    bool bounded = field->min != 0 || field->max != 0;
    if (field->types & (FIELD_INTEGER | FIELD_NUMBER)) {
        expect_bound(field, schema, "minimum", bounded && !field->above_min, field->min);
        expect_bound(field, schema, "exclusiveMinimum", bounded && field->above_min, field->min);
        expect_bound(field, schema, "maximum", bounded, field->max);
    } else if (field->types == FIELD_ARRAY) {
        expect_bound(field, schema, "minItems", bounded, field->min);
    }
}

/* " a b " are these words, in this order, and null. */
static void expect_words(const struct field *field, const json_t *schema)
{
    char words[512] = " ";
    const json_t *named = json_object_get(schema, "enum");
    bool null = false;
    for (size_t i = 0; i < json_array_size(named); i++) {
        const json_t *word = json_array_get(named, i);
        size_t length = strlen(words);
        null = null || json_is_null(word);
        if (json_is_string(word)) {
            snprintf(words + length, sizeof words - length, "%s ", json_string_value(word));
        }
    }
    cr_expect_str_eq(words, field->words ? field->words : " ", "%s", field->name);
    cr_expect(null || !field->words, "%s: null is absent", field->name);
}

Test(request_fields, the_document_says_of_each_field_what_the_table_does)
{
    size_t count;
    const struct field *table = fields_table(&count);
    for (size_t r = 0; r < sizeof requests / sizeof requests[0]; r++) {
        for (size_t i = 0; i < count; i++) {
            if (!(table[i].endpoints & requests[r].endpoint)) {
                continue;
            }
            const json_t *schema = follow(json_object_get(properties_of(r), table[i].name));
            cr_expect_not_null(schema, "%s lacks %s", requests[r].schema, table[i].name);
            cr_expect_not_null(json_object_get(schema, "description"), "%s", table[i].name);
            cr_expect_eq(types_of(schema), table[i].types, "%s: types", table[i].name);
            expect_range(&table[i], schema);
            expect_words(&table[i], schema);
        }
    }
}

Test(request_fields, the_document_has_no_field_that_the_table_lacks)
{
    size_t count;
    const struct field *table = fields_table(&count);
    for (size_t r = 0; r < sizeof requests / sizeof requests[0]; r++) {
        const char *name;
        json_t *schema;
        json_object_foreach((json_t *)properties_of(r), name, schema)
        {
            bool known = false;
            for (size_t i = 0; i < count; i++) {
                known |=
                    (table[i].endpoints & requests[r].endpoint) && strcmp(table[i].name, name) == 0;
            }
            cr_expect(known, "%s: %s", requests[r].schema, name);
        }
    }
}

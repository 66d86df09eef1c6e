#include "tests/support/json_schema.h"
#include "tests/support/json_schema_internal.h"

#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "common/buffer.h"
#include "common/json.h"

enum { SCHEMA_DEPTH_MAX = 100 }; /* schemas entered at once; our deepest body needs about 20 */

int json_schema_report(struct finding *finding, int code, const struct json_place *value_at,
                       const struct json_place *schema_at, const char *format, ...)
{
    struct buffer text = {0};
    va_list arguments;
    json_place_append(&text, value_at ? value_at : schema_at);
    buffer_append_text(&text, ": ");
    va_start(arguments, format);
    buffer_format_list(&text, format, arguments);
    va_end(arguments);
    if (value_at) {
        buffer_append_text(&text, " [schema ");
        json_place_append(&text, schema_at);
        buffer_append_char(&text, ']');
    }
    finding->depth = value_at ? value_at->depth : 0;
    error_set(&finding->error, text.failed ? ERROR_MEMORY : code, "%s",
              text.failed ? "out of memory while a message was written" : text.data);
    buffer_free(&text);
    return finding->error.code;
}

const char *json_schema_describe(const json_t *value, char *out, size_t size)
{
    size_t written = json_dumpb(value, out, size - 1, JSON_ENCODE_ANY | JSON_COMPACT);
    if (written == 0 || written >= size) {
        return json_type_name(value);
    }
    out[written] = '\0';
    return out;
}

/* One keyword of a schema against one value. */
struct subject {
    const json_t *document;
    const json_t *schema;  /* that holds the keyword */
    const json_t *keyword; /* its value */
    const json_t *value;
    const struct json_place *schema_at; /* of the keyword */
    const struct json_place *value_at;
    int entered; /* schemas so far */
};

static int check_schema(const struct subject *from, const json_t *schema,
                        const struct json_place *schema_at, const json_t *value,
                        const struct json_place *value_at, struct finding *finding);

static int refuse(const struct subject *subject, struct finding *finding, const char *expected)
{
    char found[96];
    return json_schema_report(finding, ERROR_INVALID, subject->value_at, subject->schema_at,
                              "is %s, but must be %s",
                              json_schema_describe(subject->value, found, sizeof found), expected);
}

static bool is_integral(const json_t *value)
{
    return json_is_integer(value) ||
           (json_is_real(value) && json_real_value(value) == trunc(json_real_value(value)));
}

static bool has_type(const json_t *value, const char *type)
{
    return (strcmp(type, "null") == 0 && json_is_null(value)) ||
           (strcmp(type, "boolean") == 0 && json_is_boolean(value)) ||
           (strcmp(type, "integer") == 0 && is_integral(value)) ||
           (strcmp(type, "number") == 0 && json_is_number(value)) ||
           (strcmp(type, "string") == 0 && json_is_string(value)) ||
           (strcmp(type, "array") == 0 && json_is_array(value)) ||
           (strcmp(type, "object") == 0 && json_is_object(value));
}

static int check_type(const struct subject *subject, struct finding *finding)
{
    bool fits = json_is_string(subject->keyword) &&
                has_type(subject->value, json_string_value(subject->keyword));
    for (size_t i = 0; !fits && i < json_array_size(subject->keyword); i++) {
        fits = has_type(subject->value, json_string_value(json_array_get(subject->keyword, i)));
    }
    char expected[128];
    return fits ? 0
                : refuse(subject, finding,
                         json_schema_describe(subject->keyword, expected, sizeof expected));
}

/* 1 and 1.0 are the same value. */
static bool is_equal(const json_t *one, const json_t *other)
{
    return json_is_number(one) && json_is_number(other)
               ? json_number_value(one) == json_number_value(other)
               : json_equal(one, other) == 1;
}

static int check_const(const struct subject *subject, struct finding *finding)
{
    char expected[96];
    return is_equal(subject->keyword, subject->value)
               ? 0
               : refuse(subject, finding,
                        json_schema_describe(subject->keyword, expected, sizeof expected));
}

static int check_enum(const struct subject *subject, struct finding *finding)
{
    for (size_t i = 0; i < json_array_size(subject->keyword); i++) {
        if (is_equal(json_array_get(subject->keyword, i), subject->value)) {
            return 0;
        }
    }
    char words[256], expected[288];
    snprintf(expected, sizeof expected, "one of %s",
             json_schema_describe(subject->keyword, words, sizeof words));
    return refuse(subject, finding, expected);
}

static int check_required(const struct subject *subject, struct finding *finding)
{
    for (size_t i = 0; json_is_object(subject->value) && i < json_array_size(subject->keyword);
         i++) {
        const char *name = json_string_value(json_array_get(subject->keyword, i));
        if (!json_object_get(subject->value, name)) {
            return json_schema_report(finding, ERROR_INVALID, subject->value_at, subject->schema_at,
                                      "lacks the member %s", name);
        }
    }
    return 0;
}

static int check_properties(const struct subject *subject, struct finding *finding)
{
    const char *name;
    json_t *schema;
    json_object_foreach((json_t *)subject->keyword, name, schema)
    {
        const json_t *member = json_object_get(subject->value, name);
        struct json_place schema_at = json_place_member(subject->schema_at, name);
        struct json_place value_at = json_place_member(subject->value_at, name);
        int code =
            member ? check_schema(subject, schema, &schema_at, member, &value_at, finding) : 0;
        if (code) {
            return code;
        }
    }
    return 0;
}

static int check_additional(const struct subject *subject, struct finding *finding)
{
    const json_t *properties = json_object_get(subject->schema, "properties");
    const char *name;
    json_t *member;
    json_object_foreach((json_t *)subject->value, name, member)
    {
        if (json_object_get(properties, name)) {
            continue;
        }
        struct json_place value_at = json_place_member(subject->value_at, name);
        if (json_is_false(subject->keyword)) {
            return json_schema_report(finding, ERROR_INVALID, &value_at, subject->schema_at,
                                      "is a member that the schema does not know");
        }
        int code = json_is_object(subject->keyword)
                       ? check_schema(subject, subject->keyword, subject->schema_at, member,
                                      &value_at, finding)
                       : 0;
        if (code) {
            return code;
        }
    }
    return 0;
}

static int check_items(const struct subject *subject, struct finding *finding)
{
    for (size_t i = 0; i < json_array_size(subject->value); i++) {
        struct json_place value_at = json_place_item(subject->value_at, i);
        int code = check_schema(subject, subject->keyword, subject->schema_at,
                                json_array_get(subject->value, i), &value_at, finding);
        if (code) {
            return code;
        }
    }
    return 0;
}

static int check_min_items(const struct subject *subject, struct finding *finding)
{
    json_int_t least = json_integer_value(subject->keyword);
    size_t size = json_array_size(subject->value);
    if (!json_is_array(subject->value) || (json_int_t)size >= least) {
        return 0;
    }
    return json_schema_report(finding, ERROR_INVALID, subject->value_at, subject->schema_at,
                              "has %zu elements, but must have at least %lld", size,
                              (long long)least);
}

static int check_max_items(const struct subject *subject, struct finding *finding)
{
    json_int_t most = json_integer_value(subject->keyword);
    size_t size = json_array_size(subject->value);
    if ((json_int_t)size <= most) {
        return 0;
    }
    return json_schema_report(finding, ERROR_INVALID, subject->value_at, subject->schema_at,
                              "has %zu elements, but must have at most %lld", size,
                              (long long)most);
}

/* Bytes that begin a character; jansson has refused what is not UTF-8. */
static json_int_t count_characters(const json_t *string)
{
    const char *text = json_string_value(string);
    json_int_t count = 0;
    for (size_t i = 0; i < json_string_length(string); i++) {
        count += ((unsigned char)text[i] & 0xc0) != 0x80 ? 1 : 0;
    }
    return count;
}

static int check_min_length(const struct subject *subject, struct finding *finding)
{
    json_int_t least = json_integer_value(subject->keyword);
    if (!json_is_string(subject->value) || count_characters(subject->value) >= least) {
        return 0;
    }
    return json_schema_report(finding, ERROR_INVALID, subject->value_at, subject->schema_at,
                              "has %lld characters, but must have at least %lld",
                              (long long)count_characters(subject->value), (long long)least);
}

static int refuse_bound(const struct subject *subject, struct finding *finding, const char *side)
{
    char bound[32], expected[64];
    snprintf(expected, sizeof expected, "%s %s", side,
             json_schema_describe(subject->keyword, bound, sizeof bound));
    return refuse(subject, finding, expected);
}

static int check_minimum(const struct subject *subject, struct finding *finding)
{
    bool under = json_is_number(subject->value) &&
                 json_number_value(subject->value) < json_number_value(subject->keyword);
    return under ? refuse_bound(subject, finding, "at least") : 0;
}

static int check_maximum(const struct subject *subject, struct finding *finding)
{
    bool over = json_is_number(subject->value) &&
                json_number_value(subject->value) > json_number_value(subject->keyword);
    return over ? refuse_bound(subject, finding, "at most") : 0;
}

static int check_exclusive_minimum(const struct subject *subject, struct finding *finding)
{
    bool under = json_is_number(subject->value) &&
                 json_number_value(subject->value) <= json_number_value(subject->keyword);
    return under ? refuse_bound(subject, finding, "above") : 0;
}

/* How many branches fit; `best` is the finding of the one that failed furthest into the value. */
static size_t count_fitting(const struct subject *subject, struct finding *best)
{
    size_t fitting = 0;
    best->depth = -1;
    for (size_t i = 0; i < json_array_size(subject->keyword); i++) {
        struct finding branch = {0};
        struct json_place schema_at = json_place_item(subject->schema_at, i);
        if (check_schema(subject, json_array_get(subject->keyword, i), &schema_at, subject->value,
                         subject->value_at, &branch) == 0) {
            fitting++;
        } else if (branch.error.code != ERROR_INVALID) {
            *best = branch; /* says nothing about the value: the other branches cannot help */
            return 0;
        } else if (branch.depth > best->depth) {
            *best = branch;
        }
    }
    return fitting;
}

static int refuse_branches(struct finding *finding, const struct finding *best)
{
    *finding = *best;
    return finding->error.code;
}

static int check_any_of(const struct subject *subject, struct finding *finding)
{
    struct finding best = {0};
    return count_fitting(subject, &best) > 0 ? 0 : refuse_branches(finding, &best);
}

static int check_one_of(const struct subject *subject, struct finding *finding)
{
    struct finding best = {0};
    size_t fitting = count_fitting(subject, &best);
    if (fitting == 0) {
        return refuse_branches(finding, &best);
    }
    return fitting == 1
               ? 0
               : json_schema_report(finding, ERROR_INVALID, subject->value_at, subject->schema_at,
                                    "fits %zu branches, but must fit exactly one", fitting);
}

static int check_reference(const struct subject *subject, struct finding *finding)
{
    const char *reference = json_string_value(subject->keyword);
    struct json_place schema_at = json_place_root(reference);
    return check_schema(subject, json_pointer_resolve(subject->document, reference), &schema_at,
                        subject->value, subject->value_at, finding);
}

static const struct keyword keywords[] = {
    {"title", FORM_TEXT, NULL},
    {"description", FORM_TEXT, NULL},
    {"default", FORM_ANY, NULL},
    {"examples", FORM_ARRAY, NULL},
    {"$ref", FORM_REFERENCE, check_reference},
    {"type", FORM_TYPES, check_type},
    {"const", FORM_ANY, check_const},
    {"enum", FORM_ARRAY, check_enum},
    {"required", FORM_NAMES, check_required},
    {"additionalProperties", FORM_ADDITIONAL, check_additional},
    {"properties", FORM_MEMBERS, check_properties},
    {"minItems", FORM_COUNT, check_min_items},
    {"maxItems", FORM_COUNT, check_max_items},
    {"items", FORM_SCHEMA, check_items},
    {"minLength", FORM_COUNT, check_min_length},
    {"minimum", FORM_NUMBER, check_minimum},
    {"maximum", FORM_NUMBER, check_maximum},
    {"exclusiveMinimum", FORM_NUMBER, check_exclusive_minimum},
    {"anyOf", FORM_BRANCHES, check_any_of},
    {"oneOf", FORM_BRANCHES, check_one_of},
};

const struct keyword *json_schema_keywords(size_t *count)
{
    *count = sizeof keywords / sizeof keywords[0];
    return keywords;
}

static int check_schema(const struct subject *from, const json_t *schema,
                        const struct json_place *schema_at, const json_t *value,
                        const struct json_place *value_at, struct finding *finding)
{
    struct subject subject = {.document = from->document,
                              .schema = schema,
                              .value = value,
                              .value_at = value_at,
                              .entered = from->entered + 1};
    if (subject.entered > SCHEMA_DEPTH_MAX) {
        return json_schema_report(
            finding, ERROR_LIMIT, value_at, schema_at,
            "more than %d schemas lead to here; do references go in a circle?", SCHEMA_DEPTH_MAX);
    }
    for (size_t i = 0; i < sizeof keywords / sizeof keywords[0]; i++) {
        subject.keyword = json_object_get(schema, keywords[i].name);
        if (!subject.keyword || !keywords[i].check) {
            continue;
        }
        struct json_place keyword_at = json_place_member(schema_at, keywords[i].name);
        subject.schema_at = &keyword_at;
        int code = keywords[i].check(&subject, finding);
        if (code) {
            return code;
        }
    }
    return 0;
}

int json_schema_check(const json_t *document, const json_t *schema, const struct json_place *where,
                      const json_t *value, struct error *err)
{
    struct subject subject = {.document = document};
    struct json_place value_at = json_place_root("#");
    struct finding finding = {0};
    int code = check_schema(&subject, schema, where, value, &value_at, &finding);
    return code ? error_set(err, code, "%s", finding.error.message) : 0;
}

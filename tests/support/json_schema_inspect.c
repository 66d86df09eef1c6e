#include "tests/support/json_schema.h"
#include "tests/support/json_schema_internal.h"

#include <stdbool.h>
#include <string.h>

#include "common/json.h"

struct inspection {
    const json_t *document;
    struct finding finding;
};

static bool is_type_name(const json_t *name)
{
    static const char *const types[] = {"null",   "boolean", "integer", "number",
                                        "string", "array",   "object"};
    for (size_t i = 0; json_is_string(name) && i < sizeof types / sizeof types[0]; i++) {
        if (strcmp(json_string_value(name), types[i]) == 0) {
            return true;
        }
    }
    return false;
}

static bool is_array_of(const json_t *array, bool (*fits)(const json_t *item))
{
    for (size_t i = 0; i < json_array_size(array); i++) {
        if (!fits(json_array_get(array, i))) {
            return false;
        }
    }
    return json_array_size(array) > 0;
}

static bool is_string(const json_t *value)
{
    return json_is_string(value);
}

static bool is_object(const json_t *value)
{
    return json_is_object(value);
}

static bool has_form(const json_t *document, enum form form, const json_t *value)
{
    switch (form) {
    case FORM_ANY:
        return true;
    case FORM_TEXT:
        return json_is_string(value);
    case FORM_NUMBER:
        return json_is_number(value);
    case FORM_COUNT:
        return json_is_integer(value) && json_integer_value(value) >= 0;
    case FORM_ARRAY:
        return json_array_size(value) > 0;
    case FORM_NAMES:
        return is_array_of(value, is_string);
    case FORM_TYPES:
        return is_type_name(value) || is_array_of(value, is_type_name);
    case FORM_SCHEMA:
    case FORM_MEMBERS:
        return json_is_object(value);
    case FORM_ADDITIONAL:
        return json_is_boolean(value) || json_is_object(value);
    case FORM_BRANCHES:
        return is_array_of(value, is_object);
    case FORM_REFERENCE:
        return json_is_string(value) &&
               json_is_object(json_pointer_resolve(document, json_string_value(value)));
    }
    return false;
}

static int inspect_schema(struct inspection *inspection, const json_t *schema,
                          const struct json_place *at);

static int inspect_below(struct inspection *inspection, enum form form, const json_t *value,
                         const struct json_place *at)
{
    if (form == FORM_SCHEMA || (form == FORM_ADDITIONAL && json_is_object(value))) {
        return inspect_schema(inspection, value, at);
    }
    int code = 0;
    for (size_t i = 0; form == FORM_BRANCHES && !code && i < json_array_size(value); i++) {
        struct json_place branch_at = json_place_item(at, i);
        code = inspect_schema(inspection, json_array_get(value, i), &branch_at);
    }
    const char *name;
    json_t *member;
    json_object_foreach(form == FORM_MEMBERS ? (json_t *)value : NULL, name, member)
    {
        struct json_place member_at = json_place_member(at, name);
        code = code ? code : inspect_schema(inspection, member, &member_at);
    }
    return code;
}

static const struct keyword *find_keyword(const char *name)
{
    size_t count;
    const struct keyword *keywords = json_schema_keywords(&count);
    for (size_t i = 0; i < count; i++) {
        if (strcmp(keywords[i].name, name) == 0) {
            return &keywords[i];
        }
    }
    return NULL;
}

static int inspect_schema(struct inspection *inspection, const json_t *schema,
                          const struct json_place *at)
{
    const char *name;
    json_t *value;
    if (!json_is_object(schema)) {
        return json_schema_report(&inspection->finding, ERROR_INVALID, NULL, at,
                                  "is %s, but a schema is an object here", json_type_name(schema));
    }
    json_object_foreach((json_t *)schema, name, value)
    {
        const struct keyword *keyword = find_keyword(name);
        struct json_place keyword_at = json_place_member(at, name);
        if (!keyword) {
            return json_schema_report(
                &inspection->finding, ERROR_INVALID, NULL, &keyword_at,
                "the keyword %s is not known here; say it in other words or teach "
                "json_schema.c",
                name);
        }
        if (!has_form(inspection->document, keyword->form, value)) {
            char found[96];
            return json_schema_report(
                &inspection->finding, ERROR_INVALID, NULL, &keyword_at,
                "%s cannot be the value of this keyword, or points at nothing",
                json_schema_describe(value, found, sizeof found));
        }
        int code = inspect_below(inspection, keyword->form, value, &keyword_at);
        if (code) {
            return code;
        }
    }
    return 0;
}

int json_schema_inspect(const json_t *document, const json_t *schema,
                        const struct json_place *where, struct error *err)
{
    struct inspection inspection = {.document = document};
    int code = inspect_schema(&inspection, schema, where);
    return code ? error_set(err, code, "%s", inspection.finding.error.message) : 0;
}

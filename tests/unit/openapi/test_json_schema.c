/* Every keyword on its own, what is refused, and where messages point. */
#include <criterion/criterion.h>
#include <string.h>
#include <jansson.h>

#include "common/error.h"
#include "tests/support/json_pointer.h"
#include "tests/support/json_schema.h"

static json_t *parse(const char *text)
{
    json_error_t cause;
    json_t *value = json_loads(text, JSON_DECODE_ANY, &cause);
    cr_assert_not_null(value, "%s: %s", text, cause.text);
    return value;
}

/* The schema is the document's "s"; "d" holds others for references. */
static int check(const char *document, const char *value, struct error *err)
{
    json_t *root = parse(document);
    json_t *subject = parse(value);
    const json_t *schema = json_object_get(root, "s");
    struct json_place where = json_place_root("#/s");
    int code = json_schema_inspect(root, schema, &where, err);
    cr_assert_eq(code, 0, "%s: %s", document, err->message);
    code = json_schema_check(root, schema, &where, subject, err);
    json_decref(subject);
    json_decref(root);
    return code;
}

/* Lists of values end with NULL. */
struct keyword_case {
    const char *schema;
    const char *accepted[8];
    const char *rejected[8];
};

static const struct keyword_case cases[] = {
    {"{}", {"null", "1", "{\"a\":[]}"}, {NULL}},
    {"{\"type\":\"null\"}", {"null"}, {"0", "\"\"", "false", "[]", "{}"}},
    {"{\"type\":\"boolean\"}", {"true", "false"}, {"0", "null", "\"true\""}},
    {"{\"type\":\"integer\"}", {"0", "-3", "16.0"}, {"0.5", "\"1\"", "null", "true"}},
    {"{\"type\":\"number\"}", {"0", "0.5", "-1e9"}, {"\"1\"", "null", "false"}},
    {"{\"type\":\"string\"}", {"\"\"", "\"a\""}, {"0", "null", "[]"}},
    {"{\"type\":\"array\"}", {"[]", "[1,\"a\"]"}, {"{}", "null", "\"\""}},
    {"{\"type\":\"object\"}", {"{}", "{\"a\":1}"}, {"[]", "null", "\"\""}},
    {"{\"type\":[\"string\",\"null\"]}", {"null", "\"a\""}, {"0", "false", "{}"}},
    {"{\"const\":\"a\"}", {"\"a\""}, {"\"b\"", "\"ab\"", "null"}},
    {"{\"const\":1}", {"1", "1.0"}, {"2", "true", "\"1\""}},
    {"{\"enum\":[\"a\",2,null]}", {"\"a\"", "2", "2.0", "null"}, {"\"b\"", "1", "false", "[]"}},
    {"{\"required\":[\"a\"]}",
     {"{\"a\":null}", "{\"a\":1,\"b\":2}", "[]", "3"},
     {"{}", "{\"b\":1}"}},
    {"{\"properties\":{\"a\":{\"type\":\"null\"}}}",
     {"{}", "{\"a\":null}", "{\"b\":1}", "[]"},
     {"{\"a\":1}"}},
    {"{\"properties\":{\"a\":{}},\"additionalProperties\":false}",
     {"{}", "{\"a\":1}", "[]", "\"b\""},
     {"{\"b\":1}", "{\"a\":1,\"b\":null}"}},
    {"{\"properties\":{\"a\":{}},\"additionalProperties\":true}", {"{\"a\":1,\"b\":2}"}, {NULL}},
    {"{\"properties\":{\"a\":{}},\"additionalProperties\":{\"type\":\"number\"}}",
     {"{\"a\":\"x\",\"b\":1}", "{}"},
     {"{\"b\":\"x\"}", "{\"b\":null}"}},
    {"{\"items\":{\"type\":\"integer\"}}", {"[]", "[1,2]", "{}", "\"a\""}, {"[\"a\"]", "[1,null]"}},
    {"{\"minItems\":2}", {"[1,2]", "[1,2,3]", "\"\"", "{}"}, {"[]", "[1]"}},
    {"{\"maxItems\":1}", {"[]", "[1]", "\"abc\""}, {"[1,2]"}},
    {"{\"minLength\":2}",
     {"\"ab\"", "\"\xc3\xa9\xe2\x96\x91\"", "1", "[]"},
     {"\"\"", "\"\xc3\xa9\""}},
    {"{\"minimum\":0.5}", {"0.5", "1", "\"\"", "null"}, {"0", "0.49", "-1"}},
    {"{\"maximum\":2}", {"2", "2.0", "-9", "\"zzz\""}, {"3", "2.5"}},
    {"{\"exclusiveMinimum\":0}", {"0.1", "1", "\"\""}, {"0", "0.0", "-1"}},
    {"{\"anyOf\":[{\"type\":\"string\"},{\"minimum\":3}]}", {"\"a\"", "3", "null"}, {"2", "-1"}},
    {"{\"oneOf\":[{\"type\":\"integer\"},{\"minimum\":3}]}", {"2", "3.5"}, {"3", "2.5"}},
    {"{\"$ref\":\"#/d/name~1~0\"}", {"\"a\""}, {"1"}},
    {"{\"$ref\":\"#/d/list/1\"}", {"null"}, {"1"}},
    {"{\"$ref\":\"#/d/tree\"}",
     {"{}", "{\"left\":{\"left\":{}}}"},
     {"{\"left\":{\"left\":1}}", "{\"right\":{}}"}},
    /* Beside a reference other keywords hold as well. */
    {"{\"$ref\":\"#/d/name~1~0\",\"minLength\":2}", {"\"ab\""}, {"\"a\"", "1"}},
    {"{\"title\":\"t\",\"description\":\"d\",\"default\":1,\"examples\":[1]}",
     {"1", "\"a\""},
     {NULL}},
};

static const char others[] = "{\"name/~\":{\"type\":\"string\"},\"list\":[{},{\"type\":\"null\"}],"
                             "\"tree\":{\"type\":\"object\",\"properties\":{\"left\":{\"$ref\":"
                             "\"#/d/tree\"}},\"additionalProperties\":false}}";

Test(json_schema, every_keyword_accepts_and_rejects)
{
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char document[1024];
        snprintf(document, sizeof document, "{\"s\":%s,\"d\":%s}", cases[i].schema, others);
        struct error err = {0};
        for (size_t k = 0; cases[i].accepted[k]; k++) {
            cr_expect_eq(check(document, cases[i].accepted[k], &err), 0, "%s takes %s: %s",
                         cases[i].schema, cases[i].accepted[k], err.message);
        }
        for (size_t k = 0; cases[i].rejected[k]; k++) {
            cr_expect_eq(check(document, cases[i].rejected[k], &err), ERROR_INVALID,
                         "%s rejects %s", cases[i].schema, cases[i].rejected[k]);
        }
    }
}

static void expect_refused(const char *schema, const char *in_message)
{
    json_t *root = json_pack("{so}", "s", parse(schema));
    struct json_place where = json_place_root("#/s");
    struct error err = {0};
    int code = json_schema_inspect(root, json_object_get(root, "s"), &where, &err);
    cr_expect_eq(code, ERROR_INVALID, "%s", schema);
    cr_expect_not_null(strstr(err.message, in_message), "%s: %s", schema, err.message);
    json_decref(root);
}

Test(json_schema, unknown_keywords_are_refused_wherever_they_stand)
{
    expect_refused("{\"pattern\":\"a\"}", "#/s/pattern: the keyword pattern is not known");
    expect_refused("{\"nullable\":true}", "#/s/nullable: ");
    expect_refused("{\"properties\":{\"a/b\":{\"format\":\"uri\"}}}",
                   "#/s/properties/a~1b/format: ");
    expect_refused("{\"items\":{\"uniqueItems\":true}}", "#/s/items/uniqueItems: ");
    expect_refused("{\"additionalProperties\":{\"not\":{}}}", "#/s/additionalProperties/not: ");
    expect_refused("{\"anyOf\":[{},{\"allOf\":[]}]}", "#/s/anyOf/1/allOf: ");
    expect_refused("{\"oneOf\":[{\"if\":{}}]}", "#/s/oneOf/0/if: ");
}

Test(json_schema, keywords_of_the_wrong_form_are_refused)
{
    static const char *const schemas[] = {
        "{\"type\":\"text\"}",
        "{\"type\":[]}",
        "{\"type\":[\"string\",\"nil\"]}",
        "{\"enum\":[]}",
        "{\"enum\":\"a\"}",
        "{\"required\":[1]}",
        "{\"required\":[]}",
        "{\"properties\":[]}",
        "{\"properties\":{\"a\":true}}",
        "{\"additionalProperties\":1}",
        "{\"items\":true}",
        "{\"items\":[{}]}",
        "{\"minItems\":-1}",
        "{\"maxItems\":1.5}",
        "{\"minLength\":\"1\"}",
        "{\"minimum\":\"1\"}",
        "{\"exclusiveMinimum\":true}",
        "{\"anyOf\":[]}",
        "{\"oneOf\":[1]}",
        "{\"description\":1}",
        "{\"examples\":1}",
        "{\"$ref\":\"#/absent\"}",
        "{\"$ref\":\"other.json\"}",
        "{\"$ref\":1}",
    };
    for (size_t i = 0; i < sizeof schemas / sizeof schemas[0]; i++) {
        expect_refused(schemas[i], "#/s/");
    }
    expect_refused("[]", "#/s: ");
}

static void expect_message(const char *document, const char *value, const char *message)
{
    struct error err = {0};
    cr_expect_neq(check(document, value, &err), 0, "%s", value);
    cr_expect_str_eq(err.message, message);
}

Test(json_schema, messages_point_at_value_and_keyword)
{
    expect_message("{\"s\":{\"properties\":{\"a\":{\"items\":{\"type\":\"integer\"}}}}}",
                   "{\"a\":[1,\"x\"]}",
                   "#/a/1: is \"x\", but must be \"integer\" [schema #/s/properties/a/items/type]");
    expect_message("{\"s\":{\"items\":{\"$ref\":\"#/d/x\"}},\"d\":{\"x\":{\"required\":[\"b\"]}}}",
                   "[{}]", "#/0: lacks the member b [schema #/d/x/required]");
    expect_message("{\"s\":{\"additionalProperties\":false}}", "{\"a/~b\":1}",
                   "#/a~1~0b: is a member that the schema does not know [schema "
                   "#/s/additionalProperties]");
    expect_message("{\"s\":{\"minItems\":1}}", "[]",
                   "#: has 0 elements, but must have at least 1 [schema #/s/minItems]");
}

Test(json_schema, of_branches_the_one_that_got_furthest_is_reported)
{
    expect_message("{\"s\":{\"anyOf\":[{\"type\":\"null\"},{\"properties\":{\"a\":{\"const\":1}}},"
                   "{\"type\":\"string\"}]}}",
                   "{\"a\":2}", "#/a: is 2, but must be 1 [schema #/s/anyOf/1/properties/a/const]");
    expect_message("{\"s\":{\"oneOf\":[{},{\"type\":\"null\"},{}]}}", "null",
                   "#: fits 3 branches, but must fit exactly one [schema #/s/oneOf]");
}

Test(json_schema, circles_of_references_end_in_an_error)
{
    static const char *const documents[] = {
        "{\"s\":{\"$ref\":\"#/s\"}}",
        "{\"s\":{\"$ref\":\"#/d\"},\"d\":{\"$ref\":\"#/s\"}}",
        /* Taken one after the other, these branches would be 2 to the 100th. */
        "{\"s\":{\"anyOf\":[{\"$ref\":\"#/s\"},{\"$ref\":\"#/s\"}]}}",
        "{\"s\":{\"oneOf\":[{\"$ref\":\"#/s\"},{\"type\":\"null\"},{\"$ref\":\"#/s\"}]}}",
    };
    for (size_t i = 0; i < sizeof documents / sizeof documents[0]; i++) {
        struct error err = {0};
        cr_expect_eq(check(documents[i], "null", &err), ERROR_LIMIT, "%s", documents[i]);
        cr_expect_not_null(strstr(err.message, "circle"), "%s", err.message);
    }
}

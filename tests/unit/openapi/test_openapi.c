/* docs/openapi.json itself, and how responses are held against it. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <jansson.h>

#include "common/buffer.h"
#include "common/error.h"
#include "common/json.h"
#include "tests/support/openapi.h"

static const char DOCUMENT[] = "docs/openapi.json";
static const char SAMPLES[] = "tests/unit/openapi/samples.json";

static struct openapi *openapi;
static json_t *samples; /* array of {method, path, status, body or events} */

static void load(void)
{
    struct error err = {0};
    cr_assert_eq(openapi_load(&openapi, DOCUMENT, &err), 0, "%s", err.message);
    samples = json_read_file(SAMPLES, 1 << 20, &err);
    cr_assert_not_null(samples, "%s", err.message);
}

static void unload(void)
{
    json_decref(samples);
    openapi_free(openapi);
}

TestSuite(openapi, .init = load, .fini = unload);

static int check(const char *method, const char *path, int status, const char *type,
                 const char *body, struct error *err)
{
    return openapi_check_response(openapi, method, path, status, type, body, strlen(body), err);
}

/* The events as the server sends them; [DONE] unless the last one is an error. */
static void append_events(struct buffer *out, const json_t *events)
{
    const json_t *event = NULL;
    for (size_t i = 0; i < json_array_size(events); i++) {
        event = json_array_get(events, i);
        char *text = json_dumps(event, JSON_COMPACT);
        buffer_format(out, ": keep-alive\n\ndata: %s\n\n", text);
        free(text);
    }
    buffer_append_text(out, json_object_get(event, "error") ? "" : "data: [DONE]\n\n");
}

static int check_sample(const json_t *sample, struct error *err)
{
    const json_t *events = json_object_get(sample, "events");
    struct buffer body = {0};
    if (events) {
        append_events(&body, events);
    } else {
        char *text = json_dumps(json_object_get(sample, "body"), JSON_COMPACT);
        buffer_append_text(&body, text);
        free(text);
    }
    int code =
        check(json_string_value(json_object_get(sample, "method")),
              json_string_value(json_object_get(sample, "path")),
              (int)json_integer_value(json_object_get(sample, "status")),
              events ? "text/event-stream" : "application/json; charset=utf-8", body.data, err);
    buffer_free(&body);
    return code;
}

Test(openapi, samples_of_every_response_pass)
{
    cr_assert_gt(json_array_size(samples), 30);
    for (size_t i = 0; i < json_array_size(samples); i++) {
        struct error err = {0};
        cr_expect_eq(check_sample(json_array_get(samples, i), &err), 0, "sample %zu: %s", i,
                     err.message);
    }
}

/* ---- mutations ------------------------------------------------------------------------------- */

/* Members that may be absent; above NULL: of any object. */
static bool may_be_absent(const char *above, const char *name)
{
    static const struct {
        const char *above, *name;
    } members[] = {{"delta", "role"},        {"delta", "content"},       {NULL, "old"},
                   {NULL, "token_ids"},      {NULL, "prompt_token_ids"}, {NULL, "confidences"},
                   {"events", "usage"},      {"events", "denoised"},     {"top_logprobs", NULL},
                   {"instant", "threshold"}, {"low", "threshold"},       {"medium", "threshold"}};
    for (size_t i = 0; i < sizeof members / sizeof members[0]; i++) {
        if ((!members[i].above || (above && strcmp(members[i].above, above) == 0)) &&
            (!members[i].name || strcmp(members[i].name, name) == 0)) {
            return true;
        }
    }
    return false;
}

struct mutation {
    json_t *sample;
    size_t index;
    size_t count;
};

static void expect_rejected(struct mutation *mutation, const char *what, const char *above,
                            const char *name)
{
    struct error err = {0};
    cr_expect_neq(check_sample(mutation->sample, &err), 0, "sample %zu: %s %s in %s",
                  mutation->index, what, name, above);
    mutation->count++;
}

/* Deeper than any map of the document, so it fits nowhere. */
static json_t *misfit(void)
{
    return json_pack("{s{s{s{}}}}", "misfit", "misfit", "misfit");
}

static void mutate(struct mutation *mutation, json_t *node, const char *above);

static void mutate_member(struct mutation *mutation, json_t *object, const char *above,
                          const char *name)
{
    json_t *value = json_incref(json_object_get(object, name));
    mutate(mutation, value, name);
    json_object_set_new(object, name, misfit());
    expect_rejected(mutation, "wrong", above, name);
    json_object_del(object, name);
    if (!may_be_absent(above, name)) {
        expect_rejected(mutation, "absent", above, name);
    }
    json_object_set_new(object, name, value);
}

/* Every member wrong, absent, and one too many, in every object; every element wrong. */
static void mutate(struct mutation *mutation, json_t *node, const char *above)
{
    for (size_t i = 0; i < json_array_size(node); i++) {
        json_t *item = json_incref(json_array_get(node, i));
        mutate(mutation, item, above);
        json_array_set_new(node, i, misfit());
        expect_rejected(mutation, "wrong element", above, "");
        json_array_set_new(node, i, item);
    }
    if (!json_is_object(node)) {
        return;
    }
    /* Members move to the end while they are mutated: go by a list of their names. */
    json_t *names = json_array();
    const char *name;
    json_t *value;
    json_object_foreach(node, name, value)
    {
        json_array_append_new(names, json_string(name));
    }
    for (size_t i = 0; i < json_array_size(names); i++) {
        mutate_member(mutation, node, above, json_string_value(json_array_get(names, i)));
    }
    json_decref(names);
    json_object_set_new(node, "surplus", misfit());
    expect_rejected(mutation, "surplus member", above, "");
    json_object_del(node, "surplus");
}

Test(openapi, every_mutation_of_a_sample_fails)
{
    struct mutation mutation = {0};
    for (mutation.index = 0; mutation.index < json_array_size(samples); mutation.index++) {
        mutation.sample = json_array_get(samples, mutation.index);
        bool stream = json_object_get(mutation.sample, "events") != NULL;
        json_t *body = json_object_get(mutation.sample, stream ? "events" : "body");
        mutate(&mutation, body, stream ? "events" : "body");
        struct error err = {0};
        cr_expect_eq(check_sample(mutation.sample, &err), 0, "restored: %s", err.message);
    }
    cr_assert_gt(mutation.count, 1000);
}

/* ---- around the body ------------------------------------------------------------------------- */

static void expect_failure(const char *method, const char *path, int status, const char *type,
                           const char *body, const char *in_message)
{
    struct error err = {0};
    cr_expect_eq(check(method, path, status, type, body, &err), ERROR_INVALID, "%s %s", method,
                 path);
    cr_expect_not_null(strstr(err.message, in_message), "%s", err.message);
}

static const char JSON[] = "application/json";
static const char STREAM[] = "text/event-stream";
static const char HEALTH[] = "{\"status\":\"ok\"}";

Test(openapi, what_the_document_lacks_is_a_failure)
{
    expect_failure("GET", "/v2/models", 200, JSON, "{}",
                   "GET /v2/models 200: the document has no "
                   "such path");
    expect_failure("GET", "/healthy", 200, JSON, HEALTH, "no such path");
    expect_failure("GET", "/v1/models/", 200, JSON, "{}", "no such path");
    expect_failure("POST", "/v1/requests/a/b/cancel", 200, JSON, "{}", "no such path");
    expect_failure("POST", "/health", 200, JSON, HEALTH, "no such method");
    expect_failure("GET", "/health", 418, JSON, HEALTH, "no such status");
    expect_failure("GET", "/health", 200, "text/html", HEALTH, "content type text/html");
    expect_failure("GET", "/health", 200, NULL, HEALTH, "content type (none)");
    expect_failure("GET", "/health", 200, STREAM, HEALTH, "content type text/event-stream");
}

Test(openapi, a_wrong_body_is_named_with_its_pointers)
{
    expect_failure("GET", "/health", 200, JSON, "{\"status\":\"okay\"}",
                   "GET /health 200: #/status: is \"okay\", but must be \"ok\" [schema "
                   "#/components/schemas/Health/properties/status/const]");
    expect_failure("GET", "/health", 200, JSON, "{", "no JSON: ");
    expect_failure("GET", "/health", 200, JSON, "", "no JSON: ");
    expect_failure("GET", "/health", 200, JSON, "{\"status\":\"ok\",\"status\":\"ok\"}",
                   "no JSON: ");
}

Test(openapi, head_is_get_without_a_body)
{
    struct error err = {0};
    cr_expect_eq(check("HEAD", "/health", 200, JSON, "", &err), 0, "%s", err.message);
    expect_failure("HEAD", "/health", 200, JSON, HEALTH, "a body of 15 bytes");
    expect_failure("HEAD", "/v1/completions", 200, JSON, "", "no such method");
}

Test(openapi, plain_text_is_text)
{
    struct error err = {0};
    cr_expect_eq(check("GET", "/metrics", 200, "text/plain; version=0.0.4",
                       "denoised_num_requests_running 0\n", &err),
                 0, "%s", err.message);
    expect_failure("GET", "/metrics", 200, "text/plain", "", "has 0 characters");
    expect_failure("GET", "/metrics", 200, "text/plain", "\xff", "not UTF-8");
}

Test(openapi, streams_have_the_form_of_server_sent_events)
{
    static const char path[] = "/v1/completions";
    struct error err = {0};
    cr_expect_eq(check("POST", path, 200, STREAM, ": a\n\ndata: [DONE]\n\n", &err), 0, "%s",
                 err.message);
    expect_failure("POST", path, 200, STREAM, "", "without [DONE]");
    expect_failure("POST", path, 200, STREAM, ": a\n\n", "without [DONE]");
    expect_failure("POST", path, 200, STREAM, "data: [DONE]\n", "ends within event 0");
    expect_failure("POST", path, 200, STREAM, "data: [DONE]\n\n: a\n\n", "something follows");
    expect_failure("POST", path, 200, STREAM, "event: a\n\ndata: [DONE]\n\n", "event 0 does not");
    expect_failure("POST", path, 200, STREAM, "data: 1\ndata: 2\n\n", "several lines");
    expect_failure("POST", path, 200, STREAM, "data: {}\n\ndata: [DONE]\n\n", "event 0: #: lacks");
    expect_failure("POST", path, 200, STREAM, "data: {\n\ndata: [DONE]\n\n", "event 0: no JSON");
}

Test(openapi, one_event_is_held_against_a_schema_by_name)
{
    struct error err = {0};
    json_t *usage = json_pack("{si si}", "prompt_tokens", 1, "completion_tokens", 2);
    cr_expect_eq(openapi_check_event(openapi, "Usage", usage, &err), ERROR_INVALID);
    cr_expect_not_null(strstr(err.message, "lacks the member total_tokens"), "%s", err.message);
    cr_expect_eq(openapi_check_event(openapi, "Use", usage, &err), ERROR_INVALID);
    cr_expect_not_null(strstr(err.message, "#/components/schemas/Use: "), "%s", err.message);
    json_decref(usage);
    json_t *ids = json_pack("[ii]", 1, 2);
    cr_expect_eq(openapi_check_event(openapi, "TokenIds", ids, &err), 0, "%s", err.message);
    json_decref(ids);
}

/* ---- documents that are refused -------------------------------------------------------------- */

static void expect_document_refused(const char *text, const char *in_message)
{
    char path[] = "/tmp/openapi-test-XXXXXX";
    int descriptor = mkstemp(path);
    cr_assert_geq(descriptor, 0);
    cr_assert_eq(write(descriptor, text, strlen(text)), (ssize_t)strlen(text));
    close(descriptor);
    struct openapi *loaded = NULL;
    struct error err = {0};
    cr_expect_eq(openapi_load(&loaded, path, &err), ERROR_INVALID, "%s", text);
    cr_expect_null(loaded);
    cr_expect_not_null(strstr(err.message, in_message), "%s", err.message);
    unlink(path);
}

Test(openapi_documents, what_cannot_be_checked_is_refused_on_loading)
{
    expect_document_refused("{", "line 1");
    expect_document_refused("{\"openapi\":\"3.0.3\",\"paths\":{}}", "openapi is 3.0.3");
    expect_document_refused("{\"paths\":{}}", "openapi is missing");
    expect_document_refused("{\"openapi\":\"3.1.0\"}", "paths is missing");
    expect_document_refused("{\"openapi\":\"3.1.0\",\"paths\":{},\"components\":{\"schemas\":{"
                            "\"A\":{\"multipleOf\":2}}}}",
                            "#/components/schemas/A/multipleOf: ");
    expect_document_refused("{\"openapi\":\"3.1.0\",\"paths\":{\"/a\":{\"get\":{\"parameters\":[{"
                            "\"schema\":{\"format\":\"x\"}}]}}}}",
                            "#/paths/~1a/get/parameters/0/schema/format: ");
    expect_document_refused("{\"openapi\":\"3.1.0\",\"paths\":{\"/a\":{\"get\":{\"responses\":{"
                            "\"200\":{\"content\":{\"text/event-stream\":{\"x-event-schema\":{"
                            "\"allOf\":[]}}}}}}}}}",
                            "x-event-schema/allOf: ");
    expect_document_refused("{\"openapi\":\"3.1.0\",\"paths\":{\"/a\":{\"get\":{\"responses\":{"
                            "\"200\":{\"$ref\":\"#/components/responses/No\"}}}}}}",
                            "#/components/responses/No points at nothing");
    struct error err = {0};
    struct openapi *loaded = NULL;
    cr_expect_neq(openapi_load(&loaded, "docs/absent.json", &err), 0);
    cr_expect_not_null(strstr(err.message, "docs/absent.json"), "%s", err.message);
}

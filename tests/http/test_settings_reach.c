/* Settings that are read must also be passed on: one server with odd values of many keys. */
#include <criterion/criterion.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/backend.h"
#include "tests/http/client.h"

static struct server_process server;
static char path[] = "/tmp/denoised-reach-XXXXXX";

/* All that differs from what the model, the CPU and the table of keys say by themselves. */
static void write_config(const char *log_level)
{
    FILE *file = fopen(path, "w");

    cr_assert_not_null(file);
    fprintf(file,
            "{\"dtype\": \"%s\", \"threads\": 1, \"strict\": true, \"kv_cache_tokens\": 4032,"
            " \"max_sequences\": 3, \"queue_limit\": 19, \"max_rows_per_tick\": 101,"
            " \"max_choices\": 5, \"max_body_bytes\": 2049, \"model_name\": \"odd\","
            " \"max_tokens\": 33, \"block_length\": 11, \"steps\": 7, \"selection\": \"steps\","
            " \"threshold\": 0.625, \"cache\": \"none\", \"temperature\": 0.5, \"top_k\": 17,"
            " \"top_p\": 0.75, \"log_format\": \"json\", \"log_level\": \"%s\"}",
            backend_prefers_bfloat16("cpu") ? "float32" : "bfloat16", log_level);
    fclose(file);
}

static json_t *get_json(const char *at)
{
    struct reply reply = client_send(&server, "GET", at, NULL);

    cr_assert_eq(reply.status, 200);
    json_t *json = reply_json(&reply);
    reply_free(&reply);
    return json;
}

static void expect_text(const json_t *object, const char *name, const char *expected)
{
    const char *text = json_string_value(json_object_get(object, name));

    cr_expect_str_eq(text != NULL ? text : "(none)", expected, "%s", name);
}

static void expect_number(const json_t *object, const char *name, double expected)
{
    double number = json_number_value(json_object_get(object, name));

    cr_expect(fabs(number - expected) < 1e-6, "%s is %g, expected %g", name, number, expected);
}

static void expect_props(void)
{
    json_t *props = get_json("/props");
    const json_t *device = json_object_get(props, "device");
    const json_t *limits = json_object_get(props, "limits");
    const json_t *defaults = json_object_get(props, "defaults");

    expect_text(device, "dtype", backend_prefers_bfloat16("cpu") ? "float32" : "bfloat16");
    const char *description = json_string_value(json_object_get(device, "description"));
    cr_expect(description != NULL && strstr(description, ", 1 thread") != NULL, "%s", description);

    expect_number(limits, "kv_cache_tokens", 4032);
    expect_number(limits, "max_sequences", 3);
    expect_number(limits, "queue_limit", 19);
    expect_number(limits, "canvas", 101); /* the rows of a tick are fewer than the context */
    expect_number(limits, "max_choices", 5);
    expect_number(limits, "max_body_bytes", 2049);
    cr_expect(json_is_true(json_object_get(limits, "strict")));

    expect_number(defaults, "max_tokens", 33);
    expect_number(defaults, "block_length", 11);
    expect_number(defaults, "steps", 7);
    expect_text(defaults, "selection", "steps");
    expect_number(defaults, "threshold", 0.625);
    expect_text(defaults, "cache", "none");
    expect_number(defaults, "temperature", 0.5);
    expect_number(defaults, "top_k", 17);
    expect_number(defaults, "top_p", 0.75);
    json_decref(props);
}

static void expect_status(const char *body, long status)
{
    struct reply reply = client_send(&server, "POST", "/v1/completions", body);

    cr_expect_eq(reply.status, status, "%ld: %.300s", reply.status, reply.body.data);
    reply_free(&reply);
}

static void expect_behaviour(void)
{
    char long_body[2200] = "{\"prompt\":\"";

    memset(long_body + strlen(long_body), 'a', 2100);
    memcpy(long_body + 2100, "\"}", 3);
    expect_status(long_body, 413);
    expect_status("{\"prompt\":\"a\",\"unknown\":1}", 400);
    expect_status("{\"prompt\":\"a\",\"max_tokens\":2,\"steps\":1,\"n\":6}", 400);

    struct reply reply =
        client_send(&server, "POST", "/v1/completions", "{\"prompt\":\"a\",\"ignore_eos\":true}");
    cr_assert_eq(reply.status, 200, "%s", reply.body.data);
    json_t *answer = reply_json(&reply);
    expect_number(json_object_get(answer, "usage"), "completion_tokens", 33);
    json_decref(answer);
    reply_free(&reply);
}

/* Nothing was important enough before; now the first line tells that, as JSON. */
static void expect_log(void)
{
    json_error_t cause;

    write_config("info");
    server_process_signal(&server, SIGHUP);
    cr_assert(server_process_wait_for_log(&server, "re-read"));
    cr_assert(server_process_wait_for_log(&server, "}\n"));
    json_t *line = json_loads(server.log.data, JSON_DISABLE_EOF_CHECK, &cause);
    cr_assert_not_null(line, "%s in %s", cause.text, server.log.data);
    expect_text(line, "message", "API keys and log level re-read");
    json_decref(line);
}

Test(settings_reach, dtype_int8_is_that_of_the_weights)
{
    cr_assert(server_process_start(&server, (const char *const[]){"--dtype", "int8", NULL}));
    json_t *props = get_json("/props");
    const json_t *device = json_object_get(props, "device");
    expect_text(device, "dtype", "int8");
    const char *description = json_string_value(json_object_get(device, "description"));
    const char *rest =
        backend_prefers_bfloat16("cpu") ? "int8 weights, bfloat16, " : "int8 weights, float32, ";
    cr_expect(description != NULL && strstr(description, rest) != NULL, "%s", description);
    json_decref(props);
    expect_status("{\"prompt\":\"a\",\"max_tokens\":8}", 200);
    cr_expect_eq(server_process_stop(&server), 0);
}

Test(settings_reach, the_server_does_what_its_config_file_says)
{
    int file = mkstemp(path);

    cr_assert(file >= 0);
    close(file);
    write_config("warning");
    cr_assert(server_process_start(&server, (const char *const[]){"--config", path, NULL}));
    expect_props();
    json_t *models = get_json("/v1/models");
    expect_text(json_array_get(json_object_get(models, "data"), 0), "id", "odd");
    json_decref(models);
    expect_behaviour();
    expect_log();
    cr_expect_eq(server_process_stop(&server), 0);
    unlink(path);
}

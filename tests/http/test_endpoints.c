/* The endpoints beside completions: tokens, properties, metrics, cancelling, API keys; and the
 * requests of the official OpenAI client, as it sent them. */
#include <criterion/criterion.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/http/client.h"

static struct server_process server;

static void start(void)
{
    cr_assert(server_process_start(&server, NULL));
}

static void stop(void)
{
    cr_assert_eq(server_process_stop(&server), 0);
}

TestSuite(endpoints, .init = start, .fini = stop);

static json_t *get_json(const char *method, const char *path, const char *body)
{
    struct reply reply = client_send(&server, method, path, body);

    cr_assert_eq(reply.status, 200, "%s: %s", path, reply.body.data);
    json_t *json = reply_json(&reply);
    reply_free(&reply);
    return json;
}

Test(endpoints, tokenize_and_detokenize_are_inverse)
{
    json_t *tokens =
        get_json("POST", "/tokenize",
                 "{\"prompt\": \"Tim saw a caf\\u00e9.\", \"add_special_tokens\": false}");
    json_t *request = json_pack("{s:O}", "tokens", json_object_get(tokens, "tokens"));
    char *body = json_dumps(request, 0);
    json_t *text = get_json("POST", "/detokenize", body);

    cr_expect_str_eq(json_string_value(json_object_get(text, "prompt")), "Tim saw a caf\u00e9.");
    cr_expect_eq(json_integer_value(json_object_get(tokens, "count")),
                 (json_int_t)json_array_size(json_object_get(tokens, "pieces")));
    free(body);
    json_decref(request);
    json_decref(tokens);
    json_decref(text);
}

Test(endpoints, tokenize_knows_chats_and_refuses_what_is_no_text)
{
    json_t *chat = get_json("POST", "/tokenize",
                            "{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}]}");

    cr_expect_gt(json_integer_value(json_object_get(chat, "count")), 5);
    json_decref(chat);
    static const char *const refused[] = {"{}", "{\"prompt\": 5}", "{\"prompt\": null}"};
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        struct reply reply = client_send(&server, "POST", "/tokenize", refused[i]);
        expect_error(&reply, 400, "invalid_request_error", "invalid_value");
        reply_free(&reply);
    }
    struct reply reply = client_send(&server, "POST", "/detokenize", "{\"tokens\": [99999]}");
    expect_error(&reply, 400, "invalid_request_error", "invalid_value");
    reply_free(&reply);
}

Test(endpoints, version_and_properties_tell_build_limits_and_defaults)
{
    json_t *version = get_json("GET", "/version", NULL);
    json_t *props = get_json("GET", "/props", NULL);

    cr_expect_str_eq(
        json_string_value(json_object_get(version, "version")),
        json_string_value(json_object_get(json_object_get(props, "build"), "version")));
    cr_expect_eq(
        json_integer_value(json_object_get(json_object_get(props, "limits"), "context_length")),
        512);
    json_decref(version);
    json_decref(props);
}

/* The value of a series, by its whole name with labels. */
static double metric(const char *series)
{
    struct reply reply = client_send(&server, "GET", "/metrics", NULL);
    char wanted[200];

    cr_assert_eq(reply.status, 200);
    snprintf(wanted, sizeof wanted, "\n%s ", series);
    const char *at = strstr(reply.body.data, wanted);
    double value = at != NULL ? strtod(at + strlen(wanted), NULL) : -1;
    reply_free(&reply);
    return value;
}

Test(endpoints, metrics_count_what_happened)
{
    struct reply reply = client_send(&server, "POST", "/v1/completions",
                                     "{\"prompt\": \"Tim\", \"max_tokens\": 8, \"steps\": 4}");

    cr_assert_eq(reply.status, 200);
    reply_free(&reply);
    reply = client_send(&server, "POST", "/v1/completions", "{\"prompt\": 1}");
    cr_assert_eq(reply.status, 400);
    reply_free(&reply);
    cr_expect_eq(metric("denoised_http_requests_total{path=\"/v1/completions\",status=\"200\"}"),
                 1);
    cr_expect_eq(metric("denoised_http_requests_total{path=\"/v1/completions\",status=\"400\"}"),
                 1);
    cr_expect_gt(metric("denoised_rounds_total"), 0);
    cr_expect_eq(metric("denoised_num_requests_running"), 0);
    cr_expect_eq(metric("denoised_kv_pages_used"), 0, "nothing runs, so no page is taken");
}

Test(endpoints, a_running_request_is_cancelled_by_its_id)
{
    int fd = socket_open(&server);
    struct buffer in = {0};
    char path[160], id[100] = "";

    /* One token a round of a whole canvas, again and again: it runs long enough to be met. */
    cr_assert(
        socket_post(fd, "/v1/completions",
                    "{\"prompt\": \"Tim\", \"n\": 64, \"max_tokens\": 180, \"cache\": \"none\", "
                    "\"selection\": \"steps\", \"ignore_eos\": true, \"stream\": true, "
                    "\"diffusing\": true}",
                    ""));
    cr_assert(socket_read_until(fd, &in, "\"id\":\""));
    cr_assert(socket_read_until(fd, &in, "\",\"object\""));
    sscanf(strstr(in.data, "\"id\":\""), "\"id\":\"%99[^\"]", id);
    snprintf(path, sizeof path, "/v1/requests/%s/cancel", id);
    struct reply reply = client_send(&server, "POST", path, NULL);
    cr_expect_eq(reply.status, 200);
    reply_free(&reply);
    cr_expect(socket_read_until(fd, &in, "[DONE]"));
    cr_expect_not_null(strstr(in.data, "\"finish_details\":\"cancelled\""));
    close(fd);
    buffer_free(&in);
    reply = client_send(&server, "POST", path, NULL);
    expect_error(&reply, 404, "invalid_request_error", "not_found");
    reply_free(&reply);
}

/* Performs a request as it was recorded, with this body instead of its own. */
static struct reply replay(const json_t *request, const char *body)
{
    const char *method = json_string_value(json_object_get(request, "method"));
    const char *path = json_string_value(json_object_get(request, "path"));
    struct curl_slist *headers = NULL;
    struct reply reply = {0};
    const char *name;
    json_t *value;

    json_object_foreach(json_object_get(request, "headers"), name, value)
    {
        char header[300];
        snprintf(header, sizeof header, "%s: %s", name, json_string_value(value));
        headers = curl_slist_append(headers, header);
    }
    CURL *curl =
        client_prepare(&server, method, path, *body != '\0' ? body : NULL, headers, &reply);
    client_perform(curl, method, path, &reply);
    curl_slist_free_all(headers);
    return reply;
}

/* The text of choice 0, whether it came as events or as one answer. */
static void joined_text(const struct reply *reply, bool stream, struct buffer *out)
{
    struct events events = {.list = json_array()};

    if (stream) {
        json_decref(events.list);
        events = events_parse(reply->body.data);
        cr_expect(events.done);
    } else {
        json_array_append_new(events.list, reply_json(reply));
    }
    events_join(events.list, out);
    buffer_append_char(out, '\0');
    json_decref(events.list);
}

/* The deltas of a stream joined are the answer of the same request without `stream`. */
static void expect_unstreamed_text(const json_t *request, const char *body,
                                   const struct reply *streamed)
{
    json_t *plain = json_loads(body, 0, NULL);
    struct buffer expected = {0}, got = {0};

    json_object_del(plain, "stream");
    json_object_del(plain, "stream_options");
    char *plain_body = json_dumps(plain, 0);
    struct reply reply = replay(request, plain_body);
    joined_text(&reply, false, &expected);
    joined_text(streamed, true, &got);
    cr_expect_str_eq(got.data, expected.data, "%s", body);
    cr_expect_gt(got.length, 1, "%s", body);
    buffer_free(&expected);
    buffer_free(&got);
    reply_free(&reply);
    free(plain_body);
    json_decref(plain);
}

Test(endpoints, the_official_clients_requests_are_answered)
{
    FILE *file = fopen("tests/fixtures/openai_requests.jsonl", "r");
    char *line = NULL;
    size_t capacity = 0;
    int count = 0, streams = 0;

    cr_assert_not_null(file);
    for (; getline(&line, &capacity, file) > 0; count++) {
        json_error_t cause;
        json_t *request = json_loads(line, 0, &cause);
        cr_assert_not_null(request, "line %d: %s", count + 1, cause.text);
        const char *body = json_string_value(json_object_get(request, "body"));
        struct reply reply = replay(request, body);
        cr_expect_eq(reply.status, json_integer_value(json_object_get(request, "status")), "%s: %s",
                     body, reply.body.data);
        if (strstr(body, "\"stream\":true") != NULL && strstr(body, "diffusing") == NULL) {
            expect_unstreamed_text(request, body, &reply);
            streams++;
        }
        reply_free(&reply);
        json_decref(request);
    }
    cr_expect_gt(count, 10);
    cr_expect_gt(streams, 1);
    free(line);
    fclose(file);
}

static void write_keys(const char *path, const char *text)
{
    FILE *file = fopen(path, "w");

    cr_assert_not_null(file);
    fputs(text, file);
    fclose(file);
}

Test(keys, a_request_needs_a_key_and_sighup_reads_them_again)
{
    char path[] = "/tmp/denoised-keys-XXXXXX";

    close(mkstemp(path));
    write_keys(path, "alpha\n");
    cr_assert(server_process_start(
        &server, (const char *const[]){"--api-keys", path, "--protect-metrics", NULL}));
    struct reply reply = client_send(&server, "GET", "/v1/models", NULL);
    expect_error(&reply, 401, "authentication_error", "invalid_api_key");
    reply_free(&reply);
    reply = client_send_with(&server, "POST", "/v1/completions", "{\"prompt\": \"Tim\"}",
                             "Authorization: Bearer beta");
    expect_error(&reply, 401, "authentication_error", "invalid_api_key");
    reply_free(&reply);
    reply = client_send_with(&server, "GET", "/v1/models", NULL, "Authorization: Bearer alpha");
    cr_expect_eq(reply.status, 200);
    reply_free(&reply);
    static const struct {
        const char *path;
        long status;
    } OPEN[] = {{"/health", 200}, {"/ready", 200}, {"/version", 200}, {"/metrics", 401}};
    for (size_t i = 0; i < sizeof OPEN / sizeof *OPEN; i++) {
        reply = client_send(&server, "GET", OPEN[i].path, NULL);
        cr_expect_eq(reply.status, OPEN[i].status, "%s", OPEN[i].path);
        reply_free(&reply);
    }
    write_keys(path, "beta\n");
    server_process_signal(&server, SIGHUP);
    cr_assert(server_process_wait_for_log(&server, "re-read"));
    reply = client_send_with(&server, "GET", "/v1/models", NULL, "Authorization: Bearer beta");
    cr_expect_eq(reply.status, 200);
    reply_free(&reply);
    cr_expect_null(strstr(server.log.data, "alpha"), "keys are never logged");
    cr_expect_eq(server_process_stop(&server), 0);
    unlink(path);
}

Test(keys, a_key_file_that_cannot_be_used_is_exit_2)
{
    struct server_process failed;

    cr_expect_eq(
        server_process_try(&failed, (const char *const[]){"--api-keys", "/nowhere/keys", NULL}), 2);
    cr_expect_not_null(strstr(failed.log.data, "/nowhere/keys"));
    buffer_free(&failed.log);
}

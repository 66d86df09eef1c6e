#include "tests/unit/api/support_server.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/error.h"

struct server server_start_with(const struct engine_options *options)
{
    struct server server = {.api = support_api()};
    struct error err = {0};
    server.token_texts = api_token_texts(server.api->tokenizer);
    server.api->calls = call_registry_create();
    cr_assert(server.token_texts && server.api->calls);
    struct backend *backend;
    struct backend_options backend_options = {.threads = 1, .dtype = DTYPE_FLOAT32};
    cr_assert_eq(backend_create(&backend, "cpu", &backend_options, &err), 0, "%s", err.message);
    cr_assert_eq(model_load(&server.model, "models/tiny", backend, &err), 0, "%s", err.message);
    struct engine_options limits = *options;
    limits.token_limit = tokenizer_size(server.api->tokenizer);
    limits.token_text = server.token_texts;
    cr_assert_eq(engine_create(&server.api->engine, server.model, &limits, &err), 0, "%s",
                 err.message);
    server.api->config = server.model->config;
    server.api->generation = server.model->defaults;
    return server;
}

struct server server_start(int32_t sequences, int32_t waiting)
{
    return server_start_with(&(struct engine_options){
        .max_sequences = sequences,
        .max_rows_per_tick = 4 * CONTEXT,
        .queue_limit = waiting,
        .kv_cache_tokens = 4 * CONTEXT,
    });
}

void server_stop(struct server *server)
{
    engine_free(server->api->engine);
    server->api->engine = NULL;
    model_free(server->model);
    call_registry_free(server->api->calls);
    server->api->calls = NULL;
    free(server->token_texts);
}

static void count_wake(void *context)
{
    struct server *server = context;
    server->woken++;
}

void server_suspend(void *context)
{
    int *suspended = context;
    ++*suspended;
}

struct api_call *server_begin(struct server *server, enum api_endpoint endpoint, const char *body)
{
    struct api_call *call = api_call_create(server->api, endpoint, clock_now_us(), OWNER);
    api_call_prepare(call, body, strlen(body), count_wake, server);
    return call;
}

json_t *server_parse_answer(struct api_call *call, int status)
{
    cr_assert_eq(api_call_poll(call), API_STATE_ANSWER);
    struct api_answer answer = api_call_answer(call);
    cr_assert_eq(answer.status, status, "%.*s", (int)answer.length, answer.body);
    json_t *json = json_loadb(answer.body, answer.length, JSON_ALLOW_NUL, NULL);
    cr_assert_not_null(json, "%.*s", (int)answer.length, answer.body);
    return json;
}

bool server_tick(struct server *server)
{
    return engine_tick(server->api->engine, clock_now_us());
}

/* Suspends as a connection would and ticks until the answer is there. */
json_t *server_finish(struct server *server, struct api_call *call)
{
    while (api_call_poll(call) == API_STATE_WAITING) {
        int suspended = 0;
        server->woken = 0;
        if (api_call_wait(call, server_suspend, &suspended)) {
            cr_assert_eq(suspended, 1);
            while (!server->woken) {
                cr_assert(server_tick(server) || server->woken, "nobody was woken");
            }
            cr_assert_eq(server->woken, 1);
        }
    }
    return server_parse_answer(call, 200);
}

json_t *server_ask(struct server *server, enum api_endpoint endpoint, const char *body)
{
    struct api_call *call = server_begin(server, endpoint, body);
    json_t *json = server_finish(server, call);
    api_call_free(call);
    return json;
}

/* All bytes of a stream, read in small pieces, ticking whenever there is nothing to read. */
void server_read_stream(struct server *server, struct api_call *call, struct buffer *out)
{
    char piece[7];
    cr_assert_eq(api_call_poll(call), API_STATE_STREAM);
    for (;;) {
        ptrdiff_t length = api_call_read(call, piece, sizeof piece);
        if (length < 0) {
            return;
        }
        buffer_append(out, piece, (size_t)length);
        int suspended = 0;
        server->woken = 0;
        if (length == 0 && api_call_wait(call, server_suspend, &suspended)) {
            while (!server->woken) {
                cr_assert(server_tick(server) || server->woken, "nobody was woken");
            }
        }
    }
}

void join_stream(struct buffer *text, const char *stream)
{
    json_t *events = parse_events(stream);
    for (size_t i = 0; i < json_array_size(events); i++) {
        const json_t *choice = json_at(json_array_get(events, i), "choices[0]");
        const json_t *piece = json_at(choice, "text");
        if (json_integer_value(json_at(choice, "index")) == 0 && piece) {
            buffer_append(text, json_string_value(piece), json_string_length(piece));
        }
    }
    json_decref(events);
}

json_t *server_refuse(struct server *server, enum api_endpoint endpoint, const char *body,
                      int status, const char *code)
{
    struct api_call *call = server_begin(server, endpoint, body);
    json_t *answer = server_parse_answer(call, status);
    cr_expect_str_eq(text_at(answer, "error.code"), code, "%s", text_at(answer, "error.message"));
    cr_expect_eq(api_call_answer(call).retry_after_s > 0, status == 429 || status == 503);
    cr_expect_lt(api_call_answer(call).queue_ms, 0);
    api_call_free(call);
    return answer;
}

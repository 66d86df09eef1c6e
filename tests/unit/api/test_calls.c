/* Whole calls over the tiny model, with an engine that the test ticks by hand. */
#include <criterion/criterion.h>
#include <string.h>

#include "common/clock.h"
#include "common/error.h"
#include "tests/unit/api/support.h"

struct server {
    struct api *api;
    struct model *model;
    int woken; /* by the engine, since the last wait */
};

static struct server start(int32_t sequences, int32_t waiting)
{
    struct server server = {.api = support_api()};
    struct error err = {0};
    struct backend *backend;
    struct backend_options options = {.threads = 1, .dtype = DTYPE_FLOAT32};
    cr_assert_eq(backend_create(&backend, "cpu", &options, &err), 0, "%s", err.message);
    cr_assert_eq(model_load(&server.model, "models/tiny", backend, &err), 0, "%s", err.message);
    struct engine_options limits = {
        .max_sequences = sequences,
        .max_rows_per_tick = 4 * CONTEXT,
        .queue_limit = waiting,
        .kv_cache_tokens = 4 * CONTEXT,
        .token_limit = tokenizer_size(server.api->tokenizer),
    };
    cr_assert_eq(engine_create(&server.api->engine, server.model, &limits, &err), 0, "%s",
                 err.message);
    server.api->config = server.model->config;
    server.api->generation = server.model->defaults;
    return server;
}

static void stop(struct server *server)
{
    engine_free(server->api->engine);
    server->api->engine = NULL;
    model_free(server->model);
}

static void count_wake(void *context)
{
    struct server *server = context;
    server->woken++;
}

static void count_suspend(void *context)
{
    int *suspended = context;
    ++*suspended;
}

static struct api_call *begin(struct server *server, enum api_endpoint endpoint, const char *body)
{
    struct api_call *call = api_call_create(server->api, endpoint, clock_now_us());
    api_call_prepare(call, body, strlen(body), count_wake, server);
    return call;
}

static json_t *parse_answer(struct api_call *call, int status)
{
    cr_assert_eq(api_call_poll(call), API_STATE_ANSWER);
    struct api_answer answer = api_call_answer(call);
    cr_assert_eq(answer.status, status, "%.*s", (int)answer.length, answer.body);
    json_t *json = json_loadb(answer.body, answer.length, JSON_ALLOW_NUL, NULL);
    cr_assert_not_null(json, "%.*s", (int)answer.length, answer.body);
    return json;
}

static bool tick(struct server *server)
{
    return engine_tick(server->api->engine, clock_now_us());
}

/* Suspends as a connection would and ticks until the answer is there. */
static json_t *finish(struct server *server, struct api_call *call)
{
    while (api_call_poll(call) == API_STATE_WAITING) {
        int suspended = 0;
        server->woken = 0;
        if (api_call_wait(call, count_suspend, &suspended)) {
            cr_assert_eq(suspended, 1);
            while (!server->woken) {
                cr_assert(tick(server) || server->woken, "nobody was woken");
            }
            cr_assert_eq(server->woken, 1);
        }
    }
    return parse_answer(call, 200);
}

static json_t *ask(struct server *server, enum api_endpoint endpoint, const char *body)
{
    struct api_call *call = begin(server, endpoint, body);
    json_t *json = finish(server, call);
    api_call_free(call);
    return json;
}

/* All bytes of a stream, read in small pieces, ticking whenever there is nothing to read. */
static void read_stream(struct server *server, struct api_call *call, struct buffer *out)
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
        if (length == 0 && api_call_wait(call, count_suspend, &suspended)) {
            while (!server->woken) {
                cr_assert(tick(server) || server->woken, "nobody was woken");
            }
        }
    }
}

/* The texts of all events of choice 0, joined. */
static void join_stream(struct buffer *text, const char *events)
{
    for (const char *line = events; *line; line = strstr(line, "\n\n") + 2) {
        size_t length = (size_t)(strstr(line, "\n\n") - line) - 6;
        json_t *event = json_loadb(line + 6, length, JSON_ALLOW_NUL, NULL);
        const json_t *piece = json_at(event, "choices[0].text");
        if (json_integer_value(json_at(event, "choices[0].index")) == 0 && piece) {
            buffer_append(text, json_string_value(piece), json_string_length(piece));
        }
        json_decref(event);
    }
}

Test(calls, an_answer_comes_when_the_engine_is_done, .timeout = 60)
{
    struct server server = start(4, 4);
    json_t *answer = ask(&server, API_CHAT_COMPLETIONS,
                         "{\"model\":\"tiny\",\"messages\":[{\"role\":\"user\",\"content\":"
                         "\"Hello!\"}],\"max_tokens\":32,\"return_token_ids\":true}");
    cr_expect_not_null(text_at(answer, "choices[0].message.content"));
    cr_expect_gt(json_integer_value(json_at(answer, "denoised.rounds")), 0);
    cr_expect_eq((size_t)json_integer_value(json_at(answer, "usage.completion_tokens")),
                 json_array_size(json_at(answer, "choices[0].token_ids")));
    cr_expect_eq((size_t)json_integer_value(json_at(answer, "usage.prompt_tokens")),
                 json_array_size(json_at(answer, "choices[0].prompt_token_ids")));
    json_decref(answer);
    stop(&server);
}

Test(calls, streamed_and_unstreamed_text_are_the_same_bytes, .timeout = 60)
{
    struct server server = start(4, 4);
    static const char *const options[] = {"", ",\"stop\":[\" the\",\"e\"]",
                                          ",\"temperature\":1,\"n\":2"};
    for (size_t i = 0; i < 3; i++) {
        char body[256];
        const char *format = "{\"prompt\":\"Once upon a time\",\"seed\":3,\"max_tokens\":40%s%s}";
        snprintf(body, sizeof body, format, options[i], "");
        json_t *answer = ask(&server, API_COMPLETIONS, body);
        snprintf(body, sizeof body, format, options[i], ",\"stream\":true");
        struct api_call *call = begin(&server, API_COMPLETIONS, body);
        struct buffer events = {0}, text = {0};
        read_stream(&server, call, &events);
        cr_assert_not_null(strstr(events.data, "data: [DONE]\n\n"));
        join_stream(&text, events.data);
        cr_expect_gt(text.length, 0);
        cr_expect_str_eq(text.data, text_at(answer, "choices[0].text"));
        struct api_call_summary summary = api_call_summarise(call);
        cr_expect_eq(summary.completion_tokens,
                     json_integer_value(json_at(answer, "usage.completion_tokens")));
        cr_expect_geq(summary.queue_ms, 0);
        buffer_free(&events);
        buffer_free(&text);
        api_call_free(call);
        json_decref(answer);
        while (tick(&server)) {
        }
    }
    stop(&server);
}

Test(calls, several_prompts_and_choices_are_prompt_major, .timeout = 60)
{
    struct server server = start(4, 8);
    json_t *answer = ask(&server, API_COMPLETIONS,
                         "{\"prompt\":[\"The dog\",\"A small girl\"],\"n\":2,\"seed\":5,"
                         "\"temperature\":1,\"max_tokens\":16,\"return_token_ids\":true}");
    cr_assert_eq(json_array_size(json_at(answer, "choices")), 4);
    cr_expect(json_equal(json_at(answer, "choices[0].prompt_token_ids"),
                         json_at(answer, "choices[1].prompt_token_ids")));
    cr_expect_not(json_equal(json_at(answer, "choices[1].prompt_token_ids"),
                             json_at(answer, "choices[2].prompt_token_ids")));
    cr_expect_eq(json_integer_value(json_at(answer, "choices[0].denoised.seed")), 5);
    cr_expect_eq(json_integer_value(json_at(answer, "choices[3].denoised.seed")), 6);
    cr_expect_eq((size_t)json_integer_value(json_at(answer, "usage.prompt_tokens")),
                 json_array_size(json_at(answer, "choices[0].prompt_token_ids")) +
                     json_array_size(json_at(answer, "choices[2].prompt_token_ids")));
    json_t *single = ask(&server, API_COMPLETIONS,
                         "{\"prompt\":\"A small girl\",\"seed\":6,\"temperature\":1,"
                         "\"max_tokens\":16}");
    cr_expect_str_eq(text_at(single, "choices[0].text"), text_at(answer, "choices[3].text"));
    json_decref(single);
    json_decref(answer);
    stop(&server);
}

Test(calls, a_stop_string_frees_the_rows_of_its_choice, .timeout = 60)
{
    struct server server = start(4, 4);
    struct api_call *call = begin(&server, API_COMPLETIONS,
                                  "{\"prompt\":\"Once upon a time\",\"max_tokens\":96,\"steps\":96,"
                                  "\"ignore_eos\":true,\"stop\":[\"a\",\"e\",\"o\"]}");
    json_t *answer = finish(&server, call);
    cr_expect_str_eq(text_at(answer, "choices[0].finish_reason"), "stop");
    tick(&server);
    cr_expect_eq(engine_counters_read(server.api->engine).running, 0);
    cr_expect_eq(engine_counters_read(server.api->engine).cancelled, 1);
    json_decref(answer);
    api_call_free(call);
    stop(&server);
}

static void expect_error(struct server *server, const char *body, int status, const char *code)
{
    struct api_call *call = begin(server, API_COMPLETIONS, body);
    json_t *answer = parse_answer(call, status);
    cr_expect_str_eq(text_at(answer, "error.code"), code);
    cr_expect_eq(api_call_answer(call).retry_after_s > 0, status == 429 || status == 503);
    cr_expect_lt(api_call_answer(call).queue_ms, 0);
    json_decref(answer);
    api_call_free(call);
}

Test(calls, a_full_queue_is_429_and_leaves_nothing_behind, .timeout = 60)
{
    struct server server = start(1, 2);
    struct api_call *first = begin(&server, API_COMPLETIONS, "{\"prompt\":\"a\"}");
    cr_assert_eq(api_call_poll(first), API_STATE_WAITING);
    expect_error(&server, "{\"prompt\":[\"a\",\"b\",\"c\"]}", 429, "queue_full");
    expect_error(&server, "{\"prompt\":\"a\",\"n\":4}", 400, "invalid_value");
    json_decref(finish(&server, first));
    api_call_free(first);
    while (tick(&server)) {
    }
    cr_expect_eq(engine_counters_read(server.api->engine).waiting, 0);
    json_decref(ask(&server, API_COMPLETIONS, "{\"prompt\":\"a\",\"n\":3,\"max_tokens\":8}"));
    stop(&server);
}

Test(calls, a_draining_engine_is_503, .timeout = 60)
{
    struct server server = start(1, 1);
    engine_drain(server.api->engine);
    expect_error(&server, "{\"prompt\":\"a\"}", 503, "draining");
    stop(&server);
}

Test(calls, cancelling_frees_the_rows_at_the_next_tick, .timeout = 60)
{
    struct server server = start(2, 2);
    struct api_call *call =
        begin(&server, API_COMPLETIONS, "{\"prompt\":\"a\",\"n\":2,\"stream\":true}");
    tick(&server);
    cr_expect_eq(engine_counters_read(server.api->engine).running, 2);
    api_call_cancel(call);
    tick(&server);
    cr_expect_eq(engine_counters_read(server.api->engine).running, 0);
    api_call_free(call);
    stop(&server);
}

Test(calls, a_call_can_go_while_the_engine_still_works_on_it, .timeout = 60)
{
    struct server server = start(2, 2);
    struct api_call *call = begin(&server, API_COMPLETIONS, "{\"prompt\":\"a\"}");
    int suspended = 0;
    cr_assert(api_call_wait(call, count_suspend, &suspended));
    tick(&server);
    api_call_free(call);
    server.woken = 0;
    while (tick(&server)) {
    }
    cr_expect_eq(server.woken, 0);
    stop(&server);
}

Test(calls, an_answer_that_is_no_stream_wakes_its_reader_once, .timeout = 60)
{
    struct server server = start(2, 2);
    struct api_call *call = begin(&server, API_COMPLETIONS,
                                  "{\"prompt\":\"a\",\"max_tokens\":8,\"steps\":8,"
                                  "\"selection\":\"steps\",\"ignore_eos\":true}");
    int suspended = 0;
    cr_assert(api_call_wait(call, count_suspend, &suspended));
    while (tick(&server)) {
    }
    cr_expect_eq(server.woken, 1);
    json_t *answer = parse_answer(call, 200);
    cr_expect_eq(json_integer_value(json_at(answer, "denoised.rounds")), 8);
    json_decref(answer);
    api_call_free(call);
    stop(&server);
}

/* Whole calls over the tiny model, with an engine that the test ticks by hand. */
#include <criterion/criterion.h>
#include <string.h>

#include "server/api/call_internal.h"
#include "tests/unit/api/support_server.h"

Test(calls, an_answer_comes_when_the_engine_is_done, .timeout = 60)
{
    struct server server = server_start(4, 4);
    json_t *answer = server_ask(&server, API_CHAT_COMPLETIONS,
                                "{\"model\":\"tiny\",\"messages\":[{\"role\":\"user\",\"content\":"
                                "\"Hello!\"}],\"max_tokens\":32,\"return_token_ids\":true}");
    cr_expect_not_null(text_at(answer, "choices[0].message.content"));
    cr_expect_gt(json_integer_value(json_at(answer, "denoised.rounds")), 0);
    cr_expect_eq((size_t)json_integer_value(json_at(answer, "usage.completion_tokens")),
                 json_array_size(json_at(answer, "choices[0].token_ids")));
    cr_expect_eq((size_t)json_integer_value(json_at(answer, "usage.prompt_tokens")),
                 json_array_size(json_at(answer, "choices[0].prompt_token_ids")));
    json_decref(answer);
    server_stop(&server);
}

Test(calls, streamed_and_unstreamed_text_are_the_same_bytes, .timeout = 60)
{
    struct server server = server_start(4, 4);
    static const char *const options[] = {"", ",\"stop\":[\" the\",\"e\"]",
                                          ",\"temperature\":1,\"n\":2"};
    for (size_t i = 0; i < 3; i++) {
        char body[256];
        const char *format = "{\"prompt\":\"Once upon a time\",\"seed\":3,\"max_tokens\":40%s%s}";
        snprintf(body, sizeof body, format, options[i], "");
        json_t *answer = server_ask(&server, API_COMPLETIONS, body);
        snprintf(body, sizeof body, format, options[i], ",\"stream\":true");
        struct api_call *call = server_begin(&server, API_COMPLETIONS, body);
        struct buffer events = {0}, text = {0};
        server_read_stream(&server, call, &events);
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
        while (server_tick(&server)) {
        }
    }
    server_stop(&server);
}

Test(calls, several_prompts_and_choices_are_prompt_major, .timeout = 60)
{
    struct server server = server_start(4, 8);
    json_t *answer = server_ask(&server, API_COMPLETIONS,
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
    json_t *single = server_ask(&server, API_COMPLETIONS,
                                "{\"prompt\":\"A small girl\",\"seed\":6,\"temperature\":1,"
                                "\"max_tokens\":16}");
    cr_expect_str_eq(text_at(single, "choices[0].text"), text_at(answer, "choices[3].text"));
    json_decref(single);
    json_decref(answer);
    server_stop(&server);
}

Test(calls, the_choices_of_a_prompt_share_its_ids_and_its_text, .timeout = 60)
{
    struct server server = server_start(4, 8);
    struct api_call *call = server_begin(&server, API_COMPLETIONS,
                                         "{\"prompt\":[\"The dog\",\"A small girl\"],\"n\":2,"
                                         "\"max_tokens\":8,\"echo\":true}");
    const struct choice *choices = call->reply.choices;
    for (int i = 0; i < 4; i += 2) {
        cr_expect_eq(choices[i].prompt, choices[i + 1].prompt);
        cr_expect_eq(choices[i].echo, choices[i + 1].echo);
        cr_expect_eq(choices[i].echo_length, choices[i + 1].echo_length);
    }
    cr_expect_neq(choices[1].prompt, choices[2].prompt);
    cr_expect_neq(choices[1].echo, choices[2].echo);
    json_decref(server_finish(&server, call));
    api_call_free(call);
    server_stop(&server);
}

Test(calls, a_stop_string_frees_the_rows_of_its_choice, .timeout = 60)
{
    struct server server = server_start(4, 4);
    struct api_call *call =
        server_begin(&server, API_COMPLETIONS,
                     "{\"prompt\":\"Once upon a time\",\"max_tokens\":96,\"steps\":96,"
                     "\"ignore_eos\":true,\"stop\":[\"a\",\"e\",\"o\"]}");
    json_t *answer = server_finish(&server, call);
    cr_expect_str_eq(text_at(answer, "choices[0].finish_reason"), "stop");
    server_tick(&server);
    cr_expect_eq(engine_counters_read(server.api->engine).running, 0);
    cr_expect_eq(engine_counters_read(server.api->engine).finished, 1);
    json_decref(answer);
    api_call_free(call);
    server_stop(&server);
}

static void expect_error(struct server *server, const char *body, int status, const char *code)
{
    json_decref(server_refuse(server, API_COMPLETIONS, body, status, code));
}

Test(calls, a_full_queue_is_429_and_leaves_nothing_behind, .timeout = 60)
{
    struct server server = server_start(1, 2);
    struct api_call *first = server_begin(&server, API_COMPLETIONS, "{\"prompt\":\"a\"}");
    cr_assert_eq(api_call_poll(first), API_STATE_WAITING);
    expect_error(&server, "{\"prompt\":[\"a\",\"b\",\"c\"]}", 429, "queue_full");
    expect_error(&server, "{\"prompt\":\"a\",\"n\":4}", 400, "invalid_value");
    json_decref(server_finish(&server, first));
    api_call_free(first);
    while (server_tick(&server)) {
    }
    cr_expect_eq(engine_counters_read(server.api->engine).waiting, 0);
    json_decref(
        server_ask(&server, API_COMPLETIONS, "{\"prompt\":\"a\",\"n\":3,\"max_tokens\":8}"));
    server_stop(&server);
}

Test(calls, choices_that_do_not_all_fit_into_the_queue_are_refused_together, .timeout = 60)
{
    struct server server = server_start(1, 4);
    struct api_call *first = server_begin(&server, API_COMPLETIONS, "{\"prompt\":\"a\"}");
    server_tick(&server);
    uint64_t finished = engine_counters_read(server.api->engine).finished;
    expect_error(&server, "{\"prompt\":\"a\",\"n\":5}", 429, "queue_full");
    cr_expect_eq(engine_counters_read(server.api->engine).waiting, 0, "none of them waits");
    json_decref(server_finish(&server, first));
    api_call_free(first);
    while (server_tick(&server)) {
    }
    cr_expect_eq(engine_counters_read(server.api->engine).finished, finished + 1);
    cr_expect_eq(engine_counters_read(server.api->engine).cancelled, 0);
    server_stop(&server);
}

Test(calls, a_draining_engine_is_503, .timeout = 60)
{
    struct server server = server_start(1, 1);
    engine_drain(server.api->engine);
    expect_error(&server, "{\"prompt\":\"a\"}", 503, "draining");
    server_stop(&server);
}

Test(calls, cancelling_frees_the_rows_at_the_next_tick, .timeout = 60)
{
    struct server server = server_start(2, 2);
    struct api_call *call =
        server_begin(&server, API_COMPLETIONS, "{\"prompt\":\"a\",\"n\":2,\"stream\":true}");
    server_tick(&server);
    cr_expect_eq(engine_counters_read(server.api->engine).running, 2);
    api_call_cancel(call);
    server_tick(&server);
    cr_expect_eq(engine_counters_read(server.api->engine).running, 0);
    api_call_free(call);
    server_stop(&server);
}

Test(calls, a_call_can_go_while_the_engine_still_works_on_it, .timeout = 60)
{
    struct server server = server_start(2, 2);
    struct api_call *call = server_begin(&server, API_COMPLETIONS, "{\"prompt\":\"a\"}");
    int suspended = 0;
    cr_assert(api_call_wait(call, server_suspend, &suspended));
    server_tick(&server);
    api_call_free(call);
    server.woken = 0;
    while (server_tick(&server)) {
    }
    cr_expect_eq(server.woken, 0);
    server_stop(&server);
}

Test(calls, an_answer_that_is_no_stream_wakes_its_reader_once, .timeout = 60)
{
    struct server server = server_start(2, 2);
    struct api_call *call = server_begin(&server, API_COMPLETIONS,
                                         "{\"prompt\":\"a\",\"max_tokens\":8,\"steps\":8,"
                                         "\"selection\":\"steps\",\"ignore_eos\":true}");
    int suspended = 0;
    cr_assert(api_call_wait(call, server_suspend, &suspended));
    while (server_tick(&server)) {
    }
    cr_expect_eq(server.woken, 1);
    json_t *answer = server_parse_answer(call, 200);
    cr_expect_eq(json_integer_value(json_at(answer, "denoised.rounds")), 8);
    json_decref(answer);
    api_call_free(call);
    server_stop(&server);
}

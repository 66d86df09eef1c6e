/* A client ends its request by the id that the server gave it. */
#include <criterion/criterion.h>
#include <string.h>

#include "tests/unit/api/support_server.h"

static const char stream_body[] = "{\"prompt\":\"Once upon a time\",\"max_tokens\":64,"
                                  "\"selection\":\"steps\",\"ignore_eos\":true,\"stream\":true}";

static bool cancel(struct server *server, const struct api_call *call, uint64_t owner)
{
    const char *id = api_call_summarise(call).id;
    return api_cancel(server->api, id, strlen(id), owner);
}

Test(cancel, a_stream_ends_with_what_was_settled, .timeout = 60)
{
    struct server server = server_start(2, 2);
    struct api_call *call = server_begin(&server, API_COMPLETIONS, stream_body);
    for (int i = 0; i < 20; i++) {
        server_tick(&server);
    }
    cr_expect(cancel(&server, call, OWNER));
    struct buffer stream = {0}, text = {0};
    server_read_stream(&server, call, &stream);
    join_stream(&text, stream.data);
    json_t *events = parse_events(stream.data);
    size_t count = json_array_size(events);
    cr_assert_geq(count, 2);
    cr_expect_str_eq(json_string_value(json_array_get(events, count - 1)), "[DONE]");
    const json_t *last = json_array_get(events, count - 2);
    cr_expect_str_eq(text_at(last, "choices[0].finish_reason"), "length");
    cr_expect_str_eq(text_at(last, "denoised.finish_details"), "cancelled");
    cr_expect_geq(json_number_value(json_at(last, "denoised.queue_ms")), 0);
    cr_expect_eq(engine_counters_read(server.api->engine).running, 0);
    cr_expect_eq(engine_counters_read(server.api->engine).cancelled, 1);
    json_decref(events);
    buffer_free(&stream);
    buffer_free(&text);
    api_call_free(call);
    server_stop(&server);
}

Test(cancel, an_answer_is_a_200_with_what_was_settled, .timeout = 60)
{
    struct server server = server_start(2, 2);
    struct api_call *call =
        server_begin(&server, API_CHAT_COMPLETIONS,
                     "{\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}],\"n\":3,"
                     "\"temperature\":1,\"max_tokens\":64,\"selection\":\"steps\","
                     "\"ignore_eos\":true,\"logprobs\":true}");
    for (int i = 0; i < 10; i++) {
        server_tick(&server);
    }
    cr_expect(cancel(&server, call, OWNER));
    json_t *answer = server_finish(&server, call);
    cr_assert_eq(json_array_size(json_at(answer, "choices")), 3);
    int64_t tokens = 0;
    for (size_t i = 0; i < 3; i++) {
        const json_t *choice = json_array_get(json_at(answer, "choices"), i);
        cr_expect_str_eq(text_at(choice, "finish_reason"), "length");
        cr_expect_str_eq(text_at(choice, "denoised.finish_details"), "cancelled");
        tokens += (int64_t)json_array_size(json_at(choice, "logprobs.content"));
    }
    cr_expect_str_eq(text_at(answer, "choices[2].message.content"), "", "it still waited");
    cr_expect_eq(json_integer_value(json_at(answer, "usage.completion_tokens")), tokens);
    json_decref(answer);
    api_call_free(call);
    server_stop(&server);
}

Test(cancel, only_the_owner_finds_a_call_and_only_while_it_runs, .timeout = 60)
{
    struct server server = server_start(2, 2);
    struct api_call *call = server_begin(&server, API_COMPLETIONS, stream_body);
    struct api_call *other = server_begin(&server, API_COMPLETIONS, stream_body);
    char id[64];
    snprintf(id, sizeof id, "%s", api_call_summarise(call).id);
    cr_expect_not(cancel(&server, call, OWNER + 1));
    cr_expect_not(cancel(&server, call, 0));
    cr_expect_not(api_cancel(server.api, id, strlen(id) - 1, OWNER));
    cr_expect_not(api_cancel(server.api, "", 0, OWNER));
    cr_expect_not(api_cancel(server.api, "cmpl-nonesuch", 13, OWNER));
    cr_expect(cancel(&server, call, OWNER));
    server_tick(&server);
    cr_expect_not(cancel(&server, call, OWNER), "it has ended");
    cr_expect_eq(engine_counters_read(server.api->engine).running, 1, "the other one goes on");
    api_call_free(call);
    cr_expect_not(api_cancel(server.api, id, strlen(id), OWNER));
    cr_expect(cancel(&server, other, OWNER));
    api_call_free(other);
    server_stop(&server);
}

Test(cancel, drafts_end_with_the_settled_text, .timeout = 60)
{
    struct live live;
    int32_t tokens[8];
    live_create(&live, API_COMPLETIONS, "{\"stream\":true,\"diffusing\":true,\"stop\":\"dX\"}", 1,
                8);
    support_spell(tokens, "ab\xc3xxxxx");
    tokens[3] = tokens[5] = MASK;
    live_post(&live, 0, 1, tokens, FINISH_NONE);
    json_decref(live_events(&live));
    atomic_store(&live.reply.cancelled, true);
    live_post(&live, 0, 1, tokens, FINISH_CANCELLED);
    json_t *events = live_events(&live);
    cr_expect(json_is_true(json_at(events, "[0].denoised.final")));
    cr_expect_str_eq(text_at(events, "[0].choices[0].text"), "ab", "no half of a character");
    cr_expect_str_eq(text_at(events, "[0].choices[0].finish_reason"), "length");
    cr_expect_eq(json_integer_value(json_at(events, "[1].usage.completion_tokens")), 2);
    json_decref(events);
    live_free(&live);
}

/* Asked for the whole canvas, but it was never filled. */
Test(cancel, masks_are_not_among_the_tokens_of_an_answer)
{
    static const char *const forms[] = {"", ",\"stream\":true",
                                        ",\"stream\":true,\"diffusing\":true"};
    for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++) {
        struct live live;
        int32_t tokens[8];
        char body[128];
        snprintf(body, sizeof body,
                 "{\"eos_early_stop\":false,\"return_token_ids\":true,"
                 "\"return_confidences\":true%s}",
                 forms[i]);
        live_create(&live, API_COMPLETIONS, body, 1, 8);
        support_spell(tokens, "abcxxxxx");
        tokens[3] = tokens[7] = MASK;
        atomic_store(&live.reply.cancelled, true);
        live_post(&live, 0, 1, tokens, FINISH_CANCELLED);
        json_t *answer = live.reply.parameters.stream ? live_events(&live) : live_answer(&live);
        const json_t *choice = NULL;
        for (size_t k = 0; json_is_array(answer) && k < json_array_size(answer); k++) {
            const json_t *candidate = json_at(json_array_get(answer, k), "choices[0]");
            choice = json_at(candidate, "token_ids") ? candidate : choice;
        }
        choice = json_is_array(answer) ? choice : json_at(answer, "choices[0]");
        cr_assert_eq(json_array_size(json_at(choice, "token_ids")), 3, "%s", forms[i]);
        cr_expect_eq(json_integer_value(json_at(choice, "token_ids[2]")), tokens[2]);
        cr_expect_eq(json_array_size(json_at(choice, "confidences")), 3, "%s", forms[i]);
        json_decref(answer);
        live_free(&live);
    }
}

Test(cancel, a_server_that_stops_is_no_cancelled_answer)
{
    struct live live;
    int32_t tokens[8];
    live_create(&live, API_COMPLETIONS, "{\"stream\":true}", 1, 8);
    support_spell(tokens, "abxxxxxx");
    tokens[2] = MASK;
    live_post(&live, 0, 1, tokens, FINISH_CANCELLED);
    json_t *events = live_events(&live);
    cr_expect_str_eq(text_at(json_array_get(events, json_array_size(events) - 1), "error.code"),
                     "draining");
    json_decref(events);
    live_free(&live);
}

/* What a request asks of rows and of the answer's form, carried out by the engine. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/api/support_server.h"

Test(requested, the_best_token_is_the_chosen_one_and_has_its_logprob, .timeout = 60)
{
    struct server server = server_start(2, 2);
    json_t *answer = server_ask(&server, API_CHAT_COMPLETIONS,
                                "{\"messages\":[{\"role\":\"user\",\"content\":\"Hello!\"}],"
                                "\"max_tokens\":24,\"logprobs\":true,\"top_logprobs\":4,"
                                "\"ignore_eos\":true,\"temperature\":0}");
    const json_t *content = json_at(answer, "choices[0].logprobs.content");
    cr_assert_eq((size_t)json_integer_value(json_at(answer, "usage.completion_tokens")),
                 json_array_size(content));
    size_t same = 0;
    for (size_t i = 0; i < json_array_size(content); i++) {
        const json_t *token = json_array_get(content, i);
        cr_assert_eq(json_array_size(json_at(token, "top_logprobs")), 4);
        same += json_equal(json_at(token, "bytes"), json_at(token, "top_logprobs[0].bytes")) &&
                json_equal(json_at(token, "logprob"), json_at(token, "top_logprobs[0].logprob"));
        double first = json_number_value(json_at(token, "top_logprobs[0].logprob"));
        cr_expect_leq(json_number_value(json_at(token, "top_logprobs[3].logprob")), first);
        cr_expect_leq(first, 0);
    }
    cr_expect_gt(same, 0, "where no stop id is best, the best one is chosen");
    json_decref(answer);
    server_stop(&server);
}

static bool holds(const json_t *ids, int64_t id)
{
    for (size_t i = 0; i < json_array_size(ids); i++) {
        if (json_integer_value(json_array_get(ids, i)) == id) {
            return true;
        }
    }
    return false;
}

Test(requested, only_allowed_tokens_are_in_the_answer, .timeout = 60)
{
    struct server server = server_start(2, 2);
    json_t *answer = server_ask(&server, API_COMPLETIONS,
                                "{\"prompt\":\"Once upon a time\",\"max_tokens\":16,"
                                "\"allowed_token_ids\":[300,400,4000],\"return_token_ids\":true}");
    const json_t *ids = json_at(answer, "choices[0].token_ids");
    cr_assert_eq(json_array_size(ids), 16);
    for (size_t i = 0; i < 16; i++) {
        int64_t id = json_integer_value(json_array_get(ids, i));
        cr_expect(id == 300 || id == 400 || id == 4000, "%d", (int)id);
    }
    json_decref(answer);
    server_stop(&server);
}

Test(requested, biases_push_tokens_in_and_out, .timeout = 60)
{
    struct server server = server_start(2, 2);
    json_t *in = server_ask(&server, API_COMPLETIONS,
                            "{\"prompt\":\"Once\",\"max_tokens\":8,\"logit_bias\":{\"300\":100},"
                            "\"return_token_ids\":true}");
    const json_t *ids = json_at(in, "choices[0].token_ids");
    for (size_t i = 0; i < 8; i++) {
        cr_expect_eq(json_integer_value(json_array_get(ids, i)), 300);
    }
    json_decref(in);
    json_t *plain = server_ask(&server, API_COMPLETIONS,
                               "{\"prompt\":\"Once\",\"max_tokens\":8,\"ignore_eos\":true,"
                               "\"return_token_ids\":true}");
    int64_t first = json_integer_value(json_at(plain, "choices[0].token_ids[0]"));
    char body[256];
    snprintf(body, sizeof body,
             "{\"prompt\":\"Once\",\"max_tokens\":8,\"ignore_eos\":true,\"return_token_ids\":true,"
             "\"logit_bias\":{\"%d\":-100}}",
             (int)first);
    json_t *out = server_ask(&server, API_COMPLETIONS, body);
    cr_expect_not(holds(json_at(out, "choices[0].token_ids"), first));
    json_decref(plain);
    json_decref(out);
    server_stop(&server);
}

Test(requested, bad_words_are_not_in_the_text, .timeout = 60)
{
    struct server server = server_start(2, 2);
    json_t *answer = server_ask(&server, API_COMPLETIONS,
                                "{\"prompt\":\"Once upon a time\",\"max_tokens\":32,"
                                "\"ignore_eos\":true,\"bad_words\":[\"a\",\"e\",\"th\"]}");
    const char *text = text_at(answer, "choices[0].text");
    cr_expect_gt(strlen(text), 0);
    cr_expect_null(strpbrk(text, "ae"), "%s", text);
    cr_expect_null(strstr(text, "th"), "%s", text);
    json_decref(answer);
    server_stop(&server);
}

Test(requested, the_prompt_is_echoed_as_it_was_sent, .timeout = 60)
{
    struct server server = server_start(2, 2);
    static const char sent[] = "Once <|eot_id|> e\xcc\x81 upon";
    char body[256];
    snprintf(body, sizeof body, "{\"prompt\":[\"%s\",[0,300]],\"echo\":true,\"max_tokens\":4}",
             sent);
    json_t *answer = server_ask(&server, API_COMPLETIONS, body);
    cr_expect_eq(strncmp(text_at(answer, "choices[0].text"), sent, strlen(sent)), 0, "%s",
                 text_at(answer, "choices[0].text"));
    cr_expect_eq(strncmp(text_at(answer, "choices[1].text"), "<|startoftext|>", 15), 0, "%s",
                 text_at(answer, "choices[1].text"));
    json_decref(answer);
    server_stop(&server);
}

/* Without echo of its own a chat would list log-probabilities of tokens before its answer. */
Test(requested, a_chat_echoes_nothing, .timeout = 60)
{
    struct server server = server_start(2, 2);
    static const char format[] = "{\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}],"
                                 "\"max_tokens\":2,\"ignore_eos\":true,\"echo\":true,"
                                 "\"logprobs\":true,\"top_logprobs\":1%s}";
    char body[256];
    snprintf(body, sizeof body, format, "");
    json_t *answer = server_ask(&server, API_CHAT_COMPLETIONS, body);
    cr_expect_eq(json_array_size(json_at(answer, "choices[0].logprobs.content")), 2);
    json_decref(answer);
    static const char *const forms[] = {",\"stream\":true", ",\"stream\":true,\"diffusing\":true"};
    for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++) {
        struct buffer events = {0};
        snprintf(body, sizeof body, format, forms[i]);
        struct api_call *call = server_begin(&server, API_CHAT_COMPLETIONS, body);
        server_read_stream(&server, call, &events);
        json_t *parsed = parse_events(events.data);
        size_t listed = 0;
        for (size_t k = 0; k < json_array_size(parsed); k++) {
            const json_t *event = json_array_get(parsed, k);
            listed += json_array_size(json_at(event, "choices[0].logprobs.content"));
        }
        cr_expect_eq(listed, 2, "%s", events.data);
        json_decref(parsed);
        buffer_free(&events);
        api_call_free(call);
    }
    server_stop(&server);
}

Test(requested, a_negative_prompt_changes_the_answer, .timeout = 60)
{
    struct server server = server_start(2, 2);
    static const char format[] = "{\"prompt\":\"The little dog\",\"max_tokens\":16,"
                                 "\"ignore_eos\":true,\"cfg_scale\":3,\"seed\":1%s}";
    char body[256];
    snprintf(body, sizeof body, format, "");
    json_t *masked = server_ask(&server, API_COMPLETIONS, body);
    snprintf(body, sizeof body, format, ",\"negative_prompt\":\"He was sad. She was sad.\"");
    json_t *negative = server_ask(&server, API_COMPLETIONS, body);
    cr_expect_str_neq(text_at(masked, "choices[0].text"), text_at(negative, "choices[0].text"));
    json_decref(masked);
    json_decref(negative);
    server_stop(&server);
}

Test(requested, a_negative_prompt_counts_where_the_model_asks_for_guidance, .timeout = 60)
{
    struct server server = server_start(2, 2);
    static const char format[] =
        "{\"prompt\":\"The little dog\",\"max_tokens\":16,"
        "\"ignore_eos\":true,\"seed\":1,\"negative_prompt\":\"He was sad.\"%s}";
    char body[256];
    snprintf(body, sizeof body, format, ",\"cfg_scale\":3");
    json_t *asked = server_ask(&server, API_COMPLETIONS, body);
    snprintf(body, sizeof body, format, "");
    json_t *plain = server_ask(&server, API_COMPLETIONS, body);
    server.api->generation.cfg_scale = 3;
    json_t *by_default = server_ask(&server, API_COMPLETIONS, body);
    cr_expect_str_eq(text_at(by_default, "choices[0].text"), text_at(asked, "choices[0].text"));
    cr_expect_str_neq(text_at(by_default, "choices[0].text"), text_at(plain, "choices[0].text"));
    json_decref(asked);
    json_decref(plain);
    json_decref(by_default);
    server_stop(&server);
}

static void expect_refused(struct server *server, const char *body, const char *code,
                           const char *param)
{
    json_t *answer = server_refuse(server, API_COMPLETIONS, body, 400, code);
    const char *named = text_at(answer, "error.param");
    cr_expect_str_eq(named ? named : "", param, "%s", text_at(answer, "error.message"));
    json_decref(answer);
}

Test(requested, what_leaves_no_token_or_no_room_is_refused, .timeout = 60)
{
    struct server server = server_start(2, 2);
    char body[256];
    snprintf(body, sizeof body, "{\"prompt\":\"a\",\"allowed_token_ids\":[%d],\"ignore_eos\":true}",
             END_OF_TEXT);
    expect_refused(&server, body, "invalid_value", "allowed_token_ids");
    snprintf(body, sizeof body, "{\"prompt\":\"a\",\"max_tokens\":%d}",
             (int)server.api->config.max_positions);
    expect_refused(&server, body, "context_length_exceeded", "max_tokens");
    server.api->config.max_positions *= 64; /* more than the pool holds */
    snprintf(body, sizeof body, "{\"prompt\":\"a\",\"max_tokens\":%d,\"allowed_token_ids\":[9]}",
             (int)server.api->config.max_positions / 2);
    expect_refused(&server, body, "context_length_exceeded", "max_tokens");
    server_stop(&server);
}

Test(requested, what_the_engine_refuses_is_named_by_the_field_that_is_wrong, .timeout = 60)
{
    int32_t letter = support_byte_token('x'); /* before the server: it sets the api back */
    struct server server = server_start_with(&(struct engine_options){
        .max_sequences = 2,
        .max_rows_per_tick = 100,
        .queue_limit = 2,
        .kv_cache_tokens = 192,
    });
    expect_refused(&server, "{\"prompt\":\"a\",\"max_tokens\":150,\"allowed_token_ids\":[10]}",
                   "context_length_exceeded", "max_tokens");
    char body[1024] = "{\"prompt\":[10";
    for (int i = 0; i < 110; i++) {
        strcat(body, ",10");
    }
    strcat(body, "]}");
    expect_refused(&server, body, "context_length_exceeded", "prompt");
    expect_refused(&server,
                   "{\"prompt\":\"a\",\"repetition_penalty\":1e-300,\"allowed_token_ids\":[10]}",
                   "invalid_value", "repetition_penalty");
    snprintf(body, sizeof body,
             "{\"prompt\":\"a\",\"bad_words\":[\"x\"],\"allowed_token_ids\":[%d]}", letter);
    expect_refused(&server, body, "invalid_value", "allowed_token_ids");
    server_stop(&server);
}

Test(requested, a_length_that_was_not_asked_for_is_cut_to_what_the_server_can_run, .timeout = 60)
{
    struct server server = server_start_with(&(struct engine_options){
        .max_sequences = 2,
        .max_rows_per_tick = 100,
        .queue_limit = 2,
        .kv_cache_tokens = 64,
    });
    server.api->settings.max_tokens = 256;
    static const char *const bodies[] = {"{\"prompt\":\"Tim\",\"ignore_eos\":true}",
                                         "{\"prompt\":[0,10,11,12],\"ignore_eos\":true}"};
    for (size_t i = 0; i < 2; i++) {
        json_t *answer = server_ask(&server, API_COMPLETIONS, bodies[i]);
        cr_expect_eq(json_integer_value(json_at(answer, "usage.total_tokens")), 64);
        json_decref(answer);
    }
    struct buffer props = {0};
    api_props_body(server.api, &props);
    json_t *json = json_loadb(props.data, props.length, 0, NULL);
    cr_expect_eq(json_integer_value(json_at(json, "limits.canvas")), 64);
    cr_expect_eq(json_integer_value(json_at(json, "limits.guided_canvas")), 0,
                 "it takes two pages");
    cr_expect_eq(json_integer_value(json_at(json, "defaults.max_tokens")), 63);
    json_decref(json);
    buffer_free(&props);
    server_stop(&server);
}

Test(requested, a_guided_length_that_was_not_asked_for_leaves_room_for_the_partner, .timeout = 60)
{
    struct server server = server_start_with(&(struct engine_options){
        .max_sequences = 2,
        .max_rows_per_tick = 100,
        .queue_limit = 2,
        .kv_cache_tokens = 192,
    });
    server.api->settings.max_tokens = 256;
    json_t *answer = server_ask(&server, API_COMPLETIONS,
                                "{\"prompt\":[0,10],\"cfg_scale\":1,\"ignore_eos\":true}");
    cr_expect_eq(json_integer_value(json_at(answer, "usage.total_tokens")), 50);
    json_decref(answer);
    server_stop(&server);
}

Test(requested, a_call_can_go_while_the_engine_reads_its_lists, .timeout = 60)
{
    struct server server = server_start(2, 2);
    struct api_call *call =
        server_begin(&server, API_COMPLETIONS,
                     "{\"prompt\":\"a\",\"max_tokens\":32,\"selection\":\"steps\",\"n\":2,"
                     "\"logit_bias\":{\"300\":1},\"allowed_token_ids\":[300,301,302],"
                     "\"bad_words\":[\"xyz\"],\"cfg_scale\":1,\"negative_prompt\":\"no\"}");
    cr_assert_eq(api_call_poll(call), API_STATE_WAITING);
    server_tick(&server);
    api_call_free(call);
    while (server_tick(&server)) {
    }
    cr_expect_eq(engine_counters_read(server.api->engine).cancelled, 2);
    server_stop(&server);
}

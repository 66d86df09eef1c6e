/* Drafts posted by hand become answers. */
#include <criterion/criterion.h>
#include <string.h>

#include "server/api/json_writer.h"
#include "tests/unit/api/support.h"

enum { LENGTH = 16 };

/* A canvas that spells a text and then holds stop ids. */
static void spell_and_stop(int32_t tokens[LENGTH], const char *text)
{
    int32_t count = support_spell(tokens, text);
    for (int32_t i = count; i < LENGTH; i++) {
        tokens[i] = END_OF_TEXT;
    }
}

static json_t *answer_to(const char *body, enum api_endpoint endpoint, const int32_t *tokens,
                         enum finish finish)
{
    struct live live;
    live_create(&live, endpoint, body, 1, LENGTH);
    live_post(&live, 0, 4, tokens, finish);
    json_t *answer = live_answer(&live);
    live_free(&live);
    return answer;
}

static int64_t integer_at(const json_t *value, const char *path)
{
    cr_assert_not_null(json_at(value, path), "%s", path);
    return json_integer_value(json_at(value, path));
}

Test(answers, have_the_published_shapes)
{
    int32_t tokens[LENGTH];
    spell_and_stop(tokens, "Hello");
    json_t *text = answer_to("{\"seed\":7}", API_COMPLETIONS, tokens, FINISH_STOP);
    cr_expect_str_eq(text_at(text, "object"), "text_completion");
    cr_expect_str_eq(text_at(text, "model"), "tiny");
    cr_expect_str_eq(text_at(text, "id"), "cmpl-test");
    cr_expect_str_eq(text_at(text, "system_fingerprint"), "denoised-test-tiny");
    cr_expect_eq(integer_at(text, "created"), 1700000000);
    cr_expect_str_eq(text_at(text, "choices[0].text"), "Hello");
    cr_expect_str_eq(text_at(text, "choices[0].finish_reason"), "stop");
    cr_expect(json_is_null(json_at(text, "choices[0].logprobs")));
    cr_expect_null(json_at(text, "choices[0].token_ids"));
    cr_expect_eq(integer_at(text, "usage.prompt_tokens"), 3);
    cr_expect_eq(integer_at(text, "usage.completion_tokens"), 5);
    cr_expect_eq(integer_at(text, "usage.total_tokens"), 8);
    cr_expect_eq(integer_at(text, "usage.prompt_tokens_details.cached_tokens"), 0);
    cr_expect_eq(integer_at(text, "usage.completion_tokens_details.reasoning_tokens"), 0);
    cr_expect_eq(integer_at(text, "denoised.rounds"), 4);
    cr_expect_eq(integer_at(text, "denoised.forward_passes"), 4);
    cr_expect_eq(integer_at(text, "denoised.revised"), 0);
    cr_expect_eq(json_number_value(json_at(text, "denoised.tokens_per_round")), 1.25);
    cr_expect_eq(json_number_value(json_at(text, "denoised.confidence.min")), 0.5);
    cr_expect_eq(json_number_value(json_at(text, "denoised.confidence.mean")), 0.5);
    cr_expect(json_is_null(json_at(text, "denoised.confidence.threshold")));
    cr_expect_eq(json_number_value(json_at(text, "denoised.timeout.used_ms")), 6.5);
    cr_expect_eq(integer_at(text, "denoised.seed"), 7);
    cr_expect_str_eq(text_at(text, "denoised.cache"), "dual");
    cr_expect_str_eq(text_at(text, "denoised.finish_details"), "stop_token");
    cr_expect_eq(integer_at(text, "choices[0].denoised.rounds"), 4);
    json_decref(text);
    json_t *chat = answer_to("{}", API_CHAT_COMPLETIONS, tokens, FINISH_STOP);
    cr_expect_str_eq(text_at(chat, "object"), "chat.completion");
    cr_expect_str_eq(text_at(chat, "choices[0].message.role"), "assistant");
    cr_expect_str_eq(text_at(chat, "choices[0].message.content"), "Hello");
    json_decref(chat);
}

Test(answers, a_full_canvas_without_a_stop_ends_by_length)
{
    int32_t tokens[LENGTH];
    support_spell(tokens, "0123456789abcde\x80");
    json_t *answer = answer_to("{}", API_COMPLETIONS, tokens, FINISH_LENGTH);
    cr_expect_str_eq(text_at(answer, "choices[0].finish_reason"), "length");
    cr_expect_str_eq(text_at(answer, "choices[0].text"), "0123456789abcde\xef\xbf\xbd");
    cr_expect_str_eq(text_at(answer, "denoised.finish_details"), "length");
    cr_expect_eq(integer_at(answer, "usage.completion_tokens"), 16);
    json_decref(answer);
}

Test(answers, token_ids_are_those_of_the_text_or_the_whole_canvas)
{
    int32_t tokens[LENGTH];
    spell_and_stop(tokens, "Hi");
    json_t *on = answer_to("{\"return_token_ids\":true,\"return_confidences\":true}",
                           API_COMPLETIONS, tokens, FINISH_STOP);
    cr_expect_eq(json_array_size(json_at(on, "choices[0].token_ids")), 2);
    cr_expect_eq(json_array_size(json_at(on, "choices[0].confidences")), 2);
    cr_expect_eq(json_array_size(json_at(on, "choices[0].prompt_token_ids")), 3);
    cr_expect_eq(integer_at(on, "choices[0].token_ids[1]"), tokens[1]);
    json_decref(on);
    json_t *off = answer_to("{\"return_token_ids\":true,\"eos_early_stop\":false}", API_COMPLETIONS,
                            tokens, FINISH_STOP);
    cr_expect_eq(json_array_size(json_at(off, "choices[0].token_ids")), LENGTH);
    cr_expect_str_eq(text_at(off, "choices[0].text"), "Hi");
    cr_expect_eq(integer_at(off, "usage.completion_tokens"), 2);
    json_decref(off);
}

Test(answers, special_tokens_and_nul_bytes_are_exact)
{
    int32_t tokens[LENGTH];
    spell_and_stop(tokens, "ab");
    tokens[1] = BOS; /* special, no stop id: gives no text */
    tokens[2] = support_byte_token(0);
    tokens[3] = support_byte_token('"');
    json_t *answer = answer_to("{}", API_COMPLETIONS, tokens, FINISH_STOP);
    const json_t *text = json_at(answer, "choices[0].text");
    cr_expect_eq(json_string_length(text), 3);
    cr_expect_eq(memcmp(json_string_value(text), "a\0\"", 3), 0);
    cr_expect_eq(integer_at(answer, "usage.completion_tokens"), 4);
    json_decref(answer);
}

Test(answers, an_empty_text_has_no_confidence)
{
    int32_t tokens[LENGTH];
    spell_and_stop(tokens, "");
    json_t *answer = answer_to("{}", API_COMPLETIONS, tokens, FINISH_STOP);
    cr_expect_str_eq(text_at(answer, "choices[0].text"), "");
    cr_expect(json_is_null(json_at(answer, "denoised.confidence.min")));
    cr_expect(json_is_null(json_at(answer, "denoised.confidence.mean")));
    json_decref(answer);
}

static void expect_cut(const char *stops, const char *text, int64_t completion_tokens)
{
    int32_t tokens[LENGTH];
    char body[128];
    spell_and_stop(tokens, "xxabcdeabc");
    snprintf(body, sizeof body, "{\"stop\":%s}", stops);
    json_t *answer = answer_to(body, API_COMPLETIONS, tokens, FINISH_STOP);
    cr_expect_str_eq(text_at(answer, "choices[0].text"), text, "%s", stops);
    cr_expect_eq(integer_at(answer, "usage.completion_tokens"), completion_tokens, "%s", stops);
    json_decref(answer);
}

Test(answers, text_is_cut_before_the_stop_string_that_is_complete_first)
{
    expect_cut("\"abc\"", "xx", 2);
    expect_cut("[\"eab\",\"cd\"]", "xxab", 4);
    expect_cut("[\"abcdef\",\"bcd\"]", "xxa", 3);
    expect_cut("[\"bc\",\"abc\"]", "xx", 2);
    expect_cut("\"x\"", "", 0);
    expect_cut("\"xxx\"", "xxabcdeabc", 10);
    expect_cut("[\"abd\",\"xab\"]", "x", 1);
}

Test(answers, a_stop_string_ends_a_choice_before_the_engine_does)
{
    int32_t tokens[LENGTH];
    struct live live;
    live_create(&live, API_COMPLETIONS, "{\"stop\":\"cd\"}", 1, LENGTH);
    spell_and_stop(tokens, "abcde");
    tokens[9] = MASK;
    tokens[1] = MASK;
    live_post(&live, 0, 1, tokens, FINISH_NONE);
    choice_refresh(&live.reply, &live.reply.choices[0]);
    cr_expect_not(live.reply.choices[0].done, "what stands before it is not committed");
    tokens[1] = support_byte_token('b');
    live_post(&live, 0, 2, tokens, FINISH_NONE);
    json_t *answer = live_answer(&live);
    cr_expect_str_eq(text_at(answer, "choices[0].text"), "ab");
    cr_expect_str_eq(text_at(answer, "choices[0].finish_reason"), "stop");
    cr_expect_str_eq(text_at(answer, "denoised.finish_details"), "stop_string");
    json_decref(answer);
    live_free(&live);
}

Test(answers, several_choices_are_summed_and_listed)
{
    int32_t tokens[LENGTH];
    struct live live;
    live_create(&live, API_COMPLETIONS, "{\"n\":2}", 2, LENGTH);
    spell_and_stop(tokens, "ab");
    live_post(&live, 0, 2, tokens, FINISH_STOP);
    support_spell(tokens, "0123456789abcdef");
    live_post(&live, 1, 7, tokens, FINISH_LENGTH);
    json_t *answer = live_answer(&live);
    cr_expect_eq(integer_at(answer, "denoised.rounds"), 7);
    cr_expect_eq(integer_at(answer, "denoised.forward_passes"), 9);
    cr_expect_str_eq(text_at(answer, "denoised.finish_details"), "mixed");
    cr_expect_eq(integer_at(answer, "usage.completion_tokens"), 18);
    cr_expect_eq(integer_at(answer, "choices[1].index"), 1);
    cr_expect_eq(integer_at(answer, "choices[1].denoised.rounds"), 7);
    json_decref(answer);
    live_free(&live);
}

Test(models, list_and_single_have_every_field)
{
    static const char *const fields[] = {
        "id",
        "object",
        "created",
        "owned_by",
        "name",
        "description",
        "context_length",
        "max_output_length",
        "pricing.prompt",
        "input_modalities[0]",
        "output_modalities[0]",
        "supported_endpoints[1]",
        "supported_features[0]",
        "supported_sampling_parameters[0]",
        "pricing.completion",
    };
    struct buffer body = {0};
    api_models_body(support_api(), &body);
    json_t *list = json_loadb(body.data, body.length, 0, NULL);
    cr_assert_not_null(list);
    cr_expect_str_eq(text_at(list, "object"), "list");
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
        cr_expect_not_null(json_at(json_at(list, "data[0]"), fields[i]), "%s", fields[i]);
    }
    buffer_clear(&body);
    cr_expect(api_model_body(support_api(), "tiny", 4, &body));
    json_t *single = json_loadb(body.data, body.length, 0, NULL);
    cr_expect(json_equal(single, json_at(list, "data[0]")));
    cr_expect_not(api_model_body(support_api(), "tin", 3, &body));
    json_decref(list);
    json_decref(single);
    buffer_free(&body);
}

Test(json_writer, numbers_are_exact_and_short)
{
    static const struct {
        double value;
        int decimals;
        const char *text;
    } cases[] = {{0, 6, "0"},
                 {-0.0, 6, "0"},
                 {0.9f, 6, "0.9"},
                 {0.05, 3, "0.05"},
                 {61.25, 1, "61.3"},
                 {1e20, 6, "100000000000000000000"},
                 {-1.5, 3, "-1.5"},
                 {1e-9, 6, "0"},
                 {2147483647, 6, "2147483647"},
                 {0.0 / 0.0, 6, "null"},
                 {0.999999999, 6, "1"},
                 {1e300 * 1e300, 6, "null"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct buffer out = {0};
        json_write_number(&out, cases[i].value, cases[i].decimals);
        cr_expect_str_eq(out.data, cases[i].text);
        buffer_free(&out);
    }
}

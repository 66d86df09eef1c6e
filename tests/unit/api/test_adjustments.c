/* Fields that change rows of logits, and what a request keeps of them. */
#include <criterion/criterion.h>
#include <string.h>

#include "server/api/adjustments.h"
#include "server/api/prompts.h"
#include "tests/unit/api/support.h"

static void expect(const char *fields, const char *param, const char *in_message)
{
    char body[512];
    snprintf(body, sizeof body, "{\"prompt\":\"a\",%s}", fields);
    struct refused refused = support_refuse(API_COMPLETIONS, body);
    const char *message = refused_text(&refused, "message");
    cr_expect_eq(refused.status, 400, "%s", body);
    cr_expect_str_eq(refused_text(&refused, "code"), "invalid_value", "%s: %s", body, message);
    cr_expect_str_eq(refused_text(&refused, "param"), param, "%s: %s", body, message);
    cr_expect_not_null(strstr(message, in_message), "%s: %s", body, message);
    json_decref(refused.body);
}

Test(adjustments, neutral_without_fields)
{
    struct decode_params params = support_parameters("{}").decode;
    cr_expect_eq(params.presence_penalty, 0);
    cr_expect_eq(params.frequency_penalty, 0);
    cr_expect_eq(params.repetition_penalty, 1);
    cr_expect_eq(params.bias_count, 0);
    cr_expect_null(params.allowed);
    cr_expect_eq(params.banned_word_count, 0);
    cr_expect_null(params.negative_prompt);
    cr_expect_eq(params.top_logprobs, 0);
    cr_expect_not(params.logits_eos_inf || params.confidence_eos_eot_inf);
}

Test(adjustments, every_field_arrives)
{
    struct decode_params params =
        support_parameters(
            "{\"presence_penalty\":-1.5,\"frequency_penalty\":2,"
            "\"repetition_penalty\":1.25,\"logit_bias\":{\"7\":-100,\"4095\":0.5},"
            "\"allowed_token_ids\":[31,32,4095,31],\"bad_words\":[\"x\",\"a\\u0000b\"],"
            "\"logits_eos_inf\":true,\"confidence_eos_eot_inf\":true}")
            .decode;
    cr_expect_eq(params.presence_penalty, -1.5f);
    cr_expect_eq(params.frequency_penalty, 2);
    cr_expect_eq(params.repetition_penalty, 1.25f);
    cr_assert_eq(params.bias_count, 2);
    for (int32_t i = 0; i < 2; i++) {
        const struct token_bias *bias = &params.biases[i];
        cr_expect(bias->token == 7 ? bias->bias == -100
                                   : bias->token == 4095 && bias->bias == 0.5f);
    }
    cr_expect_neq(params.biases[0].token, params.biases[1].token);
    uint32_t expected[128] = {[0] = 1u << 31, [1] = 1, [127] = 1u << 31};
    cr_expect_eq(memcmp(params.allowed, expected, sizeof expected), 0);
    cr_assert_eq(params.banned_word_count, 2);
    cr_expect_eq(params.banned_words[1].length, 3);
    cr_expect_eq(memcmp(params.banned_words[1].bytes, "a\0b", 3), 0);
    cr_expect(params.logits_eos_inf && params.confidence_eos_eot_inf);
}

Test(adjustments, a_copy_shares_nothing_with_what_it_was_made_from)
{
    struct arena arena, other;
    arena_init(&arena);
    arena_init(&other);
    static int32_t negative[] = {BOS, 9};
    struct api_error err = {0};
    json_t *body = json_loads("{\"logit_bias\":{\"7\":1},\"allowed_token_ids\":[40],"
                              "\"bad_words\":[\"word\"]}",
                              0, NULL);
    struct decode_params params = decode_params_neutral(8, 8);
    cr_assert_eq(adjustments_read(&params, support_api(), body, &arena, &err), 0);
    params.negative_prompt = negative;
    params.negative_prompt_length = 2;
    struct decode_params copy = params;
    cr_assert_eq(adjustments_copy(&copy, support_api(), &other), 0);
    arena_free(&arena);
    json_decref(body);
    negative[1] = 10;
    cr_expect_eq(copy.biases[0].token, 7);
    cr_expect_eq(copy.allowed[1], 1u << 8);
    cr_expect_eq(memcmp(copy.banned_words[0].bytes, "word", 4), 0);
    cr_expect_eq(copy.negative_prompt[1], 9);
    copy = decode_params_neutral(8, 8);
    cr_assert_eq(adjustments_copy(&copy, support_api(), &other), 0);
    cr_expect_null(copy.allowed, "NULL means all");
    cr_expect_null(copy.negative_prompt, "NULL means the masked prompt");
    arena_free(&other);
}

Test(adjustments, what_is_wrong_is_named)
{
    expect("\"logit_bias\":{\"7\":101}", "logit_bias", "101; it must be a number from -100 to 100");
    expect("\"logit_bias\":{\"7\":\"1\"}", "logit_bias", "token 7");
    expect("\"logit_bias\":{\"4096\":1}", "logit_bias", "4096");
    expect("\"logit_bias\":{\"99999999999999999999\":1}", "logit_bias", "999");
    expect("\"logit_bias\":{\"-1\":1}", "logit_bias", "\"-1\"");
    expect("\"logit_bias\":{\"07\":1}", "logit_bias", "\"07\"");
    expect("\"logit_bias\":{\"\":1}", "logit_bias", "\"\"");
    expect("\"logit_bias\":{\"the\":1}", "logit_bias", "\"the\"");
    expect("\"logit_bias\":{\"2\":1}", "logit_bias", "mask");
    expect("\"allowed_token_ids\":[]", "allowed_token_ids", "at least 1");
    expect("\"allowed_token_ids\":[5,4096]", "allowed_token_ids[1]", "4096");
    expect("\"allowed_token_ids\":[2]", "allowed_token_ids[0]", "mask");
    expect("\"allowed_token_ids\":[\"5\"]", "allowed_token_ids[0]", "token id");
    expect("\"bad_words\":[\"a\",\"\"]", "bad_words[1]", "1 to 255 bytes");
    expect("\"bad_words\":[7]", "bad_words[0]", "is 7");
}

static void expect_too_many(const char *field, const char *open, const char *item,
                            const char *close)
{
    struct buffer body = {0};
    buffer_format(&body, "{\"prompt\":\"a\",\"%s\":%s", field, open);
    for (int i = 0; i < 1025; i++) {
        buffer_append_text(&body, i ? "," : "");
        buffer_format(&body, item, i + 10);
    }
    buffer_format(&body, "%s}", close);
    struct refused refused = support_refuse_bytes(API_COMPLETIONS, body.data, body.length);
    cr_expect_str_eq(refused_text(&refused, "param"), field);
    cr_expect_not_null(strstr(refused_text(&refused, "message"), "1025"));
    json_decref(refused.body);
    buffer_free(&body);
}

Test(adjustments, lists_are_limited)
{
    expect_too_many("logit_bias", "{", "\"%d\":1", "}");
    expect_too_many("bad_words", "[", "\"w%d\"", "]");
    char body[512];
    memset(body, 'x', sizeof body);
    memcpy(body, "{\"bad_words\":[\"", 15);
    memcpy(body + 15 + 256, "\"]}", 4);
    struct refused refused = support_refuse(API_COMPLETIONS, body);
    cr_expect_str_eq(refused_text(&refused, "param"), "bad_words[0]");
    json_decref(refused.body);
}

static struct token_list negative(const char *body, enum api_endpoint endpoint)
{
    struct token_list ids = {0};
    struct api_error err = {0};
    json_t *json = json_loads(body, 0, NULL);
    cr_assert_eq(prompts_read_negative(&ids, support_api(), endpoint, json, &err), 0, "%s",
                 err.message);
    json_decref(json);
    return ids;
}

Test(adjustments, a_negative_prompt_is_encoded_like_a_prompt_of_its_endpoint)
{
    struct token_list raw =
        negative("{\"cfg_scale\":1,\"negative_prompt\":\"bad <|eot_id|>\"}", API_COMPLETIONS);
    cr_assert_gt(raw.count, 2);
    cr_expect_eq(raw.ids[0], BOS);
    for (size_t i = 1; i < raw.count; i++) {
        cr_expect_not(tokenizer_is_special(support_api()->tokenizer, raw.ids[i]));
    }
    struct token_list chat =
        negative("{\"cfg_scale\":1,\"negative_prompt\":\"bad\"}", API_CHAT_COMPLETIONS);
    struct prompt_list same = {0};
    struct api_error err = {0};
    json_t *body = json_loads("{\"messages\":[{\"role\":\"user\",\"content\":\"bad\"}]}", 0, NULL);
    cr_assert_eq(prompts_read_messages(&same, support_api(), body, CONTEXT, &err), 0);
    cr_assert_eq(chat.count, same.items[0].count);
    cr_expect_eq(memcmp(chat.ids, same.items[0].ids, chat.count * sizeof *chat.ids), 0);
    json_decref(body);
    prompt_list_free(&same);
    token_list_free(&raw);
    token_list_free(&chat);
}

Test(adjustments, a_negative_prompt_without_text_is_none)
{
    cr_expect_eq(negative("{\"cfg_scale\":1,\"negative_prompt\":\"\"}", API_COMPLETIONS).count, 0);
    cr_expect_eq(negative("{\"cfg_scale\":1}", API_COMPLETIONS).count, 0);
}

Test(adjustments, the_longer_of_prompt_and_negative_prompt_has_to_fit)
{
    struct api_error err = {0};
    struct decode_params fitted;
    struct api_parameters p = support_parameters("{\"max_tokens\":100}");
    static const int32_t ids[CONTEXT - 99];
    p.decode.negative_prompt = ids;
    p.decode.negative_prompt_length = CONTEXT - 99;
    cr_assert_neq(parameters_fit(&fitted, &p, support_api(), 10, &err), 0);
    cr_expect_str_eq(err.code, "context_length_exceeded");
    cr_expect_not_null(strstr(err.message, "negative_prompt has 413"), "%s", err.message);
    p.max_tokens_asked = false;
    cr_assert_eq(parameters_fit(&fitted, &p, support_api(), 10, &err), 0);
    cr_expect_eq(fitted.max_tokens, 99);
}

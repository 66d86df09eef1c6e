/* /tokenize and /detokenize. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/api/support.h"

static void wake_nobody(void *context)
{
    (void)context;
}

static json_t *ask(enum api_endpoint endpoint, const char *body)
{
    struct api_call *call = api_call_create(support_api(), endpoint, 0, 0);
    api_call_prepare(call, body, strlen(body), wake_nobody, NULL);
    cr_assert_eq(api_call_poll(call), API_STATE_ANSWER);
    struct api_answer answer = api_call_answer(call);
    cr_expect_lt(answer.queue_ms, 0);
    cr_expect_str_eq(api_call_summarise(call).id, "");
    cr_assert_eq(answer.status, 200, "%.*s", (int)answer.length, answer.body);
    json_t *json = json_loadb(answer.body, answer.length, JSON_ALLOW_NUL, NULL);
    cr_assert_not_null(json, "%.*s", (int)answer.length, answer.body);
    api_call_free(call);
    return json;
}

static void refuse(enum api_endpoint endpoint, const char *body, const char *param,
                   const char *in_message)
{
    struct refused refused = support_refuse(endpoint, body);
    cr_expect_eq(refused.status, 400, "%s", body);
    cr_expect_str_eq(refused_text(&refused, "param"), param, "%s", body);
    cr_expect_str_eq(refused_text(&refused, "code"), "invalid_value", "%s", body);
    cr_expect_not_null(strstr(refused_text(&refused, "message"), in_message), "%s: %s", body,
                       refused_text(&refused, "message"));
    json_decref(refused.body);
}

Test(tokenize, has_tokens_count_limit_and_pieces)
{
    json_t *answer = ask(API_TOKENIZE, "{\"prompt\":\"a\\u0000\xc3\xa9<|eot_id|>\"}");
    size_t count = json_array_size(json_at(answer, "tokens"));
    cr_expect_eq((size_t)json_integer_value(json_at(answer, "count")), count);
    cr_expect_eq(json_integer_value(json_at(answer, "max_model_len")), CONTEXT);
    cr_expect_eq(json_object_size(answer), 4);
    cr_assert_eq(json_array_size(json_at(answer, "pieces")), count);
    cr_expect_eq(json_integer_value(json_at(answer, "tokens[0]")), BOS);
    cr_expect_str_eq(text_at(answer, "pieces[0].text"), "<|startoftext|>");
    struct buffer bytes = {0};
    for (size_t i = 1; i < count; i++) {
        const json_t *piece = json_array_get(json_at(answer, "pieces"), i);
        cr_expect(json_equal(json_at(piece, "id"), json_array_get(json_at(answer, "tokens"), i)));
        for (size_t k = 0; k < json_array_size(json_at(piece, "bytes")); k++) {
            buffer_append_char(
                &bytes, (char)json_integer_value(json_array_get(json_at(piece, "bytes"), k)));
        }
    }
    cr_assert_eq(bytes.length, 4 + 10);
    cr_expect_eq(memcmp(bytes.data, "a\0\xc3\xa9<|eot_id|>", 14), 0);
    cr_expect_eq(json_integer_value(json_array_get(json_at(answer, "tokens"), count - 1)),
                 END_OF_TURN);
    buffer_free(&bytes);
    json_decref(answer);
}

Test(tokenize, content_is_prompt_and_special_tokens_can_be_left_out)
{
    json_t *prompt = ask(API_TOKENIZE, "{\"prompt\":\"Once upon\",\"model\":\"tiny\"}");
    json_t *content = ask(API_TOKENIZE, "{\"content\":\"Once upon\"}");
    json_t *bare = ask(API_TOKENIZE, "{\"prompt\":\"Once upon\",\"add_special_tokens\":false}");
    cr_expect(json_equal(prompt, content));
    cr_expect_eq(json_array_size(json_at(bare, "tokens")) + 1,
                 json_array_size(json_at(prompt, "tokens")));
    cr_expect(json_equal(json_at(bare, "tokens[0]"), json_at(prompt, "tokens[1]")));
    json_decref(prompt);
    json_decref(content);
    json_decref(bare);
    json_t *empty = ask(API_TOKENIZE, "{\"prompt\":\"\",\"add_special_tokens\":false}");
    cr_expect_eq(json_integer_value(json_at(empty, "count")), 0);
    cr_expect_eq(json_array_size(json_at(empty, "pieces")), 0);
    json_decref(empty);
}

Test(tokenize, messages_are_rendered_with_the_template)
{
    json_t *answer = ask(API_TOKENIZE, "{\"messages\":[{\"role\":\"user\",\"content\":"
                                       "\"<|mdm_mask|>\"}]}");
    size_t count = json_array_size(json_at(answer, "tokens"));
    cr_assert_gt(count, 5);
    cr_expect_eq(json_integer_value(json_at(answer, "tokens[0]")), BOS);
    for (size_t i = 0; i < count; i++) {
        cr_expect_neq(json_integer_value(json_array_get(json_at(answer, "tokens"), i)), MASK);
    }
    json_decref(answer);
}

Test(tokenize, a_text_longer_than_the_context_is_counted)
{
    static char body[30000] = "{\"messages\":[{\"role\":\"user\",\"content\":\"";
    size_t length = strlen(body);
    memset(body + length, 'x', 20000);
    strcpy(body + length + 20000, "\"}]}");
    json_t *answer = ask(API_TOKENIZE, body);
    cr_expect_gt(json_integer_value(json_at(answer, "count")), CONTEXT);
    json_decref(answer);
}

Test(tokenize, what_is_wrong_is_named)
{
    refuse(API_TOKENIZE, "{}", "prompt", "missing");
    refuse(API_TOKENIZE, "{\"prompt\":\"a\",\"content\":\"a\"}", "content", "prompt and content");
    refuse(API_TOKENIZE, "{\"prompt\":[1]}", "prompt", "a string");
    refuse(API_TOKENIZE, "{\"messages\":[]}", "messages", "at least 1");
    refuse(API_TOKENIZE, "{\"messages\":[{\"role\":\"x\",\"content\":\"\"}]}", "messages[0].role",
           "one of");
    refuse(API_TOKENIZE, "{\"prompt\":\"a\",\"add_special_tokens\":1}", "add_special_tokens",
           "true or false");
}

Test(detokenize, gives_back_what_was_tokenized)
{
    static const char text[] = "Once <|eot_id|>\\u0000 \xf0\x9f\x98\x80";
    char body[128];
    snprintf(body, sizeof body, "{\"prompt\":\"%s\",\"add_special_tokens\":false}", text);
    json_t *tokens = ask(API_TOKENIZE, body);
    json_t *request = json_pack("{s:O}", "tokens", json_object_get(tokens, "tokens"));
    char *dumped = json_dumps(request, 0);
    json_t *answer = ask(API_DETOKENIZE, dumped);
    const json_t *prompt = json_at(answer, "prompt");
    cr_assert_eq(json_string_length(prompt), 21);
    cr_expect_eq(memcmp(json_string_value(prompt), "Once <|eot_id|>\0 \xf0\x9f\x98\x80", 21), 0);
    cr_expect(json_equal(prompt, json_at(answer, "content")));
    cr_expect_eq(json_object_size(answer), 2);
    free(dumped);
    json_decref(request);
    json_decref(tokens);
    json_decref(answer);
}

Test(detokenize, half_a_character_is_repaired_and_nothing_is_empty)
{
    char body[64];
    snprintf(body, sizeof body, "{\"tokens\":[%d]}", (int)support_byte_token(0xe2));
    json_t *answer = ask(API_DETOKENIZE, body);
    cr_expect_str_eq(text_at(answer, "prompt"), "\xef\xbf\xbd");
    json_decref(answer);
    answer = ask(API_DETOKENIZE, "{\"tokens\":[]}");
    cr_expect_str_eq(text_at(answer, "prompt"), "");
    json_decref(answer);
    answer = ask(API_DETOKENIZE, "{\"tokens\":[2]}");
    cr_expect_str_eq(text_at(answer, "prompt"), "<|mdm_mask|>");
    json_decref(answer);
}

Test(detokenize, ids_are_checked)
{
    refuse(API_DETOKENIZE, "{}", "tokens", "missing");
    refuse(API_DETOKENIZE, "{\"tokens\":5}", "tokens", "an array");
    refuse(API_DETOKENIZE, "{\"tokens\":[5,4096]}", "tokens[1]", "4096");
    refuse(API_DETOKENIZE, "{\"tokens\":[-1]}", "tokens[0]", "-1");
    refuse(API_DETOKENIZE, "{\"tokens\":[4294967301]}", "tokens[0]", "4294967301");
    refuse(API_DETOKENIZE, "{\"tokens\":[\"5\"]}", "tokens[0]", "token id");
}

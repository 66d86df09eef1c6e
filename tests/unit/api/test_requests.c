/* What is refused, with which words, before the engine sees a request. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "server/api/fields.h"
#include "tests/unit/api/support.h"

static void expect(enum api_endpoint endpoint, const char *body, int status, const char *code,
                   const char *param, const char *in_message)
{
    struct refused refused = support_refuse(endpoint, body);
    const char *message = refused_text(&refused, "message");
    cr_expect_eq(refused.status, status, "%s: %d", body, refused.status);
    cr_expect_str_eq(refused_text(&refused, "type"), "invalid_request_error", "%s", body);
    cr_expect_str_eq(refused_text(&refused, "code"), code, "%s: %s", body, message);
    cr_expect_str_eq(refused_text(&refused, "param"), param, "%s: %s", body, message);
    cr_expect_not_null(strstr(message, in_message), "%s: %s", body, message);
    json_decref(refused.body);
}

Test(requests, broken_json_is_refused_with_line_and_column)
{
    static const char *const bodies[] = {
        "",
        "{",
        "{\"prompt\":\"a\"} x",
        "{\"n\":NaN}",
        "{\"temperature\":1e400}",
        "{\"temperature\":-1e400}",
        "{\"user\":\"a\nb\"}",
        "{\"a\\u0000\":1}",
        "{\"prompt\":\"\\ud800\\u0041\"}",
        "{\"prompt\":\"\xc0\x80\"}",
        "{\"prompt\":\"\xf4\x90\x80\x80\"}",
        "\xef\xbb\xbf{}",
        "{\"prompt\":\"\\ud800\"}",
        "{\"prompt\":\"\\udc00x\"}",
        "{\"prompt\":\"\xff\"}",
        "{\"prompt\":\"\xed\xa0\x80\"}",
        "{\"prompt\":\"a\",\"prompt\":\"b\"}",
        "[]",
        "3",
        "null",
        "{\"seed\":99999999999999999999999}",
    };
    for (size_t i = 0; i < sizeof bodies / sizeof bodies[0]; i++) {
        expect(API_COMPLETIONS, bodies[i], 400, "invalid_json", "", "(line ");
    }
    expect(API_COMPLETIONS, "{\"a\":1,\n  \"b\":tru}", 400, "invalid_json", "", "line 2, column");
}

Test(requests, bytes_that_are_no_c_string_are_refused_too)
{
    static const struct {
        const char *bytes;
        size_t length;
    } bodies[] = {{"", 0}, {"\0", 1}, {"{\"a\":\"x\0y\"}", 11}, {"{}\0", 3}, {"{\"a\"\0:1}", 8}};
    for (size_t i = 0; i < sizeof bodies / sizeof bodies[0]; i++) {
        struct refused refused =
            support_refuse_bytes(API_COMPLETIONS, bodies[i].bytes, bodies[i].length);
        cr_expect_eq(refused.status, 400, "%zu", i);
        cr_expect_str_eq(refused_text(&refused, "code"), "invalid_json", "%zu", i);
        json_decref(refused.body);
    }
}

Test(requests, deep_nesting_is_refused)
{
    static char body[100001];
    memset(body, '[', sizeof body - 1);
    memcpy(body, "{\"a\":", 5);
    expect(API_COMPLETIONS, body, 400, "invalid_json", "", "depth");
}

/* A value of each JSON type. */
static const struct {
    unsigned types; /* what it counts as */
    const char *text;
} samples[] = {
    {FIELD_BOOLEAN, "true"}, {FIELD_INTEGER | FIELD_NUMBER, "1"},
    {FIELD_NUMBER, "0.5"},   {FIELD_STRING, "\"text\""},
    {FIELD_ARRAY, "[0]"},    {FIELD_OBJECT, "{\"a\":0}"},
};

static enum api_endpoint endpoint_of(const struct field *field)
{
    return field->endpoints & FIELD_COMPLETIONS ? API_COMPLETIONS
           : field->endpoints & FIELD_CHAT      ? API_CHAT_COMPLETIONS
           : field->endpoints & FIELD_TOKENIZE  ? API_TOKENIZE
                                                : API_DETOKENIZE;
}

Test(requests, every_field_refuses_every_other_type)
{
    size_t count;
    const struct field *table = fields_table(&count);
    for (size_t i = 0; i < count; i++) {
        for (size_t k = 0; k < sizeof samples / sizeof samples[0]; k++) {
            char body[256];
            snprintf(body, sizeof body, "{\"%s\":%s}", table[i].name, samples[k].text);
            if (!(samples[k].types & table[i].types)) {
                expect(endpoint_of(&table[i]), body, 400, "invalid_value", table[i].name,
                       "it must be");
            }
        }
    }
}

Test(requests, every_number_is_refused_just_outside_its_range)
{
    size_t count;
    const struct field *table = fields_table(&count);
    for (size_t i = 0; i < count; i++) {
        bool number = table[i].types & (FIELD_INTEGER | FIELD_NUMBER);
        if (!number || (table[i].min == 0 && table[i].max == 0)) {
            continue;
        }
        double step = table[i].types & FIELD_INTEGER ? 1 : 0.001;
        double outside[] = {table[i].above_min ? table[i].min : table[i].min - step,
                            table[i].max + step};
        for (size_t k = 0; k < 2; k++) {
            char body[256];
            snprintf(body, sizeof body, "{\"%s\":%.14g}", table[i].name, outside[k]);
            expect(endpoint_of(&table[i]), body, 400, "invalid_value", table[i].name,
                   table[i].above_min ? "above" : "from");
        }
    }
}

/* They are computed with as floats, in which the last of these is 0. */
Test(requests, numbers_that_no_float_holds_are_out_of_range)
{
    expect(API_COMPLETIONS, "{\"repetition_penalty\":1e-300}", 400, "invalid_value",
           "repetition_penalty", "from 0.01 to 100");
    expect(API_COMPLETIONS, "{\"repetition_penalty\":1e-45}", 400, "invalid_value",
           "repetition_penalty", "from 0.01 to 100");
    expect(API_COMPLETIONS, "{\"top_p\":1e-46}", 400, "invalid_value", "top_p", "above 0");
}

Test(requests, every_choice_of_words_refuses_another_word)
{
    size_t count;
    const struct field *table = fields_table(&count);
    static const char *const others[] = {"", "nonesuch", "none dual", " none"};
    for (size_t i = 0; i < count; i++) {
        for (size_t k = 0; table[i].words && k < 4; k++) {
            char body[256];
            snprintf(body, sizeof body, "{\"%s\":\"%s\"}", table[i].name, others[k]);
            expect(API_COMPLETIONS, body, 400, "invalid_value", table[i].name, "one of ");
        }
    }
}

/* The body without a prompt gets as far as the missing prompt when its field is taken. */
static void expect_taken(const struct field *field, const char *value)
{
    static const char *const missing[] = {[API_COMPLETIONS] = "prompt",
                                          [API_CHAT_COMPLETIONS] = "messages",
                                          [API_TOKENIZE] = "prompt",
                                          [API_DETOKENIZE] = "tokens"};
    char body[256];
    snprintf(body, sizeof body, "{\"%s\":%s}", field->name, value);
    expect(endpoint_of(field), body, 400, "invalid_value", missing[endpoint_of(field)],
           "is missing");
}

Test(requests, null_is_absent_and_neutral_values_are_taken)
{
    size_t count;
    const struct field *table = fields_table(&count);
    for (size_t i = 0; i < count; i++) {
        expect_taken(&table[i], "null");
        json_t *neutral = table[i].neutral ? json_loads(table[i].neutral, 0, NULL) : NULL;
        cr_expect_eq(table[i].neutral != NULL, neutral != NULL, "%s", table[i].name);
        for (size_t k = 0; k < json_array_size(neutral); k++) {
            char *text = json_dumps(json_array_get(neutral, k), JSON_ENCODE_ANY);
            expect_taken(&table[i], text);
            free(text);
        }
        json_decref(neutral);
    }
}

Test(requests, what_is_not_built_is_refused_by_name)
{
    static const char *const fields[] = {
        "\"suffix\":\"x\"",
        "\"timeout\":0.8",
        "\"regex\":\"a+\"",
        "\"response_format\":{\"type\":\"json_object\"}",
        "\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{}}",
        "\"max_polish_rounds\":2",
        "\"vicinity\":2",
        "\"remask_check\":true",
        "\"sub_block_length\":8",
        "\"choice\":[\"a\"]",
        "\"prediction\":{\"type\":\"content\",\"content\":\"x\"}",
        "\"draft\":\"x\"",
        "\"max_refinement_steps\":8",
        "\"revision\":\"remask\"",
        "\"confidence_threshold\":0.999",
        "\"selection\":\"margin\"",
        "\"cache\":\"vicinity\"",
        "\"fixed\":[{}]",
        "\"best_of\":2",
    };
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
        char body[256], name[64];
        sscanf(fields[i], "\"%63[a-z_]", name);
        snprintf(body, sizeof body, "{\"prompt\":\"a\",%s}", fields[i]);
        expect(API_COMPLETIONS, body, 400, "unsupported_parameter", name, "not carried out");
    }
    expect(API_CHAT_COMPLETIONS, "{\"tools\":[{}]}", 400, "unsupported_parameter", "tools", "[{}]");
    expect(API_CHAT_COMPLETIONS, "{\"tool_choice\":\"required\"}", 400, "unsupported_parameter",
           "tool_choice", "required");
}

/* The field that is refused, "" where none is. */
static struct api_error check_strictly(enum api_endpoint endpoint, const char *text)
{
    struct api_error err = {0};
    json_t *body = json_loads(text, 0, NULL);
    cr_assert_not_null(body, "%s", text);
    int code = fields_check(body, endpoint, true, &err);
    cr_expect_eq(code != 0, err.status == 400, "%s", text);
    json_decref(body);
    return err;
}

Test(requests, unknown_fields_are_ignored_unless_strict)
{
    expect(API_COMPLETIONS, "{\"nonesuch\":1}", 400, "invalid_value", "prompt", "missing");
    struct api_error err = check_strictly(API_COMPLETIONS, "{\"nonesuch\":1}");
    cr_expect_str_eq(err.param, "nonesuch");
    cr_expect_str_eq(err.code, "unsupported_parameter");
    err = check_strictly(API_COMPLETIONS, "{\"nonesuch\":null}");
    cr_expect_eq(err.status, 0, "null is absent");
}

Test(requests, strict_knows_the_members_of_nested_objects)
{
    static const struct {
        const char *body, *param;
    } cases[] = {
        {"{\"stream_options\":{\"include_usage\":true}}", ""},
        {"{\"stream_options\":{\"foo\":1}}", "stream_options.foo"},
        {"{\"stream_options\":{\"foo\":null}}", ""},
        {"{\"response_format\":{\"type\":\"text\",\"foo\":1}}", "response_format.foo"},
        {"{\"metadata\":{\"foo\":1}}", ""},
        {"{\"messages\":[{\"role\":\"user\",\"content\":\"x\",\"refusal\":null}]}", ""},
        {"{\"messages\":[{\"role\":\"user\"},{\"role content\":\"x\"}]}",
         "messages[1].role content"},
        {"{\"messages\":[3,{\"content\":[{\"type\":\"text\",\"text\":\"x\",\"foo\":0}]}]}",
         "messages[1].content[0].foo"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct api_error err = check_strictly(API_CHAT_COMPLETIONS, cases[i].body);
        cr_expect_str_eq(err.param, cases[i].param, "%s", cases[i].body);
    }
    expect(API_CHAT_COMPLETIONS, "{\"stream_options\":{\"foo\":1}}", 400, "invalid_value",
           "messages", "missing");
}

Test(requests, a_field_of_another_endpoint_is_absent)
{
    json_t *body = json_loads("{\"echo\":true,\"n\":2,\"user\":null,\"nonesuch\":[]}", 0, NULL);
    struct api_error err = {0};
    cr_assert_eq(fields_check(body, API_CHAT_COMPLETIONS, false, &err), 0);
    cr_expect_eq(json_object_size(body), 1);
    cr_expect_eq(fields_integer(body, "n", 0), 2);
    json_decref(body);
}

Test(requests, fields_that_another_endpoint_carries_out_are_checked_too)
{
    static const struct {
        enum api_endpoint endpoint;
        const char *field, *value, *code;
    } cases[] = {
        {API_CHAT_COMPLETIONS, "best_of", "1.5", "invalid_value"},
        {API_CHAT_COMPLETIONS, "best_of", "true", "invalid_value"},
        {API_CHAT_COMPLETIONS, "best_of", "2", "unsupported_parameter"},
        {API_CHAT_COMPLETIONS, "best_of", "1", NULL},
        {API_CHAT_COMPLETIONS, "suffix", "\"x\"", "unsupported_parameter"},
        {API_CHAT_COMPLETIONS, "suffix", "7", "invalid_value"},
        {API_CHAT_COMPLETIONS, "suffix", "\"\"", NULL},
        {API_COMPLETIONS, "top_logprobs", "\"zz\"", "invalid_value"},
        {API_COMPLETIONS, "top_logprobs", "7", "unsupported_parameter"},
        {API_COMPLETIONS, "top_logprobs", "0", NULL},
        {API_COMPLETIONS, "tools", "[{}]", "unsupported_parameter"},
        {API_COMPLETIONS, "tools", "5", "invalid_value"},
        {API_COMPLETIONS, "tools", "[]", NULL},
        {API_COMPLETIONS, "tool_choice", "\"required\"", "unsupported_parameter"},
        {API_COMPLETIONS, "tool_choice", "5", "invalid_value"},
        {API_COMPLETIONS, "tool_choice", "\"auto\"", NULL},
        {API_COMPLETIONS, "parallel_tool_calls", "\"zz\"", "invalid_value"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const char *missing = cases[i].endpoint == API_COMPLETIONS ? "prompt" : "messages";
        char body[128];
        snprintf(body, sizeof body, "{\"%s\":%s}", cases[i].field, cases[i].value);
        expect(cases[i].endpoint, body, 400, cases[i].code ? cases[i].code : "invalid_value",
               cases[i].code ? cases[i].field : missing, "");
    }
}

Test(requests, another_model_is_not_found)
{
    expect(API_COMPLETIONS, "{\"model\":\"gpt\",\"prompt\":\"a\"}", 404, "model_not_found", "model",
           "gpt");
    expect(API_COMPLETIONS, "{\"model\":\"tiny\\u0000\",\"prompt\":\"a\"}", 404, "model_not_found",
           "model", "tiny");
    expect(API_COMPLETIONS, "{\"model\":\"tiny\"}", 400, "invalid_value", "prompt", "missing");
}

Test(requests, nested_values_are_named)
{
    expect(API_COMPLETIONS, "{\"stop\":[\"a\",\"\"]}", 400, "invalid_value", "stop[1]", "\"\"");
    expect(API_COMPLETIONS, "{\"stop\":[3]}", 400, "invalid_value", "stop[0]", "is 3");
    expect(API_COMPLETIONS, "{\"stop\":\"\"}", 400, "invalid_value", "stop", "at least one");
    expect(API_COMPLETIONS,
           "{\"stop\":[\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\","
           "\"a\",\"a\",\"a\",\"a\",\"a\"]}",
           400, "invalid_value", "stop", "at most 16");
    expect(API_COMPLETIONS, "{\"stream_options\":{\"include_usage\":1}}", 400, "invalid_value",
           "stream_options.include_usage", "true or false");
    expect(API_COMPLETIONS, "{\"max_tokens\":5,\"gen_length\":6}", 400, "invalid_value",
           "gen_length", "max_tokens");
    expect(API_COMPLETIONS, "{\"selection\":\"threshold\",\"remasking\":\"random\"}", 400,
           "invalid_value", "remasking", "random");
    expect(API_COMPLETIONS, "{\"prompt\":\"a\",\"n\":9}", 400, "invalid_value", "n", "at most 8");
    expect(API_COMPLETIONS, "{\"prompt\":[\"a\",\"b\",\"c\"],\"n\":3}", 400, "invalid_value",
           "prompt", "at most 2");
}

Test(requests, a_response_format_is_text_or_named_wrong)
{
    expect(API_COMPLETIONS, "{\"response_format\":{\"type\":\"text\"}}", 400, "invalid_value",
           "prompt", "missing");
    static const char *const wrong[] = {"{}", "{\"type\":\"xml\"}", "{\"type\":5}",
                                        "{\"type\":null}"};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        char body[128];
        snprintf(body, sizeof body, "{\"response_format\":%s}", wrong[i]);
        expect(API_COMPLETIONS, body, 400, "invalid_value", "response_format", "json_schema");
    }
}

Test(requests, prompts_are_checked)
{
    expect(API_COMPLETIONS, "{\"prompt\":[]}", 400, "invalid_value", "prompt", "empty");
    expect(API_COMPLETIONS, "{\"prompt\":[[]]}", 400, "invalid_value", "prompt[0]", "empty");
    expect(API_COMPLETIONS, "{\"prompt\":[5,\"a\"]}", 400, "invalid_value", "prompt[1]", "token");
    expect(API_COMPLETIONS, "{\"prompt\":[\"a\",7]}", 400, "invalid_value", "prompt[1]", "string");
    expect(API_COMPLETIONS, "{\"prompt\":[true]}", 400, "invalid_value", "prompt[0]", "true");
    expect(API_COMPLETIONS, "{\"prompt\":[10,4096]}", 400, "invalid_value", "prompt[1]", "4096");
    expect(API_COMPLETIONS, "{\"prompt\":[-1]}", 400, "invalid_value", "prompt[0]", "-1");
    expect(API_COMPLETIONS, "{\"prompt\":[10,4294967306]}", 400, "invalid_value", "prompt[1]",
           "4294967306");
    expect(API_COMPLETIONS, "{\"prompt\":[10,2]}", 400, "invalid_value", "prompt[1]", "mask");
    expect(API_COMPLETIONS, "{\"prompt\":\"a<|mdm_mask|>b\"}", 400, "invalid_value", "prompt",
           "mask");
    expect(API_COMPLETIONS, "{\"prompt\":[\"a\",[[1]]]}", 400, "invalid_value", "prompt[1][0]",
           "token");
}

Test(requests, a_canvas_longer_than_the_context_is_refused_with_both_numbers)
{
    expect(API_COMPLETIONS, "{\"prompt\":[10,11,12],\"max_tokens\":510}", 400,
           "context_length_exceeded", "max_tokens", "513, but the context holds 512");
    expect(API_COMPLETIONS, "{\"prompt\":[10],\"max_tokens\":2147483647}", 400,
           "context_length_exceeded", "max_tokens", "2147483648");
    char body[2048] = "{\"prompt\":[10";
    for (int i = 0; i < CONTEXT - 1; i++) {
        strcat(body, ",10");
    }
    strcat(body, "]}");
    expect(API_COMPLETIONS, body, 400, "context_length_exceeded", "prompt", "512 tokens");
    strcpy(strrchr(body, '}'), ",\"max_tokens\":1}");
    expect(API_COMPLETIONS, body, 400, "context_length_exceeded", "prompt", "512 tokens");
}

/* Texts that are too long whatever they say are not encoded to find out. */
Test(requests, a_text_far_too_long_is_refused_by_its_bytes)
{
    static char body[60000];
    static const struct {
        enum api_endpoint endpoint;
        const char *open, *close, *param;
    } forms[] = {
        {API_COMPLETIONS, "{\"prompt\":\"", "\"}", "prompt"},
        {API_COMPLETIONS, "{\"prompt\":[\"a\",\"", "\"]}", "prompt[1]"},
        {API_COMPLETIONS, "{\"prompt\":\"a\",\"cfg_scale\":1,\"negative_prompt\":\"", "\"}",
         "negative_prompt"},
        {API_CHAT_COMPLETIONS, "{\"messages\":[{\"role\":\"user\",\"content\":\"", "\"}]}",
         "messages"},
        {API_CHAT_COMPLETIONS,
         "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"", "\"}]}]}",
         "messages"},
    };
    for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++) {
        int length = snprintf(body, sizeof body, "%s", forms[i].open);
        memset(body + length, 'x', 50000);
        snprintf(body + length + 50000, sizeof body - (size_t)length - 50000, "%s", forms[i].close);
        expect(forms[i].endpoint, body, 400, "context_length_exceeded", forms[i].param,
               "50000 bytes, which are at least ");
    }
}

/* LLaDA's tokenizer keeps what its pattern finds and nothing else: its texts have no bound. */
Test(requests, a_text_whose_beginning_is_too_long_is_refused_by_it)
{
    struct api *api = support_api();
    struct tokenizer *tokenizer;
    struct error cause = {0};
    json_decref(support_refuse(API_COMPLETIONS, "{}").body); /* sets the api up */
    cr_assert_eq(
        tokenizer_load(&tokenizer, "build/fixtures/tokenizers/llada_like.tokenizer.json", &cause),
        0, "%s", cause.message);
    cr_assert_eq(tokenizer_least_tokens(tokenizer, 1 << 20, 0), 0);
    api->tokenizer = tokenizer;
    struct buffer body = {0};
    buffer_append_text(&body, "{\"prompt\":\"");
    for (int k = 0; k < CONTEXT * 6; k++) {
        buffer_append_text(&body, "\xc3\xa9 a, b");
    }
    buffer_append_text(&body, "\"}");
    buffer_append_char(&body, '\0');
    expect(API_COMPLETIONS, body.data, 400, "context_length_exceeded", "prompt",
           "of which the first ");
    buffer_free(&body);
    tokenizer_free(tokenizer);
}

Test(requests, messages_are_checked)
{
    enum api_endpoint chat = API_CHAT_COMPLETIONS;
    expect(chat, "{\"messages\":[]}", 400, "invalid_value", "messages", "at least 1");
    expect(chat, "{\"messages\":[3]}", 400, "invalid_value", "messages[0]", "object");
    expect(chat, "{\"messages\":[{\"content\":\"x\"}]}", 400, "invalid_value", "messages[0].role",
           "missing");
    expect(chat, "{\"messages\":[{\"role\":\"king\",\"content\":\"x\"}]}", 400, "invalid_value",
           "messages[0].role", "king");
    expect(chat, "{\"messages\":[{\"role\":\"tool\",\"content\":\"x\"}]}", 400,
           "unsupported_parameter", "messages[0].role", "tool");
    expect(chat, "{\"messages\":[{\"role\":\"user\"}]}", 400, "invalid_value",
           "messages[0].content", "missing");
    expect(chat, "{\"messages\":[{\"role\":\"user\",\"content\":5}]}", 400, "invalid_value",
           "messages[0].content", "is 5");
    expect(chat,
           "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},"
           "{\"type\":\"image_url\",\"image_url\":{}}]}]}",
           400, "invalid_value", "messages[0].content[1]", "image_url");
    expect(chat, "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\"}]}]}", 400,
           "invalid_value", "messages[0].content[0]", "text is missing");
    expect(chat,
           "{\"messages\":[{\"role\":\"assistant\",\"content\":\"\",\"tool_calls\":[{\"id\":1}]}]}",
           400, "unsupported_parameter", "messages[0].tool_calls", "not carried out");
}

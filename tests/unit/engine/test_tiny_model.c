/* The shipped model on the real CPU backend. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <criterion/criterion.h>

#include "common/buffer.h"
#include "common/error.h"
#include "server/engine/engine.h"
#include "server/model/tokenizer.h"
#include "tests/unit/engine/harness.h"

enum { REQUESTS = 12, TOKENS = 24 };

static struct decode_params params_of(int32_t number)
{
    static const struct token_bias biases[] = {{1, -INFINITY}, {20, 1}};
    static const int32_t negative_prompt[] = {40, 41, 42, 43};
    static const struct banned_word words[] = {{"e", 1}, {" the", 4}, {"tio", 3}};
    struct decode_params params = decode_params_neutral(TOKENS, 8);
    params.selection = (enum selection)(number % 4);
    params.threshold = 0.3f;
    params.factor = 1;
    params.steps = number % 3 == 0 ? 6 : 0;
    params.cache = (enum cache_mode)(number % 3);
    params.temperature = number % 2 ? 0.75f : 0;
    params.top_p = number % 5 == 0 ? 0.9f : 1;
    params.seed = (uint64_t)number;
    params.cfg_scale = number % 4 == 1 ? 0.5f : 0;
    params.top_logprobs = number % 4;
    if (number % 3 == 1) {
        params.repetition_penalty = 1.25f;
        params.biases = biases;
        params.bias_count = 2;
    }
    if (number % 2 == 0) {
        params.banned_words = words + (number % 4 == 0);
        params.banned_word_count = 2;
    }
    if (number % 8 == 1) {
        params.negative_prompt = negative_prompt;
        params.negative_prompt_length = 4;
    }
    return params;
}

static struct token_text *read_token_text(const struct tokenizer *tokenizer)
{
    int32_t count = tokenizer_size(tokenizer);
    struct token_text *table = calloc((size_t)count, sizeof *table);
    cr_assert_not_null(table);
    for (int32_t i = 0; i < count; i++) {
        size_t length;
        const char *bytes = tokenizer_token_bytes(tokenizer, i, &length);
        if (!tokenizer_is_special(tokenizer, i))
            table[i] = (struct token_text){bytes, (int32_t)length};
    }
    return table;
}

static void expect_clean(const struct tokenizer *tokenizer, const struct request *request)
{
    const struct draft *draft = harness_draft(request);
    struct buffer text = {0};
    tokenizer_append_bytes(tokenizer, draft->tokens, (size_t)draft->length, true, &text);
    for (int32_t i = 0; i < request->params.banned_word_count; i++) {
        const struct banned_word *word = &request->params.banned_words[i];
        cr_expect_null(memmem(text.data, text.length, word->bytes, (size_t)word->length),
                       "\"%s\" in %.*s", word->bytes, (int)text.length, text.data);
    }
    buffer_free(&text);
}

static void answer(struct request **requests, int threads, int32_t max_sequences)
{
    struct error err = {0};
    struct backend *backend;
    struct model *model;
    struct engine *engine;
    const struct backend_options backend_options = {.dtype = DTYPE_FLOAT32, .threads = threads};
    cr_assert_eq(backend_create(&backend, "cpu", &backend_options, &err), 0, "%s", err.message);
    cr_assert_eq(model_load(&model, "models/tiny", backend, &err), 0, "%s", err.message);
    struct tokenizer *tokenizer;
    cr_assert_eq(tokenizer_load(&tokenizer, "models/tiny/tokenizer.json", &err), 0);
    struct token_text *token_text = read_token_text(tokenizer);
    const struct engine_options options = {
        .max_sequences = max_sequences,
        .max_rows_per_tick = 256,
        .queue_limit = REQUESTS,
        .kv_cache_tokens = INT64_C(24) * 64,
        .token_limit = tokenizer_size(tokenizer),
        .token_text = token_text,
    };
    cr_assert_eq(engine_create(&engine, model, &options, &err), 0, "%s", err.message);
    for (int32_t i = 0; i < REQUESTS; i++) {
        const struct decode_params params = params_of(i);
        int32_t prompt[8];
        for (int32_t k = 0; k < 8; k++)
            prompt[k] = 300 + (i * 37 + k * 11) % 500;
        cr_assert_eq(request_create(&requests[i], prompt, 3 + i % 5, &params,
                                    model->config.mask_token, &err),
                     0);
        cr_assert_eq(engine_submit(engine, requests[i], &err), 0, "%s", err.message);
    }
    while (engine_tick(engine, 0))
        ;
    for (int32_t i = 0; i < REQUESTS; i++)
        expect_clean(tokenizer, requests[i]);
    engine_free(engine);
    model_free(model);
    tokenizer_free(tokenizer);
    free(token_text);
}

Test(tiny_model, answers_are_the_same_bit_for_bit_on_one_and_three_threads)
{
    struct request *one[REQUESTS], *three[REQUESTS];
    answer(one, 1, 3);
    answer(three, 3, REQUESTS); /* and in other company */
    for (int32_t i = 0; i < REQUESTS; i++) {
        const struct draft *draft = harness_draft(one[i]);
        cr_expect_eq(draft->finish, FINISH_LENGTH);
        cr_expect(drafts_are_equal(draft, harness_draft(three[i])), "request %d", i);
        request_release(one[i]);
        request_release(three[i]);
    }
}

/*
 * A whole model on the emulated CUDA backend: its hidden states beside those of the published code,
 * the same step replayed from a recording, and several sequences in the engine as each of them
 * alone.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <criterion/criterion.h>

#include "common/error.h"
#include "kernels/cuda/cuda.h"
#include "server/engine/engine.h"
#include "server/model/model.h"
#include "server/model/safetensors.h"
#include "tests/golden/golden.h"

enum { ROWS_MAX = 64, SEQUENCES = 4, TOKENS = 6 };

static struct recordings_counts counts_of(const struct model *model)
{
    return recordings_count(cuda_self(model->backend)->recordings);
}

/* ---- logits ---------------------------------------------------------------------------------- */

/* The canvas of one input; the hidden states of all rows, [rows, width] bfloat16. */
static uint16_t *run(struct model *model, const int32_t *ids, int32_t rows)
{
    int32_t zeros[ROWS_MAX] = {0}, position[ROWS_MAX], kv_end[ROWS_MAX];
    uint8_t shadow[ROWS_MAX] = {0};
    for (int32_t i = 0; i < rows; i++) {
        position[i] = i;
        kv_end[i] = rows;
    }
    const struct step_rows step = {.rows = rows,
                                   .token = ids,
                                   .sequence = zeros,
                                   .position = position,
                                   .kv_end = kv_end,
                                   .shadow = shadow,
                                   .page_table_stride = 1,
                                   .page_table = zeros,
                                   .gathered = rows,
                                   .gather = position};
    const struct head_batch none = {0};
    struct error err = {0};
    cr_assert_eq(model_forward(model, &step, &none, NULL, &err), 0, "%s", err.message);
    size_t size = (size_t)rows * (size_t)model->config.width * sizeof(uint16_t);
    uint16_t *hidden = malloc(size);
    cr_assert_not_null(hidden);
    model->backend->ops->memory_read(model->backend, hidden, model->activations.gathered, size);
    return hidden;
}

/* found: the hidden states of `all` rows, of which the file has the last `rows` */
static void expect_near(const uint16_t *found, const float *expected, int32_t rows, int32_t all,
                        int32_t columns, int input, double limit)
{
    size_t count = (size_t)(rows * columns);
    float *values = malloc(count * sizeof *values);
    char what[20];
    cr_assert_not_null(values);
    for (size_t i = 0; i < count; i++)
        values[i] = bfloat16_to_float(found[(size_t)((all - rows) * columns) + i]);
    snprintf(what, sizeof what, "input %d", input);
    golden_expect_nmse(values, expected, count, limit, what);
    free(values);
}

static void check_hidden_states(const char *fixture, struct golden_dtypes dtypes)
{
    struct error err = {0};
    struct model *model = golden_load_model(fixture, "simt", dtypes);
    struct checkpoint *file = golden_open_logits(fixture);
    cr_assert_eq(model_reserve(model, ROWS_MAX, ROWS_MAX, 1, 1, &err), 0, "%s", err.message);
    for (int input = 0; input < 3; input++) {
        int32_t all, rows, columns;
        const int32_t *ids = golden_ids(file, "input", input, &all);
        const float *expected = golden_matrix(file, "hidden", input, &rows, &columns);
        uint16_t *first = run(model, ids, all), *second = run(model, ids, all);
        expect_near(first, expected, rows, all, columns, input, golden_limit(fixture, dtypes));
        cr_expect_arr_eq(first, second, (size_t)(all * columns) * sizeof *first,
                         "input %d, replayed", input);
        free(first);
        free(second);
    }
    /* The second step of every input at least, whatever bucket the first one fell into. */
    cr_expect_geq(counts_of(model).launched, 3);
    checkpoint_close(file);
    model_free(model);
}

Test(simt_model, hidden_states_are_those_of_the_published_code)
{
    check_hidden_states("plain", GOLDEN_BFLOAT16);
}

Test(simt_model, hidden_states_with_grouped_heads_are_those_of_the_published_code)
{
    check_hidden_states("grouped", GOLDEN_BFLOAT16);
}

/* In a recording, what one kernel quantises is the input of the next product. */
Test(simt_model, hidden_states_with_int8_weights_are_near_those_of_the_published_code)
{
    check_hidden_states("int8", GOLDEN_INT8_BFLOAT16);
    check_hidden_states("grouped", GOLDEN_INT8_BFLOAT16);
}

Test(simt_model, hidden_states_with_fp8_weights_are_near_those_of_the_published_code)
{
    check_hidden_states("int8", GOLDEN_FP8_BFLOAT16);
    check_hidden_states("grouped", GOLDEN_FP8_BFLOAT16);
}

/* ---- the engine ------------------------------------------------------------------------------ */

static struct request *submit(struct engine *engine, int number, int32_t mask_token)
{
    struct decode_params params = decode_params_neutral(TOKENS, TOKENS);
    struct error err = {0};
    struct request *request;
    int32_t prompt[3 * SEQUENCES];
    int32_t length = 3 + 2 * number;
    params.steps = 3;
    params.cache = (enum cache_mode)(number % 3);
    params.temperature = number % 2 == 0 ? 0 : 0.8f;
    params.seed = (uint64_t)number;
    params.top_logprobs = number == 3 ? 2 : 0;
    for (int32_t i = 0; i < length; i++)
        prompt[i] = 5 + (number * 31 + i * 7) % 60;
    cr_assert_eq(request_create(&request, prompt, length, &params, mask_token, &err), 0, "%s",
                 err.message);
    cr_assert_eq(engine_submit(engine, request, &err), 0, "%s", err.message);
    return request;
}

/* The drafts of the requests, ended. */
static void answer(struct request **requests, bool together, struct golden_dtypes dtypes)
{
    struct error err = {0};
    struct engine *engine;
    struct model *model = golden_load_model("plain", "simt", dtypes);
    const struct engine_options options = {.max_sequences = SEQUENCES,
                                           .max_rows_per_tick = 128,
                                           .queue_limit = SEQUENCES,
                                           .kv_cache_tokens = INT64_C(64) * 2 * SEQUENCES,
                                           .token_limit = model->config.vocabulary};
    cr_assert_eq(engine_create(&engine, model, &options, &err), 0, "%s", err.message);
    cr_assert_eq(model_warm_up(model, 1, &err), 0, "%s", err.message);
    cr_expect_gt(counts_of(model).made, 0, "the smallest bucket is rehearsed");
    for (int i = 0; i < SEQUENCES; i++) {
        requests[i] = submit(engine, i, model->config.mask_token);
        while (!together && engine_tick(engine, 0))
            ;
    }
    while (engine_tick(engine, 0))
        ;
    cr_expect_gt(counts_of(model).launched, 0);
    cr_expect_eq(counts_of(model).refused, 0);
    engine_free(engine);
    model_free(model);
}

static void check_company(struct golden_dtypes dtypes)
{
    struct request *together[SEQUENCES], *alone[SEQUENCES];
    answer(together, true, dtypes);
    answer(alone, false, dtypes);
    for (int i = 0; i < SEQUENCES; i++) {
        const struct draft *a = &together[i]->stream.draft, *b = &alone[i]->stream.draft;
        cr_assert_eq(together[i]->stream.error.code, 0, "%s", together[i]->stream.error.message);
        cr_assert_eq(a->length, TOKENS);
        cr_expect_arr_eq(a->tokens, b->tokens, TOKENS * sizeof *a->tokens, "request %d", i);
        cr_expect_arr_eq(a->confidence, b->confidence, TOKENS * sizeof *a->confidence, "request %d",
                         i);
        request_release(together[i]);
        request_release(alone[i]);
    }
}

/* Its tables grow with the rows, the sequences and the pages. */
Test(simt_model, holds_as_much_as_was_estimated)
{
    static const struct golden_dtypes dtypes[] = {GOLDEN_BFLOAT16, GOLDEN_INT8_BFLOAT16};
    for (int i = 0; i < 4; i++) {
        const struct engine_options options = {.max_sequences = i < 2 ? 1 : 7,
                                               .max_rows_per_tick = ROWS_MAX,
                                               .queue_limit = 1,
                                               .kv_cache_tokens = 3 * KV_PAGE_POSITIONS,
                                               .token_limit = 60};
        struct model *model = golden_load_model("plain", "simt", dtypes[i % 2]);
        struct engine *engine;
        struct error err = {0};
        cr_assert_eq(engine_create(&engine, model, &options, &err), 0, "%s", err.message);
        const struct model_memory used = model_memory_used(model);
        const struct model_memory estimate = engine_memory_estimate(
            &options, &model->config, "simt", DTYPE_BFLOAT16, dtypes[i % 2].weights);
        cr_expect_eq(used.weights, estimate.weights);
        cr_expect_eq(used.kv_pool, estimate.kv_pool);
        cr_expect_eq(used.activations, estimate.activations, "%zu, estimated %zu", used.activations,
                     estimate.activations);
        engine_free(engine);
        model_free(model);
    }
}

Test(simt_model, sequences_in_company_are_answered_as_alone)
{
    check_company(GOLDEN_BFLOAT16);
}

Test(simt_model, sequences_in_company_are_answered_as_alone_with_fp8_weights)
{
    check_company(GOLDEN_FP8_BFLOAT16);
}

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "head.h"

enum { GUARD_ROWS = 1, GUARD_VALUE = 0xa5 };

/* [rows] of `size` bytes in host memory between two rows that the head may not touch. */
static void *guarded_rows(size_t rows, size_t size)
{
    char *memory = malloc((rows + 2 * GUARD_ROWS) * size);
    cr_assert_not_null(memory);
    memset(memory, GUARD_VALUE, (rows + 2 * GUARD_ROWS) * size);
    return memory + size;
}

static void check_guards(const void *rows, size_t count, size_t size)
{
    const unsigned char *before = (const unsigned char *)rows - size;
    const unsigned char *behind = (const unsigned char *)rows + count * size;
    for (size_t i = 0; i < size; i++) {
        if (before[i] != GUARD_VALUE || behind[i] != GUARD_VALUE)
            cr_assert_fail("the head wrote %s its results",
                           before[i] != GUARD_VALUE ? "before" : "behind");
    }
}

enum {
    TOPS = HEAD_TOP_MAX * sizeof(int32_t),
    RAW_TOPS = HEAD_RAW_TOP_MAX * sizeof(int32_t),
};

static void check_output(const struct head_output *out, size_t rows)
{
    check_guards(out->row, rows, sizeof *out->row);
    check_guards(out->top_token, rows, TOPS);
    check_guards(out->top_logprob, rows, TOPS);
    check_guards(out->raw_top_token, rows, RAW_TOPS);
    check_guards(out->raw_top_logprob, rows, RAW_TOPS);
}

struct head_output run_head_of(struct backend *backend, const struct weight *weight,
                               const void *hidden, size_t size, const struct head_batch *batch)
{
    size_t rows = (size_t)batch->rows;
    struct head_output out = {guarded_rows(rows, sizeof *out.row), guarded_rows(rows, TOPS),
                              guarded_rows(rows, TOPS), guarded_rows(rows, RAW_TOPS),
                              guarded_rows(rows, RAW_TOPS)};
    struct head_result result = {out.row, out.top_token, out.top_logprob, out.raw_top_token,
                                 out.raw_top_logprob};
    struct guarded input = guarded_create(backend, hidden, size);
    struct step_rows step = {0};
    begin_step(backend, &step);
    backend->ops->head(backend, &result, input.data, weight, batch);
    end_step(backend);
    guarded_drop(&input, hidden);
    check_output(&out, rows);
    return out;
}

struct head_output run_head(struct backend *backend, const float *weight, const float *bias,
                            int32_t vocabulary, int32_t columns, const void *hidden, int32_t lines,
                            const struct head_batch *batch)
{
    size_t size = (size_t)lines * (size_t)columns * dtype_size(backend->dtype);
    struct weight *packed = make_weight(backend, weight, vocabulary, columns, bias);
    struct head_output out = run_head_of(backend, packed, hidden, size, batch);
    backend->ops->weight_destroy(backend, packed);
    return out;
}

void free_head_output(struct head_output *output)
{
    free((char *)output->row - sizeof *output->row);
    free((char *)output->top_token - TOPS);
    free((char *)output->top_logprob - TOPS);
    free((char *)output->raw_top_token - RAW_TOPS);
    free((char *)output->raw_top_logprob - RAW_TOPS);
}

struct head_output judge_logits(struct backend *backend, const float *logits, int32_t vocabulary,
                                const struct head_batch *batch)
{
    const float one = 1;
    const uint16_t one_half = bfloat16_from_float(one);
    float *weight = malloc((size_t)vocabulary * sizeof *weight);
    float *bias = malloc((size_t)vocabulary * sizeof *bias);
    cr_assert(weight != NULL && bias != NULL);
    for (int32_t token = 0; token < vocabulary; token++) {
        weight[token] = isfinite(logits[token]) ? logits[token] : 0;
        bias[token] = isfinite(logits[token]) ? 0 : logits[token];
        cr_assert_eq(weight[token], bfloat16_to_float(bfloat16_from_float(weight[token])));
    }
    const void *hidden =
        backend->dtype == DTYPE_BFLOAT16 ? (const void *)&one_half : (const void *)&one;
    struct head_output output = run_head(backend, weight, bias, vocabulary, 1, hidden, 1, batch);
    free(weight);
    free(bias);
    return output;
}

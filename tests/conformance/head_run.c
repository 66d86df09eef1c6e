#include <math.h>
#include <stdlib.h>
#include "head.h"

struct head_row plain_row(int32_t hidden)
{
    return (struct head_row){.hidden = hidden,
                             .partner = -1,
                             .given = -1,
                             .top_p = 1,
                             .repetition_penalty = 1,
                             .allowed = -1};
}

static void *allocate(size_t count, size_t size)
{
    void *memory = malloc(count * size + 1);
    cr_assert_not_null(memory);
    return memory;
}

struct head_output run_head(struct backend *backend, const float *weight, const float *bias,
                            int32_t vocabulary, int32_t columns, const void *hidden, int32_t lines,
                            const struct head_batch *batch)
{
    size_t rows = (size_t)batch->rows;
    struct head_output out = {allocate(rows, sizeof *out.row),
                              allocate(rows, HEAD_TOP_MAX * sizeof *out.top_token),
                              allocate(rows, HEAD_TOP_MAX * sizeof *out.top_logprob),
                              allocate(rows, HEAD_RAW_TOP_MAX * sizeof *out.raw_top_token),
                              allocate(rows, HEAD_RAW_TOP_MAX * sizeof *out.raw_top_logprob)};
    struct head_result result = {out.row, out.top_token, out.top_logprob, out.raw_top_token,
                                 out.raw_top_logprob};
    struct weight *packed = make_weight(backend, weight, vocabulary, columns, bias);
    struct guarded input = guarded_create(
        backend, hidden, (size_t)lines * (size_t)columns * dtype_size(backend->dtype));
    struct step_rows step = {0};
    backend->ops->step_begin(backend, &step);
    backend->ops->head(backend, &result, input.data, packed, batch);
    cr_assert_eq(backend->ops->step_end(backend, NULL), 0);
    backend->ops->weight_destroy(backend, packed);
    free(guarded_take(&input));
    return out;
}

void free_head_output(struct head_output *output)
{
    free(output->row);
    free(output->top_token);
    free(output->top_logprob);
    free(output->raw_top_token);
    free(output->raw_top_logprob);
}

struct head_output judge_logits(struct backend *backend, const float *logits, int32_t vocabulary,
                                const struct head_batch *batch)
{
    const float one = 1;
    const uint16_t one_half = bfloat16_from_float(one);
    float *weight = allocate((size_t)vocabulary, sizeof *weight);
    float *bias = allocate((size_t)vocabulary, sizeof *bias);
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

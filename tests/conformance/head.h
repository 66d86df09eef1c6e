/* Running the head on chosen logits. */
#ifndef TESTS_CONFORMANCE_HEAD_H
#define TESTS_CONFORMANCE_HEAD_H

#include "conformance.h"

struct head_output {
    struct head_statistics *row; /* [rows] */
    int32_t *top_token;          /* [rows, HEAD_TOP_MAX] */
    float *top_logprob;
    int32_t *raw_top_token; /* [rows, HEAD_RAW_TOP_MAX] */
    float *raw_top_logprob;
};

/*
 * Judges the batch. weight [vocabulary, columns] float32, bias [vocabulary] or NULL, hidden
 * [lines, columns] activations.
 */
struct head_output run_head(struct backend *backend, const float *weight, const float *bias,
                            int32_t vocabulary, int32_t columns, const void *hidden, int32_t lines,
                            const struct head_batch *batch);

/* As it, with a weight of the backend and `size` bytes of hidden lines, for many batches of both.
 */
struct head_output run_head_of(struct backend *backend, const struct weight *weight,
                               const void *hidden, size_t size, const struct head_batch *batch);
void free_head_output(struct head_output *output);

/*
 * One row whose logits are exactly `logits` [vocabulary], which must be bfloat16 numbers or not
 * finite: one hidden element, which is 1, times a weight column; what is not finite comes as bias.
 */
struct head_output judge_logits(struct backend *backend, const float *logits, int32_t vocabulary,
                                const struct head_batch *batch);

/* Row i of a result against row j of ref's: the same tokens, and numbers within their limits. */
void expect_head_row(const struct head_output *actual, int i, const struct head_output *expected,
                     int j);

/* The same row in another batch: the same bits where the backend states batch invariance. */
void expect_same_head_row(const struct head_output *a, int i, const struct head_output *b, int j);

#endif

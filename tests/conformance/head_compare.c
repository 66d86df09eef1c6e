/* Results of the head against each other. */
#include <math.h>
#include "head.h"

static void expect_close(float actual, float expected, const char *what, int row)
{
    float limit = (float)subject_limit(OPERATION_HEAD, DTYPE_FLOAT32);
    if (isfinite(expected))
        cr_assert(fabsf(actual - expected) <= limit * fmaxf(1, fabsf(expected)),
                  "%s of row %d is %.8g, expected %.8g", what, row, (double)actual,
                  (double)expected);
    else
        cr_assert_eq(actual, expected, "%s of row %d is %g, expected %g", what, row, (double)actual,
                     (double)expected);
}

void expect_head_row(const struct head_output *actual, int i, const struct head_output *expected,
                     int j)
{
    const struct head_statistics *a = &actual->row[i], *e = &expected->row[j];
    cr_assert_eq(a->token, e->token, "row %d chose %d, expected %d", j, a->token, e->token);
    expect_close(a->logprob, e->logprob, "logprob", j);
    expect_close(a->raw_logprob, e->raw_logprob, "raw_logprob", j);
    expect_close(a->given_logprob, e->given_logprob, "given_logprob", j);
    expect_close(a->logsumexp, e->logsumexp, "logsumexp", j);
    expect_close(a->raw_logsumexp, e->raw_logsumexp, "raw_logsumexp", j);
    expect_close(a->entropy, e->entropy, "entropy", j);
    for (int k = 0; k < HEAD_TOP_MAX; k++) {
        int at = i * HEAD_TOP_MAX + k, from = j * HEAD_TOP_MAX + k;
        cr_assert_eq(actual->top_token[at], expected->top_token[from], "top of row %d", j);
        expect_close(actual->top_logprob[at], expected->top_logprob[from], "top logprob", j);
    }
    for (int k = 0; k < HEAD_RAW_TOP_MAX; k++) {
        int at = i * HEAD_RAW_TOP_MAX + k, from = j * HEAD_RAW_TOP_MAX + k;
        cr_assert_eq(actual->raw_top_token[at], expected->raw_top_token[from], "raw top of %d", j);
        expect_close(actual->raw_top_logprob[at], expected->raw_top_logprob[from], "raw top", j);
    }
    record_checked(OPERATION_HEAD);
}

void expect_same_head_row(const struct head_output *a, int i, const struct head_output *b, int j)
{
    if (!subject_is_batch_invariant()) {
        expect_head_row(a, i, b, j);
        return;
    }
    expect_same_bits(&a->row[i], &b->row[j], sizeof a->row[0], "statistics");
    expect_same_bits(a->top_token + i * HEAD_TOP_MAX, b->top_token + j * HEAD_TOP_MAX,
                     HEAD_TOP_MAX * sizeof *a->top_token, "top");
    expect_same_bits(a->top_logprob + i * HEAD_TOP_MAX, b->top_logprob + j * HEAD_TOP_MAX,
                     HEAD_TOP_MAX * sizeof *a->top_logprob, "top logprob");
    expect_same_bits(a->raw_top_token + i * HEAD_RAW_TOP_MAX,
                     b->raw_top_token + j * HEAD_RAW_TOP_MAX,
                     HEAD_RAW_TOP_MAX * sizeof *a->raw_top_token, "raw top");
    expect_same_bits(a->raw_top_logprob + i * HEAD_RAW_TOP_MAX,
                     b->raw_top_logprob + j * HEAD_RAW_TOP_MAX,
                     HEAD_RAW_TOP_MAX * sizeof *a->raw_top_logprob, "raw top logprob");
}

#include "head.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS = 24, COLUMNS = 70, LINES = 30, VOCABULARY = 1031 };

struct head_inputs {
    float *weight, *bias;
    void *hidden;
    struct head_row row[ROWS];
    struct token_count counts[6];
    struct token_bias biases[5];
    uint32_t allowed[2][(VOCABULARY + 31) / 32];
    struct head_batch batch;
};

/* Every option alone and together, on rows whose logits spread over some units. */
static struct head_inputs *make_inputs(struct random *random, enum dtype dtype)
{
    struct head_inputs *inputs = calloc(1, sizeof *inputs);
    cr_assert_not_null(inputs);
    inputs->weight = random_activations(random, VOCABULARY * COLUMNS, DTYPE_FLOAT32);
    inputs->bias = random_activations(random, VOCABULARY, DTYPE_FLOAT32);
    inputs->hidden = random_activations(random, LINES * COLUMNS, dtype);
    for (int i = 0; i < 6; i++)
        inputs->counts[i] = (struct token_count){i * 170 + 3, i % 3, i % 2};
    for (int i = 0; i < 5; i++)
        inputs->biases[i] = (struct token_bias){i * 200 + 7, i == 2 ? -INFINITY : 4.0f - i};
    for (size_t i = 0; i < sizeof inputs->allowed[0] / 4; i++) {
        inputs->allowed[0][i] = random_below(random, 1u << 31) << 1;
        inputs->allowed[1][i] = i == 9 ? 0x10010 : 0;
    }
    struct head_row *row = inputs->row;
    for (int i = 0; i < ROWS; i++) {
        row[i] = plain_row(i);
        row[i].seed = 0x123456789abcull + (uint64_t)i;
        row[i].position = 40 + (uint32_t)i;
        row[i].round = 1 + (uint32_t)i % 4;
        row[i].given = i % 2 ? i * 40 : -1;
        row[i].top = i * 7 % (HEAD_TOP_MAX + 1);
        row[i].raw_top = i * 5 % (HEAD_RAW_TOP_MAX + 1);
        row[i].temperature = i < 12 ? 0 : 0.3f * (float)(i - 10);
    }
    row[1].partner = 25;
    row[1].guidance = 1.5f;
    row[2].allowed = 0;
    row[3].allowed = 1;
    row[4].counts_end = 6;
    row[4].repetition_penalty = 1.3f;
    row[5].counts_begin = 1;
    row[5].counts_end = 5;
    row[5].presence_penalty = 0.75f;
    row[5].frequency_penalty = -0.5f;
    row[6].biases_end = 5;
    row[7] = row[6];
    row[7].hidden = 7;
    row[7].partner = 26;
    row[7].guidance = -0.5f;
    row[7].counts_end = 6;
    row[7].repetition_penalty = 0.8f;
    row[7].allowed = 0;
    row[13].top_k = 5;
    row[14].top_k = 64;
    row[15].top_k = 100;
    row[16].top_p = 0.7f;
    row[17].min_p = 0.1f;
    row[18].top_p = 0.9f;
    row[18].top_k = 20;
    row[18].min_p = 0.05f;
    row[19].top_p = 0.01f;
    row[20] = row[7];
    row[20].temperature = 1;
    row[20].top_p = 0.95f;
    row[21].top_p = 0.999f;
    row[21].partner = 27;
    row[21].guidance = 0.5f;
    row[22].allowed = 1;
    row[22].top_k = 10;
    row[23].biases_end = 5;
    inputs->batch = (struct head_batch){.rows = ROWS,
                                        .row = row,
                                        .counts = inputs->counts,
                                        .biases = inputs->biases,
                                        .allowed = inputs->allowed[0],
                                        .mask_token = 500,
                                        .token_limit = 1000};
    return inputs;
}

static void free_inputs(struct head_inputs *inputs)
{
    free(inputs->weight);
    free(inputs->bias);
    free(inputs->hidden);
    free(inputs);
}

static struct head_output judge(struct backend *backend, const struct head_inputs *inputs,
                                const struct head_batch *batch)
{
    return run_head(backend, inputs->weight, inputs->bias, VOCABULARY, COLUMNS, inputs->hidden,
                    LINES, batch);
}

static void expect_close(float actual, float expected, const char *what, int row)
{
    if (isfinite(expected))
        cr_assert(fabsf(actual - expected) <= 1e-5f * fmaxf(1, fabsf(expected)),
                  "%s of row %d is %.8g, expected %.8g", what, row, (double)actual,
                  (double)expected);
    else
        cr_assert_eq(actual, expected, "%s of row %d is %g, expected %g", what, row, (double)actual,
                     (double)expected);
}

static void compare(const struct head_output *actual, const struct head_output *expected, int rows)
{
    for (int i = 0; i < rows; i++) {
        const struct head_statistics *a = &actual->row[i], *e = &expected->row[i];
        cr_assert_eq(a->token, e->token, "row %d chose %d, expected %d", i, a->token, e->token);
        expect_close(a->logprob, e->logprob, "logprob", i);
        expect_close(a->raw_logprob, e->raw_logprob, "raw_logprob", i);
        expect_close(a->given_logprob, e->given_logprob, "given_logprob", i);
        expect_close(a->logsumexp, e->logsumexp, "logsumexp", i);
        expect_close(a->raw_logsumexp, e->raw_logsumexp, "raw_logsumexp", i);
        expect_close(a->entropy, e->entropy, "entropy", i);
        for (int j = i * HEAD_TOP_MAX; j < (i + 1) * HEAD_TOP_MAX; j++) {
            cr_assert_eq(actual->top_token[j], expected->top_token[j], "top of row %d", i);
            expect_close(actual->top_logprob[j], expected->top_logprob[j], "top logprob", i);
        }
        for (int j = i * HEAD_RAW_TOP_MAX; j < (i + 1) * HEAD_RAW_TOP_MAX; j++) {
            cr_assert_eq(actual->raw_top_token[j], expected->raw_top_token[j], "raw top of %d", i);
            expect_close(actual->raw_top_logprob[j], expected->raw_top_logprob[j], "raw top", i);
        }
    }
}

SUBJECT_TEST(head, agrees_with_the_reference)
{
    struct backend *backend = subject_open(subject, 3);
    struct backend *reference = reference_open(subject->dtype);
    struct backend_limits limits = plain_limits(ROWS, VOCABULARY);
    struct random random = {31};
    reserve(backend, &limits);
    reserve(reference, &limits);
    for (int i = 0; i < 3; i++) {
        struct head_inputs *inputs = make_inputs(&random, subject->dtype);
        struct head_output actual = judge(backend, inputs, &inputs->batch);
        struct head_output expected = judge(reference, inputs, &inputs->batch);
        compare(&actual, &expected, ROWS);
        free_head_output(&actual);
        free_head_output(&expected);
        free_inputs(inputs);
    }
    backend_destroy(backend);
    backend_destroy(reference);
}

static void expect_same_row(const struct head_output *a, int i, const struct head_output *b, int j)
{
    expect_same_bits(&a->row[i], &b->row[j], sizeof a->row[0], "statistics");
    expect_same_bits(a->top_token + i * HEAD_TOP_MAX, b->top_token + j * HEAD_TOP_MAX,
                     HEAD_TOP_MAX * sizeof *a->top_token, "top");
    expect_same_bits(a->top_logprob + i * HEAD_TOP_MAX, b->top_logprob + j * HEAD_TOP_MAX,
                     HEAD_TOP_MAX * sizeof *a->top_logprob, "top logprob");
    expect_same_bits(a->raw_top_logprob + i * HEAD_RAW_TOP_MAX,
                     b->raw_top_logprob + j * HEAD_RAW_TOP_MAX,
                     HEAD_RAW_TOP_MAX * sizeof *a->raw_top_logprob, "raw top logprob");
}

SUBJECT_TEST(head, row_does_not_depend_on_batch_or_threads)
{
    struct backend *backend = subject_open(subject, 1), *threaded = subject_open(subject, 3);
    struct backend_limits limits = plain_limits(ROWS, VOCABULARY);
    struct random random = {32};
    reserve(backend, &limits);
    reserve(threaded, &limits);
    struct head_inputs *inputs = make_inputs(&random, subject->dtype);
    struct head_output batch = judge(backend, inputs, &inputs->batch);
    struct head_output other = judge(threaded, inputs, &inputs->batch);
    for (int i = 0; i < ROWS; i++) {
        struct head_batch one = inputs->batch;
        one.rows = 1;
        one.row = &inputs->row[i];
        struct head_output alone = judge(backend, inputs, &one);
        expect_same_row(&alone, 0, &batch, i);
        expect_same_row(&other, i, &batch, i);
        free_head_output(&alone);
    }
    free_head_output(&batch);
    free_head_output(&other);
    free_inputs(inputs);
    backend_destroy(backend);
    backend_destroy(threaded);
}

/* More logits than any bounded scratch holds: rows are judged in slices. */
SUBJECT_TEST(head, large_batch_of_a_large_vocabulary_equals_its_rows)
{
    enum { WIDE = 126464, MANY = 40 };
    if (strcmp(subject->backend, "ref") == 0)
        return; /* it has no scratch, and sorts: too slow */
    struct backend *backend = subject_open(subject, 2);
    struct backend_limits limits = plain_limits(MANY, WIDE);
    struct random random = {33};
    struct head_row row[MANY];
    reserve(backend, &limits);
    float *weight = random_activations(&random, 2 * WIDE, DTYPE_FLOAT32);
    void *hidden = random_activations(&random, 2 * MANY * 2, subject->dtype);
    for (int i = 0; i < MANY; i++) {
        row[i] = plain_row(i);
        row[i].partner = i % 3 == 0 ? MANY + i : -1;
        row[i].guidance = 2;
        row[i].temperature = i % 2 == 0 ? 0.7f : 0;
        row[i].top_p = i % 4 == 0 ? 0.2f : 1;
        row[i].round = 1;
    }
    struct head_batch batch = {
        .rows = MANY, .row = row, .mask_token = WIDE - 1, .token_limit = WIDE};
    struct head_output all = run_head(backend, weight, NULL, WIDE, 2, hidden, 2 * MANY, &batch);
    for (int i = 0; i < MANY; i += 3) {
        batch.rows = 1;
        batch.row = &row[i];
        struct head_output one = run_head(backend, weight, NULL, WIDE, 2, hidden, 2 * MANY, &batch);
        expect_same_row(&one, 0, &all, i);
        free_head_output(&one);
    }
    free_head_output(&all);
    free(weight);
    free(hidden);
    backend_destroy(backend);
}

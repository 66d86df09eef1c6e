#include "head.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS = 40, LINES = 46, VOCABULARY = 1031, VOCABULARY_MAX = 6151, COLUMNS = 70 };

struct head_inputs {
    int32_t vocabulary, columns;
    float *weight, *bias;
    void *hidden;
    struct head_row row[ROWS];
    struct token_count counts[6];
    struct token_bias biases[5];
    uint32_t allowed[2 * ((VOCABULARY_MAX + 31) / 32)];
    struct head_batch batch;
};

/* Penalties, biases, bans, allowed sets and guidance, alone and together. */
static void set_adjustments(struct head_row *row)
{
    row[1].partner = 41;
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
    row[7].partner = 42;
    row[7].guidance = -0.5f;
    row[7].counts_end = 6;
    row[7].repetition_penalty = 0.8f;
    row[7].allowed = 0;
    row[8].partner = 8; /* its own line: guidance does nothing */
    row[8].guidance = 3;
    row[9].partner = 41; /* shared with row 1 */
    row[10].hidden = 2;  /* two rows of one line */
}

/* Temperatures and filters, alone, together and with what adjusts. */
static void set_filters(struct head_row *row)
{
    row[13].top_k = 5;
    row[14].top_k = HEAD_TOP_MAX;
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
    row[21].partner = 43;
    row[21].guidance = 0.5f;
    row[22].allowed = 1;
    row[22].top_k = 10;
    row[23].biases_end = 5;
    row[24].top_k = HEAD_TOP_MAX + 1;
    row[24].top = 1;
    row[25].top_k = 5000; /* more than there are */
    row[25].top_p = 0.9f;
    row[26].top_k = 300;
    row[26].min_p = 0.02f;
    row[27].min_p = 1;
    row[28].top_p = 0;
    row[29].top_k = 200;
    row[29].top_p = 0.5f;
    row[29].min_p = 0.01f;
    row[30].partner = 44;
    row[30].guidance = 2;
    row[30].allowed = 0;
    row[30].top_p = 0.8f;
    row[31].temperature = 0.01f;
    row[32].temperature = 50;
    row[33].allowed = 1;
    row[33].top_p = 0.6f;
    row[34].allowed = 0;
    row[34].top_k = 150;
    row[35].top_k = 1;
    row[36].temperature = 1e-30f;
    row[37] = row[4];
    row[37].temperature = 0.8f;
    row[37].min_p = 0.2f;
}

/* A line of NaN for a row and for a partner, and tokens whose logits are NaN or -infinity. */
static void set_not_finite(struct head_inputs *inputs, enum dtype dtype)
{
    int32_t line = LINES - 1;
    for (int32_t i = 0; i < inputs->columns; i++)
        set_activation(inputs->hidden, (size_t)(line * inputs->columns + i), NAN, dtype);
    inputs->row[38].hidden = line;
    inputs->row[39].partner = line;
    inputs->bias[inputs->vocabulary / 3] = NAN;
    inputs->bias[inputs->vocabulary / 4] = -INFINITY;
    inputs->row[0].given = inputs->vocabulary / 3;
}

/* Every option alone and together, on rows whose logits spread over some units. */
static struct head_inputs *make_inputs(struct random *random, enum dtype dtype, int32_t vocabulary,
                                       int32_t columns)
{
    struct head_inputs *inputs = calloc(1, sizeof *inputs);
    size_t words = ((size_t)vocabulary + 31) / 32;
    cr_assert_not_null(inputs);
    cr_assert_leq(vocabulary, VOCABULARY_MAX);
    inputs->vocabulary = vocabulary;
    inputs->columns = columns;
    inputs->weight =
        random_activations(random, (size_t)vocabulary * (size_t)columns, DTYPE_FLOAT32);
    inputs->bias = random_activations(random, (size_t)vocabulary, DTYPE_FLOAT32);
    inputs->hidden = random_activations(random, LINES * (size_t)columns, dtype);
    for (int i = 0; i < 6; i++)
        inputs->counts[i] =
            (struct token_count){(i * (vocabulary / 6) + 3) % vocabulary, i % 3, i % 2};
    for (int i = 0; i < 5; i++)
        inputs->biases[i] = (struct token_bias){(i * (vocabulary / 5) + 7) % vocabulary,
                                                i == 2 ? -INFINITY : 4.0f - i};
    for (size_t i = 0; i < words; i++) {
        inputs->allowed[i] = random_below(random, 1u << 31) << 1;
        inputs->allowed[words + i] = i == words / 3 ? 0x10010 : 0;
    }
    struct head_row *row = inputs->row;
    for (int i = 0; i < ROWS; i++) {
        row[i] = head_row_greedy(i);
        row[i].seed = 0x123456789abcull + (uint64_t)i;
        row[i].position = 40 + (uint32_t)i;
        row[i].round = 1 + (uint32_t)i % 4;
        row[i].given = i % 2 ? i * (vocabulary / 30 + 1) % vocabulary : -1;
        row[i].top = i * 7 % (HEAD_TOP_MAX + 1);
        row[i].raw_top = i * 5 % (HEAD_RAW_TOP_MAX + 1);
        row[i].temperature = i < 12 ? 0 : 0.15f * (float)(i - 10);
    }
    set_adjustments(row);
    set_filters(row);
    inputs->batch = (struct head_batch){.rows = ROWS,
                                        .row = row,
                                        .counts = inputs->counts,
                                        .biases = inputs->biases,
                                        .allowed = inputs->allowed,
                                        .mask_token = vocabulary / 2,
                                        .token_limit = vocabulary - vocabulary / 33};
    row[10].given = inputs->batch.mask_token;
    row[11].given = vocabulary - 1;
    set_not_finite(inputs, dtype);
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
    return run_head(backend, inputs->weight, inputs->bias, inputs->vocabulary, inputs->columns,
                    inputs->hidden, LINES, batch);
}

static struct backend *open_for_head(const struct subject *subject, int threads)
{
    struct backend *backend = subject_open(subject, threads);
    struct backend_limits limits = plain_limits(ROWS, VOCABULARY_MAX);
    reserve(backend, &limits);
    return backend;
}

/* Rows [first, first + rows) of the inputs. */
static void compare_with_reference(struct backend *backend, struct backend *reference,
                                   const struct head_inputs *inputs, int32_t first, int32_t rows)
{
    struct head_batch batch = inputs->batch;
    batch.row += first;
    batch.rows = rows;
    struct head_output actual = judge(backend, inputs, &batch);
    struct head_output expected = judge(reference, inputs, &batch);
    for (int i = 0; i < rows; i++)
        expect_head_row(&actual, i, &expected, i);
    free_head_output(&actual);
    free_head_output(&expected);
}

ANY_WEIGHTS_TEST(head, agrees_with_the_reference)
{
    struct backend *backend = open_for_head(subject, 3);
    struct backend *reference = reference_open(subject);
    struct backend_limits limits = plain_limits(ROWS, VOCABULARY_MAX);
    struct random random = {31};
    reserve(reference, &limits);
    for (int i = 0; i < 2; i++) {
        struct head_inputs *inputs = make_inputs(&random, subject->dtype, VOCABULARY, COLUMNS);
        compare_with_reference(backend, reference, inputs, 0, ROWS);
        free_inputs(inputs);
    }
    backend_destroy(backend);
    backend_destroy(reference);
}

/* Vocabularies around words of an allowed set, panels and blocks; batches of 0 to 33 rows. */
ANY_WEIGHTS_TEST(head, holds_for_every_size)
{
    static const int32_t vocabularies[] = {1, 2, 31, 32, 33, 64, 65, 128, 300, 2047, 2049, 6151};
    static const int32_t columns[] = {1, 2, 33};
    static const int32_t rows[] = {0, 1, 31, 33};
    struct backend *backend = open_for_head(subject, 2);
    struct backend *reference = reference_open(subject);
    struct backend_limits limits = plain_limits(ROWS, VOCABULARY_MAX);
    struct random random = {34};
    reserve(reference, &limits);
    for (int32_t i = 0; i < (int32_t)(sizeof vocabularies / sizeof vocabularies[0]); i++) {
        struct head_inputs *inputs =
            make_inputs(&random, subject->dtype, vocabularies[i], columns[i % 3]);
        compare_with_reference(backend, reference, inputs, i % 8, rows[i % 4]);
        compare_with_reference(backend, reference, inputs, 0, ROWS);
        free_inputs(inputs);
    }
    backend_destroy(backend);
    backend_destroy(reference);
}

/* The rows judged together, again, and, `alone`, one by one: each time the bits of `expected`. */
static void expect_same_rows(struct backend *backend, const struct head_inputs *inputs, bool alone,
                             const struct head_output *expected)
{
    struct weight *weight =
        make_weight(backend, inputs->weight, inputs->vocabulary, inputs->columns, inputs->bias);
    size_t size = LINES * (size_t)inputs->columns * dtype_size(backend->dtype);
    struct head_output all = run_head_of(backend, weight, inputs->hidden, size, &inputs->batch);
    for (int i = 0; i < ROWS; i++)
        expect_same_head_row(&all, i, expected, i);
    free_head_output(&all);
    for (int i = 0; alone && i < ROWS; i++) {
        struct head_batch batch = inputs->batch;
        batch.rows = 1;
        batch.row = &inputs->row[i];
        struct head_output one = run_head_of(backend, weight, inputs->hidden, size, &batch);
        expect_same_head_row(&one, 0, expected, i);
        free_head_output(&one);
    }
    backend->ops->weight_destroy(backend, weight);
}

ANY_WEIGHTS_TEST(head, row_does_not_depend_on_batch_or_threads)
{
    struct backend *backend = open_for_head(subject, 1);
    struct random random = {32};
    struct head_inputs *inputs = make_inputs(&random, subject->dtype, VOCABULARY, COLUMNS);
    struct head_output batch = judge(backend, inputs, &inputs->batch);
    expect_same_rows(backend, inputs, true, &batch);
    for (int i = 0; i < THREAD_COUNTS; i++) {
        struct backend *threaded = open_for_head(subject, THREADS[i]);
        expect_same_rows(threaded, inputs, false, &batch);
        backend_destroy(threaded);
    }
    free_head_output(&batch);
    free_inputs(inputs);
    backend_destroy(backend);
}

/* More logits than any bounded scratch holds: rows are judged in slices. */
ANY_WEIGHTS_TEST(head, large_batch_of_a_large_vocabulary_equals_its_rows)
{
    enum { WIDE = 126464, MANY = 40 };
    const int32_t rows = subject_wide_rows(subject, MANY);
    struct backend *backend = subject_open(subject, 2);
    struct backend_limits limits = plain_limits(MANY, WIDE);
    struct random random = {33};
    struct head_row row[MANY];
    reserve(backend, &limits);
    float *values = random_activations(&random, 2 * WIDE, DTYPE_FLOAT32);
    void *hidden = random_activations(&random, 2 * MANY * 2, subject->dtype);
    struct weight *weight = make_weight(backend, values, WIDE, 2, NULL);
    size_t size = (size_t)2 * MANY * 2 * dtype_size(subject->dtype);
    for (int i = 0; i < MANY; i++) {
        row[i] = head_row_greedy(i);
        row[i].partner = i % 3 == 0 ? MANY + i : -1;
        row[i].guidance = 2;
        row[i].temperature = i % 2 == 0 ? 0.7f : 0;
        row[i].top_p = i % 4 == 0 ? 0.2f : 1;
        row[i].round = 1;
    }
    struct head_batch batch = {
        .rows = rows, .row = row, .mask_token = WIDE - 1, .token_limit = WIDE};
    struct head_output all = run_head_of(backend, weight, hidden, size, &batch);
    for (int i = 0; i < rows; i += 7) {
        batch.rows = 1;
        batch.row = &row[i];
        struct head_output one = run_head_of(backend, weight, hidden, size, &batch);
        expect_same_head_row(&one, 0, &all, i);
        free_head_output(&one);
    }
    free_head_output(&all);
    backend->ops->weight_destroy(backend, weight);
    free(values);
    free(hidden);
    backend_destroy(backend);
}

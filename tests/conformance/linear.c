#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "common/error.h"
#include "common/rng.h"
#include "conformance.h"

struct linear_case {
    int32_t lines;
    int64_t rows, columns; /* of the weight */
    bool biased;
};

/* Lines around tiles, columns around panels, depths around what is widened at once; all ragged. */
static const struct linear_case CASES[] = {
    {1, 1, 1, false},      {1, 64, 64, true},    {3, 63, 65, true},     {6, 65, 63, false},
    {7, 130, 257, true},   {31, 100, 512, true}, {33, 704, 256, false}, {32, 256, 704, true},
    {5, 2, 1031, false},   {129, 72, 40, true},  {33, 129, 513, true},  {1, 300, 255, false},
    {129, 191, 129, true}, {31, 1, 33, false},   {12, 193, 2, true},    {13, 128, 1, false},
    {41, 66, 34, true},
};
enum { CASE_COUNT = sizeof CASES / sizeof CASES[0], LINES_MAX = 160 };

static float *random_floats(struct random *random, size_t count)
{
    return random_activations(random, count, DTYPE_FLOAT32);
}

static void *multiply(struct backend *backend, const struct weight *weight,
                      const struct linear_case *shape, const void *in, int32_t lines)
{
    size_t element = dtype_size(backend->dtype);
    struct guarded input =
        guarded_create(backend, in, (size_t)lines * (size_t)shape->columns * element);
    struct guarded output =
        guarded_create(backend, NULL, (size_t)lines * (size_t)shape->rows * element);
    struct step_rows step = {0};
    begin_step(backend, &step);
    backend->ops->linear(backend, output.data, input.data, weight, lines);
    end_step(backend);
    guarded_drop(&input, in);
    return guarded_take(&output);
}

static void *run_linear(struct backend *backend, const struct linear_case *shape, const void *in,
                        int32_t lines, const float *values, const float *bias)
{
    struct weight *weight = make_weight(backend, values, shape->rows, shape->columns, bias);
    void *out = multiply(backend, weight, shape, in, lines);
    backend->ops->weight_destroy(backend, weight);
    return out;
}

static struct backend *open_for_lines(const struct subject *subject, int threads)
{
    struct backend *backend = subject_open(subject, threads);
    struct backend_limits limits = plain_limits(LINES_MAX, 16);
    reserve(backend, &limits);
    return backend;
}

static struct backend *reference_for_lines(enum dtype dtype)
{
    struct backend *reference = reference_open(dtype);
    struct backend_limits limits = plain_limits(LINES_MAX, 16);
    reserve(reference, &limits);
    return reference;
}

SUBJECT_TEST(linear, agrees_with_the_reference)
{
    struct backend *backend = open_for_lines(subject, 2);
    struct backend *reference = reference_for_lines(subject->dtype);
    struct random random = {1};
    for (int i = 0; i < CASE_COUNT; i++) {
        const struct linear_case *shape = &CASES[i];
        float *values = random_floats(&random, (size_t)(shape->rows * shape->columns));
        float *bias = random_floats(&random, (size_t)shape->rows);
        size_t inputs = (size_t)shape->lines * (size_t)shape->columns;
        void *in = random_activations(&random, inputs, subject->dtype);
        const float *added = shape->biased ? bias : NULL;
        void *actual = run_linear(backend, shape, in, shape->lines, values, added);
        void *expected = run_linear(reference, shape, in, shape->lines, values, added);
        expect_result(OPERATION_LINEAR, actual, expected,
                      (size_t)shape->lines * (size_t)shape->rows, subject->dtype, "linear");
        free(values);
        free(bias);
        free(in);
        free(actual);
        free(expected);
    }
    backend_destroy(backend);
    backend_destroy(reference);
}

/* The same step again, with more threads, and some of its lines alone. */
static void compare_runs(struct backend *backend, struct backend *const *others,
                         const struct linear_case *shape, struct random *random)
{
    enum dtype dtype = backend->dtype;
    size_t element = dtype_size(dtype), columns = (size_t)shape->columns;
    size_t rows = (size_t)shape->rows, lines = (size_t)shape->lines;
    float *values = random_floats(random, rows * columns);
    char *in = random_activations(random, lines * columns, dtype);
    struct weight *weight = make_weight(backend, values, shape->rows, shape->columns, NULL);
    char *batch = multiply(backend, weight, shape, in, shape->lines);
    char *again = multiply(backend, weight, shape, in, shape->lines);
    expect_same_bits(again, batch, lines * rows * element, "the same step again");
    free(again);
    for (int i = 0; i < THREAD_COUNTS; i++) {
        char *threaded = run_linear(others[i], shape, in, shape->lines, values, NULL);
        expect_invariant(OPERATION_LINEAR, threaded, batch, lines * rows, dtype, "more threads");
        free(threaded);
    }
    for (size_t line = 0; line < lines; line += 1 + lines / 5) {
        char *alone = multiply(backend, weight, shape, in + line * columns * element, 1);
        expect_invariant(OPERATION_LINEAR, alone, batch + line * rows * element, rows, dtype,
                         "one line alone");
        free(alone);
    }
    backend->ops->weight_destroy(backend, weight);
    free(values);
    free(in);
    free(batch);
}

SUBJECT_TEST(linear, line_does_not_depend_on_batch_or_threads)
{
    struct backend *backend = open_for_lines(subject, 1), *others[THREAD_COUNTS];
    struct random random = {2};
    for (int i = 0; i < THREAD_COUNTS; i++)
        others[i] = open_for_lines(subject, THREADS[i]);
    for (int i = 0; i < CASE_COUNT; i++)
        compare_runs(backend, others, &CASES[i], &random);
    for (int i = 0; i < THREAD_COUNTS; i++)
        backend_destroy(others[i]);
    backend_destroy(backend);
}

/* A batch without lines, as the head of a step that samples nothing: no output, no fault. */
SUBJECT_TEST(linear, no_lines_write_nothing)
{
    struct backend *backend = open_for_lines(subject, 3);
    const float values[6] = {0};
    struct weight *weight = make_weight(backend, values, 2, 3, NULL);
    struct guarded output = guarded_create(backend, values, sizeof values);
    struct guarded input = guarded_create(backend, values, sizeof values);
    struct step_rows step = {0};
    begin_step(backend, &step);
    backend->ops->linear(backend, output.data, input.data, weight, 0);
    end_step(backend);
    guarded_drop(&output, values);
    guarded_drop(&input, values);
    backend->ops->weight_destroy(backend, weight);
    backend_destroy(backend);
}

SUBJECT_TEST(linear, nan_and_infinity_stay_in_their_line_and_column)
{
    struct backend *backend = open_for_lines(subject, 1);
    struct backend *reference = reference_for_lines(subject->dtype);
    const struct linear_case shape = {8, 70, 33, false};
    struct random random = {3};
    float *values = random_floats(&random, 70 * 33);
    void *in = random_activations(&random, 8 * 33, subject->dtype);
    /* The last element of an odd line: its neighbour in memory belongs to the next line. */
    const float bad[2] = {NAN, INFINITY};
    for (int i = 0; i < 2; i++) {
        size_t at = (size_t)(3 * i + 1) * 33 + (i == 0 ? 0 : 32);
        set_activation(in, at, bad[i], subject->dtype);
    }
    values[69 * 33 + 32] = INFINITY; /* and one of a weight in its column */
    /* What an earlier call left in working memory must not matter either. */
    const struct linear_case even = {8, 70, 256, false};
    float *even_values = random_floats(&random, 70 * 256);
    void *nans = malloc(8 * 256 * sizeof(float));
    cr_assert_not_null(nans);
    memset(nans, 0xff, 8 * 256 * sizeof(float));
    free(run_linear(backend, &even, nans, 8, even_values, NULL));
    free(even_values);
    free(nans);
    void *actual = run_linear(backend, &shape, in, 8, values, NULL);
    void *expected = run_linear(reference, &shape, in, 8, values, NULL);
    expect_result(OPERATION_LINEAR, actual, expected, 8 * 70, subject->dtype, "linear with NaN");
    free(values);
    free(in);
    free(actual);
    free(expected);
    backend_destroy(backend);
    backend_destroy(reference);
}

SUBJECT_TEST(linear, bfloat16_results_round_to_nearest_even)
{
    struct backend *backend = subject_open(subject, 1);
    struct backend_limits limits = plain_limits(8, 16);
    const struct linear_case shape = {4, 20, 2, false};
    /* Sums between two neighbours of bfloat16, whose distance is 2^-7 from 1 on. */
    const float first[4] = {1, 1 + 0x1p-7f, -1, 1},
                second[4] = {0x1p-8f, 0x1p-8f, -0x1p-8f, 0x1.8p-8f};
    const float rounded[4] = {1, 1 + 0x1p-6f, -1, 1 + 0x1p-7f};
    float ones[40];
    uint16_t in[8];
    if (subject->dtype != DTYPE_BFLOAT16) {
        backend_destroy(backend);
        return;
    }
    reserve(backend, &limits);
    for (int i = 0; i < 40; i++)
        ones[i] = 1;
    for (int i = 0; i < 4; i++) {
        in[2 * i] = bfloat16_from_float(first[i]);
        in[2 * i + 1] = bfloat16_from_float(second[i]);
    }
    uint16_t *out = run_linear(backend, &shape, in, 4, ones, NULL);
    for (int i = 0; i < 80; i++)
        cr_assert_eq(bfloat16_to_float(out[i]), rounded[i / 20], "line %d column %d is %a", i / 20,
                     i % 20, (double)bfloat16_to_float(out[i]));
    free(out);
    backend_destroy(backend);
}

/* The same numbers, which every dtype holds exactly, as four kinds of source. */
SUBJECT_TEST(linear, packs_sources_of_every_dtype_one_after_the_other)
{
    struct backend *backend = subject_open(subject, 2);
    struct backend_limits limits = plain_limits(16, 16);
    enum { COLUMNS = 37, ROWS = 3 * COLUMNS };
    float full[ROWS], scales[3] = {0.5f, 2.0f, 0.25f};
    uint16_t half[ROWS], brain[ROWS];
    int8_t small[ROWS];
    struct random random = {4};
    reserve(backend, &limits);
    for (int i = 0; i < ROWS; i++) {
        small[i] = (int8_t)((int)random_below(&random, 255) - 127);
        full[i] = (float)small[i] * scales[i / COLUMNS];
        brain[i] = bfloat16_from_float(full[i]);
        /* float16 of small integers times a power of two, by its definition. */
        int exponent;
        float fraction = frexpf(fabsf(full[i]), &exponent);
        half[i] = full[i] == 0 ? 0
                               : (uint16_t)((full[i] < 0 ? 0x8000 : 0) | (exponent + 14) << 10 |
                                            ((int)(fraction * 2048) & 0x3ff));
    }
    struct tensor_source sources[4] = {
        {.data = full, .dtype = DTYPE_FLOAT32, .rows = 3, .columns = COLUMNS},
        {.data = brain, .dtype = DTYPE_BFLOAT16, .rows = 3, .columns = COLUMNS},
        {.data = half, .dtype = DTYPE_FLOAT16, .rows = 3, .columns = COLUMNS},
        {.data = small, .scales = scales, .dtype = DTYPE_INT8, .rows = 3, .columns = COLUMNS}};
    struct weight *weight;
    cr_assert_eq(backend->ops->weight_create(backend, &weight, sources, 4, NULL, NULL), 0);

    struct guarded table = guarded_create(backend, NULL, 12 * COLUMNS * sizeof(float));
    int32_t tokens[12], zeros[12] = {0};
    uint8_t shadow[12] = {0};
    for (int i = 0; i < 12; i++)
        tokens[i] = 11 - i;
    struct step_rows step = {.rows = 12,
                             .token = tokens,
                             .sequence = zeros,
                             .position = zeros,
                             .kv_end = zeros,
                             .shadow = shadow,
                             .page_table = zeros};
    begin_step(backend, &step);
    backend->ops->embed(backend, table.data, weight);
    end_step(backend);
    float *embedded = guarded_take(&table);
    for (int row = 0; row < 12; row++) {
        for (int column = 0; column < COLUMNS; column++)
            cr_assert_eq(embedded[row * COLUMNS + column], full[(11 - row) % 3 * COLUMNS + column],
                         "row %d column %d", row, column);
    }
    record_checked(OPERATION_WEIGHT_CREATE);
    free(embedded);
    backend->ops->weight_destroy(backend, weight);
    backend_destroy(backend);
}

/* One element of a random source, by kernels/random_matrix.h's definition. */
static float random_element(uint64_t seed, float spread, int64_t index)
{
    const uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    const uint32_t counter[4] = {(uint32_t)(index / 8), (uint32_t)(index / 8 >> 32), 0x6d, 0};
    uint32_t words[4];
    rng_philox(words, counter, key);
    uint32_t bits = words[index % 8 / 2] >> (index % 2 * 16) & 0xffff;
    double number = bits < 32768 ? (double)bits + 0.5 : (double)bits - 65535.5;
    return bfloat16_to_float(bfloat16_from_float((float)(number * (double)spread / 32768)));
}

/* All rows of a weight as embed gives them; the caller frees it. */
static float *embed_all(struct backend *backend, const struct weight *weight, int32_t rows,
                        int32_t columns)
{
    struct guarded table = guarded_create(backend, NULL, (size_t)(rows * columns) * sizeof(float));
    int32_t *tokens = calloc((size_t)rows, sizeof *tokens);
    int32_t *zeros = calloc((size_t)rows, sizeof *zeros);
    uint8_t *shadow = calloc((size_t)rows, 1);
    cr_assert(tokens != NULL && zeros != NULL && shadow != NULL);
    for (int i = 0; i < rows; i++)
        tokens[i] = i;
    struct step_rows step = {.rows = rows,
                             .token = tokens,
                             .sequence = zeros,
                             .position = zeros,
                             .kv_end = zeros,
                             .shadow = shadow,
                             .page_table = zeros};
    begin_step(backend, &step);
    backend->ops->embed(backend, table.data, weight);
    end_step(backend);
    free(tokens);
    free(zeros);
    free(shadow);
    return guarded_take(&table);
}

SUBJECT_TEST(linear, random_sources_hold_the_same_numbers_everywhere)
{
    /* Rows that begin in the middle of a group, and rows that do not. */
    static const int32_t widths[] = {37, 40};
    for (size_t i = 0; i < sizeof widths / sizeof widths[0]; i++) {
        enum { RANDOM_ROWS = 7, PLAIN_ROWS = 3, ROWS = 2 * RANDOM_ROWS + PLAIN_ROWS };
        const int32_t columns = widths[i];
        float plain[PLAIN_ROWS * 40];
        for (int k = 0; k < PLAIN_ROWS * 40; k++)
            plain[k] = (float)k;
        struct tensor_source random = {.dtype = DTYPE_BFLOAT16,
                                       .rows = RANDOM_ROWS,
                                       .columns = columns,
                                       .seed = UINT64_C(0x123456789),
                                       .spread = 0.03f};
        struct tensor_source sources[3] = {
            random,
            {.data = plain, .dtype = DTYPE_FLOAT32, .rows = PLAIN_ROWS, .columns = columns},
            random};
        sources[2].seed++;
        struct backend *backend = subject_open(subject, 2);
        struct backend_limits limits = plain_limits(ROWS, ROWS);
        struct weight *weight;
        reserve(backend, &limits);
        cr_assert_eq(backend->ops->weight_create(backend, &weight, sources, 3, NULL, NULL), 0);
        float *values = embed_all(backend, weight, ROWS, columns);
        for (int32_t at = 0; at < ROWS * columns; at++) {
            int32_t row = at / columns, column = at % columns, second = row - RANDOM_ROWS;
            float expected;
            if (row < RANDOM_ROWS)
                expected = random_element(sources[0].seed, random.spread, at);
            else if (second < PLAIN_ROWS)
                expected = (float)(second * columns + column);
            else
                expected = random_element(sources[2].seed, random.spread,
                                          (int64_t)(second - PLAIN_ROWS) * columns + column);
            cr_assert_eq(values[at], expected, "row %d column %d", row, column);
        }
        free(values);
        backend->ops->weight_destroy(backend, weight);
        backend_destroy(backend);
    }
}

SUBJECT_TEST(linear, random_sources_need_a_spread)
{
    struct backend *backend = subject_open(subject, 1);
    struct tensor_source source = {.dtype = DTYPE_BFLOAT16, .rows = 2, .columns = 8};
    struct weight *weight;
    struct error err = {0};
    cr_assert_eq(backend->ops->weight_create(backend, &weight, &source, 1, NULL, &err),
                 ERROR_INVALID);
    cr_assert_not_null(strstr(err.message, "spread"), "%s", err.message);
    source.spread = 1;
    source.dtype = DTYPE_FLOAT32;
    cr_assert_eq(backend->ops->weight_create(backend, &weight, &source, 1, NULL, &err),
                 ERROR_INVALID);
    backend_destroy(backend);
}

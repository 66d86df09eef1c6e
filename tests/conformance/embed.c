/* Rows of the table: what a weight holds of its sources, in every dtype and kind of weights. */
#include <math.h>
#include <stdlib.h>
#include "embed.h"

static const int32_t WIDTHS[] = {1, 15, 16, 33, 256, 704, 1031};
static const int32_t ROWS[] = {1, 3, 31, 33, 70};
enum {
    WIDTH_COUNT = sizeof WIDTHS / sizeof WIDTHS[0],
    ROW_COUNT = sizeof ROWS / sizeof ROWS[0],
    ROWS_MAX = EMBED_ROWS_MAX,
    TOKENS = 131, /* of the table: three panels, the last one ragged */
};

static struct backend *open_for_rows(const struct subject *subject, int threads)
{
    struct backend *backend = subject_open(subject, threads);
    struct backend_limits limits = plain_limits(ROWS_MAX, 16);
    reserve(backend, &limits);
    return backend;
}

float *run_embed(struct backend *backend, const struct weight *table, const int32_t *tokens,
                 int32_t rows, int32_t columns)
{
    size_t size = (size_t)rows * (size_t)columns * sizeof(float);
    const int32_t zeros[ROWS_MAX] = {0};
    const uint8_t shadow[ROWS_MAX] = {0};
    struct guarded residual = guarded_create(backend, NULL, size);
    struct step_rows step = {.rows = rows,
                             .token = tokens,
                             .sequence = zeros,
                             .position = zeros,
                             .kv_end = zeros,
                             .shadow = shadow,
                             .page_table = zeros};
    cr_assert_leq(rows, ROWS_MAX);
    begin_step(backend, &step);
    backend->ops->embed(backend, residual.data, table);
    end_step(backend);
    return guarded_take(&residual);
}

/* To the nearest number of e4m3, by its definition: 3 bits of fraction from 2^-6 on, 448 at most.
 */
static float fp8_rounded(float value)
{
    int exponent = value == 0 || ilogbf(value) < -6 ? -6 : ilogbf(value);
    float step = ldexpf(1, exponent - 3), rounded = rintf(value / step) * step;
    return fabsf(rounded) > 448 ? copysignf(448, value) : rounded;
}

/* out [columns] = what a weight keeps of a row, by the definition of its dtype. */
static void hold(float *out, const float *row, int32_t columns, enum dtype weight_dtype)
{
    float largest = 0;
    for (int32_t i = 0; i < columns; i++)
        largest = fmaxf(largest, fabsf(row[i]));
    for (int32_t i = 0; i < columns; i++) {
        if (weight_dtype == DTYPE_INT8)
            out[i] = (float)(int)rintf(row[i] * (127 / largest)) * (largest / 127);
        else if (weight_dtype == DTYPE_FP8)
            out[i] = fp8_rounded(row[i] * (448 / largest)) * (largest / 448);
        else if (weight_dtype == DTYPE_BFLOAT16)
            out[i] = bfloat16_to_float(bfloat16_from_float(row[i]));
        else
            out[i] = row[i];
    }
}

/* Again, one row alone, and with more threads: the same bits, whatever the backend. */
static void expect_same_everywhere(struct backend *const *backends, struct weight *const *tables,
                                   const float *batch, const int32_t *tokens, int32_t rows,
                                   int32_t columns)
{
    size_t line = (size_t)columns * sizeof(float);
    for (int i = 0; i <= THREAD_COUNTS; i++) {
        float *other = run_embed(backends[i], tables[i], tokens, rows, columns);
        expect_same_bits(other, batch, (size_t)rows * line, i == 0 ? "again" : "more threads");
        free(other);
    }
    float *alone = run_embed(backends[0], tables[0], tokens + rows / 2, 1, columns);
    expect_same_bits(alone, batch + rows / 2 * columns, line, "one row alone");
    free(alone);
}

static void check_width(struct backend *const *backends, struct random *random, int32_t columns)
{
    float *values = random_activations(random, TOKENS * (size_t)columns, DTYPE_FLOAT32);
    float *expected = malloc((size_t)columns * sizeof *expected);
    struct weight *tables[1 + THREAD_COUNTS];
    int32_t tokens[ROWS_MAX];
    cr_assert_not_null(expected);
    for (int i = 0; i <= THREAD_COUNTS; i++)
        tables[i] = make_weight(backends[i], values, TOKENS, columns, NULL);
    for (int j = 0; j < ROW_COUNT; j++) {
        for (int32_t i = 0; i < ROWS[j]; i++)
            tokens[i] = (int32_t)random_below(random, TOKENS);
        tokens[ROWS[j] / 2] = TOKENS - 1;
        float *batch = run_embed(backends[0], tables[0], tokens, ROWS[j], columns);
        for (int32_t i = 0; i < ROWS[j]; i++) {
            hold(expected, values + tokens[i] * columns, columns, backends[0]->weight_dtype);
            expect_result(OPERATION_EMBED, batch + i * columns, expected, (size_t)columns,
                          DTYPE_FLOAT32, "embed");
        }
        expect_same_everywhere(backends, tables, batch, tokens, ROWS[j], columns);
        free(batch);
    }
    for (int i = 0; i <= THREAD_COUNTS; i++)
        backends[i]->ops->weight_destroy(backends[i], tables[i]);
    free(values);
    free(expected);
}

ANY_WEIGHTS_TEST(embed, gives_what_the_weight_holds)
{
    struct backend *backends[1 + THREAD_COUNTS];
    struct random random = {14};
    for (int i = 0; i <= THREAD_COUNTS; i++)
        backends[i] = open_for_rows(subject, i == 0 ? 1 : THREADS[i - 1]);
    for (int i = 0; i < WIDTH_COUNT; i++)
        check_width(backends, &random, WIDTHS[i]);
    for (int i = 0; i <= THREAD_COUNTS; i++)
        backend_destroy(backends[i]);
}

/* float16 of small integers times a power of two, by its definition. */
static uint16_t float16_of(float value)
{
    int exponent;
    float fraction = frexpf(fabsf(value), &exponent);
    if (value == 0)
        return 0;
    return (uint16_t)((value < 0 ? 0x8000 : 0) | (exponent + 14) << 10 |
                      ((int)(fraction * 2048) & 0x3ff));
}

/* The same numbers, which every dtype holds exactly, as four kinds of source. */
ANY_WEIGHTS_TEST(embed, packs_sources_of_every_dtype_one_after_the_other)
{
    enum { COLUMNS = 37, PART = 3, SIZE = PART * COLUMNS, ALL = 4 * PART };
    struct backend *backend = open_for_rows(subject, 2);
    float full[SIZE], held[SIZE], scales[PART] = {0.5f, 2.0f, 0.25f};
    uint16_t half[SIZE], brain[SIZE];
    int8_t small[SIZE];
    struct random random = {4};
    for (int i = 0; i < SIZE; i++) {
        small[i] = (int8_t)((int)random_below(&random, 256) - 128);
        full[i] = (float)small[i] * scales[i / COLUMNS];
        brain[i] = bfloat16_from_float(full[i]);
        half[i] = float16_of(full[i]);
    }
    for (int row = 0; row < PART; row++)
        hold(held + row * COLUMNS, full + row * COLUMNS, COLUMNS, subject->weight_dtype);
    struct tensor_source sources[4] = {
        {.data = full, .dtype = DTYPE_FLOAT32, .rows = PART, .columns = COLUMNS},
        {.data = brain, .dtype = DTYPE_BFLOAT16, .rows = PART, .columns = COLUMNS},
        {.data = half, .dtype = DTYPE_FLOAT16, .rows = PART, .columns = COLUMNS},
        {.data = small, .scales = scales, .dtype = DTYPE_INT8, .rows = PART, .columns = COLUMNS}};
    struct weight *weight;
    int32_t tokens[ALL];
    cr_assert_eq(backend->ops->weight_create(backend, &weight, sources, 4, NULL, NULL), 0);
    for (int i = 0; i < ALL; i++)
        tokens[i] = ALL - 1 - i;
    float *embedded = run_embed(backend, weight, tokens, ALL, COLUMNS);
    for (int row = 0; row < ALL; row++) {
        /* Weights in int8 keep an int8 source as it is. */
        bool kept = tokens[row] >= ALL - PART && subject->weight_dtype != DTYPE_FP8;
        const float *expected = kept ? full : held;
        expect_same_bits(embedded + row * COLUMNS, expected + tokens[row] % PART * COLUMNS,
                         COLUMNS * sizeof(float), "a row of a source");
    }
    record_checked(OPERATION_WEIGHT_CREATE);
    free(embedded);
    backend->ops->weight_destroy(backend, weight);
    backend_destroy(backend);
}

/* In int8 a row has one scale, so all of it is NaN; else the numbers beside it are as they were. */
ANY_WEIGHTS_TEST(embed, nan_and_infinity_stay_in_their_row)
{
    enum { COLUMNS = 40, PLAIN_ROWS = 67 };
    struct backend *backend = open_for_rows(subject, 1);
    struct random random = {16};
    float *values = random_activations(&random, PLAIN_ROWS * COLUMNS, DTYPE_FLOAT32);
    float expected[COLUMNS];
    int32_t tokens[PLAIN_ROWS];
    values[1 * COLUMNS + 39] = NAN;
    values[65 * COLUMNS + 0] = -INFINITY;
    for (int32_t i = 0; i < PLAIN_ROWS; i++)
        tokens[i] = i;
    struct weight *table = make_weight(backend, values, PLAIN_ROWS, COLUMNS, NULL);
    float *embedded = run_embed(backend, table, tokens, PLAIN_ROWS, COLUMNS);
    for (int32_t row = 0; row < PLAIN_ROWS; row++) {
        bool bad = row == 1 || row == 65;
        for (int32_t i = 0; i < COLUMNS && bad; i++) {
            float value = values[row * COLUMNS + i], found = embedded[row * COLUMNS + i];
            cr_assert_eq(isfinite(found) != 0, isfinite(value) && !subject_is_quantised(subject),
                         "%g became %g", (double)value, (double)found);
        }
        hold(expected, values + row * COLUMNS, COLUMNS, subject->weight_dtype);
        if (!bad)
            expect_same_bits(embedded + row * COLUMNS, expected, sizeof expected, "other rows");
    }
    free(values);
    free(embedded);
    backend->ops->weight_destroy(backend, table);
    backend_destroy(backend);
}

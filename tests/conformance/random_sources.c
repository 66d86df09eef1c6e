/* Weights of random numbers (kernels/random_matrix.h) hold the same ones on every backend. */
#include <stdlib.h>
#include <string.h>
#include "common/error.h"
#include "common/rng.h"
#include "embed.h"

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
    int32_t tokens[EMBED_ROWS_MAX];
    cr_assert_leq(rows, EMBED_ROWS_MAX);
    for (int32_t i = 0; i < rows; i++)
        tokens[i] = i;
    return run_embed(backend, weight, tokens, rows, columns);
}

SUBJECT_TEST(random_sources, hold_the_same_numbers_everywhere)
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

SUBJECT_TEST(random_sources, need_a_spread)
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

/* In every format of weights: as a checkpoint with the same numbers. */
ANY_WEIGHTS_TEST(random_sources, are_rounded_as_a_checkpoint_is)
{
    enum { ROWS = 9, COLUMNS = 72 };
    struct backend *backend = subject_open(subject, 2);
    struct backend_limits limits = plain_limits(ROWS, ROWS);
    const struct tensor_source random = {
        .dtype = DTYPE_BFLOAT16, .rows = ROWS, .columns = COLUMNS, .seed = 77, .spread = 0.5f};
    float values[ROWS * COLUMNS];
    struct weight *made;
    for (int32_t i = 0; i < ROWS * COLUMNS; i++)
        values[i] = random_element(random.seed, random.spread, i);
    reserve(backend, &limits);
    cr_assert_eq(backend->ops->weight_create(backend, &made, &random, 1, NULL, NULL), 0);
    struct weight *given = make_weight(backend, values, ROWS, COLUMNS, NULL);
    float *actual = embed_all(backend, made, ROWS, COLUMNS);
    float *expected = embed_all(backend, given, ROWS, COLUMNS);
    expect_same_bits(actual, expected, sizeof values, "a random weight");
    free(actual);
    free(expected);
    backend->ops->weight_destroy(backend, made);
    backend->ops->weight_destroy(backend, given);
    backend_destroy(backend);
}

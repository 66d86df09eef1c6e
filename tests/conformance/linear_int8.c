/* What is particular to products with int8 weights, or of all quantised ones; linear.c holds them
 * against the reference. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "common/error.h"
#include "linear.h"

enum { COLUMNS_LIMIT = 1 << 17 };

static struct backend *open_for_lines(const struct subject *subject, int32_t lines)
{
    struct backend *backend = subject_open(subject, 1);
    struct backend_limits limits = plain_limits(lines, 16);
    reserve(backend, &limits);
    return backend;
}

/* In a line or in a row of the weight: all products with it are NaN, and no others. */
QUANTISED_TEST(linear_int8, what_is_not_finite_makes_its_line_or_row_nan)
{
    enum { LINES = 8, ROWS = 70, COLUMNS = 133 };
    struct backend *backend = open_for_lines(subject, LINES);
    struct random random = {23};
    float *weight = random_activations(&random, ROWS * COLUMNS, DTYPE_FLOAT32);
    float *bias = random_activations(&random, ROWS, DTYPE_FLOAT32);
    void *in = random_activations(&random, LINES * COLUMNS, subject->dtype);
    const struct tensor_source source = {
        .data = weight, .dtype = DTYPE_FLOAT32, .rows = ROWS, .columns = COLUMNS};
    set_activation(in, 1 * COLUMNS + 0, NAN, subject->dtype);
    set_activation(in, 4 * COLUMNS + 132, INFINITY, subject->dtype);
    set_activation(in, 6 * COLUMNS + 77, -INFINITY, subject->dtype);
    weight[65 * COLUMNS + 132] = NAN;
    weight[66 * COLUMNS + 1] = -INFINITY;
    weight[66 * COLUMNS + 100] = NAN;
    void *out = run_linear(backend, &source, bias, in, LINES);
    for (size_t i = 0; i < LINES * ROWS; i++) {
        size_t line = i / ROWS, row = i % ROWS;
        bool bad = line == 1 || line == 4 || line == 6 || row == 65 || row == 66;
        float value = activation_at(out, i, subject->dtype);
        cr_assert_eq(isnan(value) != 0, bad, "line %zu row %zu is %g", line, row, (double)value);
    }
    free(weight);
    free(bias);
    free(in);
    free(out);
    backend_destroy(backend);
}

/* A line whose scale is 1, times the unit matrix: what comes out is q. */
INT8_TEST(linear_int8, inputs_round_to_nearest_even_and_tiny_lines_are_zeros)
{
    enum { COLUMNS = 19 };
    struct backend *backend = open_for_lines(subject, 2);
    const float line[COLUMNS] = {127,   0.5f,  1.5f,   2.5f,   -0.5f,  -1.5f, -2.5f,
                                 0.75f, 0.25f, -0.75f, 125.5f, 126.5f, -127,  -126.5f,
                                 0,     -0.0f, 1e-30f, 64.5f,  3};
    const float rounded[COLUMNS] = {127, 0,   2,    2,    0, -2, -2, 1,  0, -1,
                                    126, 126, -127, -126, 0, 0,  0,  64, 3};
    int8_t unit[COLUMNS * COLUMNS] = {0};
    float ones[COLUMNS], in[2 * COLUMNS];
    char stored[2 * COLUMNS * sizeof(float)] __attribute__((aligned(8)));
    for (int i = 0; i < COLUMNS; i++) {
        unit[i * COLUMNS + i] = 1;
        ones[i] = 1;
        in[i] = line[i];
        in[COLUMNS + i] = line[i] * 0x1p-110f;
    }
    for (size_t i = 0; i < 2 * COLUMNS; i++)
        set_activation(stored, i, in[i], subject->dtype);
    struct tensor_source source = {
        .data = unit, .scales = ones, .dtype = DTYPE_INT8, .rows = COLUMNS, .columns = COLUMNS};
    void *out = run_linear(backend, &source, NULL, stored, 2);
    for (size_t i = 0; i < COLUMNS; i++) {
        float q = activation_at(out, i, subject->dtype);
        float tiny = activation_at(out, COLUMNS + i, subject->dtype);
        cr_expect_eq(q, rounded[i], "%g became %g", (double)line[i], (double)q);
        cr_expect_eq(tiny, 0, "%g became %g", (double)in[COLUMNS + i], (double)tiny);
    }
    free(out);
    backend_destroy(backend);
}

/* The largest sums that int32 has to hold, of the deepest weight there can be. */
INT8_TEST(linear_int8, deepest_weight_does_not_overflow)
{
    struct backend *backend = subject_open(subject, 2);
    struct backend_limits limits = plain_limits(4, 16);
    int8_t *rows = malloc(2 * COLUMNS_LIMIT);
    void *in = malloc(COLUMNS_LIMIT * sizeof(float));
    float scales[2] = {1, 1};
    struct weight *weight;
    struct error err = {0};
    cr_assert(rows != NULL && in != NULL);
    memset(rows, -128, COLUMNS_LIMIT);
    memset(rows + COLUMNS_LIMIT, 127, COLUMNS_LIMIT);
    for (size_t i = 0; i < COLUMNS_LIMIT; i++)
        set_activation(in, i, 127, subject->dtype);
    limits.weight_columns = COLUMNS_LIMIT;
    reserve(backend, &limits);
    struct tensor_source source = {
        .data = rows, .scales = scales, .dtype = DTYPE_INT8, .rows = 2, .columns = COLUMNS_LIMIT};
    void *out = run_linear(backend, &source, NULL, in, 1);
    const double exact[2] = {-128.0 * 127 * COLUMNS_LIMIT, 127.0 * 127 * COLUMNS_LIMIT};
    for (size_t i = 0; i < 2; i++) {
        float expected = (float)exact[i];
        if (subject->dtype == DTYPE_BFLOAT16)
            expected = bfloat16_to_float(bfloat16_from_float(expected));
        cr_expect_eq(activation_at(out, i, subject->dtype), expected);
    }
    source.rows = 1;
    source.columns = COLUMNS_LIMIT + 1;
    cr_expect_eq(backend->ops->weight_create(backend, &weight, &source, 1, NULL, &err),
                 ERROR_INVALID);
    cr_expect_not_null(strstr(err.message, "131073 columns"), "%s", err.message);
    free(out);
    free(rows);
    free(in);
    backend_destroy(backend);
}

static float random_gaussian(struct random *random)
{
    float sum = 0;
    for (int i = 0; i < 6; i++)
        sum += random_float(random);
    return sum / sqrtf(2);
}

/* Both roundings together: some 1e-4 of the size of normally distributed numbers. */
INT8_TEST(linear_int8, is_near_the_product_that_is_not_quantised)
{
    enum { LINES = 16, ROWS = 65, COLUMNS = 1000 };
    const struct subject plain_subject = subject_with_plain_weights(subject);
    struct backend *backend = open_for_lines(subject, LINES);
    struct backend *plain = reference_open(&plain_subject);
    struct backend_limits limits = plain_limits(LINES, 16);
    struct random random = {24};
    float *weight = random_activations(&random, ROWS * COLUMNS, DTYPE_FLOAT32);
    void *in = random_activations(&random, LINES * COLUMNS, subject->dtype);
    const struct tensor_source source = {
        .data = weight, .dtype = DTYPE_FLOAT32, .rows = ROWS, .columns = COLUMNS};
    double error = 0, size = 0;
    reserve(plain, &limits);
    for (size_t i = 0; i < ROWS * COLUMNS; i++)
        weight[i] = random_gaussian(&random);
    for (size_t i = 0; i < LINES * COLUMNS; i++)
        set_activation(in, i, random_gaussian(&random), subject->dtype);
    void *actual = run_linear(backend, &source, NULL, in, LINES);
    void *expected = run_linear(plain, &source, NULL, in, LINES);
    for (size_t i = 0; i < LINES * ROWS; i++) {
        double a = activation_at(actual, i, subject->dtype);
        double e = activation_at(expected, i, subject->dtype);
        error += (a - e) * (a - e);
        size += e * e;
    }
    cr_expect_lt(error, 5e-4 * size, "NMSE %g", error / size);
    cr_expect_gt(error, 1e-6 * size, "NMSE %g: nothing was quantised", error / size);
    free(weight);
    free(in);
    free(actual);
    free(expected);
    backend_destroy(backend);
    backend_destroy(plain);
}

QUANTISED_TEST(linear_int8, limits_have_to_say_how_wide_the_lines_are)
{
    struct backend *backend = subject_open(subject, 1);
    struct backend_limits limits = plain_limits(7, 1001);
    struct error err = {0};
    limits.weight_columns = 0;
    cr_expect_eq(backend->ops->reserve(backend, &limits, &err), ERROR_INVALID);
    cr_expect_not_null(strstr(err.message, "weight_columns"), "%s", err.message);
    backend_destroy(backend);
}

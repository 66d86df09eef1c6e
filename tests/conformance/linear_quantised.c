/* What products with quantised weights have in common; linear.c holds them against the reference.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "common/error.h"
#include "linear.h"

struct backend *open_for_quantised(const struct subject *subject, int32_t lines)
{
    struct backend *backend = subject_open(subject, 1);
    struct backend_limits limits = plain_limits(lines, 16);
    reserve(backend, &limits);
    return backend;
}

static float random_gaussian(struct random *random)
{
    float sum = 0;
    for (int i = 0; i < 6; i++)
        sum += random_float(random);
    return sum / sqrtf(2);
}

void expect_quantised_near_plain(const struct subject *subject, double least, double most)
{
    enum { LINES = 16, ROWS = 65, COLUMNS = 1000 };
    const struct subject plain_subject = subject_with_plain_weights(subject);
    struct backend *backend = open_for_quantised(subject, LINES);
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
    cr_expect_lt(error, most * size, "NMSE %g", error / size);
    cr_expect_gt(error, least * size, "NMSE %g: nothing was quantised", error / size);
    free(weight);
    free(in);
    free(actual);
    free(expected);
    backend_destroy(backend);
    backend_destroy(plain);
}

void expect_inputs_round(const struct subject *subject, const float *line, const float *rounded,
                         int32_t columns, uint8_t one, float tiny)
{
    struct backend *backend = open_for_quantised(subject, 2);
    uint8_t unit[ROUNDED_MAX * ROUNDED_MAX] = {0};
    float ones[ROUNDED_MAX];
    char stored[2 * ROUNDED_MAX * sizeof(float)] __attribute__((aligned(8)));
    size_t count = (size_t)columns;
    cr_assert_leq(columns, ROUNDED_MAX);
    for (size_t i = 0; i < count; i++) {
        unit[i * count + i] = one;
        ones[i] = 1;
        set_activation(stored, i, line[i], subject->dtype);
        set_activation(stored, count + i, line[i] * tiny, subject->dtype);
    }
    struct tensor_source source = {.data = unit,
                                   .scales = ones,
                                   .dtype = subject->weight_dtype,
                                   .rows = columns,
                                   .columns = columns};
    void *out = run_linear(backend, &source, NULL, stored, 2);
    for (size_t i = 0; i < count; i++) {
        float q = activation_at(out, i, subject->dtype);
        float lost = activation_at(out, count + i, subject->dtype);
        cr_expect_eq(q, rounded[i], "%g became %g", (double)line[i], (double)q);
        cr_expect_eq(lost, 0, "%g became %g", (double)(line[i] * tiny), (double)lost);
    }
    free(out);
    backend_destroy(backend);
}

/* In a line or in a row of the weight: all products with it are NaN, and no others. */
QUANTISED_TEST(linear_quantised, what_is_not_finite_makes_its_line_or_row_nan)
{
    enum { LINES = 8, ROWS = 70, COLUMNS = 133 };
    struct backend *backend = open_for_quantised(subject, LINES);
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

QUANTISED_TEST(linear_quantised, limits_have_to_say_how_wide_the_lines_are)
{
    struct backend *backend = subject_open(subject, 1);
    struct backend_limits limits = plain_limits(7, 1001);
    struct error err = {0};
    limits.weight_columns = 0;
    cr_expect_eq(backend->ops->reserve(backend, &limits, &err), ERROR_INVALID);
    cr_expect_not_null(strstr(err.message, "weight_columns"), "%s", err.message);
    backend_destroy(backend);
}

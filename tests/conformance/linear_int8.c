/* What is particular to products with int8 weights; linear.c holds them against the reference. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "common/error.h"
#include "linear.h"

enum { COLUMNS_LIMIT = 1 << 17 };

INT8_TEST(linear_int8, inputs_round_to_nearest_even_and_tiny_lines_are_zeros)
{
    enum { COLUMNS = 19 };
    const float line[COLUMNS] = {127,   0.5f,  1.5f,   2.5f,   -0.5f,  -1.5f, -2.5f,
                                 0.75f, 0.25f, -0.75f, 125.5f, 126.5f, -127,  -126.5f,
                                 0,     -0.0f, 1e-30f, 64.5f,  3};
    const float rounded[COLUMNS] = {127, 0,   2,    2,    0, -2, -2, 1,  0, -1,
                                    126, 126, -127, -126, 0, 0,  0,  64, 3};
    expect_inputs_round(subject, line, rounded, COLUMNS, 1, 0x1p-110f);
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

/* Both roundings together: some 1e-4 of the size of normally distributed numbers. */
INT8_TEST(linear_int8, is_near_the_product_that_is_not_quantised)
{
    expect_quantised_near_plain(subject, 1e-6, 5e-4);
}

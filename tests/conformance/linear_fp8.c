/* What is particular to products with fp8 weights; linear.c holds them against the reference. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "linear.h"

FP8_TEST(linear_fp8, inputs_round_to_nearest_even_and_tiny_lines_are_zeros)
{
    enum { COLUMNS = 17 };
    /* Neighbours are 1 apart from 8 on, 32 from 256 on, 2^-9 below 2^-6. */
    const float line[COLUMNS] = {448,     -448,     8.5f,      9.5f,    -8.5f,  8.75f,
                                 272,     304,      400,       432,     0,      -0.0f,
                                 0x1p-9f, 0x1p-10f, 0x1.8p-9f, 0x1p-7f, 1.0625f};
    const float rounded[COLUMNS] = {448, -448, 8, 10,      -8, 9,       256,     320, 384,
                                    448, 0,    0, 0x1p-9f, 0,  0x1p-8f, 0x1p-7f, 1};
    expect_inputs_round(subject, line, rounded, COLUMNS, 0x38 /* 1 */, 0x1p-112f);
}

/* Rows of int8 as a checkpoint has them are rounded once more, those of fp8 are not. */
FP8_TEST(linear_fp8, takes_checkpoints_of_int8_and_of_fp8)
{
    enum { LINES = 3, ROWS = 24, COLUMNS = 96, SIZE = ROWS * COLUMNS };
    struct backend *backend = open_for_quantised(subject, LINES);
    struct random random = {41};
    int8_t small[SIZE];
    uint8_t bytes[SIZE];
    float scales[ROWS], from_int8[SIZE], from_fp8[SIZE];
    void *in = random_activations(&random, LINES * COLUMNS, subject->dtype);
    for (int i = 0; i < SIZE; i++) {
        if (i % COLUMNS == 0)
            scales[i / COLUMNS] = 0.001f + fabsf(random_float(&random));
        small[i] = (int8_t)((int)random_below(&random, 256) - 128);
        bytes[i] = (uint8_t)(random_below(&random, 2) * 128 + random_below(&random, 0x7f));
        if (i % COLUMNS == 5)
            bytes[i] = 0x7e; /* so that the scale of the same numbers is the same */
        from_int8[i] = (float)small[i] * scales[i / COLUMNS];
        from_fp8[i] = fp8_to_float(bytes[i]) * scales[i / COLUMNS];
    }
    const struct tensor_source sources[][2] = {
        {{.data = small, .scales = scales, .dtype = DTYPE_INT8, .rows = ROWS, .columns = COLUMNS},
         {.data = from_int8, .dtype = DTYPE_FLOAT32, .rows = ROWS, .columns = COLUMNS}},
        {{.data = bytes, .scales = scales, .dtype = DTYPE_FP8, .rows = ROWS, .columns = COLUMNS},
         {.data = from_fp8, .dtype = DTYPE_FLOAT32, .rows = ROWS, .columns = COLUMNS}},
    };
    for (int i = 0; i < 2; i++) {
        void *actual = run_linear(backend, &sources[i][0], NULL, in, LINES);
        void *expected = run_linear(backend, &sources[i][1], NULL, in, LINES);
        /* The scale of float32 rows, 448 s / 448, may be its neighbour. */
        expect_near(actual, expected, LINES * ROWS, subject->dtype, 1, "a checkpoint's rows");
        free(actual);
        free(expected);
    }
    free(in);
    backend_destroy(backend);
}

/*
 * Both roundings together: an error of up to 2^-4 of each number, evenly spread, is one of some
 * 2^-4 / sqrt(12) / 1.5 of its size, squared 1.5e-4 to 7e-4 a side.
 */
FP8_TEST(linear_fp8, is_near_the_product_that_is_not_quantised)
{
    expect_quantised_near_plain(subject, 3e-4, 2e-3);
}

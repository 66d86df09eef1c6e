/*
 * The kernel for products of few lines, against sums in double: every form of result, shapes that
 * end inside of a tile and of a chunk, tiles of several blocks. Linked with the conformance suite.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "common/error.h"
#include "kernels/cuda/few_lines.h"
#include "kernels/quantise.h"
#include "tests/conformance/conformance.h"

enum { LINES_MAX = 70, SENTINEL = 0x5a };

static const enum dtype DTYPES[] = {DTYPE_BFLOAT16, DTYPE_INT8, DTYPE_FP8};

struct form {
    bool rounded, scaled, ranged;
};

/* A product with random operands. */
struct trial {
    struct cuda_backend *cuda;
    struct cuda_weight weight;
    struct cuda_product product;
    float *in_scales;
    size_t out_bytes, element;
};

static void *random_bytes(struct random *random, size_t size, enum dtype dtype)
{
    uint8_t *bytes = malloc(size);
    cr_assert_not_null(bytes);
    for (size_t i = 0; i < size; i++) {
        bytes[i] = (uint8_t)random_below(random, 256);
        if (dtype == DTYPE_FP8 && (bytes[i] & 0x7f) == 0x7f)
            bytes[i] = 0; /* NaN */
    }
    return bytes;
}

static void *random_matrix_of(struct random *random, int64_t count, enum dtype dtype)
{
    if (dtype == DTYPE_BFLOAT16)
        return random_activations(random, (size_t)count, dtype);
    return random_bytes(random, (size_t)count, dtype);
}

static struct trial trial_create(enum dtype dtype, int32_t rows, int32_t depth, int32_t lines,
                                 struct form form)
{
    const struct backend_options options = {
        .dtype = DTYPE_BFLOAT16, .weight_dtype = dtype, .instructions = "seeded"};
    struct random random = {(uint64_t)(rows * 131 + depth * 7 + lines)};
    struct error err = {0};
    struct backend *backend;
    struct trial trial = {.element = form.rounded ? sizeof(uint16_t) : sizeof(float)};
    cr_assert_eq(backend_create(&backend, "simt", &options, &err), 0, "%s", err.message);
    trial.cuda = cuda_self(backend);
    trial.weight = (struct cuda_weight){.rows = rows,
                                        .columns = depth,
                                        .padded_rows = rows,
                                        .stride = depth,
                                        .dtype = dtype,
                                        .values = random_matrix_of(&random, rows * depth, dtype),
                                        .scales = malloc((size_t)rows * sizeof(float))};
    trial.in_scales = malloc((size_t)lines * sizeof(float));
    cr_assert(trial.weight.scales != NULL && trial.in_scales != NULL);
    for (int32_t i = 0; i < rows; i++)
        trial.weight.scales[i] = 0.5f + fabsf(random_float(&random));
    for (int32_t i = 0; i < lines; i++)
        trial.in_scales[i] = 0.5f + fabsf(random_float(&random));
    /* A range of the rows, and lines with a space behind them. */
    int64_t first = form.ranged ? rows / 3 : 0;
    trial.product = (struct cuda_product){
        .first = first,
        .rows = rows - first - (form.ranged ? 1 : 0),
        .in = random_matrix_of(&random, (int64_t)lines * depth, dtype),
        .lines = lines,
        .out_stride = rows + 4,
        .in_scales = form.scaled ? trial.in_scales : NULL,
        .rounded = form.rounded,
        .ranged = form.ranged,
    };
    trial.out_bytes = (size_t)lines * (size_t)trial.product.out_stride * trial.element;
    trial.product.out = malloc(trial.out_bytes);
    cr_assert_not_null(trial.product.out);
    return trial;
}

static void trial_destroy(struct trial *trial)
{
    free(trial->weight.values);
    free(trial->weight.scales);
    free(trial->in_scales);
    free((void *)trial->product.in);
    free(trial->product.out);
    backend_destroy(&trial->cuda->base);
}

static void compute(struct trial *trial)
{
    trial->product.weight = &trial->weight;
    memset(trial->product.out, SENTINEL, trial->out_bytes);
    cr_assert(cuda_few_lines_fits(trial->cuda, &trial->product));
    cuda_few_lines(trial->cuda, &trial->product);
    for (int32_t i = 0; i < 8; i++)
        cr_assert_eq(trial->cuda->few_tickets[i], 0, "a ticket is left behind");
}

static double element_at(const void *matrix, int64_t at, enum dtype dtype)
{
    if (dtype == DTYPE_BFLOAT16)
        return bfloat16_to_float(((const uint16_t *)matrix)[at]);
    return quantise_value(dtype, ((const uint8_t *)matrix)[at]);
}

/* The sum, and that of the magnitudes, which bounds its error. */
static double sum_of(const struct trial *trial, int64_t line, int64_t row, double *magnitude)
{
    const struct cuda_weight *weight = &trial->weight;
    double sum = 0;
    *magnitude = 0;
    for (int64_t i = 0; i < weight->stride; i++) {
        double term = element_at(trial->product.in, line * weight->stride + i, weight->dtype) *
                      element_at(weight->values, (trial->product.first + row) * weight->stride + i,
                                 weight->dtype);
        sum += term;
        *magnitude += fabs(term);
    }
    return sum;
}

static void expect_element(const struct trial *trial, int64_t line, int64_t row)
{
    const struct cuda_product *product = &trial->product;
    const int64_t at = line * product->out_stride + row;
    double magnitude, expected = sum_of(trial, line, row, &magnitude), found, limit;
    if (trial->weight.dtype == DTYPE_INT8) {
        cr_assert_eq(((const int32_t *)product->out)[at], (int32_t)expected, "line %d, row %d",
                     (int)line, (int)row);
        return;
    }
    double scale =
        product->in_scales == NULL
            ? 1
            : (double)(trial->in_scales[line] * trial->weight.scales[product->first + row]);
    limit = 3e-6 * magnitude * scale;
    if (product->rounded) {
        found = bfloat16_to_float(((const uint16_t *)product->out)[at]);
        limit += fabs(expected * scale) / 250;
    } else {
        found = ((const float *)product->out)[at];
    }
    cr_assert(fabs(found - expected * scale) <= limit, "line %d, row %d: %g, expected %g",
              (int)line, (int)row, found, expected * scale);
}

static void expect_product(const struct trial *trial)
{
    const struct cuda_product *product = &trial->product;
    const uint8_t *out = product->out;
    for (int64_t line = 0; line < product->lines; line++) {
        for (int64_t row = 0; row < product->rows; row++)
            expect_element(trial, line, row);
        size_t begin = (size_t)(line * product->out_stride + product->rows) * trial->element;
        size_t end = (size_t)((line + 1) * product->out_stride) * trial->element;
        for (size_t i = begin; i < end; i++)
            cr_assert_eq(out[i], SENTINEL, "line %d: written behind its last row", (int)line);
    }
}

static void expect_shape(enum dtype dtype, int32_t rows, int32_t depth, int32_t lines, int blocks)
{
    const struct form forms[] = {
        {dtype != DTYPE_INT8, dtype == DTYPE_FP8, false}, {false, dtype == DTYPE_FP8, true}, {0}};
    for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++) {
        struct trial trial = trial_create(dtype, rows, depth, lines, forms[i]);
        trial.cuda->facts.multiprocessors = blocks;
        compute(&trial);
        expect_product(&trial);
        trial_destroy(&trial);
    }
}

/* Rows: of one tile, exactly one, several. Depth in bytes: of a piece, ending inside of a chunk. */
Test(few_lines, products_are_those_of_the_sums)
{
    const struct {
        int32_t rows, bytes, lines;
        int blocks;
    } shapes[] = {{1, 16, 1, 1},     {5, 48, 7, 3},     {128, 128, 32, 2},  {130, 272, 33, 4},
                  {40, 2048, 3, 7},  {300, 400, 9, 5},  {300, 1200, 64, 4}, {257, 640, 17, 200},
                  {700, 336, 70, 3}, {129, 4096, 5, 13}};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        for (int j = 0; j < 3; j++) {
            int32_t depth = shapes[i].bytes / (int32_t)dtype_size(DTYPES[j]);
            expect_shape(DTYPES[j], shapes[i].rows, depth, shapes[i].lines, shapes[i].blocks);
        }
    }
}

/* With 1 to 70 lines, which take kernels for 32 and for 64, and two launches. */
Test(few_lines, a_line_has_the_same_bits_whatever_comes_with_it)
{
    for (int j = 0; j < 3; j++) {
        const struct form form = {DTYPES[j] == DTYPE_BFLOAT16, DTYPES[j] == DTYPE_FP8, false};
        struct trial trial = trial_create(DTYPES[j], 200, 208, LINES_MAX, form);
        size_t line = (size_t)trial.product.out_stride * trial.element;
        compute(&trial);
        char *all = malloc(trial.out_bytes);
        cr_assert_not_null(all);
        memcpy(all, trial.product.out, trial.out_bytes);
        const int32_t counts[] = {1, 31, 33, 64, 65};
        for (int i = 0; i < 5; i++) {
            trial.product.lines = counts[i];
            compute(&trial);
            expect_same_bits(trial.product.out, all, (size_t)counts[i] * line, "fewer lines");
        }
        free(all);
        trial_destroy(&trial);
    }
}

Test(few_lines, what_the_kernel_cannot_compute_is_refused)
{
    const struct form form = {0};
    struct trial trial = trial_create(DTYPE_BFLOAT16, 8, 12, 4, form);
    trial.product.weight = &trial.weight;
    cr_expect_not(cuda_few_lines_fits(trial.cuda, &trial.product), "rows at no multiple of 16");
    trial.weight.stride = 8;
    cr_expect(cuda_few_lines_fits(trial.cuda, &trial.product));
    trial.cuda->facts.shared_bytes = 100 << 10;
    cr_expect_not(cuda_few_lines_fits(trial.cuda, &trial.product), "too little shared memory");
    trial.cuda->facts.shared_bytes = 163 << 10;
    trial.weight.dtype = DTYPE_FP8;
    trial.weight.stride = 16;
    cr_expect(cuda_few_lines_fits(trial.cuda, &trial.product));
    trial.cuda->facts.capability = 89;
    cr_expect_not(cuda_few_lines_fits(trial.cuda, &trial.product), "no instruction for it");
    trial_destroy(&trial);
}

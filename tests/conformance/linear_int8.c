/* Products with int8 weights: the same bits as the reference, everywhere. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "common/error.h"
#include "head.h"

struct int8_case {
    int32_t lines;
    int64_t rows, columns; /* of the weight */
};

static const struct int8_case CASES[] = {
    {1, 1, 1},     {1, 64, 64},   {2, 63, 65},    {3, 65, 63}, {4, 130, 257},  {5, 2, 1031},
    {6, 100, 512}, {7, 704, 256}, {32, 256, 704}, {33, 33, 3}, {129, 72, 130},
};
enum { CASE_COUNT = sizeof CASES / sizeof CASES[0], LINES_MAX = 129, COLUMNS_LIMIT = 1 << 17 };

static struct backend *open_with(const char *name, const struct backend_options *options)
{
    struct backend *backend;
    struct error err = {0};
    cr_assert_eq(backend_create(&backend, name, options, &err), 0, "%s", err.message);
    return backend;
}

/* As subject_open, with int8 weights. */
static struct backend *open_int8(const struct subject *subject, int threads)
{
    subject_need_int8(subject);
    backend_destroy(subject_open(subject, threads)); /* skips what is not there */
    const char *instructions = *subject->instructions ? subject->instructions : NULL;
    const struct backend_options options = {.dtype = subject->dtype,
                                            .weight_dtype = DTYPE_INT8,
                                            .threads = threads,
                                            .instructions = instructions};
    return counted_backend_create(open_with(subject->backend, &options));
}

static struct backend *open_int8_reference(enum dtype dtype)
{
    const struct backend_options options = {
        .dtype = dtype, .weight_dtype = DTYPE_INT8, .threads = 1};
    return open_with("ref", &options);
}

/* An input, and the same matrix in two forms. */
struct operands {
    struct int8_case shape;
    void *in;    /* [lines, columns] activations */
    float *full; /* [rows, columns] */
    int8_t *small;
    float *scales; /* [rows] */
    float *bias;   /* [rows] */
};

static struct operands make_operands(struct random *random, const struct int8_case *shape,
                                     enum dtype dtype)
{
    size_t rows = (size_t)shape->rows, elements = rows * (size_t)shape->columns;
    struct operands made = {
        .shape = *shape,
        .in = random_activations(random, (size_t)(shape->lines * shape->columns), dtype),
        .full = random_activations(random, elements, DTYPE_FLOAT32),
        .small = malloc(elements),
        .scales = random_activations(random, rows, DTYPE_FLOAT32),
        .bias = random_activations(random, rows, DTYPE_FLOAT32),
    };
    cr_assert_not_null(made.small);
    for (size_t i = 0; i < elements; i++)
        made.small[i] = (int8_t)((int)random_below(random, 256) - 128);
    return made;
}

static void free_operands(struct operands *operands)
{
    free(operands->in);
    free(operands->full);
    free(operands->small);
    free(operands->scales);
    free(operands->bias);
}

static struct tensor_source float_source(const struct operands *operands)
{
    return (struct tensor_source){.data = operands->full,
                                  .dtype = DTYPE_FLOAT32,
                                  .rows = operands->shape.rows,
                                  .columns = operands->shape.columns};
}

static struct tensor_source int8_source(const struct operands *operands)
{
    return (struct tensor_source){.data = operands->small,
                                  .scales = operands->scales,
                                  .dtype = DTYPE_INT8,
                                  .rows = operands->shape.rows,
                                  .columns = operands->shape.columns};
}

/* [lines, rows] of one source, as malloc'ed bytes. */
static void *multiply(struct backend *backend, const struct tensor_source *source,
                      const float *bias, const void *in, int32_t lines)
{
    size_t element = dtype_size(backend->dtype);
    struct weight *weight;
    struct error err = {0};
    cr_assert_eq(backend->ops->weight_create(backend, &weight, source, 1, bias, &err), 0, "%s",
                 err.message);
    struct guarded input = guarded_create(backend, in, (size_t)(lines * source->columns) * element);
    struct guarded output = guarded_create(backend, NULL, (size_t)(lines * source->rows) * element);
    struct step_rows step = {0};
    begin_step(backend, &step);
    backend->ops->linear(backend, output.data, input.data, weight, lines);
    end_step(backend);
    backend->ops->weight_destroy(backend, weight);
    guarded_drop(&input, in);
    return guarded_take(&output);
}

SUBJECT_TEST(linear_int8, gives_the_bits_of_the_reference)
{
    struct backend *backend = open_int8(subject, 2);
    struct backend *reference = open_int8_reference(subject->dtype);
    struct backend_limits limits = plain_limits(LINES_MAX, 16);
    struct random random = {21};
    reserve(backend, &limits);
    reserve(reference, &limits);
    for (int i = 0; i < 4 * CASE_COUNT; i++) {
        const struct int8_case *shape = &CASES[i / 4];
        struct operands operands = make_operands(&random, shape, subject->dtype);
        struct tensor_source source = i % 2 == 0 ? float_source(&operands) : int8_source(&operands);
        const float *bias = i % 4 < 2 ? operands.bias : NULL;
        void *actual = multiply(backend, &source, bias, operands.in, shape->lines);
        void *expected = multiply(reference, &source, bias, operands.in, shape->lines);
        size_t outputs = (size_t)(shape->lines * shape->rows);
        expect_same_bits(actual, expected, outputs * dtype_size(subject->dtype), "int8 linear");
        free(actual);
        free(expected);
        free_operands(&operands);
    }
    backend_destroy(backend);
    backend_destroy(reference);
}

SUBJECT_TEST(linear_int8, line_does_not_depend_on_batch_or_threads)
{
    struct backend *backend = open_int8(subject, 1);
    struct backend *threaded = open_int8(subject, 3);
    struct backend_limits limits = plain_limits(LINES_MAX, 16);
    struct random random = {22};
    reserve(backend, &limits);
    reserve(threaded, &limits);
    for (int i = 0; i < CASE_COUNT; i++) {
        const struct int8_case *shape = &CASES[i];
        struct operands operands = make_operands(&random, shape, subject->dtype);
        struct tensor_source source = float_source(&operands);
        size_t line_in = (size_t)shape->columns * dtype_size(subject->dtype);
        size_t line_out = (size_t)shape->rows * dtype_size(subject->dtype);
        char *batch = multiply(backend, &source, NULL, operands.in, shape->lines);
        char *other = multiply(threaded, &source, NULL, operands.in, shape->lines);
        expect_same_bits(other, batch, (size_t)shape->lines * line_out, "three threads");
        for (int32_t line = 0; line < shape->lines; line += 1 + shape->lines / 5) {
            char *alone =
                multiply(backend, &source, NULL, (char *)operands.in + (size_t)line * line_in, 1);
            expect_same_bits(alone, batch + (size_t)line * line_out, line_out, "one line alone");
            free(alone);
        }
        free(batch);
        free(other);
        free_operands(&operands);
    }
    backend_destroy(backend);
    backend_destroy(threaded);
}

/* In a line or in a row of the weight: all products with it are NaN, and no others. */
SUBJECT_TEST(linear_int8, what_is_not_finite_makes_its_line_or_row_nan)
{
    struct backend *backend = open_int8(subject, 1);
    struct backend *reference = open_int8_reference(subject->dtype);
    struct backend_limits limits = plain_limits(16, 16);
    const struct int8_case shape = {8, 70, 133};
    struct random random = {23};
    reserve(backend, &limits);
    reserve(reference, &limits);
    struct operands operands = make_operands(&random, &shape, subject->dtype);
    set_activation(operands.in, 1 * 133 + 0, NAN, subject->dtype);
    set_activation(operands.in, 4 * 133 + 132, INFINITY, subject->dtype);
    set_activation(operands.in, 6 * 133 + 77, -INFINITY, subject->dtype);
    operands.full[65 * 133 + 132] = NAN;
    operands.full[66 * 133 + 1] = -INFINITY;
    operands.full[66 * 133 + 100] = NAN;
    struct tensor_source source = float_source(&operands);
    void *actual = multiply(backend, &source, operands.bias, operands.in, 8);
    void *expected = multiply(reference, &source, operands.bias, operands.in, 8);
    for (size_t i = 0; i < 8 * 70; i++) {
        size_t line = i / 70, row = i % 70;
        bool bad = line == 1 || line == 4 || line == 6 || row == 65 || row == 66;
        float a = activation_at(actual, i, subject->dtype);
        float e = activation_at(expected, i, subject->dtype);
        cr_assert_eq(isnan(a) != 0, bad, "line %zu row %zu is %g", line, row, (double)a);
        cr_assert_eq(isnan(e) != 0, bad, "line %zu row %zu is %g", line, row, (double)e);
        cr_assert(bad || a == e, "line %zu row %zu is %a, expected %a", line, row, (double)a,
                  (double)e);
    }
    free(actual);
    free(expected);
    free_operands(&operands);
    backend_destroy(backend);
    backend_destroy(reference);
}

/* A line whose scale is 1, times the unit matrix: what comes out is q. */
SUBJECT_TEST(linear_int8, inputs_round_to_nearest_even_and_tiny_lines_are_zeros)
{
    enum { COLUMNS = 19 };
    struct backend *backend = open_int8(subject, 1);
    struct backend_limits limits = plain_limits(8, 16);
    const float line[COLUMNS] = {127,   0.5f,  1.5f,   2.5f,   -0.5f,  -1.5f, -2.5f,
                                 0.75f, 0.25f, -0.75f, 125.5f, 126.5f, -127,  -126.5f,
                                 0,     -0.0f, 1e-30f, 64.5f,  3};
    const float rounded[COLUMNS] = {127, 0,   2,    2,    0, -2, -2, 1,  0, -1,
                                    126, 126, -127, -126, 0, 0,  0,  64, 3};
    int8_t unit[COLUMNS * COLUMNS] = {0};
    float ones[COLUMNS], in[2 * COLUMNS];
    char stored[2 * COLUMNS * sizeof(float)] __attribute__((aligned(8)));
    reserve(backend, &limits);
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
    void *out = multiply(backend, &source, NULL, stored, 2);
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
SUBJECT_TEST(linear_int8, deepest_weight_does_not_overflow)
{
    struct backend *backend = open_int8(subject, 2);
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
    void *out = multiply(backend, &source, NULL, in, 1);
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
SUBJECT_TEST(linear_int8, is_near_the_product_that_is_not_quantised)
{
    struct backend *backend = open_int8(subject, 1);
    struct backend *plain = reference_open(subject->dtype);
    struct backend_limits limits = plain_limits(16, 16);
    const struct int8_case shape = {16, 65, 1000};
    struct random random = {24};
    reserve(backend, &limits);
    reserve(plain, &limits);
    struct operands operands = make_operands(&random, &shape, subject->dtype);
    for (size_t i = 0; i < 65 * 1000; i++)
        operands.full[i] = random_gaussian(&random);
    for (size_t i = 0; i < 16 * 1000; i++)
        set_activation(operands.in, i, random_gaussian(&random), subject->dtype);
    struct tensor_source source = float_source(&operands);
    void *actual = multiply(backend, &source, NULL, operands.in, 16);
    void *expected = multiply(plain, &source, NULL, operands.in, 16);
    double error = 0, size = 0;
    for (size_t i = 0; i < 16 * 65; i++) {
        double a = activation_at(actual, i, subject->dtype);
        double e = activation_at(expected, i, subject->dtype);
        error += (a - e) * (a - e);
        size += e * e;
    }
    cr_expect_lt(error, 5e-4 * size, "NMSE %g", error / size);
    cr_expect_gt(error, 1e-6 * size, "NMSE %g: nothing was quantised", error / size);
    free(actual);
    free(expected);
    free_operands(&operands);
    backend_destroy(backend);
    backend_destroy(plain);
}

/* Rows of a float source and of an int8 source, one after the other. */
SUBJECT_TEST(linear_int8, embed_reads_rows_of_every_source)
{
    struct backend *backend = open_int8(subject, 1);
    struct backend_limits limits = plain_limits(8, 16);
    const struct int8_case shape = {1, 66, 71};
    struct random random = {25};
    struct weight *table;
    reserve(backend, &limits);
    struct operands operands = make_operands(&random, &shape, subject->dtype);
    struct tensor_source sources[2] = {float_source(&operands), int8_source(&operands)};
    cr_assert_eq(backend->ops->weight_create(backend, &table, sources, 2, NULL, NULL), 0);
    const int32_t tokens[5] = {131, 0, 65, 66, 64}, zeros[5] = {0};
    const uint8_t shadow[5] = {0};
    struct guarded residual = guarded_create(backend, NULL, sizeof(float) * 5 * 71);
    struct step_rows step = {.rows = 5,
                             .token = tokens,
                             .sequence = zeros,
                             .position = zeros,
                             .kv_end = zeros,
                             .shadow = shadow,
                             .page_table = zeros};
    begin_step(backend, &step);
    backend->ops->embed(backend, residual.data, table);
    end_step(backend);
    float *embedded = guarded_take(&residual);
    for (int i = 0; i < 5 * 71; i++) {
        int32_t token = tokens[i / 71];
        int64_t at = token % 66 * 71 + i % 71;
        float largest = 0;
        for (int64_t k = 0; k < 71; k++)
            largest = fmaxf(largest, fabsf(operands.full[token % 66 * 71 + k]));
        float q = token < 66 ? rintf(operands.full[at] * (127 / largest)) : operands.small[at];
        float scale = token < 66 ? largest / 127 : operands.scales[token - 66];
        cr_assert_eq(embedded[i], q * scale, "token %d column %d", token, i % 71);
    }
    free(embedded);
    backend->ops->weight_destroy(backend, table);
    free_operands(&operands);
    backend_destroy(backend);
}

SUBJECT_TEST(linear_int8, head_judges_the_logits_of_the_reference)
{
    enum { VOCABULARY = 201, COLUMNS = 130, ROWS = 9 };
    struct backend *backend = open_int8(subject, 2);
    struct backend *reference = open_int8_reference(subject->dtype);
    struct backend_limits limits = plain_limits(ROWS, VOCABULARY);
    const struct int8_case shape = {ROWS, VOCABULARY, COLUMNS};
    struct random random = {26};
    struct head_row rows[ROWS];
    reserve(backend, &limits);
    reserve(reference, &limits);
    struct operands operands = make_operands(&random, &shape, subject->dtype);
    for (int32_t i = 0; i < ROWS; i++) {
        rows[i] = plain_row(i);
        rows[i].partner = i % 3 == 1 ? ROWS - 1 - i : -1;
        rows[i].guidance = 0.5f;
        rows[i].given = 3 * i;
    }
    struct head_batch batch = {
        .rows = ROWS, .row = rows, .mask_token = 2, .token_limit = VOCABULARY - 1};
    struct head_output actual = run_head(backend, operands.full, operands.bias, VOCABULARY, COLUMNS,
                                         operands.in, ROWS, &batch);
    struct head_output expected = run_head(reference, operands.full, operands.bias, VOCABULARY,
                                           COLUMNS, operands.in, ROWS, &batch);
    for (int i = 0; i < ROWS; i++) {
        const struct head_statistics *a = &actual.row[i], *e = &expected.row[i];
        cr_expect_eq(a->token, e->token, "row %d", i);
        cr_expect_float_eq(a->logsumexp, e->logsumexp, 1e-5f * fmaxf(1, fabsf(e->logsumexp)));
        cr_expect_float_eq(a->given_logprob, e->given_logprob,
                           1e-5f * fmaxf(1, fabsf(e->given_logprob)));
    }
    free_head_output(&actual);
    free_head_output(&expected);
    free_operands(&operands);
    backend_destroy(backend);
    backend_destroy(reference);
}

SUBJECT_TEST(linear_int8, memory_is_counted_and_known_before_it_is_taken)
{
    struct backend *backend = open_int8(subject, 1);
    struct backend_limits limits = plain_limits(7, 1001);
    const struct int8_case shape = {1, 70, 33};
    struct random random = {27};
    size_t weights, kv, other, kv_expected, other_expected;
    struct weight *plain, *biased;
    struct error err = {0};
    limits.weight_columns = 0;
    cr_expect_eq(backend->ops->reserve(backend, &limits, &err), ERROR_INVALID);
    cr_expect_not_null(strstr(err.message, "weight_columns"), "%s", err.message);
    limits.weight_columns = 77;
    reserve(backend, &limits);
    struct operands operands = make_operands(&random, &shape, subject->dtype);
    struct tensor_source source = float_source(&operands);
    cr_assert_eq(backend->ops->weight_create(backend, &plain, &source, 1, NULL, NULL), 0);
    cr_assert_eq(backend->ops->weight_create(backend, &biased, &source, 1, operands.bias, NULL), 0);
    backend->ops->memory_used(backend, &weights, &kv, &other);
    backend_reserved_bytes(&kv_expected, &other_expected, subject->backend, &limits, subject->dtype,
                           DTYPE_INT8);
    cr_expect_eq(kv, kv_expected);
    cr_expect_eq(other, other_expected);
    cr_expect_eq(weights, backend_weight_bytes(subject->backend, 70, 33, false, DTYPE_INT8) +
                              backend_weight_bytes(subject->backend, 70, 33, true, DTYPE_INT8));
    backend->ops->weight_destroy(backend, plain);
    backend->ops->weight_destroy(backend, biased);
    backend->ops->memory_used(backend, &weights, &kv, &other);
    cr_expect_eq(weights, 0);
    free_operands(&operands);
    backend_destroy(backend);
}

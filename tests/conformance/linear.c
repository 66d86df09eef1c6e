#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "common/error.h"
#include "linear.h"

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

/* The weight of a case as a checkpoint of float32 or of int8 would have it. */
static struct tensor_source random_source(struct random *random, const struct linear_case *shape,
                                          enum dtype dtype)
{
    size_t count = (size_t)shape->rows * (size_t)shape->columns;
    struct tensor_source source = {.dtype = dtype, .rows = shape->rows, .columns = shape->columns};
    if (dtype == DTYPE_FLOAT32) {
        source.data = random_floats(random, count);
        return source;
    }
    int8_t *small = malloc(count);
    cr_assert_not_null(small);
    for (size_t i = 0; i < count; i++)
        small[i] = (int8_t)((int)random_below(random, 256) - 128);
    source.data = small;
    source.scales = random_floats(random, (size_t)shape->rows);
    return source;
}

static void free_source(struct tensor_source *source)
{
    free((void *)source->data);
    free((void *)source->scales);
}

static struct weight *weight_of(struct backend *backend, const struct tensor_source *source,
                                const float *bias)
{
    struct weight *weight;
    struct error err = {0};
    cr_assert_eq(backend->ops->weight_create(backend, &weight, source, 1, bias, &err), 0, "%s",
                 err.message);
    return weight;
}

static void *multiply(struct backend *backend, const struct weight *weight,
                      const struct tensor_source *source, const void *in, int32_t lines)
{
    size_t element = dtype_size(backend->dtype);
    struct guarded input =
        guarded_create(backend, in, (size_t)lines * (size_t)source->columns * element);
    struct guarded output =
        guarded_create(backend, NULL, (size_t)lines * (size_t)source->rows * element);
    struct step_rows step = {0};
    begin_step(backend, &step);
    backend->ops->linear(backend, output.data, input.data, weight, lines);
    end_step(backend);
    guarded_drop(&input, in);
    return guarded_take(&output);
}

void *run_linear(struct backend *backend, const struct tensor_source *source, const float *bias,
                 const void *in, int32_t lines)
{
    struct weight *weight = weight_of(backend, source, bias);
    void *out = multiply(backend, weight, source, in, lines);
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

static struct backend *reference_for_lines(const struct subject *subject)
{
    struct backend *reference = reference_open(subject);
    struct backend_limits limits = plain_limits(LINES_MAX, 16);
    reserve(reference, &limits);
    return reference;
}

static void compare_case(struct backend *backend, struct backend *reference,
                         const struct linear_case *shape, enum dtype source_dtype,
                         struct random *random)
{
    struct tensor_source source = random_source(random, shape, source_dtype);
    float *bias = random_floats(random, (size_t)shape->rows);
    size_t inputs = (size_t)shape->lines * (size_t)shape->columns;
    void *in = random_activations(random, inputs, backend->dtype);
    const float *added = shape->biased ? bias : NULL;
    void *actual = run_linear(backend, &source, added, in, shape->lines);
    void *expected = run_linear(reference, &source, added, in, shape->lines);
    expect_result(OPERATION_LINEAR, actual, expected, (size_t)shape->lines * (size_t)shape->rows,
                  backend->dtype, "linear");
    free_source(&source);
    free(bias);
    free(in);
    free(actual);
    free(expected);
}

ANY_WEIGHTS_TEST(linear, agrees_with_the_reference)
{
    struct backend *backend = open_for_lines(subject, 2);
    struct backend *reference = reference_for_lines(subject);
    struct random random = {1};
    for (int i = 0; i < CASE_COUNT; i++) {
        compare_case(backend, reference, &CASES[i], DTYPE_FLOAT32, &random);
        compare_case(backend, reference, &CASES[i], DTYPE_INT8, &random);
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
    struct tensor_source source = random_source(random, shape, DTYPE_FLOAT32);
    char *in = random_activations(random, lines * columns, dtype);
    struct weight *weight = weight_of(backend, &source, NULL);
    char *batch = multiply(backend, weight, &source, in, shape->lines);
    char *again = multiply(backend, weight, &source, in, shape->lines);
    expect_same_bits(again, batch, lines * rows * element, "the same step again");
    free(again);
    for (int i = 0; i < THREAD_COUNTS; i++) {
        char *threaded = run_linear(others[i], &source, NULL, in, shape->lines);
        expect_invariant(OPERATION_LINEAR, threaded, batch, lines * rows, dtype, "more threads");
        free(threaded);
    }
    for (size_t line = 0; line < lines; line += 1 + lines / 5) {
        char *alone = multiply(backend, weight, &source, in + line * columns * element, 1);
        expect_invariant(OPERATION_LINEAR, alone, batch + line * rows * element, rows, dtype,
                         "one line alone");
        free(alone);
    }
    backend->ops->weight_destroy(backend, weight);
    free_source(&source);
    free(in);
    free(batch);
}

ANY_WEIGHTS_TEST(linear, line_does_not_depend_on_batch_or_threads)
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

/* As q, k and v are: panels across sources, each source in its own dtype. */
ANY_WEIGHTS_TEST(linear, rows_of_several_sources_are_one_weight)
{
    enum { LINES = 7, COLUMNS = 33, ROWS = 3 + 64 + 70 };
    struct backend *backend = open_for_lines(subject, 2);
    struct backend *reference = reference_for_lines(subject);
    struct random random = {5};
    const struct linear_case parts[2] = {{LINES, 3, COLUMNS, true}, {LINES, 64, COLUMNS, true}};
    uint16_t *half = random_activations(&random, 70 * COLUMNS, DTYPE_BFLOAT16);
    struct tensor_source sources[3] = {
        random_source(&random, &parts[0], DTYPE_FLOAT32),
        random_source(&random, &parts[1], DTYPE_INT8),
        {.data = half, .dtype = DTYPE_BFLOAT16, .rows = 70, .columns = COLUMNS}};
    const struct tensor_source all = {.rows = ROWS, .columns = COLUMNS};
    float *bias = random_floats(&random, ROWS);
    void *in = random_activations(&random, LINES * COLUMNS, subject->dtype), *out[2];
    struct backend *backends[2] = {backend, reference};
    for (int i = 0; i < 2; i++) {
        struct weight *weight;
        cr_assert_eq(backends[i]->ops->weight_create(backends[i], &weight, sources, 3, bias, NULL),
                     0);
        out[i] = multiply(backends[i], weight, &all, in, LINES);
        backends[i]->ops->weight_destroy(backends[i], weight);
    }
    expect_result(OPERATION_LINEAR, out[0], out[1], LINES * ROWS, subject->dtype,
                  "linear of three sources");
    free_source(&sources[0]);
    free_source(&sources[1]);
    free_source(&sources[2]);
    free(bias);
    free(in);
    free(out[0]);
    free(out[1]);
    backend_destroy(backend);
    backend_destroy(reference);
}

/* As many lines as reserve had to expect: rows of a step, or head rows and their partners. */
ANY_WEIGHTS_TEST(linear, takes_as_many_lines_as_the_limits_allow)
{
    static const struct {
        int32_t rows, head_rows;
    } cases[] = {{10, 1}, {3, 5}};
    const struct linear_case shape = {10, 70, 100, true};
    for (int i = 0; i < 2; i++) {
        struct backend *backend = subject_open(subject, 2);
        struct backend *reference = reference_for_lines(subject);
        struct backend_limits limits = plain_limits(cases[i].rows, 16);
        struct random random = {6};
        limits.max_head_rows = cases[i].head_rows;
        limits.weight_columns = (int32_t)shape.columns;
        reserve(backend, &limits);
        compare_case(backend, reference, &shape, DTYPE_FLOAT32, &random);
        backend_destroy(backend);
        backend_destroy(reference);
    }
}

/* A batch without lines, as the head of a step that samples nothing: no output, no fault. */
ANY_WEIGHTS_TEST(linear, no_lines_write_nothing)
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
    struct backend *reference = reference_for_lines(subject);
    struct random random = {3};
    float *values = random_floats(&random, 70 * 33);
    const struct tensor_source source = {
        .data = values, .dtype = DTYPE_FLOAT32, .rows = 70, .columns = 33};
    void *in = random_activations(&random, 8 * 33, subject->dtype);
    /* The last element of an odd line: its neighbour in memory belongs to the next line. */
    const float bad[2] = {NAN, INFINITY};
    for (int i = 0; i < 2; i++) {
        size_t at = (size_t)(3 * i + 1) * 33 + (i == 0 ? 0 : 32);
        set_activation(in, at, bad[i], subject->dtype);
    }
    values[69 * 33 + 32] = INFINITY; /* and one of a weight in its column */
    /* What an earlier call left in working memory must not matter either. */
    float *even_values = random_floats(&random, 70 * 256);
    const struct tensor_source even = {
        .data = even_values, .dtype = DTYPE_FLOAT32, .rows = 70, .columns = 256};
    void *nans = malloc(8 * 256 * sizeof(float));
    cr_assert_not_null(nans);
    memset(nans, 0xff, 8 * 256 * sizeof(float));
    free(run_linear(backend, &even, NULL, nans, 8));
    free(even_values);
    free(nans);
    void *actual = run_linear(backend, &source, NULL, in, 8);
    void *expected = run_linear(reference, &source, NULL, in, 8);
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
    /* Sums between two neighbours of bfloat16, whose distance is 2^-7 from 1 on. */
    const float first[4] = {1, 1 + 0x1p-7f, -1, 1},
                second[4] = {0x1p-8f, 0x1p-8f, -0x1p-8f, 0x1.8p-8f};
    const float rounded[4] = {1, 1 + 0x1p-6f, -1, 1 + 0x1p-7f};
    float ones[40];
    const struct tensor_source source = {
        .data = ones, .dtype = DTYPE_FLOAT32, .rows = 20, .columns = 2};
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
    uint16_t *out = run_linear(backend, &source, NULL, in, 4);
    for (int i = 0; i < 80; i++)
        cr_assert_eq(bfloat16_to_float(out[i]), rounded[i / 20], "line %d column %d is %a", i / 20,
                     i % 20, (double)bfloat16_to_float(out[i]));
    free(out);
    backend_destroy(backend);
}

/* The operations on rows that know no weights: add_rmsnorm, swiglu, gather. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "conformance.h"

/* Widths that are no multiples of a vector, and rows that split unevenly. */
static const int32_t WIDTHS[] = {1, 15, 16, 33, 256, 704, 1031};
static const int32_t ROWS[] = {1, 3, 31, 33, 70};
enum {
    WIDTH_COUNT = sizeof WIDTHS / sizeof WIDTHS[0],
    ROW_COUNT = sizeof ROWS / sizeof ROWS[0],
    ROWS_MAX = 70,
};

struct layer_input {
    int32_t rows, width;
    float *residual, *scale;
    void *delta, *gate_up;
    const void *added; /* delta or NULL */
    int32_t gather[ROWS_MAX];
};

/* Everything a run writes. */
struct layer_output {
    float *residual;
    void *normed, *activated, *gathered;
};

static struct layer_input make_input(struct random *random, int32_t rows, int32_t width,
                                     enum dtype dtype)
{
    size_t count = (size_t)rows * (size_t)width;
    struct layer_input input = {.rows = rows, .width = width};
    input.residual = random_activations(random, count, DTYPE_FLOAT32);
    input.scale = random_activations(random, (size_t)width, DTYPE_FLOAT32);
    input.delta = random_activations(random, count, dtype);
    input.gate_up = random_activations(random, 2 * count, dtype);
    input.added = input.delta;
    for (int32_t i = 0; i < rows; i++)
        input.gather[i] = (int32_t)random_below(random, (uint32_t)rows);
    return input;
}

static void free_input(struct layer_input *input)
{
    free(input->residual);
    free(input->scale);
    free(input->delta);
    free(input->gate_up);
}

/* Rows [first, first + rows) of the input as a step. */
static struct layer_output run_layers(struct backend *backend, const struct layer_input *input,
                                      int32_t first, int32_t rows)
{
    size_t element = dtype_size(backend->dtype), width = (size_t)input->width;
    size_t count = (size_t)rows * width, skip = (size_t)first * width;
    const char *delta = (const char *)input->delta + skip * element;
    const char *gate_up = (const char *)input->gate_up + 2 * skip * element;
    int32_t zeros[ROWS_MAX] = {0};
    uint8_t shadow[ROWS_MAX] = {0};
    struct step_rows step = {.rows = rows,
                             .token = zeros,
                             .sequence = zeros,
                             .position = zeros,
                             .kv_end = zeros,
                             .shadow = shadow,
                             .page_table = zeros,
                             .gathered = rows == input->rows ? rows : 0,
                             .gather = input->gather};
    struct guarded residual =
        guarded_create(backend, input->residual + skip, count * sizeof(float));
    struct guarded scale = guarded_create(backend, input->scale, width * sizeof(float));
    struct guarded added = guarded_create(backend, delta, count * element);
    struct guarded gates = guarded_create(backend, gate_up, 2 * count * element);
    struct guarded normed = guarded_create(backend, NULL, count * element);
    struct guarded activated = guarded_create(backend, NULL, count * element);
    struct guarded gathered =
        guarded_create(backend, NULL, (size_t)step.gathered * width * element);

    begin_step(backend, &step);
    backend->ops->add_rmsnorm(backend, normed.data, residual.data,
                              input->added != NULL ? added.data : NULL, scale.data, 1e-5f,
                              input->width);
    backend->ops->swiglu(backend, activated.data, gates.data, input->width);
    backend->ops->gather(backend, gathered.data, normed.data, input->width);
    end_step(backend);
    guarded_drop(&scale, input->scale);
    guarded_drop(&added, delta);
    guarded_drop(&gates, gate_up);
    return (struct layer_output){guarded_take(&residual), guarded_take(&normed),
                                 guarded_take(&activated), guarded_take(&gathered)};
}

static void free_output(struct layer_output *output)
{
    free(output->residual);
    free(output->normed);
    free(output->activated);
    free(output->gathered);
}

static void compare_gathered(const struct layer_input *input, const struct layer_output *output,
                             enum dtype dtype)
{
    size_t line = (size_t)input->width * dtype_size(dtype);
    for (int32_t row = 0; row < input->rows; row++)
        expect_result(OPERATION_GATHER, (char *)output->gathered + (size_t)row * line,
                      (char *)output->normed + (size_t)input->gather[row] * line,
                      (size_t)input->width, dtype, "gather");
}

static void compare_outputs(const struct layer_input *input, const struct layer_output *actual,
                            const struct layer_output *expected, enum dtype dtype)
{
    size_t count = (size_t)input->rows * (size_t)input->width;
    expect_same_bits(actual->residual, expected->residual, count * sizeof(float), "residual");
    expect_result(OPERATION_ADD_RMSNORM, actual->normed, expected->normed, count, dtype,
                  "add_rmsnorm");
    expect_result(OPERATION_SWIGLU, actual->activated, expected->activated, count, dtype, "swiglu");
    compare_gathered(input, actual, dtype);
}

/* `part` holds rows from `first` on of `batch`. */
static void expect_invariant_rows(const struct layer_output *part, const struct layer_output *batch,
                                  int32_t first, int32_t rows, int32_t width, enum dtype dtype,
                                  const char *what)
{
    size_t count = (size_t)rows * (size_t)width, skip = (size_t)first * (size_t)width;
    size_t element = dtype_size(dtype);
    expect_same_bits(part->residual, batch->residual + skip, count * sizeof(float), what);
    expect_invariant(OPERATION_ADD_RMSNORM, part->normed, (char *)batch->normed + skip * element,
                     count, dtype, what);
    expect_invariant(OPERATION_SWIGLU, part->activated, (char *)batch->activated + skip * element,
                     count, dtype, what);
}

static void compare_case(struct backend *backend, struct backend *reference, struct random *random,
                         int32_t rows, int32_t width)
{
    enum dtype dtype = backend->dtype;
    struct layer_input input = make_input(random, rows, width, dtype);
    for (int pass = 0; pass < 2; pass++) {
        input.added = pass == 0 ? input.delta : NULL;
        struct layer_output actual = run_layers(backend, &input, 0, rows);
        struct layer_output expected = run_layers(reference, &input, 0, rows);
        struct layer_output alone = run_layers(backend, &input, rows / 2, 1);
        compare_outputs(&input, &actual, &expected, dtype);
        expect_invariant_rows(&alone, &actual, rows / 2, 1, width, dtype, "one row alone");
        free_output(&actual);
        free_output(&expected);
        free_output(&alone);
    }
    free_input(&input);
}

static struct backend *open_for_rows(const struct subject *subject, int threads)
{
    struct backend *backend = subject_open(subject, threads);
    struct backend_limits limits = plain_limits(ROWS_MAX, 16);
    reserve(backend, &limits);
    return backend;
}

static struct backend *reference_for_rows(const struct subject *subject)
{
    struct backend *reference = reference_open(subject);
    struct backend_limits limits = plain_limits(ROWS_MAX, 16);
    reserve(reference, &limits);
    return reference;
}

SUBJECT_TEST(layers, agree_with_the_reference)
{
    struct backend *backend = open_for_rows(subject, 3);
    struct backend *reference = reference_for_rows(subject);
    struct random random = {11};
    for (int i = 0; i < WIDTH_COUNT; i++) {
        for (int j = 0; j < ROW_COUNT; j++)
            compare_case(backend, reference, &random, ROWS[j], WIDTHS[i]);
    }
    backend_destroy(backend);
    backend_destroy(reference);
}

/* The head may read a row more than once, and of a few rows only: lines are not rows. */
SUBJECT_TEST(layers, gather_takes_more_lines_than_rows_and_fewer)
{
    static const struct {
        int32_t rows, gathered;
    } cases[] = {{3, 2 * ROWS_MAX}, {ROWS_MAX, 2}, {1, 33}};
    enum { WIDTH = 40 };
    struct backend *backend = open_for_rows(subject, 2);
    struct random random = {17};
    for (int i = 0; i < 3; i++) {
        size_t rows = (size_t)cases[i].rows, gathered = (size_t)cases[i].gathered;
        size_t line = WIDTH * dtype_size(subject->dtype);
        char *in = random_activations(&random, rows * WIDTH, subject->dtype);
        const int32_t zeros[ROWS_MAX] = {0};
        const uint8_t shadow[ROWS_MAX] = {0};
        int32_t gather[2 * ROWS_MAX];
        for (size_t at = 0; at < gathered; at++)
            gather[at] = (int32_t)random_below(&random, (uint32_t)rows);
        const struct step_rows step = {.rows = cases[i].rows,
                                       .token = zeros,
                                       .sequence = zeros,
                                       .position = zeros,
                                       .kv_end = zeros,
                                       .shadow = shadow,
                                       .page_table = zeros,
                                       .gathered = cases[i].gathered,
                                       .gather = gather};
        struct guarded input = guarded_create(backend, in, rows * line);
        struct guarded output = guarded_create(backend, NULL, gathered * line);
        begin_step(backend, &step);
        backend->ops->gather(backend, output.data, input.data, WIDTH);
        end_step(backend);
        guarded_drop(&input, in);
        char *out = guarded_take(&output);
        for (size_t at = 0; at < gathered; at++)
            expect_result(OPERATION_GATHER, out + at * line, in + (size_t)gather[at] * line, WIDTH,
                          subject->dtype, "gather");
        free(in);
        free(out);
    }
    backend_destroy(backend);
}

SUBJECT_TEST(layers, results_do_not_depend_on_threads_nor_on_the_run)
{
    struct backend *backend = open_for_rows(subject, 1);
    struct random random = {12};
    struct layer_input input = make_input(&random, ROWS_MAX, 1031, subject->dtype);
    struct layer_output batch = run_layers(backend, &input, 0, ROWS_MAX);
    struct layer_output again = run_layers(backend, &input, 0, ROWS_MAX);
    size_t size = ROWS_MAX * 1031 * dtype_size(subject->dtype);
    expect_same_bits(again.normed, batch.normed, size, "add_rmsnorm again");
    expect_same_bits(again.activated, batch.activated, size, "swiglu again");
    for (int i = 0; i < THREAD_COUNTS; i++) {
        struct backend *threaded = open_for_rows(subject, THREADS[i]);
        struct layer_output other = run_layers(threaded, &input, 0, ROWS_MAX);
        expect_invariant_rows(&other, &batch, 0, ROWS_MAX, 1031, subject->dtype, "more threads");
        compare_gathered(&input, &other, subject->dtype);
        free_output(&other);
        backend_destroy(threaded);
    }
    free_output(&batch);
    free_output(&again);
    free_input(&input);
    backend_destroy(backend);
}

/* Rows whose mean square is near epsilon, far below it, and zero: each judged by itself. */
SUBJECT_TEST(layers, rows_of_small_numbers_are_normed_by_epsilon)
{
    static const float sizes[] = {0, 1e-6f, 1e-3f, 5e-3f, 2e-2f};
    enum { SIZES = sizeof sizes / sizeof sizes[0] };
    static const int32_t widths[] = {33, 256}; /* no multiple of 8, and one */
    struct backend *backend = open_for_rows(subject, 1);
    struct backend *reference = reference_for_rows(subject);
    struct random random = {15};
    for (int i = 0; i < 2; i++) {
        size_t width = (size_t)widths[i], line = width * dtype_size(subject->dtype);
        struct layer_input input = make_input(&random, SIZES, widths[i], subject->dtype);
        input.added = NULL;
        for (size_t at = 0; at < SIZES * width; at++)
            input.residual[at] *= sizes[at / width];
        struct layer_output actual = run_layers(backend, &input, 0, SIZES);
        struct layer_output expected = run_layers(reference, &input, 0, SIZES);
        for (size_t row = 0; row < SIZES; row++)
            expect_result(OPERATION_ADD_RMSNORM, (char *)actual.normed + row * line,
                          (char *)expected.normed + row * line, width, subject->dtype,
                          "add_rmsnorm of small numbers");
        free_output(&actual);
        free_output(&expected);
        free_input(&input);
    }
    backend_destroy(backend);
    backend_destroy(reference);
}

/* NaN and infinity come out where the reference has them, and in no other row. */
SUBJECT_TEST(layers, nan_and_infinity_of_one_row_stay_in_it)
{
    struct backend *backend = open_for_rows(subject, 1);
    struct backend *reference = reference_for_rows(subject);
    struct random random = {13};
    enum { WIDTH = 33, BAD_ROWS = 5 };
    struct layer_input input = make_input(&random, BAD_ROWS, WIDTH, subject->dtype);
    input.residual[WIDTH + 4] = NAN;
    input.residual[3 * WIDTH + 32] = INFINITY;
    set_activation(input.delta, 4 * WIDTH, -INFINITY, subject->dtype);
    set_activation(input.gate_up, 2 * WIDTH + 3, NAN, subject->dtype);      /* gate of row 1 */
    set_activation(input.gate_up, 3 * WIDTH + 5, INFINITY, subject->dtype); /* up of row 1 */
    set_activation(input.gate_up, 7 * WIDTH + 6, NAN, subject->dtype);
    input.gather[0] = input.gather[3] = 1;
    input.gather[1] = 0;
    struct layer_output actual = run_layers(backend, &input, 0, BAD_ROWS);
    struct layer_output expected = run_layers(reference, &input, 0, BAD_ROWS);
    expect_near(actual.residual, expected.residual, BAD_ROWS * WIDTH, DTYPE_FLOAT32, 0, "residual");
    expect_result(OPERATION_ADD_RMSNORM, actual.normed, expected.normed, BAD_ROWS * WIDTH,
                  subject->dtype, "add_rmsnorm with NaN");
    expect_result(OPERATION_SWIGLU, actual.activated, expected.activated, BAD_ROWS * WIDTH,
                  subject->dtype, "swiglu with NaN");
    compare_gathered(&input, &actual, subject->dtype);
    free_output(&actual);
    free_output(&expected);
    free_input(&input);
    backend_destroy(backend);
    backend_destroy(reference);
}

/* The gate's exponential over its whole range, and beyond it. */
SUBJECT_TEST(layers, swiglu_holds_for_every_size_of_gate)
{
    struct backend *backend = open_for_rows(subject, 1);
    struct backend *reference = reference_for_rows(subject);
    enum { WIDTH = 1009 };
    float scale[WIDTH] = {0}, residual[WIDTH] = {0};
    float gate_up[2 * WIDTH];
    for (size_t i = 0; i < WIDTH; i++) {
        set_activation(gate_up, i, (float)((int)i - WIDTH / 2) * 0.4f, subject->dtype);
        set_activation(gate_up, WIDTH + i, 1, subject->dtype);
    }
    set_activation(gate_up, 0, -INFINITY, subject->dtype);
    set_activation(gate_up, 1, -3e38f, subject->dtype);
    set_activation(gate_up, WIDTH - 1, INFINITY, subject->dtype);
    struct layer_input input = {1, WIDTH, residual, scale, gate_up, gate_up, NULL, {0}};
    struct layer_output actual = run_layers(backend, &input, 0, 1);
    struct layer_output expected = run_layers(reference, &input, 0, 1);
    for (size_t i = 1; i < WIDTH - 1; i++) {
        double a = activation_at(actual.activated, i, subject->dtype);
        double e = activation_at(expected.activated, i, subject->dtype);
        double relative = subject->dtype == DTYPE_BFLOAT16 ? 4e-3 : 1e-6;
        cr_assert(fabs(a - e) <= relative * fabs(e) + 1e-35, "silu(%g) is %g, expected %g",
                  (double)activation_at(gate_up, i, subject->dtype), a, e);
    }
    cr_assert(isnan(activation_at(actual.activated, 0, subject->dtype)), "as in the reference");
    cr_assert(isnan(activation_at(expected.activated, 0, subject->dtype)));
    cr_assert_eq(activation_at(actual.activated, WIDTH - 1, subject->dtype), INFINITY);
    free_output(&actual);
    free_output(&expected);
    backend_destroy(backend);
    backend_destroy(reference);
}

/* A factor below the smallest normal number makes a result that is rounded, and not lost. */
SUBJECT_TEST(layers, subnormal_results_are_rounded_like_others)
{
    struct backend *backend = open_for_rows(subject, 1);
    struct backend *reference = reference_for_rows(subject);
    enum { WIDTH = 100 };
    float scale[WIDTH] = {0}, residual[WIDTH] = {0}, gate_up[2 * WIDTH];
    for (size_t i = 0; i < WIDTH; i++) {
        set_activation(gate_up, i, 0.01f + 0.003f * (float)i, subject->dtype);
        set_activation(gate_up, WIDTH + i, i % 3 == 0 ? 1 : 0x1p-123f, subject->dtype);
    }
    struct layer_input input = {1, WIDTH, residual, scale, gate_up, gate_up, NULL, {0}};
    struct layer_output actual = run_layers(backend, &input, 0, 1);
    struct layer_output expected = run_layers(reference, &input, 0, 1);
    for (size_t i = 0; i < WIDTH; i++) {
        double a = activation_at(actual.activated, i, subject->dtype);
        double e = activation_at(expected.activated, i, subject->dtype);
        cr_assert_neq(e, 0);
        cr_assert(fabs(a - e) <= 4e-3 * fabs(e) + 0x1p-133, "swiglu of %zu is %g, expected %g", i,
                  a, e); /* the distance of subnormal numbers in bfloat16 */
    }
    free_output(&actual);
    free_output(&expected);
    backend_destroy(backend);
    backend_destroy(reference);
}

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
    const float *residual, *scale;
    const void *delta, *gate_up;
};

/* Everything a run writes. */
struct layer_output {
    float *residual;
    void *normed, *activated, *gathered;
};

static struct layer_output run_layers(struct backend *backend, const struct layer_input *input,
                                      int32_t first, int32_t rows)
{
    size_t element = dtype_size(backend->dtype), width = (size_t)input->width;
    size_t count = (size_t)rows * width, skip = (size_t)first * width;
    const char *delta = input->delta, *gate_up = input->gate_up;
    int32_t zeros[ROWS_MAX] = {0}, gather[ROWS_MAX];
    uint8_t shadow[ROWS_MAX] = {0};
    for (int32_t i = 0; i < rows; i++)
        gather[i] = rows - 1 - i;
    struct step_rows step = {.rows = rows,
                             .token = zeros,
                             .sequence = zeros,
                             .position = zeros,
                             .kv_end = zeros,
                             .shadow = shadow,
                             .page_table = zeros,
                             .gathered = rows,
                             .gather = gather};
    struct guarded residual =
        guarded_create(backend, input->residual + skip, count * sizeof(float));
    struct guarded scale = guarded_create(backend, input->scale, width * sizeof(float));
    struct guarded added =
        guarded_create(backend, delta != NULL ? delta + skip * element : NULL, count * element);
    struct guarded gates =
        guarded_create(backend, gate_up + 2 * skip * element, 2 * count * element);
    struct guarded normed = guarded_create(backend, NULL, count * element);
    struct guarded activated = guarded_create(backend, NULL, count * element);
    struct guarded gathered = guarded_create(backend, NULL, count * element);

    backend->ops->step_begin(backend, &step);
    backend->ops->add_rmsnorm(backend, normed.data, residual.data,
                              delta != NULL ? added.data : NULL, scale.data, 1e-5f, input->width);
    backend->ops->swiglu(backend, activated.data, gates.data, input->width);
    backend->ops->gather(backend, gathered.data, normed.data, input->width);
    cr_assert_eq(backend->ops->step_end(backend, NULL), 0);
    free(guarded_take(&scale));
    free(guarded_take(&added));
    free(guarded_take(&gates));
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

static void compare_case(struct backend *backend, struct backend *reference, struct random *random,
                         int32_t rows, int32_t width)
{
    enum dtype dtype = backend->dtype;
    size_t count = (size_t)rows * (size_t)width;
    float *residual = random_activations(random, count, DTYPE_FLOAT32);
    float *scale = random_activations(random, (size_t)width, DTYPE_FLOAT32);
    void *delta = random_activations(random, count, dtype);
    void *gate_up = random_activations(random, 2 * count, dtype);
    struct layer_input input = {rows, width, residual, scale, rows % 2 ? delta : NULL, gate_up};
    struct layer_output actual = run_layers(backend, &input, 0, rows);
    struct layer_output expected = run_layers(reference, &input, 0, rows);
    expect_same_bits(actual.residual, expected.residual, count * sizeof(float), "residual");
    expect_near(actual.normed, expected.normed, count, dtype, 1, "add_rmsnorm");
    expect_near(actual.activated, expected.activated, count, dtype, 1, "swiglu");

    size_t line = (size_t)width * dtype_size(dtype);
    for (int32_t row = 0; row < rows; row++)
        expect_same_bits((char *)actual.gathered + (size_t)row * line,
                         (char *)actual.normed + (size_t)(rows - 1 - row) * line, line, "gather");
    struct layer_output alone = run_layers(backend, &input, rows / 2, 1);
    expect_same_bits(alone.normed, (char *)actual.normed + (size_t)(rows / 2) * line, line,
                     "add_rmsnorm of one row alone");
    expect_same_bits(alone.activated, (char *)actual.activated + (size_t)(rows / 2) * line, line,
                     "swiglu of one row alone");
    free_output(&actual);
    free_output(&expected);
    free_output(&alone);
    free(residual);
    free(scale);
    free(delta);
    free(gate_up);
}

SUBJECT_TEST(layers, agree_with_the_reference)
{
    struct backend *backend = subject_open(subject, 3);
    struct backend *reference = reference_open(subject->dtype);
    struct backend_limits limits = plain_limits(ROWS_MAX, 16);
    struct random random = {11};
    reserve(backend, &limits);
    reserve(reference, &limits);
    for (int i = 0; i < WIDTH_COUNT; i++) {
        for (int j = 0; j < ROW_COUNT; j++)
            compare_case(backend, reference, &random, ROWS[j], WIDTHS[i]);
    }
    backend_destroy(backend);
    backend_destroy(reference);
}

/* The gate's exponential over its whole range, and beyond it. */
SUBJECT_TEST(layers, swiglu_holds_for_every_size_of_gate)
{
    struct backend *backend = subject_open(subject, 1);
    struct backend *reference = reference_open(subject->dtype);
    struct backend_limits limits = plain_limits(ROWS_MAX, 16);
    enum { WIDTH = 1009 };
    float values[2 * WIDTH], scale[WIDTH] = {0}, residual[WIDTH] = {0};
    uint16_t halves[2 * WIDTH];
    reserve(backend, &limits);
    reserve(reference, &limits);
    for (int i = 0; i < WIDTH; i++) {
        values[i] = (float)(i - WIDTH / 2) * 0.4f;
        values[WIDTH + i] = 1.0f;
    }
    values[0] = -INFINITY;
    values[1] = -3e38f;
    values[WIDTH - 1] = INFINITY;
    for (int i = 0; i < 2 * WIDTH; i++)
        halves[i] = bfloat16_from_float(values[i]);
    const void *gate_up = subject->dtype == DTYPE_BFLOAT16 ? (const void *)halves : values;
    struct layer_input input = {1, WIDTH, residual, scale, NULL, gate_up};
    struct layer_output actual = run_layers(backend, &input, 0, 1);
    struct layer_output expected = run_layers(reference, &input, 0, 1);
    for (size_t i = 1; i < WIDTH - 1; i++) {
        double a = activation_at(actual.activated, i, subject->dtype);
        double e = activation_at(expected.activated, i, subject->dtype);
        double relative = subject->dtype == DTYPE_BFLOAT16 ? 4e-3 : 1e-6;
        cr_assert(fabs(a - e) <= relative * fabs(e) + 1e-35, "silu(%g) is %g, expected %g",
                  values[i], a, e);
    }
    cr_assert(isnan(activation_at(actual.activated, 0, subject->dtype)), "as in the reference");
    cr_assert(isnan(activation_at(expected.activated, 0, subject->dtype)));
    cr_assert_eq(activation_at(actual.activated, WIDTH - 1, subject->dtype), INFINITY);
    free_output(&actual);
    free_output(&expected);
    backend_destroy(backend);
    backend_destroy(reference);
}

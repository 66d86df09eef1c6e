/*
 * The forward pass against logits and hidden states of the models' published PyTorch code in
 * float32: |error| <= 2e-4 * max(1, |value|) in float32, NMSE <= 1e-3 in bfloat16, <= 3.4e-3 or
 * 1e-2 with int8 weights, <= 1e-1 with fp8 weights.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include <criterion/criterion.h>

#include "common/error.h"
#include "server/model/model.h"
#include "server/model/safetensors.h"
#include "tests/golden/golden.h"

enum { INPUTS_MAX = 4, ROWS_MAX = 128, PAGES = 8 };

/* The inputs of a fixture that one step computes: each a sequence of its own. */
struct batch {
    int32_t count;
    int32_t begin[INPUTS_MAX + 1]; /* first row of each */
    const int32_t *ids[INPUTS_MAX];
};

struct golden {
    const char *fixture;
    struct model *model;
    struct checkpoint *file;
    int32_t inputs;
    float *values; /* [ROWS_MAX, max(embedding_rows, width)] as read back */
    void *logits;  /* the same on the device */
};

static int32_t count_inputs(const struct checkpoint *file)
{
    int32_t count = 0;
    static const char *const names[] = {"input_0", "input_1", "input_2", "input_3"};
    while (count < INPUTS_MAX && checkpoint_find(file, names[count]) != NULL)
        count++;
    return count;
}

static struct golden golden_open(const char *fixture, const char *backend,
                                 struct golden_dtypes dtypes)
{
    struct error err = {0};
    struct golden golden = {.fixture = fixture,
                            .model = golden_load_model(fixture, backend, dtypes),
                            .file = golden_open_logits(fixture)};
    golden.inputs = count_inputs(golden.file);
    cr_assert_geq(golden.inputs, 3);
    int failed = model_reserve(golden.model, ROWS_MAX, ROWS_MAX, INPUTS_MAX, PAGES, &err);
    cr_assert_eq(failed, 0, "%s", err.message);
    int32_t columns = golden.model->config.embedding_rows;
    if (columns < golden.model->config.width)
        columns = golden.model->config.width;
    golden.values = malloc(sizeof(float) * ROWS_MAX * (size_t)columns);
    cr_assert_not_null(golden.values);
    struct backend *device = golden.model->backend;
    failed = device->ops->memory_create(device, &golden.logits,
                                        sizeof(float) * ROWS_MAX * (size_t)columns, &err);
    cr_assert_eq(failed, 0, "%s", err.message);
    return golden;
}

static void golden_close(struct golden *golden)
{
    golden->model->backend->ops->memory_destroy(golden->model->backend, golden->logits);
    free(golden->values);
    checkpoint_close(golden->file);
    model_free(golden->model);
}

static struct batch batch_of(const struct golden *golden, int32_t first, int32_t count)
{
    struct batch batch = {.count = count};
    for (int32_t i = 0; i < count; i++) {
        int32_t rows;
        batch.ids[i] = golden_ids(golden->file, "input", first + i, &rows);
        cr_assert_leq(rows, KV_PAGE_POSITIONS);
        batch.begin[i + 1] = batch.begin[i] + rows;
    }
    cr_assert_leq(batch.begin[count], ROWS_MAX);
    return batch;
}

/* One forward pass over whole canvases; all rows gathered. Then the logits of all rows. */
static void forward(const struct golden *golden, const struct batch *batch)
{
    int32_t token[ROWS_MAX], sequence[ROWS_MAX], position[ROWS_MAX], kv_end[ROWS_MAX];
    int32_t gather[ROWS_MAX];
    uint8_t shadow[ROWS_MAX] = {0};
    /* Pages backwards, so that a page taken for its sequence's number shows. */
    const int32_t pages[INPUTS_MAX] = {7, 5, 3, 2};
    for (int32_t i = 0; i < batch->count; i++) {
        for (int32_t row = batch->begin[i]; row < batch->begin[i + 1]; row++) {
            position[row] = row - batch->begin[i];
            token[row] = batch->ids[i][position[row]];
            sequence[row] = i;
            kv_end[row] = batch->begin[i + 1] - batch->begin[i];
            gather[row] = row;
        }
    }
    int32_t rows = batch->begin[batch->count];
    const struct step_rows step = {
        .rows = rows,
        .token = token,
        .sequence = sequence,
        .position = position,
        .kv_end = kv_end,
        .shadow = shadow,
        .page_table_stride = 1,
        .page_table = pages,
        .gathered = rows,
        .gather = gather,
    };
    const struct head_batch none = {0};
    struct error err = {0};
    struct model *model = golden->model;
    cr_assert_eq(model_forward(model, &step, &none, NULL, &err), 0, "%s", err.message);

    const struct backend_ops *ops = model->backend->ops;
    ops->step_begin(model->backend, &step);
    ops->linear(model->backend, golden->logits, model->activations.gathered, model->weights.head,
                rows);
    cr_assert_eq(ops->step_end(model->backend, &err), 0, "%s", err.message);
}

/* [count] activations of the backend's dtype as float32, in golden->values. */
static const float *read_activations(const struct golden *golden, const void *memory, size_t count)
{
    struct backend *backend = golden->model->backend;
    if (backend->dtype == DTYPE_FLOAT32) {
        backend->ops->memory_read(backend, golden->values, memory, count * sizeof(float));
        return golden->values;
    }
    uint16_t *bits = malloc(count * sizeof *bits);
    cr_assert_not_null(bits);
    backend->ops->memory_read(backend, bits, memory, count * sizeof *bits);
    for (size_t i = 0; i < count; i++)
        golden->values[i] = bfloat16_to_float(bits[i]);
    free(bits);
    return golden->values;
}

static void expect_close(const float *found, const float *expected, size_t count, const char *what)
{
    size_t wrong = 0;
    double worst = 0.0;
    for (size_t i = 0; i < count; i++) {
        double scale = fmax(1.0, fabs((double)expected[i]));
        double error = fabs((double)found[i] - (double)expected[i]) / scale;
        worst = fmax(worst, error);
        wrong += !(error <= 2e-4); /* a NaN is wrong too */
    }
    cr_expect(wrong == 0, "%s: %zu of %zu values are wrong, by up to %g", what, wrong, count,
              worst);
}

static void expect_near(const struct golden *golden, const float *found, const float *expected,
                        size_t count, const char *what)
{
    const struct backend *backend = golden->model->backend;
    const struct golden_dtypes dtypes = {backend->dtype, backend->weight_dtype};
    if (dtypes.activations == DTYPE_FLOAT32 && dtypes.weights == DTYPE_FLOAT32)
        expect_close(found, expected, count, what);
    else
        golden_expect_nmse(found, expected, count, golden_limit(golden->fixture, dtypes), what);
}

/* Lines [first, first + rows) of a device matrix, of which the file has the last `rows` lines. */
static void check_matrix(const struct golden *golden, const void *memory, const char *name,
                         int32_t input, int32_t end)
{
    int32_t rows, columns;
    const float *expected = golden_matrix(golden->file, name, input, &rows, &columns);
    const float *found = read_activations(golden, memory, (size_t)end * (size_t)columns);
    found += (size_t)(end - rows) * (size_t)columns;
    size_t count = (size_t)rows * (size_t)columns;
    char what[128];
    snprintf(what, sizeof what, "%s, %s_%d, %s", golden->fixture, name, (int)input,
             golden->model->backend->ops->name);
    expect_near(golden, found, expected, count, what);
}

/* The residual behind the first layer: the model cut down to that layer. */
static void check_first_layer(const struct golden *golden, int32_t input)
{
    int32_t rows, columns, layers = golden->model->config.layers;
    struct batch batch = batch_of(golden, input, 1);
    golden->model->config.layers = 1;
    forward(golden, &batch);
    golden->model->config.layers = layers;
    const float *expected = golden_matrix(golden->file, "block0", input, &rows, &columns);
    size_t count = (size_t)rows * (size_t)columns;
    struct backend *backend = golden->model->backend;
    backend->ops->memory_read(backend, golden->values, golden->model->activations.residual,
                              count * sizeof(float));
    expect_near(golden, golden->values, expected, count, "block0");
}

static void check_fixture(const char *fixture, const char *backend, struct golden_dtypes dtypes)
{
    struct golden golden = golden_open(fixture, backend, dtypes);
    for (int32_t input = 0; input < golden.inputs; input++) {
        struct batch one = batch_of(&golden, input, 1);
        if (checkpoint_find(golden.file, "block0_0") != NULL)
            check_first_layer(&golden, input);
        forward(&golden, &one);
        check_matrix(&golden, golden.model->activations.gathered, "hidden", input, one.begin[1]);
        check_matrix(&golden, golden.logits, "logits", input, one.begin[1]);
    }
    golden_close(&golden);
}

/* Sequences of very different lengths in one ragged batch come out as they do alone. */
static void check_batch_mates(const char *fixture, const char *backend, struct golden_dtypes dtypes)
{
    struct golden golden = golden_open(fixture, backend, dtypes);
    struct batch all = batch_of(&golden, 0, golden.inputs);
    struct backend *device = golden.model->backend;
    size_t size = dtype_size(device->dtype) * (size_t)golden.model->config.embedding_rows;
    char *together = malloc(ROWS_MAX * size), *alone = malloc(ROWS_MAX * size);
    cr_assert(together != NULL && alone != NULL);
    forward(&golden, &all);
    device->ops->memory_read(device, together, golden.logits,
                             (size_t)all.begin[golden.inputs] * size);
    for (int32_t input = 0; input < golden.inputs; input++) {
        struct batch one = batch_of(&golden, input, 1);
        forward(&golden, &one);
        device->ops->memory_read(device, alone, golden.logits, (size_t)one.begin[1] * size);
        cr_expect_arr_eq(alone, together + (size_t)all.begin[input] * size,
                         (size_t)one.begin[1] * size, "%s, input %d", fixture, (int)input);
    }
    free(together);
    free(alone);
    golden_close(&golden);
}

/*
 * cpu against ref with int8 weights. Products of int8 have the same bits, sums of attention have
 * not, and a last bit can move a number of the next product's input to the neighbouring int8: the
 * worst of all instruction sets is 1.0e-3, and five times that against PyTorch.
 */
static void check_cpu_against_ref(const char *fixture)
{
    struct golden cpu = golden_open(fixture, "cpu", GOLDEN_INT8_BFLOAT16);
    struct golden ref = golden_open(fixture, "ref", GOLDEN_INT8_BFLOAT16);
    struct batch all = batch_of(&cpu, 0, cpu.inputs);
    size_t count = (size_t)all.begin[all.count] * (size_t)cpu.model->config.embedding_rows;
    forward(&cpu, &all);
    forward(&ref, &all);
    const float *found = read_activations(&cpu, cpu.logits, count);
    const float *expected = read_activations(&ref, ref.logits, count);
    golden_expect_nmse(found, expected, count, 2e-3, fixture);
    golden_close(&cpu);
    golden_close(&ref);
}

#define GOLDEN_TESTS(fixture)                                                                      \
    Test(logits, fixture##_on_ref_in_float32)                                                      \
    {                                                                                              \
        check_fixture(#fixture, "ref", GOLDEN_FLOAT32);                                            \
    }                                                                                              \
    Test(logits, fixture##_on_ref_in_bfloat16)                                                     \
    {                                                                                              \
        check_fixture(#fixture, "ref", GOLDEN_BFLOAT16);                                           \
    }                                                                                              \
    Test(logits, fixture##_on_cpu_in_float32)                                                      \
    {                                                                                              \
        check_fixture(#fixture, "cpu", GOLDEN_FLOAT32);                                            \
    }                                                                                              \
    Test(logits, fixture##_on_cpu_in_bfloat16)                                                     \
    {                                                                                              \
        check_fixture(#fixture, "cpu", GOLDEN_BFLOAT16);                                           \
    }                                                                                              \
    Test(logits, fixture##_does_not_depend_on_batch_mates)                                         \
    {                                                                                              \
        check_batch_mates(#fixture, "ref", GOLDEN_FLOAT32);                                        \
        check_batch_mates(#fixture, "cpu", GOLDEN_FLOAT32);                                        \
        check_batch_mates(#fixture, "cpu", GOLDEN_BFLOAT16);                                       \
        check_batch_mates(#fixture, "cpu", GOLDEN_INT8);                                           \
        check_batch_mates(#fixture, "cpu", GOLDEN_INT8_BFLOAT16);                                  \
    }                                                                                              \
    Test(logits, fixture##_in_int8)                                                                \
    {                                                                                              \
        check_fixture(#fixture, "ref", GOLDEN_INT8);                                               \
        check_fixture(#fixture, "cpu", GOLDEN_INT8);                                               \
    }                                                                                              \
    Test(logits, fixture##_in_int8_with_bfloat16_activations)                                      \
    {                                                                                              \
        check_fixture(#fixture, "ref", GOLDEN_INT8_BFLOAT16);                                      \
        check_fixture(#fixture, "cpu", GOLDEN_INT8_BFLOAT16);                                      \
    }                                                                                              \
    Test(logits, fixture##_in_fp8)                                                                 \
    {                                                                                              \
        check_fixture(#fixture, "ref", GOLDEN_FP8);                                                \
        check_fixture(#fixture, "ref", GOLDEN_FP8_BFLOAT16);                                       \
    }                                                                                              \
    Test(logits, fixture##_in_int8_on_cpu_is_near_ref)                                             \
    {                                                                                              \
        check_cpu_against_ref(#fixture);                                                           \
    }

/* Skipped where there is no device. */
#define DEVICE_TESTS(fixture)                                                                      \
    Test(logits, fixture##_on_a_device)                                                            \
    {                                                                                              \
        check_fixture(#fixture, golden_device(GOLDEN_BFLOAT16), GOLDEN_BFLOAT16);                  \
    }                                                                                              \
    Test(logits, fixture##_on_a_device_in_int8)                                                    \
    {                                                                                              \
        check_fixture(#fixture, golden_device(GOLDEN_INT8_BFLOAT16), GOLDEN_INT8_BFLOAT16);        \
    }                                                                                              \
    Test(logits, fixture##_on_a_device_in_fp8)                                                     \
    {                                                                                              \
        check_fixture(#fixture, golden_device(GOLDEN_FP8_BFLOAT16), GOLDEN_FP8_BFLOAT16);          \
    }

GOLDEN_TESTS(plain)
DEVICE_TESTS(plain)
GOLDEN_TESTS(grouped)
DEVICE_TESTS(grouped)
GOLDEN_TESTS(tied)
DEVICE_TESTS(tied)
GOLDEN_TESTS(int8)
DEVICE_TESTS(int8)
GOLDEN_TESTS(tiny)
DEVICE_TESTS(tiny)

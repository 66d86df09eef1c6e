/*
 * What of linear is the CUDA backend's own: which lines were quantised for whom, and products in
 * slices, of more lines than there are, of ranges of rows. Linked with the conformance suite.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "common/error.h"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/products.h"
#include "kernels/quantise.h"
#include "tests/conformance/conformance.h"

enum { ROWS = 7, MOST_ROWS = 40 };

static const char *const ORDERS[] = {"ascending", "descending", "seeded"};
static const enum dtype DTYPES[] = {DTYPE_INT8, DTYPE_FP8};
/* Whole steps of 8, odd ones, and one that does not fit into the shared memory of the emulation. */
static const int32_t WIDTHS[] = {16, 72, 33, 1, 520, 1031};
enum { WIDTH_COUNT = sizeof WIDTHS / sizeof WIDTHS[0] };

static struct cuda_backend *open_backend(const char *order, enum dtype weights)
{
    const struct backend_options options = {
        .dtype = DTYPE_BFLOAT16, .weight_dtype = weights, .instructions = order};
    struct backend_limits limits = plain_limits(MOST_ROWS, 100);
    struct backend *backend;
    struct error err = {0};
    cr_assert_eq(backend_create(&backend, "simt", &options, &err), 0, "%s", err.message);
    limits.attention.heads = limits.attention.kv_heads = 2;
    limits.attention.head_dim = limits.attention.rotary_dim = 16;
    cr_assert_eq(backend->ops->reserve(backend, &limits, &err), 0, "%s", err.message);
    return cuda_self(backend);
}

static void begin_rows(struct cuda_backend *cuda, int32_t rows)
{
    static const int32_t zeros[MOST_ROWS], ends[MOST_ROWS] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
    static const uint8_t plain[MOST_ROWS];
    static const int32_t order[MOST_ROWS] = {3, 1, 0, 2, 1, 0, 3};
    const struct step_rows step = {.rows = rows,
                                   .token = zeros,
                                   .sequence = zeros,
                                   .position = zeros,
                                   .kv_end = ends,
                                   .shadow = plain,
                                   .page_table_stride = 1,
                                   .page_table = zeros,
                                   .gathered = rows,
                                   .gather = order};
    cr_assert(cuda->base.ops->step_begin(&cuda->base, &step));
}

static void *device_copy(struct cuda_backend *cuda, const void *source, size_t size)
{
    void *memory;
    cr_assert_eq(cuda->base.ops->memory_create(&cuda->base, &memory, size, NULL), 0);
    if (source != NULL)
        cuda->base.ops->memory_write(&cuda->base, memory, source, size);
    return memory;
}

static void drop(struct cuda_backend *cuda, void *memory)
{
    cuda->base.ops->memory_destroy(&cuda->base, memory);
}

/* The operand is `lines`, by kernels/quantise.h on the host. */
static void expect_operand(const struct cuda_backend *cuda, const uint16_t *lines, int32_t count,
                           int32_t columns)
{
    enum dtype dtype = cuda->base.weight_dtype;
    const struct cuda_operand *operand = &cuda->operand;
    cr_assert_eq(operand->of, lines);
    cr_assert_eq(operand->count, count);
    cr_assert_eq(operand->columns, columns);
    cr_assert(operand->lines.stride % 16 == 0 && operand->lines.stride >= columns);
    for (int64_t line = 0; line < count; line++) {
        const uint16_t *from = lines + line * columns;
        const uint8_t *bytes = operand->lines.bytes + line * operand->lines.stride;
        float largest = 0;
        for (int64_t i = 0; i < columns; i++) {
            float magnitude = fabsf(bfloat16_to_float(from[i]));
            largest = isnan(magnitude) || magnitude > largest ? magnitude : largest;
            if (isnan(largest))
                break;
        }
        struct quantise_scale by = quantise_scale_in(dtype, largest);
        expect_same_bits(&operand->lines.scales[line], &by.scale, sizeof(float), "a scale");
        for (int64_t i = 0; i < operand->lines.stride; i++) {
            uint8_t expected =
                i < columns ? quantise_element(dtype, bfloat16_to_float(from[i]), by.inverse) : 0;
            cr_assert_eq(bytes[i], expected, "line %d byte %d", (int)line, (int)i);
        }
    }
}

/* Numbers of very different sizes, a line of zeros, one with NaN and one with an infinity. */
static uint16_t *uneven_lines(struct random *random, int32_t count, int32_t columns)
{
    uint16_t *lines = random_activations(random, (size_t)count * (size_t)columns, DTYPE_BFLOAT16);
    for (int32_t i = 0; i < count * columns; i++) {
        float factor = i / columns == 2 ? 0 : ldexpf(1, (int)random_below(random, 20) - 10);
        lines[i] = bfloat16_from_float(bfloat16_to_float(lines[i]) * factor);
    }
    if (count > 5) {
        lines[4 * columns] = bfloat16_from_float(NAN);
        lines[5 * columns + columns - 1] = bfloat16_from_float(-INFINITY);
    }
    return lines;
}

static void check_norm(struct cuda_backend *cuda, struct random *random, int32_t width)
{
    size_t count = (size_t)ROWS * (size_t)width;
    float *values = random_activations(random, count, DTYPE_FLOAT32);
    uint16_t *added = uneven_lines(random, ROWS, width);
    void *residual = device_copy(cuda, values, count * sizeof(float));
    void *delta = device_copy(cuda, added, count * sizeof(uint16_t));
    void *scale = device_copy(cuda, values, (size_t)width * sizeof(float));
    uint16_t *out = device_copy(cuda, NULL, count * sizeof(uint16_t));
    begin_rows(cuda, ROWS);
    cuda->ops.add_rmsnorm(&cuda->base, out, residual, delta, scale, 1e-5f, width);
    expect_operand(cuda, out, ROWS, width);
    drop(cuda, residual);
    drop(cuda, delta);
    drop(cuda, scale);
    drop(cuda, out);
    free(values);
    free(added);
}

static void check_gate(struct cuda_backend *cuda, struct random *random, int32_t width)
{
    size_t count = (size_t)ROWS * (size_t)width;
    uint16_t *values = uneven_lines(random, 2 * ROWS, width);
    void *gate_up = device_copy(cuda, values, 2 * count * sizeof(uint16_t));
    uint16_t *out = device_copy(cuda, NULL, count * sizeof(uint16_t));
    begin_rows(cuda, ROWS);
    cuda->ops.swiglu(&cuda->base, out, gate_up, width);
    expect_operand(cuda, out, ROWS, width);
    drop(cuda, gate_up);
    drop(cuda, out);
    free(values);
}

static void check_alone(struct cuda_backend *cuda, struct random *random, int32_t width)
{
    size_t size = (size_t)ROWS * (size_t)width * sizeof(uint16_t);
    float *values = random_activations(random, (size_t)width, DTYPE_FLOAT32);
    uint16_t *lines = uneven_lines(random, ROWS, width);
    struct weight *weight = make_weight(&cuda->base, values, 1, width, NULL);
    uint16_t *in = device_copy(cuda, lines, size);
    void *out = device_copy(cuda, NULL, ROWS * sizeof(uint16_t));
    begin_rows(cuda, ROWS);
    cuda->ops.linear(&cuda->base, out, in, weight, ROWS);
    expect_operand(cuda, in, ROWS, width);
    cuda->ops.weight_destroy(&cuda->base, weight);
    drop(cuda, in);
    drop(cuda, out);
    free(values);
    free(lines);
}

/* Whoever quantises a line, it has the bytes that kernels/quantise.h gives what is stored. */
Test(operand, lines_are_quantised_alike_in_every_kernel)
{
    struct random random = {51};
    for (int i = 0; i < 6; i++) {
        struct cuda_backend *cuda = open_backend(ORDERS[i / 2], DTYPES[i % 2]);
        for (int j = 0; j < WIDTH_COUNT; j++) {
            check_norm(cuda, &random, WIDTHS[j]);
            check_gate(cuda, &random, WIDTHS[j]);
            check_alone(cuda, &random, WIDTHS[j]);
        }
        backend_destroy(&cuda->base);
    }
}

Test(operand, there_is_none_where_weights_are_bfloat16)
{
    struct cuda_backend *cuda = open_backend("seeded", DTYPE_BFLOAT16);
    uint16_t values[2 * ROWS * 16] = {0};
    void *gate_up = device_copy(cuda, values, sizeof values);
    void *out = device_copy(cuda, NULL, sizeof values / 2);
    begin_rows(cuda, ROWS);
    cuda->ops.swiglu(&cuda->base, out, gate_up, 16);
    cr_expect_null(cuda->operand.of);
    cr_expect_null(cuda->operand.lines.bytes);
    drop(cuda, gate_up);
    drop(cuda, out);
    backend_destroy(&cuda->base);
}

/* Buffers of 32 columns: one is quantised by swiglu, then overwritten in one of several ways. */
struct stale {
    struct cuda_backend *cuda;
    struct weight *square; /* [32, 32] */
    void *ones;            /* [ROWS, 96], for whoever reads */
    float *norm;           /* [32] */
    void *target;          /* [ROWS, 32] */
    void *other;           /* [ROWS, 32] */
};

static void by_linear(struct stale *stale)
{
    stale->cuda->ops.linear(&stale->cuda->base, stale->target, stale->other, stale->square, ROWS);
}

static void by_gather(struct stale *stale)
{
    stale->cuda->ops.gather(&stale->cuda->base, stale->target, stale->ones, 32);
}

static void by_attention(struct stale *stale)
{
    stale->cuda->ops.attention(&stale->cuda->base, stale->target, stale->ones, 0);
}

/* A row of qkv is 96 columns wide: row 0 lies over the first lines. */
static void by_rope_store(struct stale *stale)
{
    stale->cuda->ops.rope_store(&stale->cuda->base, stale->target, NULL, NULL, 0);
}

static void by_embed(struct stale *stale)
{
    stale->cuda->ops.embed(&stale->cuda->base, stale->target, stale->square);
}

static void by_writing_its_end(struct stale *stale)
{
    const uint16_t last = bfloat16_from_float(3);
    stale->cuda->ops.memory_write(&stale->cuda->base, (uint16_t *)stale->target + ROWS * 32 - 1,
                                  &last, sizeof last);
}

static void by_another_step(struct stale *stale)
{
    begin_rows(stale->cuda, ROWS);
    by_gather(stale);
}

Test(operand, what_is_overwritten_is_quantised_again)
{
    static void (*const ways[])(struct stale *) = {by_linear,      by_gather, by_attention,
                                                   by_rope_store,  by_embed,  by_writing_its_end,
                                                   by_another_step};
    enum { COUNT = ROWS * 96 };
    struct random random = {52};
    float *values = random_activations(&random, 32 * 32, DTYPE_FLOAT32);
    uint16_t *ones = random_activations(&random, COUNT, DTYPE_BFLOAT16);
    struct stale stale = {.cuda = open_backend("seeded", DTYPE_INT8)};
    const struct backend_ops *ops = &stale.cuda->ops;
    struct backend *backend = &stale.cuda->base;
    stale.square = make_weight(backend, values, 32, 32, NULL);
    stale.ones = device_copy(stale.cuda, ones, COUNT * sizeof *ones);
    stale.target = device_copy(stale.cuda, NULL, COUNT * sizeof(float));
    stale.other = device_copy(stale.cuda, ones, COUNT * sizeof *ones);
    void *out = device_copy(stale.cuda, NULL, COUNT * sizeof *ones);
    for (size_t i = 0; i < sizeof ways / sizeof ways[0]; i++) {
        begin_rows(stale.cuda, ROWS);
        ops->swiglu(backend, stale.target, stale.ones, 32);
        cr_assert_eq(stale.cuda->operand.of, stale.target, "way %zu", i);
        ways[i](&stale);
        ops->linear(backend, out, stale.target, stale.square, ROWS);
        expect_operand(stale.cuda, stale.target, ROWS, 32);
    }
    /* Not by what was written beside it. */
    cr_expect_not_null(stale.cuda->operand.of);
    begin_rows(stale.cuda, ROWS);
    cr_expect_null(stale.cuda->operand.of, "what a replayed step leaves is not known");
    ops->swiglu(backend, stale.target, stale.ones, 32);
    ops->gather(backend, stale.other, stale.ones, 32);
    cr_expect_eq(stale.cuda->operand.of, stale.target);
    /* Nor is it taken for more lines than it has, or for narrower ones. */
    begin_rows(stale.cuda, 3);
    ops->swiglu(backend, stale.target, stale.ones, 32);
    ops->linear(backend, out, stale.target, stale.square, ROWS);
    expect_operand(stale.cuda, stale.target, ROWS, 32);
    ops->weight_destroy(backend, stale.square);
    stale.square = make_weight(backend, values, 16, 16, NULL);
    ops->linear(backend, out, stale.target, stale.square, ROWS);
    expect_operand(stale.cuda, stale.target, ROWS, 16);
    ops->weight_destroy(backend, stale.square);
    drop(stale.cuda, stale.ones);
    drop(stale.cuda, stale.target);
    drop(stale.cuda, stale.other);
    drop(stale.cuda, out);
    backend_destroy(backend);
    free(values);
    free(ones);
}

/* Sums of one slice and of several, and rows of a weight in several pieces of its way. */
Test(operand, products_in_slices_are_those_of_ref)
{
    enum { WIDE = 4001, DEPTH = 530 };
    struct random random = {53};
    float *values = random_activations(&random, (size_t)WIDE * DEPTH, DTYPE_FLOAT32);
    float *bias = random_activations(&random, WIDE, DTYPE_FLOAT32);
    uint16_t *in = random_activations(&random, MOST_ROWS * DEPTH, DTYPE_BFLOAT16);
    const struct subject subject = {"ref", "", DTYPE_BFLOAT16, DTYPE_INT8};
    struct backend *reference = reference_open(&subject);
    struct cuda_backend *cuda = open_backend("descending", DTYPE_INT8);
    struct backend_limits limits = plain_limits(MOST_ROWS, 16);
    const size_t out_bytes = (size_t)MOST_ROWS * WIDE * sizeof(uint16_t);
    cr_assert_lt(cuda_sums_bytes(), out_bytes * 2, "one slice holds all of them");
    reserve(reference, &limits);
    struct weight *weight = make_weight(&cuda->base, values, WIDE, DEPTH, bias);
    struct weight *expected_weight = make_weight(reference, values, WIDE, DEPTH, bias);
    void *input = device_copy(cuda, in, MOST_ROWS * DEPTH * sizeof *in);
    void *out = device_copy(cuda, NULL, out_bytes);
    uint16_t *expected = malloc(out_bytes);
    cr_assert_not_null(expected);
    begin_rows(cuda, MOST_ROWS);
    cuda->ops.linear(&cuda->base, out, input, weight, MOST_ROWS);
    reference->ops->linear(reference, expected, in, expected_weight, MOST_ROWS);
    expect_same_bits(out, expected, out_bytes, "a product in slices");
    cuda->ops.weight_destroy(&cuda->base, weight);
    reference->ops->weight_destroy(reference, expected_weight);
    drop(cuda, input);
    drop(cuda, out);
    backend_destroy(&cuda->base);
    backend_destroy(reference);
    free(values);
    free(bias);
    free(in);
    free(expected);
}

/* A recording is made of a few rows, with the lines of the bucket for the products. */
Test(operand, of_a_recording_has_the_lines_of_the_bucket)
{
    for (int i = 0; i < 2; i++) {
        struct cuda_backend *cuda = open_backend("ascending", DTYPES[i]);
        struct random random = {54};
        float *values = random_activations(&random, 16 * 16, DTYPE_FLOAT32);
        uint16_t *in = random_activations(&random, MOST_ROWS * 32, DTYPE_BFLOAT16);
        struct weight *weight = make_weight(&cuda->base, values, 16, 16, NULL);
        void *gate_up = device_copy(cuda, in, MOST_ROWS * 32 * sizeof *in);
        uint16_t *gated = device_copy(cuda, NULL, MOST_ROWS * 16 * sizeof *in);
        uint16_t *out = device_copy(cuda, NULL, MOST_ROWS * 16 * sizeof *in);
        begin_rows(cuda, ROWS);
        cuda->recording = true;
        cuda_swiglu(&cuda->base, gated, gate_up, 16);
        expect_operand(cuda, gated, cuda->row_bucket, 16);
        /* A line that linear would find other than it was, if it quantised it once more. */
        memset(gated, 0x11, 16 * sizeof *gated);
        cuda_linear(&cuda->base, out, gated, weight, cuda->row_bucket);
        cuda->recording = false;
        cr_assert_eq(cuda->row_bucket, 32);
        begin_rows(cuda, ROWS);
        cuda_linear(&cuda->base, out + 16, gated, weight, 1);
        cr_expect(memcmp(out, out + 16, 16 * sizeof *out) != 0, "quantised twice");
        cuda->ops.weight_destroy(&cuda->base, weight);
        drop(cuda, gate_up);
        drop(cuda, gated);
        drop(cuda, out);
        backend_destroy(&cuda->base);
        free(values);
        free(in);
    }
}

/* Ranges of rows, as the head takes them, against the whole product. */
Test(operand, logits_are_the_product_before_it_is_rounded)
{
    enum { TOKENS = 67, DEPTH = 40, LINES = 5, STRIDE = 24 };
    struct random random = {55};
    float *values = random_activations(&random, TOKENS * DEPTH, DTYPE_FLOAT32);
    uint16_t *in = random_activations(&random, LINES * DEPTH, DTYPE_BFLOAT16);
    for (int i = 0; i < 9; i++) {
        const enum dtype dtype = i % 3 < 2 ? DTYPES[i % 3] : DTYPE_BFLOAT16;
        struct cuda_backend *cuda = open_backend(ORDERS[i / 3], dtype);
        struct weight *weight = make_weight(&cuda->base, values, TOKENS, DEPTH, NULL);
        void *input = device_copy(cuda, in, LINES * DEPTH * sizeof *in);
        uint16_t *rounded = device_copy(cuda, NULL, LINES * TOKENS * sizeof *in);
        float *logits = device_copy(cuda, NULL, LINES * STRIDE * sizeof *logits);
        begin_rows(cuda, LINES);
        cuda->ops.linear(&cuda->base, rounded, input, weight, LINES);
        for (int64_t first = 0; first < TOKENS; first += 20) {
            int64_t rows = TOKENS - first < 20 ? TOKENS - first : 20;
            cuda_logits(cuda, logits, STRIDE, input, (struct cuda_weight *)weight, first, rows,
                        LINES);
            for (int64_t k = 0; k < LINES * rows; k++) {
                float logit = logits[k / rows * STRIDE + k % rows];
                cr_assert_eq(bfloat16_from_float(logit),
                             rounded[k / rows * TOKENS + first + k % rows], "%s, row %d",
                             dtype_name(dtype), (int)(first + k % rows));
            }
        }
        cuda->ops.weight_destroy(&cuda->base, weight);
        drop(cuda, input);
        drop(cuda, rounded);
        drop(cuda, logits);
        backend_destroy(&cuda->base);
    }
    free(values);
    free(in);
}

Test(operand, rows_whose_sums_have_no_room_are_refused)
{
    struct cuda_backend *cuda = open_backend("ascending", DTYPE_INT8);
    const int64_t rows = (int64_t)(cuda_sums_bytes() / sizeof(float)) + 1;
    float *values = calloc((size_t)rows, sizeof *values);
    const struct tensor_source source = {
        .data = values, .dtype = DTYPE_FLOAT32, .rows = rows, .columns = 1};
    struct weight *weight;
    struct error err = {0};
    cr_assert_not_null(values);
    cr_expect_eq(cuda->ops.weight_create(&cuda->base, &weight, &source, 1, NULL, &err),
                 ERROR_UNSUPPORTED);
    cr_expect_not_null(strstr(err.message, "131073 rows"), "%s", err.message);
    cr_expect_not_null(strstr(err.message, "at most 131072"), "%s", err.message);
    free(values);
    backend_destroy(&cuda->base);
}

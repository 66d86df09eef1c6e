/*
 * The operations on rows that are bound by memory: embed, add_rmsnorm, swiglu, gather. One block a
 * row, 16 bytes a thread and step where the width is a multiple of 8, else one element. Where
 * weights are int8 or fp8, add_rmsnorm and swiglu also leave what they write quantised, as the
 * input of the product that comes next (struct cuda_operand).
 */
#include "kernels/cuda/quantised_lines.h"

enum {
    COPY_THREADS = 128,
    NORM_THREADS = 256,
    NORM_WARPS = NORM_THREADS / SIMT_WARP,
    GATE_THREADS = 512, /* of swiglu, a whole row each */
};

/* Columns in steps of 8 need rows that start at multiples of 16 bytes. */
static bool is_wide(int32_t columns)
{
    return columns % 8 == 0;
}

struct embed_arguments {
    const struct step_counts *counts;
    const int32_t *token;
    const void *table;   /* [vocabulary, stride] */
    const float *scales; /* [vocabulary] of int8 and fp8 */
    float *residual;     /* [rows, columns] */
    int64_t stride;
    int32_t columns;
};

template <int WIDTH, enum dtype DTYPE>
SIMT_KERNEL(COPY_THREADS)
void embed(const struct embed_arguments arguments)
{
    simt_begin();
    int64_t row = simt_block_x(), columns = arguments.columns;
    if (row >= arguments.counts->rows)
        return;
    const int64_t token = arguments.token[row], from = token * arguments.stride;
    float *to = arguments.residual + row * columns;
    for (int64_t i = (int64_t)simt_thread() * WIDTH; i < columns; i += COPY_THREADS * WIDTH) {
        float values[WIDTH];
        if (DTYPE == DTYPE_BFLOAT16) {
            load_bfloat16(values, (const uint16_t *)arguments.table + from + i);
        } else {
            const float scale = arguments.scales[token];
            load_bytes<DTYPE>(values, (const uint8_t *)arguments.table + from + i);
            SIMT_UNROLL
            for (int j = 0; j < WIDTH; j++)
                values[j] *= scale;
        }
        store_floats(to + i, values);
    }
}

template <int WIDTH>
static void launch_embed(struct cuda_backend *cuda, enum dtype dtype,
                         const struct embed_arguments &arguments)
{
    const struct simt_grid grid = {(uint32_t)cuda->row_bucket, 1, COPY_THREADS, 0};
    if (dtype == DTYPE_FP8)
        simt_launch(&cuda->queue, (embed<WIDTH, DTYPE_FP8>), grid, arguments);
    else if (dtype == DTYPE_INT8)
        simt_launch(&cuda->queue, (embed<WIDTH, DTYPE_INT8>), grid, arguments);
    else
        simt_launch(&cuda->queue, (embed<WIDTH, DTYPE_BFLOAT16>), grid, arguments);
}

extern "C" void cuda_embed(struct backend *backend, float *residual, const struct weight *table)
{
    struct cuda_backend *cuda = cuda_self(backend);
    const struct cuda_weight *weight = (const struct cuda_weight *)table;
    const struct embed_arguments arguments = {
        cuda->tables.counts, cuda->tables.token,      weight->values, weight->scales, residual,
        weight->stride,      (int32_t)weight->columns};
    if (is_wide(arguments.columns))
        launch_embed<8>(cuda, weight->dtype, arguments);
    else
        launch_embed<1>(cuda, weight->dtype, arguments);
    cuda_overwrites(cuda, residual,
                    (size_t)cuda->step.rows * (size_t)weight->columns * sizeof(float));
}

struct norm_arguments {
    const struct step_counts *counts;
    uint16_t *out;         /* [rows, columns] */
    float *residual;       /* [rows, columns] */
    const uint16_t *delta; /* [rows, columns] or NULL */
    const float *scale;    /* [columns] */
    float epsilon;
    int32_t columns;
    bool kept; /* a row fits into shared memory */
    struct quantised_lines quantised;
};

/*
 * The row stays in shared memory between the two passes: residual is read and written once. A row
 * that is too wide for it is read from residual again. With DTYPE int8 or fp8 what was written,
 * which each thread still finds in a cache, is also quantised.
 */
template <int WIDTH, enum dtype DTYPE>
SIMT_KERNEL(NORM_THREADS)
void add_rmsnorm(const struct norm_arguments arguments)
{
    simt_begin();
    int64_t row = simt_block_x(), columns = arguments.columns;
    if (row >= arguments.counts->rows)
        return;
    float *warp_sums = (float *)simt_shared();
    float *residual = arguments.residual + row * columns, squares = 0;
    float *kept = arguments.kept ? warp_sums + 2 * NORM_WARPS : residual;
    uint16_t *out = arguments.out + row * columns;
    uint32_t largest = 0;
    for (int64_t i = (int64_t)simt_thread() * WIDTH; i < columns; i += NORM_THREADS * WIDTH) {
        float values[WIDTH], added[WIDTH];
        load_floats(values, residual + i);
        if (arguments.delta != NULL) {
            load_bfloat16(added, arguments.delta + row * columns + i);
            SIMT_UNROLL
            for (int j = 0; j < WIDTH; j++)
                values[j] += added[j];
            store_floats(residual + i, values);
        }
        SIMT_UNROLL
        for (int j = 0; j < WIDTH; j++)
            squares += values[j] * values[j];
        if (arguments.kept)
            store_floats(kept + i, values);
    }
    squares = simt_warp_sum(squares);
    if (simt_lane() == 0)
        warp_sums[simt_warp()] = squares;
    simt_barrier();
    float total = 0;
    for (int i = 0; i < NORM_WARPS; i++)
        total += warp_sums[i];
    float inverse = 1.0f / sqrtf(total / (float)columns + arguments.epsilon);
    for (int64_t i = (int64_t)simt_thread() * WIDTH; i < columns; i += NORM_THREADS * WIDTH) {
        float values[WIDTH], scale[WIDTH];
        load_floats(values, kept + i);
        load_floats(scale, arguments.scale + i);
        SIMT_UNROLL
        for (int j = 0; j < WIDTH; j++)
            values[j] *= inverse * scale[j];
        store_bfloat16(out + i, values);
        if (DTYPE == DTYPE_BFLOAT16)
            continue;
        load_bfloat16(values, out + i);
        largest = larger_bits(largest, values);
    }
    if constexpr (DTYPE != DTYPE_BFLOAT16)
        quantise_line<WIDTH, DTYPE, NORM_THREADS>(arguments.quantised, row, out, columns, largest,
                                                  (uint32_t *)(warp_sums + NORM_WARPS));
}

template <int WIDTH>
static void launch_norm(struct cuda_backend *cuda, enum dtype dtype,
                        const struct norm_arguments &arguments, size_t shared)
{
    const struct simt_grid grid = {(uint32_t)cuda->row_bucket, 1, NORM_THREADS, shared};
    if (dtype == DTYPE_FP8)
        simt_launch(&cuda->queue, (add_rmsnorm<WIDTH, DTYPE_FP8>), grid, arguments);
    else if (dtype == DTYPE_INT8)
        simt_launch(&cuda->queue, (add_rmsnorm<WIDTH, DTYPE_INT8>), grid, arguments);
    else
        simt_launch(&cuda->queue, (add_rmsnorm<WIDTH, DTYPE_BFLOAT16>), grid, arguments);
}

/* The dtype that a kernel quantises its rows to on the way; bfloat16: it does not. */
static enum dtype take_operand(struct cuda_backend *cuda, struct quantised_lines *to,
                               const void *out, int32_t columns)
{
    /* A recording is replayed for every number of rows of its bucket: all of them are there. */
    const int32_t rows = cuda->recording ? cuda->row_bucket : cuda->step.rows;
    cuda_overwrites(cuda, out, (size_t)rows * (size_t)columns * sizeof(uint16_t));
    if (dtype_has_scales(cuda->base.weight_dtype) &&
        cuda_operand_take(cuda, to, out, rows, columns))
        return cuda->base.weight_dtype;
    return DTYPE_BFLOAT16;
}

extern "C" void cuda_add_rmsnorm(struct backend *backend, void *out, float *residual,
                                 const void *delta, const float *scale, float epsilon,
                                 int32_t columns)
{
    struct cuda_backend *cuda = cuda_self(backend);
    const size_t of_warps = 2 * NORM_WARPS * sizeof(float);
    const size_t of_row = (size_t)columns * sizeof(float);
    struct norm_arguments arguments = {cuda->tables.counts,
                                       (uint16_t *)out,
                                       residual,
                                       (const uint16_t *)delta,
                                       scale,
                                       epsilon,
                                       columns,
                                       of_warps + of_row <= cuda->facts.shared_bytes,
                                       {}};
    size_t shared = of_warps + (arguments.kept ? of_row : 0);
    enum dtype dtype = take_operand(cuda, &arguments.quantised, out, columns);
    if (is_wide(columns))
        launch_norm<8>(cuda, dtype, arguments, shared);
    else
        launch_norm<1>(cuda, dtype, arguments, shared);
}

struct swiglu_arguments {
    const struct step_counts *counts;
    uint16_t *out;           /* [rows, width] */
    const uint16_t *gate_up; /* [rows, 2, width] */
    int32_t width;
    struct quantised_lines quantised;
};

/* out [WIDTH] = silu(gate) * up of a row from column i on */
template <int WIDTH>
SIMT_DEVICE void gate_columns(float (&out)[WIDTH], const struct swiglu_arguments &arguments,
                              int64_t row, int64_t i)
{
    const int64_t width = arguments.width;
    float up[WIDTH];
    load_bfloat16(out, arguments.gate_up + 2 * row * width + i);
    load_bfloat16(up, arguments.gate_up + (2 * row + 1) * width + i);
    SIMT_UNROLL
    for (int j = 0; j < WIDTH; j++)
        out[j] = out[j] / (1.0f + simt_exp2(-out[j] * SIMT_LOG2_E)) * up[j];
}

template <int WIDTH> SIMT_KERNEL(NORM_THREADS) void swiglu(const struct swiglu_arguments arguments)
{
    simt_begin();
    int64_t row = simt_block_x(), width = arguments.width;
    int64_t i = ((int64_t)simt_block_y() * NORM_THREADS + simt_thread()) * WIDTH;
    if (row >= arguments.counts->rows || i >= width)
        return;
    float values[WIDTH];
    gate_columns(values, arguments, row, i);
    store_bfloat16(arguments.out + row * width + i, values);
}

/* A block a row, for the scale is that of the whole row. */
template <int WIDTH, enum dtype DTYPE>
SIMT_KERNEL(GATE_THREADS)
void swiglu_quantised(const struct swiglu_arguments arguments)
{
    simt_begin();
    int64_t row = simt_block_x(), width = arguments.width;
    if (row >= arguments.counts->rows)
        return;
    uint16_t *out = arguments.out + row * width;
    uint32_t largest = 0;
    SIMT_NO_UNROLL
    for (int64_t i = (int64_t)simt_thread() * WIDTH; i < width; i += GATE_THREADS * WIDTH) {
        float values[WIDTH];
        gate_columns(values, arguments, row, i);
        store_bfloat16(out + i, values);
        load_bfloat16(values, out + i);
        largest = larger_bits(largest, values);
    }
    quantise_line<WIDTH, DTYPE, GATE_THREADS>(arguments.quantised, row, out, width, largest,
                                              (uint32_t *)simt_shared());
}

template <int WIDTH>
static void launch_swiglu(struct cuda_backend *cuda, enum dtype dtype,
                          const struct swiglu_arguments &arguments)
{
    const uint32_t rows = (uint32_t)cuda->row_bucket, block = NORM_THREADS * WIDTH;
    const struct simt_grid parts = {rows, ((uint32_t)arguments.width + block - 1) / block,
                                    NORM_THREADS, 0};
    const struct simt_grid whole = {rows, 1, GATE_THREADS,
                                    GATE_THREADS / SIMT_WARP * sizeof(uint32_t)};
    if (dtype == DTYPE_FP8)
        simt_launch(&cuda->queue, (swiglu_quantised<WIDTH, DTYPE_FP8>), whole, arguments);
    else if (dtype == DTYPE_INT8)
        simt_launch(&cuda->queue, (swiglu_quantised<WIDTH, DTYPE_INT8>), whole, arguments);
    else
        simt_launch(&cuda->queue, swiglu<WIDTH>, parts, arguments);
}

extern "C" void cuda_swiglu(struct backend *backend, void *out, const void *gate_up, int32_t width)
{
    struct cuda_backend *cuda = cuda_self(backend);
    struct swiglu_arguments arguments = {
        cuda->tables.counts, (uint16_t *)out, (const uint16_t *)gate_up, width, {}};
    enum dtype dtype = take_operand(cuda, &arguments.quantised, out, width);
    if (is_wide(width))
        launch_swiglu<8>(cuda, dtype, arguments);
    else
        launch_swiglu<1>(cuda, dtype, arguments);
}

struct gather_arguments {
    const struct step_counts *counts;
    const int32_t *gather;
    uint16_t *out;      /* [gathered, columns] */
    const uint16_t *in; /* [rows, columns] */
    int32_t columns;
};

template <int WIDTH> SIMT_KERNEL(COPY_THREADS) void gather(const struct gather_arguments arguments)
{
    simt_begin();
    int64_t columns = arguments.columns, gathered = arguments.counts->gathered;
    for (int64_t line = simt_block_x(); line < gathered; line += simt_grid_x()) {
        const uint16_t *from = arguments.in + arguments.gather[line] * columns;
        uint16_t *to = arguments.out + line * columns;
        for (int64_t i = (int64_t)simt_thread() * WIDTH; i < columns; i += COPY_THREADS * WIDTH)
            copy_bfloat16<WIDTH>(to + i, from + i);
    }
}

/* As many blocks as rows, whatever is gathered of them: a recording has one grid for a row bucket.
 */
extern "C" void cuda_gather(struct backend *backend, void *out, const void *in, int32_t columns)
{
    struct cuda_backend *cuda = cuda_self(backend);
    const struct gather_arguments arguments = {cuda->tables.counts, cuda->tables.gather,
                                               (uint16_t *)out, (const uint16_t *)in, columns};
    const struct simt_grid grid = {(uint32_t)cuda->row_bucket, 1, COPY_THREADS, 0};
    if (is_wide(columns))
        simt_launch(&cuda->queue, gather<8>, grid, arguments);
    else
        simt_launch(&cuda->queue, gather<1>, grid, arguments);
    cuda_overwrites(cuda, out, (size_t)cuda->step.gathered * (size_t)columns * sizeof(uint16_t));
}

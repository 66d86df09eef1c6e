/*
 * The operations on rows that are bound by memory: embed, add_rmsnorm, swiglu, gather, and the bias
 * of linear. One block a row, 16 bytes a thread and step where the width is a multiple of 8, else
 * one element.
 */
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/vectors.h"

enum { COPY_THREADS = 128, NORM_THREADS = 256, NORM_WARPS = NORM_THREADS / SIMT_WARP };

/* Columns in steps of 8 need rows that start at multiples of 16 bytes. */
static bool is_wide(int32_t columns)
{
    return columns % 8 == 0;
}

struct embed_arguments {
    const struct step_counts *counts;
    const int32_t *token;
    const uint16_t *table; /* [vocabulary, columns] */
    float *residual;       /* [rows, columns] */
    int32_t columns;
};

template <int WIDTH> SIMT_KERNEL(COPY_THREADS) void embed(const struct embed_arguments arguments)
{
    int64_t row = simt_block_x(), columns = arguments.columns;
    if (row >= arguments.counts->rows)
        return;
    const uint16_t *from = arguments.table + arguments.token[row] * columns;
    float *to = arguments.residual + row * columns;
    for (int64_t i = (int64_t)simt_thread() * WIDTH; i < columns; i += COPY_THREADS * WIDTH) {
        float values[WIDTH];
        load_bfloat16(values, from + i);
        store_floats(to + i, values);
    }
}

extern "C" void cuda_embed(struct backend *backend, float *residual, const struct weight *table)
{
    struct cuda_backend *cuda = cuda_self(backend);
    const struct cuda_weight *weight = (const struct cuda_weight *)table;
    const struct embed_arguments arguments = {cuda->tables.counts, cuda->tables.token,
                                              weight->values, residual, (int32_t)weight->columns};
    const struct simt_grid grid = {(uint32_t)cuda->row_bucket, 1, COPY_THREADS, 0};
    if (is_wide(arguments.columns))
        simt_launch(&cuda->queue, embed<8>, grid, arguments);
    else
        simt_launch(&cuda->queue, embed<1>, grid, arguments);
}

struct norm_arguments {
    const struct step_counts *counts;
    uint16_t *out;         /* [rows, columns] */
    float *residual;       /* [rows, columns] */
    const uint16_t *delta; /* [rows, columns] or NULL */
    const float *scale;    /* [columns] */
    float epsilon;
    int32_t columns;
};

/* The row stays in shared memory between the two passes: residual is read and written once. */
template <int WIDTH>
SIMT_KERNEL(NORM_THREADS)
void add_rmsnorm(const struct norm_arguments arguments)
{
    int64_t row = simt_block_x(), columns = arguments.columns;
    if (row >= arguments.counts->rows)
        return;
    float *warp_sums = (float *)simt_shared(), *kept = warp_sums + NORM_WARPS;
    float *residual = arguments.residual + row * columns, squares = 0;
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
        store_bfloat16(arguments.out + row * columns + i, values);
    }
}

extern "C" void cuda_add_rmsnorm(struct backend *backend, void *out, float *residual,
                                 const void *delta, const float *scale, float epsilon,
                                 int32_t columns)
{
    struct cuda_backend *cuda = cuda_self(backend);
    const struct norm_arguments arguments = {cuda->tables.counts,
                                             (uint16_t *)out,
                                             residual,
                                             (const uint16_t *)delta,
                                             scale,
                                             epsilon,
                                             columns};
    const struct simt_grid grid = {(uint32_t)cuda->row_bucket, 1, NORM_THREADS,
                                   (NORM_WARPS + (size_t)columns) * sizeof(float)};
    if (is_wide(columns))
        simt_launch(&cuda->queue, add_rmsnorm<8>, grid, arguments);
    else
        simt_launch(&cuda->queue, add_rmsnorm<1>, grid, arguments);
}

struct swiglu_arguments {
    const struct step_counts *counts;
    uint16_t *out;           /* [rows, width] */
    const uint16_t *gate_up; /* [rows, 2, width] */
    int32_t width;
};

template <int WIDTH> SIMT_KERNEL(NORM_THREADS) void swiglu(const struct swiglu_arguments arguments)
{
    const float log2_e = 1.44269504f;
    int64_t row = simt_block_x(), width = arguments.width;
    int64_t i = ((int64_t)simt_block_y() * NORM_THREADS + simt_thread()) * WIDTH;
    if (row >= arguments.counts->rows || i >= width)
        return;
    float gate[WIDTH], up[WIDTH];
    load_bfloat16(gate, arguments.gate_up + 2 * row * width + i);
    load_bfloat16(up, arguments.gate_up + (2 * row + 1) * width + i);
    SIMT_UNROLL
    for (int j = 0; j < WIDTH; j++)
        gate[j] = gate[j] / (1.0f + simt_exp2(-gate[j] * log2_e)) * up[j];
    store_bfloat16(arguments.out + row * width + i, gate);
}

extern "C" void cuda_swiglu(struct backend *backend, void *out, const void *gate_up, int32_t width)
{
    struct cuda_backend *cuda = cuda_self(backend);
    const struct swiglu_arguments arguments = {cuda->tables.counts, (uint16_t *)out,
                                               (const uint16_t *)gate_up, width};
    uint32_t block = NORM_THREADS * (is_wide(width) ? 8 : 1);
    const struct simt_grid grid = {(uint32_t)cuda->row_bucket,
                                   ((uint32_t)width + block - 1) / block, NORM_THREADS, 0};
    if (is_wide(width))
        simt_launch(&cuda->queue, swiglu<8>, grid, arguments);
    else
        simt_launch(&cuda->queue, swiglu<1>, grid, arguments);
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
}

struct bias_arguments {
    uint16_t *out;     /* [lines, rows] */
    const float *sums; /* [lines, rows] */
    const float *bias; /* [rows] */
    int64_t rows;
};

template <int WIDTH> SIMT_KERNEL(NORM_THREADS) void add_bias(const struct bias_arguments arguments)
{
    int64_t line = simt_block_x(), rows = arguments.rows;
    int64_t i = ((int64_t)simt_block_y() * NORM_THREADS + simt_thread()) * WIDTH;
    if (i >= rows)
        return;
    float sums[WIDTH], bias[WIDTH];
    load_floats(sums, arguments.sums + line * rows + i);
    load_floats(bias, arguments.bias + i);
    SIMT_UNROLL
    for (int j = 0; j < WIDTH; j++)
        sums[j] += bias[j];
    store_bfloat16(arguments.out + line * rows + i, sums);
}

extern "C" void cuda_add_bias(struct cuda_backend *cuda, uint16_t *out, const float *sums,
                              const float *bias, int32_t lines, int64_t rows)
{
    const struct bias_arguments arguments = {out, sums, bias, rows};
    int64_t block = NORM_THREADS * (rows % 8 == 0 ? 8 : 1);
    const struct simt_grid grid = {(uint32_t)lines, (uint32_t)((rows + block - 1) / block),
                                   NORM_THREADS, 0};
    if (rows % 8 == 0)
        simt_launch(&cuda->queue, add_bias<8>, grid, arguments);
    else
        simt_launch(&cuda->queue, add_bias<1>, grid, arguments);
}

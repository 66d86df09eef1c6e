/*
 * The kernels around matrix products: lines to int8 or fp8 before them, and what makes results of
 * their sums. kernels/quantise.h has the definition; every bit is as it says.
 */
#include "kernels/cuda/quantised_lines.h"

enum {
    QUANTISE_THREADS = 256,
    QUANTISE_WARPS = QUANTISE_THREADS / SIMT_WARP,
    NARROW_STEPS = 2, /* of a warp along a line that is narrow */
};

template <class ELEMENT> struct quantise_arguments {
    struct quantised_lines to;
    const ELEMENT *from; /* [lines, columns] */
    int64_t columns;
};

/* A block a line, which is read twice: the second time it lies in a cache. */
template <int WIDTH, enum dtype DTYPE, int THREADS, class ELEMENT>
SIMT_DEVICE void quantise_row(const struct quantise_arguments<ELEMENT> &arguments)
{
    int64_t line = simt_block_x(), columns = arguments.columns;
    const ELEMENT *from = arguments.from + line * columns;
    uint32_t largest = 0;
    for (int64_t i = (int64_t)simt_thread() * WIDTH; i < columns; i += THREADS * WIDTH) {
        float values[WIDTH];
        load_elements<WIDTH>(values, from + i);
        largest = larger_bits(largest, values);
    }
    quantise_line<WIDTH, DTYPE, THREADS>(arguments.to, line, from, columns, largest,
                                         (uint32_t *)simt_shared());
}

template <int WIDTH, enum dtype DTYPE, class ELEMENT>
SIMT_KERNEL(QUANTISE_THREADS)
void quantise_rows(const struct quantise_arguments<ELEMENT> arguments)
{
    simt_begin();
    quantise_row<WIDTH, DTYPE, QUANTISE_THREADS>(arguments);
}

/* Of which a large block would have nothing to do: a warp each. */
template <int WIDTH, enum dtype DTYPE, class ELEMENT>
SIMT_KERNEL(SIMT_WARP)
void quantise_narrow_rows(const struct quantise_arguments<ELEMENT> arguments)
{
    simt_begin();
    quantise_row<WIDTH, DTYPE, SIMT_WARP>(arguments);
}

template <int WIDTH, enum dtype DTYPE, class ELEMENT>
static void launch_quantise(struct cuda_backend *cuda, const struct quantised_lines *to,
                            const void *from, int32_t count, int64_t columns)
{
    const struct quantise_arguments<ELEMENT> arguments = {
        *to, (const ELEMENT *)from, columns
    };
    const struct simt_grid narrow = {(uint32_t)count, 1, SIMT_WARP, sizeof(uint32_t)};
    const struct simt_grid grid = {(uint32_t)count, 1, QUANTISE_THREADS,
                                   QUANTISE_WARPS * sizeof(uint32_t)};
    if (columns <= NARROW_STEPS * SIMT_WARP * WIDTH)
        simt_launch(&cuda->queue, (quantise_narrow_rows<WIDTH, DTYPE, ELEMENT>), narrow, arguments);
    else
        simt_launch(&cuda->queue, (quantise_rows<WIDTH, DTYPE, ELEMENT>), grid, arguments);
}

template <int WIDTH, class ELEMENT>
static void choose_quantise(struct cuda_backend *cuda, const struct quantised_lines *to,
                            enum dtype dtype, const void *from, int32_t count, int64_t columns)
{
    if (dtype == DTYPE_FP8)
        launch_quantise<WIDTH, DTYPE_FP8, ELEMENT>(cuda, to, from, count, columns);
    else
        launch_quantise<WIDTH, DTYPE_INT8, ELEMENT>(cuda, to, from, count, columns);
}

extern "C" void cuda_quantise(struct cuda_backend *cuda, const struct quantised_lines *to,
                              enum dtype to_dtype, const void *from, enum dtype from_dtype,
                              int32_t count, int64_t columns)
{
    bool wide = columns % 8 == 0;
    if (count <= 0)
        return;
    if (from_dtype == DTYPE_BFLOAT16 && wide)
        choose_quantise<8, uint16_t>(cuda, to, to_dtype, from, count, columns);
    else if (from_dtype == DTYPE_BFLOAT16)
        choose_quantise<1, uint16_t>(cuda, to, to_dtype, from, count, columns);
    else if (wide)
        choose_quantise<8, float>(cuda, to, to_dtype, from, count, columns);
    else
        choose_quantise<1, float>(cuda, to, to_dtype, from, count, columns);
}

/* int32 as float32, rounded to nearest. */
SIMT_DEVICE void load_sums(float (&out)[8], const int32_t *from)
{
    const struct four_words low = ((const struct four_words *)from)[0];
    const struct four_words high = ((const struct four_words *)from)[1];
    out[0] = (float)(int32_t)low.x;
    out[1] = (float)(int32_t)low.y;
    out[2] = (float)(int32_t)low.z;
    out[3] = (float)(int32_t)low.w;
    out[4] = (float)(int32_t)high.x;
    out[5] = (float)(int32_t)high.y;
    out[6] = (float)(int32_t)high.z;
    out[7] = (float)(int32_t)high.w;
}

SIMT_DEVICE void load_sums(float (&out)[1], const int32_t *from)
{
    out[0] = (float)*from;
}

template <int WIDTH> SIMT_DEVICE void load_sums(float (&out)[WIDTH], const float *from)
{
    load_floats(out, from);
}

template <int WIDTH> SIMT_DEVICE void store_results(uint16_t *to, const float (&values)[WIDTH])
{
    store_bfloat16(to, values);
}

template <int WIDTH> SIMT_DEVICE void store_results(float *to, const float (&values)[WIDTH])
{
    store_floats(to, values);
}

template <class SUM, class RESULT> struct finish_arguments {
    RESULT *out;
    const SUM *sums;
    int64_t out_stride, stride, rows;
    const float *line_scales, *row_scales, *bias;
};

template <int WIDTH, class SUM, class RESULT>
SIMT_KERNEL(QUANTISE_THREADS)
void finish_sums(const struct finish_arguments<SUM, RESULT> arguments)
{
    simt_begin();
    int64_t line = simt_block_x();
    int64_t i = ((int64_t)simt_block_y() * QUANTISE_THREADS + simt_thread()) * WIDTH;
    if (i >= arguments.rows)
        return;
    float sums[WIDTH], scales[WIDTH], bias[WIDTH];
    load_sums(sums, arguments.sums + line * arguments.stride + i);
    if (arguments.line_scales != NULL) {
        const float line_scale = arguments.line_scales[line];
        load_floats(scales, arguments.row_scales + i);
        SIMT_UNROLL
        for (int j = 0; j < WIDTH; j++)
            sums[j] = simt_rounded_product(sums[j], simt_rounded_product(line_scale, scales[j]));
    }
    if (arguments.bias != NULL) {
        load_floats(bias, arguments.bias + i);
        SIMT_UNROLL
        for (int j = 0; j < WIDTH; j++)
            sums[j] += bias[j];
    }
    store_results(arguments.out + line * arguments.out_stride + i, sums);
}

static bool is_aligned(const void *pointer)
{
    return (uintptr_t)pointer % 16 == 0;
}

template <class SUM, class RESULT>
static void launch_finish(struct cuda_backend *cuda, const struct cuda_epilogue *epilogue)
{
    const struct finish_arguments<SUM, RESULT> arguments = {
        (RESULT *)epilogue->out,
            (const SUM *)epilogue->sums, epilogue->out_stride, epilogue->stride, epilogue->rows,
            epilogue->line_scales, epilogue->row_scales, epilogue->bias
    };
    bool wide = epilogue->rows % 8 == 0 && epilogue->stride % 8 == 0 &&
                epilogue->out_stride % 8 == 0 && is_aligned(epilogue->out) &&
                is_aligned(epilogue->sums) && is_aligned(epilogue->row_scales) &&
                is_aligned(epilogue->bias);
    int64_t block = QUANTISE_THREADS * (wide ? 8 : 1);
    const struct simt_grid grid = {(uint32_t)epilogue->lines,
                                   (uint32_t)((epilogue->rows + block - 1) / block),
                                   QUANTISE_THREADS, 0};
    if (wide)
        simt_launch(&cuda->queue, (finish_sums<8, SUM, RESULT>), grid, arguments);
    else
        simt_launch(&cuda->queue, (finish_sums<1, SUM, RESULT>), grid, arguments);
}

extern "C" void cuda_finish_sums(struct cuda_backend *cuda, const struct cuda_epilogue *epilogue)
{
    if (epilogue->lines <= 0)
        return;
    if (epilogue->integers && epilogue->dtype == DTYPE_FLOAT32)
        launch_finish<int32_t, float>(cuda, epilogue);
    else if (epilogue->integers)
        launch_finish<int32_t, uint16_t>(cuda, epilogue);
    else if (epilogue->dtype == DTYPE_FLOAT32)
        launch_finish<float, float>(cuda, epilogue);
    else
        launch_finish<float, uint16_t>(cuda, epilogue);
}

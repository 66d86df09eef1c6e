#include <immintrin.h>
#include "kernels/cpu/instructions.h"
#include "kernels/dtype.h"

enum {
    GROUP_COLUMNS = 16, /* two vectors times six rows: 12 of the 16 registers hold sums */
    VECTORS = GROUP_COLUMNS / 8,
    WIDENED_DEPTH = 256, /* so much of the input rows is widened to float32 at once: 6 KB */
};

#define ALWAYS_INLINE static inline __attribute__((always_inline))

/* sum += in[row][k] * weight for every row. */
ALWAYS_INLINE void add_products(__m256 (*sum)[VECTORS], const float *const *in, const int rows,
                                int64_t k, const __m256 *weight)
{
#pragma GCC unroll 6
    for (int row = 0; row < rows; row++) {
        __m256 value = _mm256_broadcast_ss(in[row] + k);
#pragma GCC unroll 2
        for (int i = 0; i < VECTORS; i++)
            sum[row][i] = _mm256_fmadd_ps(value, weight[i], sum[row][i]);
    }
}

/* sums += in x one group of the panel's columns, for a number of rows that the compiler knows. */
ALWAYS_INLINE void multiply_group(float *sums, const float *const *in, const int rows,
                                  int64_t depth, const void *group, enum dtype dtype)
{
    const __m256i upper = _mm256_set1_epi32((int)0xffff0000u);
    __m256 sum[TILE_ROWS][VECTORS], weight[VECTORS];
#pragma GCC unroll 6
    for (int row = 0; row < rows; row++) {
#pragma GCC unroll 2
        for (int i = 0; i < VECTORS; i++)
            sum[row][i] = _mm256_loadu_ps(sums + row * PANEL_COLUMNS + 8 * i);
    }
    if (dtype == DTYPE_BFLOAT16) {
        const uint16_t *pairs = group;
        for (int64_t k = 0; k < depth; k += 2, pairs += 2 * PANEL_COLUMNS) {
            for (int i = 0; i < VECTORS; i++)
                weight[i] = _mm256_castsi256_ps(
                    _mm256_slli_epi32(_mm256_loadu_si256((const __m256i *)(pairs + 16 * i)), 16));
            add_products(sum, in, rows, k, weight);
            for (int i = 0; i < VECTORS; i++)
                weight[i] = _mm256_castsi256_ps(
                    _mm256_and_si256(_mm256_loadu_si256((const __m256i *)(pairs + 16 * i)), upper));
            add_products(sum, in, rows, k + 1, weight);
        }
    } else {
        const float *columns = group;
        for (int64_t k = 0; k < depth; k++, columns += PANEL_COLUMNS) {
            for (int i = 0; i < VECTORS; i++)
                weight[i] = _mm256_loadu_ps(columns + 8 * i);
            add_products(sum, in, rows, k, weight);
        }
    }
#pragma GCC unroll 6
    for (int row = 0; row < rows; row++) {
#pragma GCC unroll 2
        for (int i = 0; i < VECTORS; i++)
            _mm256_storeu_ps(sums + row * PANEL_COLUMNS + 8 * i, sum[row][i]);
    }
}

ALWAYS_INLINE void multiply(float *sums, const float *const *in, int32_t rows, int64_t depth,
                            const void *panel, enum dtype dtype)
{
    /* An element and its neighbour of the depth lie side by side in bfloat16. */
    size_t element = dtype == DTYPE_BFLOAT16 ? 2 * sizeof(uint16_t) : sizeof(float);
    for (int column = 0; column < PANEL_COLUMNS; column += GROUP_COLUMNS) {
        const char *group = (const char *)panel + (size_t)column * element;
        switch (rows) {
        case 1:
            multiply_group(sums + column, in, 1, depth, group, dtype);
            break;
        case 2:
            multiply_group(sums + column, in, 2, depth, group, dtype);
            break;
        case 3:
            multiply_group(sums + column, in, 3, depth, group, dtype);
            break;
        case 4:
            multiply_group(sums + column, in, 4, depth, group, dtype);
            break;
        case 5:
            multiply_group(sums + column, in, 5, depth, group, dtype);
            break;
        default:
            multiply_group(sums + column, in, TILE_ROWS, depth, group, dtype);
        }
    }
}

void cpu_product_float32_avx2(float *sums, const void *const *in, int32_t rows, int64_t depth,
                              const void *panel)
{
    memset(sums, 0, (size_t)rows * PANEL_COLUMNS * sizeof *sums);
    multiply(sums, (const float *const *)in, rows, depth, panel, DTYPE_FLOAT32);
}

/* An odd depth ends with a zero, as the panel does. */
static void widen(float *out, const uint16_t *in, int64_t count)
{
    for (int64_t k = 0; k < count; k++)
        out[k] = bfloat16_to_float(in[k]);
    if (count % 2 != 0)
        out[count] = 0;
}

void cpu_product_bfloat16_avx2(float *sums, const void *const *in, int32_t rows, int64_t depth,
                               const void *panel)
{
    float widened[TILE_ROWS][WIDENED_DEPTH] __attribute__((aligned(64)));
    const float *lines[TILE_ROWS];
    for (int32_t row = 0; row < TILE_ROWS; row++)
        lines[row] = widened[row];
    memset(sums, 0, (size_t)rows * PANEL_COLUMNS * sizeof *sums);
    for (int64_t begin = 0; begin < depth; begin += WIDENED_DEPTH) {
        int64_t count = depth - begin < WIDENED_DEPTH ? depth - begin : WIDENED_DEPTH;
        for (int32_t row = 0; row < rows; row++)
            widen(widened[row], (const uint16_t *)in[row] + begin, count);
        multiply(sums, lines, rows, count, (const uint16_t *)panel + begin * PANEL_COLUMNS,
                 DTYPE_BFLOAT16);
    }
}

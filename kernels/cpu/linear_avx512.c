#include <immintrin.h>
#include "kernels/cpu/instructions.h"
#include "kernels/dtype.h"

enum {
    VECTORS = PANEL_COLUMNS / 16,
    WIDENED_DEPTH = 256, /* so much of the input rows is widened to float32 at once: 6 KB */
};

#define ALWAYS_INLINE static inline __attribute__((always_inline))

/*
 * sums += in x panel for a number of rows that the compiler knows, so that all sums stay in
 * registers over the whole depth.
 */
ALWAYS_INLINE void multiply_float32(float *sums, const float *const *in, const int rows,
                                    int64_t depth, const float *panel)
{
    __m512 sum[TILE_ROWS][VECTORS];
#pragma GCC unroll 6
    for (int row = 0; row < rows; row++) {
#pragma GCC unroll 4
        for (int i = 0; i < VECTORS; i++)
            sum[row][i] = _mm512_setzero_ps();
    }
    for (int64_t k = 0; k < depth; k++, panel += PANEL_COLUMNS) {
        __m512 weight[VECTORS];
#pragma GCC unroll 4
        for (int i = 0; i < VECTORS; i++)
            weight[i] = _mm512_loadu_ps(panel + 16 * i);
#pragma GCC unroll 6
        for (int row = 0; row < rows; row++) {
            __m512 value = _mm512_set1_ps(in[row][k]);
#pragma GCC unroll 4
            for (int i = 0; i < VECTORS; i++)
                sum[row][i] = _mm512_fmadd_ps(value, weight[i], sum[row][i]);
        }
    }
#pragma GCC unroll 6
    for (int row = 0; row < rows; row++) {
#pragma GCC unroll 4
        for (int i = 0; i < VECTORS; i++)
            _mm512_storeu_ps(sums + row * PANEL_COLUMNS + 16 * i, sum[row][i]);
    }
}

void cpu_product_float32_avx512(float *sums, const void *const *in, int32_t rows, int64_t depth,
                                const void *panel)
{
    const float *const *lines = (const float *const *)in;
    switch (rows) {
    case 1:
        multiply_float32(sums, lines, 1, depth, panel);
        break;
    case 2:
        multiply_float32(sums, lines, 2, depth, panel);
        break;
    case 3:
        multiply_float32(sums, lines, 3, depth, panel);
        break;
    case 4:
        multiply_float32(sums, lines, 4, depth, panel);
        break;
    case 5:
        multiply_float32(sums, lines, 5, depth, panel);
        break;
    default:
        multiply_float32(sums, lines, TILE_ROWS, depth, panel);
    }
}

/*
 * sums += widened input x bfloat16 panel. Both halves of a pair are multiplied in float32, the
 * first one first: the same sum as in float32 over the depth.
 */
ALWAYS_INLINE void multiply_widened(float *sums, float (*in)[WIDENED_DEPTH], const int rows,
                                    int64_t depth, const uint16_t *panel)
{
    const __m512i upper = _mm512_set1_epi32((int)0xffff0000u);
    __m512 sum[TILE_ROWS][VECTORS];
#pragma GCC unroll 6
    for (int row = 0; row < rows; row++) {
#pragma GCC unroll 4
        for (int i = 0; i < VECTORS; i++)
            sum[row][i] = _mm512_loadu_ps(sums + row * PANEL_COLUMNS + 16 * i);
    }
    for (int64_t k = 0; k < depth; k += 2, panel += 2 * PANEL_COLUMNS) {
        __m512 weight[VECTORS];
#pragma GCC unroll 4
        for (int i = 0; i < VECTORS; i++)
            weight[i] =
                _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_loadu_si512(panel + 32 * i), 16));
#pragma GCC unroll 6
        for (int row = 0; row < rows; row++) {
            __m512 value = _mm512_set1_ps(in[row][k]);
#pragma GCC unroll 4
            for (int i = 0; i < VECTORS; i++)
                sum[row][i] = _mm512_fmadd_ps(value, weight[i], sum[row][i]);
        }
#pragma GCC unroll 4
        for (int i = 0; i < VECTORS; i++)
            weight[i] =
                _mm512_castsi512_ps(_mm512_and_si512(_mm512_loadu_si512(panel + 32 * i), upper));
#pragma GCC unroll 6
        for (int row = 0; row < rows; row++) {
            __m512 value = _mm512_set1_ps(in[row][k + 1]);
#pragma GCC unroll 4
            for (int i = 0; i < VECTORS; i++)
                sum[row][i] = _mm512_fmadd_ps(value, weight[i], sum[row][i]);
        }
    }
#pragma GCC unroll 6
    for (int row = 0; row < rows; row++) {
#pragma GCC unroll 4
        for (int i = 0; i < VECTORS; i++)
            _mm512_storeu_ps(sums + row * PANEL_COLUMNS + 16 * i, sum[row][i]);
    }
}

/* An odd depth ends with a zero, as the panel does. */
static void widen(float *out, const uint16_t *in, int64_t count)
{
    int64_t k = 0;
    for (; k + 16 <= count; k += 16)
        _mm512_storeu_si512(
            out + k, _mm512_slli_epi32(
                         _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(in + k))), 16));
    for (; k < count; k++)
        out[k] = bfloat16_to_float(in[k]);
    if (count % 2 != 0)
        out[count] = 0;
}

void cpu_product_bfloat16_avx512(float *sums, const void *const *in, int32_t rows, int64_t depth,
                                 const void *panel)
{
    float widened[TILE_ROWS][WIDENED_DEPTH] __attribute__((aligned(64)));
    memset(sums, 0, (size_t)rows * PANEL_COLUMNS * sizeof *sums);
    for (int64_t begin = 0; begin < depth; begin += WIDENED_DEPTH) {
        int64_t count = depth - begin < WIDENED_DEPTH ? depth - begin : WIDENED_DEPTH;
        const uint16_t *weights = (const uint16_t *)panel + begin * PANEL_COLUMNS;
        for (int32_t row = 0; row < rows; row++)
            widen(widened[row], (const uint16_t *)in[row] + begin, count);
        switch (rows) {
        case 1:
            multiply_widened(sums, widened, 1, count, weights);
            break;
        case 2:
            multiply_widened(sums, widened, 2, count, weights);
            break;
        case 3:
            multiply_widened(sums, widened, 3, count, weights);
            break;
        case 4:
            multiply_widened(sums, widened, 4, count, weights);
            break;
        case 5:
            multiply_widened(sums, widened, 5, count, weights);
            break;
        default:
            multiply_widened(sums, widened, TILE_ROWS, count, weights);
        }
    }
}

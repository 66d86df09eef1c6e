#include <immintrin.h>
#include "kernels/cpu/instructions.h"

#define ALWAYS_INLINE static inline __attribute__((always_inline))

/* The weights of a page in bfloat16, two neighbouring positions as one 32-bit value. */
typedef uint32_t pair_weights[KV_PAGE_POSITIONS / 2];

/* `vectors` groups of 16 columns from column `first` on; rows and vectors are known constants. */
ALWAYS_INLINE void accumulate_columns(float *sums, int64_t stride, const float *correction,
                                      const pair_weights *weights, const int rows,
                                      const int vectors, int64_t first, int64_t count,
                                      const uint16_t *values)
{
    __m512 sum[TILE_ROWS][4];
#pragma GCC unroll 6
    for (int row = 0; row < rows; row++) {
#pragma GCC unroll 4
        for (int i = 0; i < vectors; i++)
            sum[row][i] = _mm512_mul_ps(_mm512_set1_ps(correction[row]),
                                        _mm512_loadu_ps(sums + row * stride + first + 16 * i));
    }
    for (int64_t pair = 0; 2 * pair < count; pair++) {
        /* Behind an odd count lies whatever was left there, perhaps a NaN. */
        __m512i kept = _mm512_set1_epi32(2 * pair + 1 < count ? -1 : 0xffff);
        __m512bh value[4];
#pragma GCC unroll 4
        for (int i = 0; i < vectors; i++)
            value[i] = (__m512bh)_mm512_and_si512(
                kept, _mm512_loadu_si512(values + 2 * (pair * stride + first + 16 * i)));
#pragma GCC unroll 6
        for (int row = 0; row < rows; row++) {
            __m512bh weight = (__m512bh)_mm512_set1_epi32((int)weights[row][pair]);
#pragma GCC unroll 4
            for (int i = 0; i < vectors; i++)
                sum[row][i] = _mm512_dpbf16_ps(sum[row][i], weight, value[i]);
        }
    }
#pragma GCC unroll 6
    for (int row = 0; row < rows; row++) {
#pragma GCC unroll 4
        for (int i = 0; i < vectors; i++)
            _mm512_storeu_ps(sums + row * stride + first + 16 * i, sum[row][i]);
    }
}

ALWAYS_INLINE void accumulate_rows(float *sums, int64_t stride, const float *correction,
                                   const pair_weights *weights, const int rows, int64_t count,
                                   const uint16_t *values)
{
    int64_t first = 0;
    for (; first + 64 <= stride; first += 64)
        accumulate_columns(sums, stride, correction, weights, rows, 4, first, count, values);
    for (; first + 32 <= stride; first += 32)
        accumulate_columns(sums, stride, correction, weights, rows, 2, first, count, values);
    for (; first < stride; first += 16)
        accumulate_columns(sums, stride, correction, weights, rows, 1, first, count, values);
}

/* The weights are rounded to bfloat16; their sum, by which the result is divided, is not. */
void cpu_accumulate_bfloat16_avx512bf16(float *sums, int64_t stride, const float *correction,
                                        const float *weights, int32_t rows, int64_t count,
                                        const void *values)
{
    pair_weights rounded[TILE_ROWS] __attribute__((aligned(64)));
    for (int32_t row = 0; row < rows; row++) {
        for (int32_t i = 0; i < KV_PAGE_POSITIONS; i += 32) {
            const float *from = weights + row * PANEL_COLUMNS + i;
            _mm512_store_si512(
                (__m512i *)(rounded[row] + i / 2),
                (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(from + 16), _mm512_loadu_ps(from)));
        }
    }
    switch (rows) {
    case 1:
        accumulate_rows(sums, stride, correction, rounded, 1, count, values);
        break;
    case 2:
        accumulate_rows(sums, stride, correction, rounded, 2, count, values);
        break;
    case 3:
        accumulate_rows(sums, stride, correction, rounded, 3, count, values);
        break;
    case 4:
        accumulate_rows(sums, stride, correction, rounded, 4, count, values);
        break;
    case 5:
        accumulate_rows(sums, stride, correction, rounded, 5, count, values);
        break;
    default:
        accumulate_rows(sums, stride, correction, rounded, TILE_ROWS, count, values);
    }
}

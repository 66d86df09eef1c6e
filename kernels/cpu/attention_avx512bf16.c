#include <immintrin.h>
#include "kernels/cpu/instructions.h"
#include "kernels/cpu/softmax_avx512.h"

/* The values of two neighbouring positions times their weights of every row. */
ALWAYS_INLINE void add_pair(__m512 (*sum)[4], const float *weights, const int rows,
                            const __m512bh *value, const int vectors)
{
#pragma GCC unroll 6
    for (int row = 0; row < rows; row++) {
        __m512bh weight = (__m512bh)_mm512_set1_ps(weights[row * PANEL_COLUMNS]);
#pragma GCC unroll 4
        for (int i = 0; i < vectors; i++)
            sum[row][i] = _mm512_dpbf16_ps(sum[row][i], weight, value[i]);
    }
}

/* `vectors` groups of 16 columns from column `first` on; rows and vectors are known constants. */
ALWAYS_INLINE void accumulate_columns(float *sums, int64_t stride, const float *correction,
                                      const float *weights, const int rows, const int vectors,
                                      int64_t first, int64_t count, const uint16_t *values)
{
    __m512 sum[TILE_ROWS][4];
#pragma GCC unroll 6
    for (int row = 0; row < rows; row++) {
#pragma GCC unroll 4
        for (int i = 0; i < vectors; i++)
            sum[row][i] = _mm512_mul_ps(_mm512_set1_ps(correction[row]),
                                        _mm512_loadu_ps(sums + row * stride + first + 16 * i));
    }
    int64_t pair = 0;
    for (; 2 * pair + 1 < count; pair++) {
        __m512bh value[4];
#pragma GCC unroll 4
        for (int i = 0; i < vectors; i++)
            value[i] = (__m512bh)_mm512_loadu_si512(values + 2 * (pair * stride + first + 16 * i));
        add_pair(sum, weights + pair, rows, value, vectors);
    }
    if (2 * pair < count) {
        /* Behind an odd count lies whatever was left there, perhaps a NaN. */
        __m512bh value[4];
#pragma GCC unroll 4
        for (int i = 0; i < vectors; i++)
            value[i] = (__m512bh)_mm512_and_si512(
                _mm512_set1_epi32(0xffff),
                _mm512_loadu_si512(values + 2 * (pair * stride + first + 16 * i)));
        add_pair(sum, weights + pair, rows, value, vectors);
    }
#pragma GCC unroll 6
    for (int row = 0; row < rows; row++) {
#pragma GCC unroll 4
        for (int i = 0; i < vectors; i++)
            _mm512_storeu_ps(sums + row * stride + first + 16 * i, sum[row][i]);
    }
}

ALWAYS_INLINE void accumulate_rows(float *sums, int64_t stride, const float *correction,
                                   const float *weights, const int rows, int64_t count,
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

/*
 * A row of weights is one of pairs: in the place of a float32 two neighbouring positions in
 * bfloat16. Their sum, by which the result is divided, is of what they were before they were
 * rounded.
 */
void cpu_accumulate_bfloat16_avx512bf16(float *sums, int64_t stride, const float *correction,
                                        const void *weights, int32_t rows, int64_t count,
                                        const void *values)
{
    switch (rows) {
    case 1:
        accumulate_rows(sums, stride, correction, weights, 1, count, values);
        break;
    case 2:
        accumulate_rows(sums, stride, correction, weights, 2, count, values);
        break;
    case 3:
        accumulate_rows(sums, stride, correction, weights, 3, count, values);
        break;
    case 4:
        accumulate_rows(sums, stride, correction, weights, 4, count, values);
        break;
    case 5:
        accumulate_rows(sums, stride, correction, weights, 5, count, values);
        break;
    default:
        accumulate_rows(sums, stride, correction, weights, TILE_ROWS, count, values);
    }
}

void cpu_softmax_avx512bf16(float *scores, int32_t rows, int64_t count, float scale,
                            struct softmax_state state, float *correction)
{
    softmax(scores, rows, count, scale, state, correction, POWER_DEGREE_3);
}

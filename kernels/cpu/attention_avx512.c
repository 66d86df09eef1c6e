#include <immintrin.h>
#include "kernels/cpu/instructions.h"
#include "kernels/cpu/softmax_avx512.h"

/* Sixteen values of a position from `column` on; of a bfloat16 pair the low or the high half. */
ALWAYS_INLINE __m512 load_values(const void *values, int64_t position, int64_t stride,
                                 int64_t column, enum dtype dtype)
{
    if (dtype == DTYPE_FLOAT32)
        return _mm512_loadu_ps((const float *)values + position * stride + column);
    const uint16_t *pairs = (const uint16_t *)values + 2 * (position / 2 * stride + column);
    __m128i shift = _mm_cvtsi32_si128(position % 2 == 0 ? 16 : 0);
    return _mm512_castsi512_ps(_mm512_and_si512(_mm512_sll_epi32(_mm512_loadu_si512(pairs), shift),
                                                _mm512_set1_epi32((int)0xffff0000u)));
}

/* `vectors` groups of 16 columns from column `first` on; rows and vectors are known constants. */
ALWAYS_INLINE void accumulate_columns(float *sums, int64_t stride, const float *correction,
                                      const float *weights, const int rows, const int vectors,
                                      int64_t first, int64_t count, const void *values,
                                      enum dtype dtype)
{
    __m512 sum[TILE_ROWS][4], value[4];
#pragma GCC unroll 6
    for (int row = 0; row < rows; row++) {
#pragma GCC unroll 4
        for (int i = 0; i < vectors; i++)
            sum[row][i] = _mm512_mul_ps(_mm512_set1_ps(correction[row]),
                                        _mm512_loadu_ps(sums + row * stride + first + 16 * i));
    }
    for (int64_t position = 0; position < count; position++) {
#pragma GCC unroll 4
        for (int i = 0; i < vectors; i++)
            value[i] = load_values(values, position, stride, first + 16 * i, dtype);
#pragma GCC unroll 6
        for (int row = 0; row < rows; row++) {
            __m512 weight = _mm512_set1_ps(weights[row * PANEL_COLUMNS + position]);
#pragma GCC unroll 4
            for (int i = 0; i < vectors; i++)
                sum[row][i] = _mm512_fmadd_ps(weight, value[i], sum[row][i]);
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
                                   const float *weights, const int rows, int64_t count,
                                   const void *values, enum dtype dtype)
{
    int64_t first = 0;
    for (; first + 64 <= stride; first += 64)
        accumulate_columns(sums, stride, correction, weights, rows, 4, first, count, values, dtype);
    for (; first < stride; first += 16)
        accumulate_columns(sums, stride, correction, weights, rows, 1, first, count, values, dtype);
}

ALWAYS_INLINE void accumulate(float *sums, int64_t stride, const float *correction,
                              const float *weights, int32_t rows, int64_t count, const void *values,
                              enum dtype dtype)
{
    switch (rows) {
    case 1:
        accumulate_rows(sums, stride, correction, weights, 1, count, values, dtype);
        break;
    case 2:
        accumulate_rows(sums, stride, correction, weights, 2, count, values, dtype);
        break;
    case 3:
        accumulate_rows(sums, stride, correction, weights, 3, count, values, dtype);
        break;
    case 4:
        accumulate_rows(sums, stride, correction, weights, 4, count, values, dtype);
        break;
    case 5:
        accumulate_rows(sums, stride, correction, weights, 5, count, values, dtype);
        break;
    default:
        accumulate_rows(sums, stride, correction, weights, TILE_ROWS, count, values, dtype);
    }
}

void cpu_accumulate_float32_avx512(float *sums, int64_t stride, const float *correction,
                                   const void *weights, int32_t rows, int64_t count,
                                   const void *values)
{
    accumulate(sums, stride, correction, weights, rows, count, values, DTYPE_FLOAT32);
}

void cpu_accumulate_bfloat16_avx512(float *sums, int64_t stride, const float *correction,
                                    const void *weights, int32_t rows, int64_t count,
                                    const void *values)
{
    accumulate(sums, stride, correction, weights, rows, count, values, DTYPE_BFLOAT16);
}

void cpu_softmax_avx512(float *scores, int32_t rows, int64_t count, float scale,
                        struct softmax_state state, float *correction)
{
    softmax(scores, rows, count, scale, state, correction, POWER_DEGREE_5);
}

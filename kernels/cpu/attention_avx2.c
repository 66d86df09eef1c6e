#include <immintrin.h>
#include "kernels/cpu/instructions.h"
#include "kernels/cpu/softmax_lanes.h"

enum { GROUP_COLUMNS = 16 };

#define ALWAYS_INLINE static inline __attribute__((always_inline))

/* Eight values of a position from `column` on; of a bfloat16 pair the low or the high half. */
ALWAYS_INLINE __m256 load_values(const void *values, int64_t position, int64_t stride,
                                 int64_t column, enum dtype dtype)
{
    if (dtype == DTYPE_FLOAT32)
        return _mm256_loadu_ps((const float *)values + position * stride + column);
    const uint16_t *pairs = (const uint16_t *)values + 2 * (position / 2 * stride + column);
    __m128i shift = _mm_cvtsi32_si128(position % 2 == 0 ? 16 : 0);
    return _mm256_castsi256_ps(
        _mm256_and_si256(_mm256_sll_epi32(_mm256_loadu_si256((const __m256i *)pairs), shift),
                         _mm256_set1_epi32((int)0xffff0000u)));
}

/* 16 columns from `first` on, of a number of rows that the compiler knows. */
ALWAYS_INLINE void accumulate_group(float *sums, int64_t stride, const float *correction,
                                    const float *weights, const int rows, int64_t first,
                                    int64_t count, const void *values, enum dtype dtype)
{
    __m256 sum[TILE_ROWS][2];
#pragma GCC unroll 6
    for (int row = 0; row < rows; row++) {
        for (int i = 0; i < 2; i++)
            sum[row][i] = _mm256_mul_ps(_mm256_set1_ps(correction[row]),
                                        _mm256_loadu_ps(sums + row * stride + first + 8 * i));
    }
    for (int64_t position = 0; position < count; position++) {
        __m256 low = load_values(values, position, stride, first, dtype);
        __m256 high = load_values(values, position, stride, first + 8, dtype);
#pragma GCC unroll 6
        for (int row = 0; row < rows; row++) {
            __m256 weight = _mm256_broadcast_ss(weights + row * PANEL_COLUMNS + position);
            sum[row][0] = _mm256_fmadd_ps(weight, low, sum[row][0]);
            sum[row][1] = _mm256_fmadd_ps(weight, high, sum[row][1]);
        }
    }
#pragma GCC unroll 6
    for (int row = 0; row < rows; row++) {
        for (int i = 0; i < 2; i++)
            _mm256_storeu_ps(sums + row * stride + first + 8 * i, sum[row][i]);
    }
}

ALWAYS_INLINE void accumulate(float *sums, int64_t stride, const float *correction,
                              const float *weights, int32_t rows, int64_t count, const void *values,
                              enum dtype dtype)
{
    for (int64_t first = 0; first < stride; first += GROUP_COLUMNS) {
        if (rows == TILE_ROWS) {
            accumulate_group(sums, stride, correction, weights, TILE_ROWS, first, count, values,
                             dtype);
            continue;
        }
        for (int32_t row = 0; row < rows; row++)
            accumulate_group(sums + row * stride, stride, correction + row,
                             weights + row * PANEL_COLUMNS, 1, first, count, values, dtype);
    }
}

void cpu_accumulate_float32_avx2(float *sums, int64_t stride, const float *correction,
                                 const void *weights, int32_t rows, int64_t count,
                                 const void *values)
{
    accumulate(sums, stride, correction, weights, rows, count, values, DTYPE_FLOAT32);
}

void cpu_accumulate_bfloat16_avx2(float *sums, int64_t stride, const float *correction,
                                  const void *weights, int32_t rows, int64_t count,
                                  const void *values)
{
    accumulate(sums, stride, correction, weights, rows, count, values, DTYPE_BFLOAT16);
}

void cpu_softmax_avx2(float *scores, int32_t rows, int64_t count, float scale,
                      struct softmax_state state, float *correction)
{
    softmax(scores, rows, count, scale, state, correction);
}

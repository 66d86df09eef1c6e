#include <immintrin.h>
#include "kernels/cpu/instructions.h"

enum { GROUP_COLUMNS = 16 };

#define ALWAYS_INLINE static inline __attribute__((always_inline))

/* Eight values from element `index` on. */
ALWAYS_INLINE __m256 load_values(const void *values, int64_t index, enum dtype dtype)
{
    if (dtype == DTYPE_BFLOAT16)
        return _mm256_castsi256_ps(
            _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(
                                  (const __m128i *)((const uint16_t *)values + index))),
                              16));
    return _mm256_loadu_ps((const float *)values + index);
}

/* 16 columns of a number of rows that the compiler knows. */
ALWAYS_INLINE void accumulate_group(float *sums, int64_t stride, const float *correction,
                                    const float *weights, const int rows, int64_t count,
                                    const void *values, enum dtype dtype)
{
    __m256 sum[TILE_ROWS][2];
#pragma GCC unroll 6
    for (int row = 0; row < rows; row++) {
        for (int i = 0; i < 2; i++)
            sum[row][i] = _mm256_mul_ps(_mm256_set1_ps(correction[row]),
                                        _mm256_loadu_ps(sums + row * stride + 8 * i));
    }
    for (int64_t position = 0; position < count; position++) {
        __m256 low = load_values(values, position * stride, dtype);
        __m256 high = load_values(values, position * stride + 8, dtype);
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
            _mm256_storeu_ps(sums + row * stride + 8 * i, sum[row][i]);
    }
}

ALWAYS_INLINE void accumulate(float *sums, int64_t stride, const float *correction,
                              const float *weights, int32_t rows, int64_t count, const void *values,
                              enum dtype dtype)
{
    size_t element = dtype == DTYPE_BFLOAT16 ? 2 : 4;
    for (int64_t first = 0; first < stride; first += GROUP_COLUMNS) {
        const char *from = (const char *)values + (size_t)first * element;
        if (rows == TILE_ROWS) {
            accumulate_group(sums + first, stride, correction, weights, TILE_ROWS, count, from,
                             dtype);
            continue;
        }
        for (int32_t row = 0; row < rows; row++)
            accumulate_group(sums + row * stride + first, stride, correction + row,
                             weights + row * PANEL_COLUMNS, 1, count, from, dtype);
    }
}

void cpu_accumulate_float32_avx2(float *sums, int64_t stride, const float *correction,
                                 const float *weights, int32_t rows, int64_t count,
                                 const void *values)
{
    accumulate(sums, stride, correction, weights, rows, count, values, DTYPE_FLOAT32);
}

void cpu_accumulate_bfloat16_avx2(float *sums, int64_t stride, const float *correction,
                                  const float *weights, int32_t rows, int64_t count,
                                  const void *values)
{
    accumulate(sums, stride, correction, weights, rows, count, values, DTYPE_BFLOAT16);
}

/*
 * As many floats at a time as a register holds, in the compiler's vector extension: the same source
 * gives SSE2, AVX2 and AVX-512 code by the flags of the file that includes it. Longer vectors than
 * that would live in memory. Vectors go by pointer, because passing them by value would depend on
 * the instruction set.
 */
#ifndef KERNELS_CPU_LANES_H
#define KERNELS_CPU_LANES_H

#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <string.h>
#include "kernels/dtype.h"
#if defined __AVX512F__
#include "kernels/cpu/power_of_two.h"
#endif

#if defined __AVX512F__
enum { LANES = 16 };
#elif defined __AVX2__
enum { LANES = 8 };
#else
enum { LANES = 4 };
#endif

typedef float float_lanes __attribute__((vector_size(4 * LANES)));
typedef int32_t int_lanes __attribute__((vector_size(4 * LANES)));
typedef uint32_t bit_lanes __attribute__((vector_size(4 * LANES)));
typedef uint16_t half_lanes __attribute__((vector_size(2 * LANES)));

#define LANES_INLINE static inline __attribute__((always_inline, unused))

LANES_INLINE void lanes_load(float_lanes *out, const void *from, int64_t index, enum dtype dtype)
{
    if (dtype == DTYPE_BFLOAT16) {
#if defined __AVX512F__
        /* What gcc 12 makes of the form below takes five instructions. */
        __m256i half = _mm256_loadu_si256((const __m256i *)((const uint16_t *)from + index));
        *out = (float_lanes)_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16);
#else
        half_lanes half;
        memcpy(&half, (const uint16_t *)from + index, sizeof half);
        *out = (float_lanes)(__builtin_convertvector(half, bit_lanes) << 16);
#endif
    } else {
        memcpy(out, (const float *)from + index, sizeof *out);
    }
}

/* Round to nearest, ties to even; NaN stays NaN. */
LANES_INLINE void lanes_round_to_half(half_lanes *out, const float_lanes *value)
{
#if defined __AVX512BF16__
    /* The instruction does just that, but it takes subnormals for 0. */
    enum { SUBNORMAL = 0x20 };
    if (__builtin_expect(_mm512_fpclass_ps_mask((__m512)*value, SUBNORMAL) == 0, 1)) {
        *out = (half_lanes)_mm512_cvtneps_pbh((__m512)*value);
        return;
    }
#endif
    bit_lanes wide = (bit_lanes)*value;
    bit_lanes rounded = (wide + 0x7fffu + ((wide >> 16) & 1u)) >> 16;
    bit_lanes is_nan = (bit_lanes)((wide & 0x7fffffffu) > 0x7f800000u);
    bit_lanes result = (((wide >> 16) | 0x40u) & is_nan) | (rounded & ~is_nan);
    *out = __builtin_convertvector(result, half_lanes);
}

LANES_INLINE void lanes_store(void *to, int64_t index, const float_lanes *value, enum dtype dtype)
{
    if (dtype == DTYPE_BFLOAT16) {
        half_lanes half;
        lanes_round_to_half(&half, value);
        memcpy((uint16_t *)to + index, &half, sizeof half);
    } else {
        memcpy((float *)to + index, value, sizeof *value);
    }
}

/* The first `count` lanes (1 or more); the others are 0. */
LANES_INLINE void lanes_load_some(float_lanes *out, const void *from, int64_t index, int64_t count,
                                  enum dtype dtype)
{
    if (count >= LANES) {
        lanes_load(out, from, index, dtype);
        return;
    }
    size_t element = dtype == DTYPE_BFLOAT16 ? 2 : 4;
    char buffer[LANES * 4] = {0};
    memcpy(buffer, (const char *)from + (size_t)index * element, (size_t)count * element);
    lanes_load(out, buffer, 0, dtype);
}

LANES_INLINE void lanes_store_some(void *to, int64_t index, const float_lanes *value, int64_t count,
                                   enum dtype dtype)
{
    if (count >= LANES) {
        lanes_store(to, index, value, dtype);
        return;
    }
    size_t element = dtype == DTYPE_BFLOAT16 ? 2 : 4;
    char buffer[LANES * 4];
    lanes_store(buffer, 0, value, dtype);
    memcpy((char *)to + (size_t)index * element, buffer, (size_t)count * element);
}

/* value = condition (all bits or none) ? value : other */
LANES_INLINE void lanes_keep_where(float_lanes *value, const int_lanes *condition, float other)
{
    float_lanes others = other - (float_lanes){0};
    *value = (float_lanes)(((int_lanes)*value & *condition) | ((int_lanes)others & ~*condition));
}

LANES_INLINE float lanes_sum(const float_lanes *value)
{
    float sums[LANES];
    memcpy(sums, value, sizeof sums);
    for (int width = LANES / 2; width > 0; width /= 2) {
        for (int i = 0; i < width; i++)
            sums[i] += sums[i + width];
    }
    return sums[0];
}

/* largest = value where that is greater; a NaN in value never is. */
LANES_INLINE void lanes_raise(float_lanes *largest, const float_lanes *value)
{
    int_lanes greater = *value > *largest;
    *largest = (float_lanes)(((int_lanes)*value & greater) | ((int_lanes)*largest & ~greater));
}

/* Of lanes without NaN. */
LANES_INLINE float lanes_max(const float_lanes *value)
{
    float values[LANES];
    memcpy(values, value, sizeof values);
    for (int width = LANES / 2; width > 0; width /= 2) {
        for (int i = 0; i < width; i++)
            values[i] = values[i] > values[i + width] ? values[i] : values[i + width];
    }
    return values[0];
}

/* Bit i is set where value[i] > threshold. */
LANES_INLINE uint32_t lanes_greater(const float *value, float threshold)
{
#if defined __AVX512F__
    return _mm512_cmp_ps_mask(_mm512_loadu_ps(value), _mm512_set1_ps(threshold), _CMP_GT_OQ);
#elif defined __AVX2__
    return (uint32_t)_mm256_movemask_ps(
        _mm256_cmp_ps(_mm256_loadu_ps(value), _mm256_set1_ps(threshold), _CMP_GT_OQ));
#else
    return (uint32_t)_mm_movemask_ps(_mm_cmpgt_ps(_mm_loadu_ps(value), _mm_set1_ps(threshold)));
#endif
}

/*
 * value = e^value, relative error below 3e-7 in [-87, 88]. Below, e^-87 = 1.6e-38 is taken (also
 * for -INFINITY); above 88.73 it is INFINITY; NaN stays NaN. e^0 is exactly 1.
 */
#if defined __AVX512F__
/* Half the instructions of the last form: multiply-adds, and rounding and scaling in one each. */
LANES_INLINE void lanes_exp(float_lanes *value)
{
    /* Of two operands of which one is NaN, these take the second. */
    __m512 x = _mm512_max_ps(_mm512_set1_ps(-87.0f), (__m512)*value);
    x = _mm512_min_ps(_mm512_set1_ps(89.0f), x);
    __m512 count = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(0x1.715476p0f)),
                                        _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 r = _mm512_fnmadd_ps(count, _mm512_set1_ps(0x1.62e4p-1f), x);
    r = _mm512_fnmadd_ps(count, _mm512_set1_ps(0x1.7f7d1cp-20f), r);
    __m512 p = _mm512_set1_ps(1.0f / 720);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 120));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 24));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 6));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.5f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    *value = (float_lanes)_mm512_scalef_ps(p, count);
}
#elif defined __AVX2__
LANES_INLINE void lanes_exp(float_lanes *value)
{
    __m256 x = _mm256_max_ps(_mm256_set1_ps(-87.0f), (__m256)*value);
    x = _mm256_min_ps(_mm256_set1_ps(89.0f), x); /* whose scale below is INFINITY */
    __m256 count = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(0x1.715476p0f)),
                                   _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m256 r = _mm256_fnmadd_ps(count, _mm256_set1_ps(0x1.62e4p-1f), x);
    r = _mm256_fnmadd_ps(count, _mm256_set1_ps(0x1.7f7d1cp-20f), r);
    __m256 p = _mm256_set1_ps(1.0f / 720);
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 120));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 24));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 6));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(0.5f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f));
    __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(count), _mm256_set1_epi32(127));
    *value = (float_lanes)_mm256_mul_ps(p, _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23)));
}
#else
LANES_INLINE void lanes_exp(float_lanes *value)
{
    /* 1.5 * 2^23: adding it leaves the rounded integer in the low bits of the sum. */
    const float shift = 0x1.8p23f;
    float_lanes x = *value;
    /* Negated comparisons, so that NaN is kept. */
    int_lanes high_enough = ~(x < -87.0f);
    lanes_keep_where(&x, &high_enough, -87.0f);
    int_lanes low_enough = ~(x > 89.0f); /* whose scale below is INFINITY */
    lanes_keep_where(&x, &low_enough, 89.0f);

    float_lanes shifted = x * 0x1.715476p0f + shift; /* log2(e) */
    float_lanes count = shifted - shift;
    float_lanes r = x - count * 0x1.62e4p-1f; /* ln 2 in two parts; the first product is exact */
    r = r - count * 0x1.7f7d1cp-20f;
    float_lanes p = r * (1.0f / 5040) + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    bit_lanes scale = ((bit_lanes)shifted - 0x4b400000u + 127u) << 23;
    *value = p * (float_lanes)scale;
}
#endif

/* value = value / (1 + e^-value), relative error below 6e-7 */
LANES_INLINE void lanes_silu(float_lanes *value)
{
    float_lanes power = -*value;
    lanes_exp(&power);
    *value = *value / (power + 1.0f);
}

/* The same for results that are rounded to bfloat16: below 4e-6. */
LANES_INLINE void lanes_silu_half(float_lanes *value)
{
#if defined __AVX512F__
    __m512 x = _mm512_mul_ps((__m512)*value, _mm512_set1_ps(-LOG2_E));
    __m512 p = _mm512_add_ps(power_of_two(x, POWER_DEGREE_4), _mm512_set1_ps(1.0f));
    __m512 inverse = _mm512_rcp14_ps(p);
    /* One step of Newton's, which would make NaN of 1 / infinity. */
    __m512 rest = _mm512_fnmadd_ps(p, inverse, _mm512_set1_ps(1.0f));
    __mmask16 finite = _mm512_cmp_ps_mask(p, _mm512_set1_ps(INFINITY), _CMP_NEQ_UQ);
    inverse = _mm512_mask_fmadd_ps(inverse, finite, rest, inverse);
    *value = (float_lanes)_mm512_mul_ps((__m512)*value, inverse);
#else
    lanes_silu(value);
#endif
}

#endif

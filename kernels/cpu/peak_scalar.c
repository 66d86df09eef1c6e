#include "kernels/cpu/peak.h"

#include <emmintrin.h>

/*
 * "scalar" is plain C, for which the compiler has the 128-bit vectors of every x86-64. They have no
 * multiply-add: every step is a multiplication and an addition.
 */
float cpu_peak_float32_scalar(int64_t repetitions)
{
    __m128 sum[PEAK_SUMS_OF_16], factor = _mm_set1_ps(1.0f), other = factor;
    __asm__ volatile("" : "+x"(other));
#pragma GCC unroll 12
    for (int i = 0; i < PEAK_SUMS_OF_16; i++) {
        /* Nothing is known of a sum: equal ones would be computed once. */
        sum[i] = _mm_setzero_ps();
        __asm__ volatile("" : "+x"(sum[i]));
    }
    for (int64_t repetition = 0; repetition < repetitions; repetition++) {
#pragma GCC unroll 12
        for (int i = 0; i < PEAK_SUMS_OF_16; i++) {
            /* A new factor for all the compiler knows: else one product would serve every sum. */
            __asm__ volatile("" : "+x"(factor));
            sum[i] = _mm_add_ps(sum[i], _mm_mul_ps(factor, other));
        }
    }
    __m128 all = _mm_setzero_ps();
#pragma GCC unroll 12
    for (int i = 0; i < PEAK_SUMS_OF_16; i++)
        all = _mm_add_ps(all, sum[i]);
    return _mm_cvtss_f32(all);
}

float cpu_peak_int8_scalar(int64_t repetitions)
{
    __m128i sum[PEAK_SUMS_ADDED], factor = _mm_set1_epi16(1), other = factor;
    __asm__ volatile("" : "+x"(other));
#pragma GCC unroll 8
    for (int i = 0; i < PEAK_SUMS_ADDED; i++) {
        sum[i] = _mm_setzero_si128();
        __asm__ volatile("" : "+x"(sum[i]));
    }
    for (int64_t repetition = 0; repetition < repetitions; repetition++) {
#pragma GCC unroll 8
        for (int i = 0; i < PEAK_SUMS_ADDED; i++) {
            __asm__ volatile("" : "+x"(factor));
            sum[i] = _mm_add_epi32(sum[i], _mm_madd_epi16(factor, other));
        }
    }
    __m128i all = _mm_setzero_si128();
#pragma GCC unroll 8
    for (int i = 0; i < PEAK_SUMS_ADDED; i++)
        all = _mm_add_epi32(all, sum[i]);
    return (float)_mm_cvtsi128_si32(all);
}

uint32_t cpu_peak_read_scalar(const void *from, size_t size)
{
    const __m128i *vectors = from;
    __m128i seen[4] = {_mm_setzero_si128(), _mm_setzero_si128(), _mm_setzero_si128(),
                       _mm_setzero_si128()};
    for (size_t i = 0; i < size / sizeof *vectors; i += 4) {
#pragma GCC unroll 4
        for (size_t k = 0; k < 4; k++)
            seen[k] = _mm_or_si128(seen[k], _mm_load_si128(vectors + i + k));
    }
    seen[0] = _mm_or_si128(_mm_or_si128(seen[0], seen[1]), _mm_or_si128(seen[2], seen[3]));
    return (uint32_t)_mm_cvtsi128_si32(seen[0]);
}

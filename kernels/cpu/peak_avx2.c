#include "kernels/cpu/peak.h"

#include <immintrin.h>

float cpu_peak_float32_avx2(int64_t repetitions)
{
    __m256 sum[PEAK_SUMS_OF_16], factor = _mm256_set1_ps(1.0f), other = factor;
    __asm__ volatile("" : "+x"(factor), "+x"(other));
#pragma GCC unroll 12
    for (int i = 0; i < PEAK_SUMS_OF_16; i++) {
        /* Nothing is known of a sum: equal ones would be computed once. */
        sum[i] = _mm256_setzero_ps();
        __asm__ volatile("" : "+x"(sum[i]));
    }
    for (int64_t repetition = 0; repetition < repetitions; repetition++) {
#pragma GCC unroll 12
        for (int i = 0; i < PEAK_SUMS_OF_16; i++)
            sum[i] = _mm256_fmadd_ps(factor, other, sum[i]);
    }
    __m256 all = _mm256_setzero_ps();
#pragma GCC unroll 12
    for (int i = 0; i < PEAK_SUMS_OF_16; i++)
        all = _mm256_add_ps(all, sum[i]);
    return _mm256_cvtss_f32(all);
}

/* Bytes times bytes to sums of two in 16 bits, to sums of four in 32 bits, to the sum. */
float cpu_peak_int8_avx2(int64_t repetitions)
{
    __m256i sum[PEAK_SUMS_ADDED], factor = _mm256_set1_epi8(1), other = factor;
    __m256i ones = _mm256_set1_epi16(1);
    __asm__ volatile("" : "+x"(other), "+x"(ones));
#pragma GCC unroll 8
    for (int i = 0; i < PEAK_SUMS_ADDED; i++) {
        sum[i] = _mm256_setzero_si256();
        __asm__ volatile("" : "+x"(sum[i]));
    }
    for (int64_t repetition = 0; repetition < repetitions; repetition++) {
#pragma GCC unroll 8
        for (int i = 0; i < PEAK_SUMS_ADDED; i++) {
            /* A new factor for all the compiler knows: else one product would serve every sum. */
            __asm__ volatile("" : "+x"(factor));
            __m256i pairs = _mm256_maddubs_epi16(factor, other);
            sum[i] = _mm256_add_epi32(sum[i], _mm256_madd_epi16(pairs, ones));
        }
    }
    __m256i all = _mm256_setzero_si256();
#pragma GCC unroll 8
    for (int i = 0; i < PEAK_SUMS_ADDED; i++)
        all = _mm256_add_epi32(all, sum[i]);
    return (float)_mm256_cvtsi256_si32(all);
}

uint32_t cpu_peak_read_avx2(const void *from, size_t size)
{
    const __m256i *vectors = from;
    __m256i seen[4] = {_mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256(),
                       _mm256_setzero_si256()};
    for (size_t i = 0; i < size / sizeof *vectors; i += 4) {
#pragma GCC unroll 4
        for (size_t k = 0; k < 4; k++)
            seen[k] = _mm256_or_si256(seen[k], _mm256_load_si256(vectors + i + k));
    }
    seen[0] = _mm256_or_si256(_mm256_or_si256(seen[0], seen[1]), _mm256_or_si256(seen[2], seen[3]));
    return (uint32_t)_mm256_cvtsi256_si32(seen[0]);
}

#include "kernels/cpu/peak.h"

#include <immintrin.h>

float cpu_peak_int8_avx512vnni(int64_t repetitions)
{
    __m512i sum[PEAK_SUMS_OF_32], factor = _mm512_set1_epi8(1), other = factor;
    __asm__ volatile("" : "+v"(factor), "+v"(other));
#pragma GCC unroll 24
    for (int i = 0; i < PEAK_SUMS_OF_32; i++) {
        /* Nothing is known of a sum: equal ones would be computed once. */
        sum[i] = _mm512_setzero_si512();
        __asm__ volatile("" : "+v"(sum[i]));
    }
    for (int64_t repetition = 0; repetition < repetitions; repetition++) {
#pragma GCC unroll 24
        for (int i = 0; i < PEAK_SUMS_OF_32; i++) {
            sum[i] = _mm512_dpbusd_epi32(sum[i], factor, other);
            /* Keeps gcc 12 from copying sums between registers. */
            __asm__ volatile("" : "+v"(sum[i]));
        }
    }
    __m512i all = _mm512_setzero_si512();
#pragma GCC unroll 24
    for (int i = 0; i < PEAK_SUMS_OF_32; i++)
        all = _mm512_add_epi32(all, sum[i]);
    return (float)_mm_cvtsi128_si32(_mm512_castsi512_si128(all));
}

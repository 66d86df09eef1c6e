#include "kernels/cpu/peak.h"

#include <immintrin.h>

float cpu_peak_bfloat16_avx512bf16(int64_t repetitions)
{
    __m512 sum[PEAK_SUMS_OF_32];
    __m512i factor = _mm512_set1_epi16(0x3f80), other = factor; /* 1 in bfloat16 */
    __asm__ volatile("" : "+v"(factor), "+v"(other));
#pragma GCC unroll 24
    for (int i = 0; i < PEAK_SUMS_OF_32; i++) {
        /* Nothing is known of a sum: equal ones would be computed once. */
        sum[i] = _mm512_setzero_ps();
        __asm__ volatile("" : "+v"(sum[i]));
    }
    for (int64_t repetition = 0; repetition < repetitions; repetition++) {
#pragma GCC unroll 24
        for (int i = 0; i < PEAK_SUMS_OF_32; i++)
            sum[i] = _mm512_dpbf16_ps(sum[i], (__m512bh)factor, (__m512bh)other);
    }
    __m512 all = _mm512_setzero_ps();
#pragma GCC unroll 24
    for (int i = 0; i < PEAK_SUMS_OF_32; i++)
        all = _mm512_add_ps(all, sum[i]);
    return _mm512_cvtss_f32(all);
}

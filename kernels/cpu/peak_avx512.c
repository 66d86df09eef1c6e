#include "kernels/cpu/peak.h"

#include <immintrin.h>

float cpu_peak_float32_avx512(int64_t repetitions)
{
    __m512 sum[PEAK_SUMS_OF_32], factor = _mm512_set1_ps(1.0f), other = factor;
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
            sum[i] = _mm512_fmadd_ps(factor, other, sum[i]);
    }
    __m512 all = _mm512_setzero_ps();
#pragma GCC unroll 24
    for (int i = 0; i < PEAK_SUMS_OF_32; i++)
        all = _mm512_add_ps(all, sum[i]);
    return _mm512_cvtss_f32(all);
}

uint32_t cpu_peak_read_avx512(const void *from, size_t size)
{
    const __m512i *vectors = from;
    __m512i seen[4] = {_mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512(),
                       _mm512_setzero_si512()};
    for (size_t i = 0; i < size / sizeof *vectors; i += 4) {
#pragma GCC unroll 4
        for (size_t k = 0; k < 4; k++)
            seen[k] = _mm512_or_si512(seen[k], _mm512_load_si512(vectors + i + k));
    }
    seen[0] = _mm512_or_si512(_mm512_or_si512(seen[0], seen[1]), _mm512_or_si512(seen[2], seen[3]));
    return (uint32_t)_mm_cvtsi128_si32(_mm512_castsi512_si128(seen[0]));
}

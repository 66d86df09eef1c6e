/* Exponentials on AVX-512 as powers of two, as exact as who asks needs them. */
#ifndef KERNELS_CPU_POWER_OF_TWO_H
#define KERNELS_CPU_POWER_OF_TWO_H

#include <immintrin.h>

#define ALWAYS_INLINE static inline __attribute__((always_inline))

#define LOG2_E 0x1.715476p0f

/* Of the polynomial; with it the relative error is below 1.1e-4, 3.5e-6 and 3e-7. */
enum power_degree { POWER_DEGREE_3 = 3, POWER_DEGREE_4, POWER_DEGREE_5 };

/*
 * 2^x: the fraction goes through a polynomial that is exact at 0 and 1, the integer part into the
 * exponent. -infinity gives 0, infinity itself, NaN stays NaN.
 */
ALWAYS_INLINE __m512 power_of_two(__m512 x, const enum power_degree degree)
{
    /* of the fraction, from the highest power down to the first */
    static const float factors[][5] = {
        [POWER_DEGREE_3] = {0x1.4095eap-4f, 0x1.cf7a66p-3f, 0x1.640ea8p-1f},
        [POWER_DEGREE_4] = {0x1.bc31dap-7f, 0x1.aa3fcap-5f, 0x1.ee5884p-3f, 0x1.62d51cp-1f},
        [POWER_DEGREE_5] = {0x1.eca6fp-10f, 0x1.269deep-7f, 0x1.c94444p-5f, 0x1.ebd8ap-3f,
                            0x1.62e4c8p-1f},
    };
    __m512 fraction = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF);
    __m512 p = _mm512_set1_ps(factors[degree][0]);
#pragma GCC unroll 4
    for (int i = 1; i < (int)degree; i++)
        p = _mm512_fmadd_ps(p, fraction, _mm512_set1_ps(factors[degree][i]));
    p = _mm512_fmadd_ps(p, fraction, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(p, x); /* p * 2^floor(x) */
}

#endif

/*
 * Online softmax of the scores of a page, for the AVX-512 sets. Exponentials are powers of two: the
 * factor log2(e) / sqrt(head_dim) and the subtraction of the maximum are one multiply-add. What
 * crosses the lanes of a vector is done for all rows of a tile at once.
 */
#ifndef KERNELS_CPU_SOFTMAX_AVX512_H
#define KERNELS_CPU_SOFTMAX_AVX512_H

#include <immintrin.h>
#include <math.h>
#include "kernels/cpu/instructions.h"
#include "kernels/cpu/power_of_two.h"

/* Lane i of the result is the largest lane of row[i]; rows <= 6. NaN may be left out. */
ALWAYS_INLINE __m512 largest_of_rows(const __m512 *row, const int rows)
{
    /* Halves of two rows side by side, then quarters of four. */
    __m512 pair[3];
#pragma GCC unroll 3
    for (int i = 0; i < 3; i++) {
        __m512 a = row[2 * i < rows ? 2 * i : 0], b = row[2 * i + 1 < rows ? 2 * i + 1 : 0];
        pair[i] = _mm512_max_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
    }
    __m512 four = _mm512_max_ps(_mm512_shuffle_f32x4(pair[0], pair[1], 0x88),
                                _mm512_shuffle_f32x4(pair[0], pair[1], 0xdd));
    __m512 two = _mm512_max_ps(_mm512_shuffle_f32x4(pair[2], pair[2], 0x88),
                               _mm512_shuffle_f32x4(pair[2], pair[2], 0xdd));
    /* Lanes 4 i and 4 i + 2 of `all` come of row i, 4 i + 1 and 4 i + 3 of row 4 + i. */
    __m512 all = _mm512_max_ps(_mm512_unpacklo_ps(four, two), _mm512_unpackhi_ps(four, two));
    all = _mm512_max_ps(all, _mm512_shuffle_ps(all, all, 0x4e));
    const __m512i first = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
    return _mm512_permutexvar_ps(first, all);
}

/* As cpu_softmax says, for a number of rows that the compiler knows. */
ALWAYS_INLINE void softmax_rows(float *scores, const int rows, float scale,
                                struct softmax_state state, float *correction,
                                enum power_degree degree)
{
    enum { VECTORS = PANEL_COLUMNS / 16 };
    float bases[16];
    __m512 most[TILE_ROWS];
#pragma GCC unroll 6
    for (int row = 0; row < rows; row++) {
        const float *line = scores + row * PANEL_COLUMNS;
        most[row] =
            _mm512_max_ps(_mm512_max_ps(_mm512_loadu_ps(line), _mm512_loadu_ps(line + 16)),
                          _mm512_max_ps(_mm512_loadu_ps(line + 32), _mm512_loadu_ps(line + 48)));
    }
    const __mmask16 used = (__mmask16)((1u << rows) - 1);
    const __m512 factor = _mm512_set1_ps(scale * LOG2_E);
    const __m512 nothing = _mm512_set1_ps(-INFINITY);
    __m512 before = _mm512_maskz_loadu_ps(used, state.maximum);
    __m512 maximum = _mm512_max_ps(before, _mm512_mul_ps(largest_of_rows(most, rows), factor));
    /* Where all scores are -infinity so far, weights are 0, and not the NaN of inf - inf. */
    __m512 base = _mm512_mask_mov_ps(maximum, _mm512_cmp_ps_mask(maximum, nothing, _CMP_EQ_OQ),
                                     _mm512_setzero_ps());
    _mm512_mask_storeu_ps(state.maximum, used, maximum);
    _mm512_storeu_ps(bases, base);
    _mm512_mask_storeu_ps(correction, used, power_of_two(_mm512_sub_ps(before, base), degree));
#pragma GCC unroll 6
    for (int row = 0; row < rows; row++) {
        float *line = scores + row * PANEL_COLUMNS;
        __m512 value[VECTORS], subtracted = _mm512_set1_ps(bases[row]);
#pragma GCC unroll 4
        for (int i = 0; i < VECTORS; i++)
            value[i] = power_of_two(
                _mm512_fmsub_ps(_mm512_loadu_ps(line + 16 * i), factor, subtracted), degree);
        __m512 sum =
            _mm512_add_ps(_mm512_add_ps(value[0], value[1]), _mm512_add_ps(value[2], value[3]));
        _mm512_storeu_ps(state.sum[row], _mm512_fmadd_ps(_mm512_loadu_ps(state.sum[row]),
                                                         _mm512_set1_ps(correction[row]), sum));
        if (degree == POWER_DEGREE_5) {
#pragma GCC unroll 4
            for (int i = 0; i < VECTORS; i++)
                _mm512_storeu_ps(line + 16 * i, value[i]);
            continue;
        }
#if defined __AVX512BF16__
#pragma GCC unroll 2
        for (int i = 0; i < VECTORS; i += 2)
            _mm512_storeu_si512(line + 8 * i, (__m512i)_mm512_cvtne2ps_pbh(value[i + 1], value[i]));
#endif
    }
}

ALWAYS_INLINE void softmax(float *scores, int32_t rows, int64_t count, float scale,
                           struct softmax_state state, float *correction, enum power_degree degree)
{
    for (int32_t row = 0; row < rows && count < PANEL_COLUMNS; row++) {
        for (int64_t i = count / 16 * 16; i < PANEL_COLUMNS; i += 16) {
            uint32_t outside = 0xffffu << (count > i ? count - i : 0);
            _mm512_mask_storeu_ps(scores + row * PANEL_COLUMNS + i, (__mmask16)outside,
                                  _mm512_set1_ps(-INFINITY));
        }
    }
    switch (rows) {
    case 1:
        softmax_rows(scores, 1, scale, state, correction, degree);
        break;
    case 2:
        softmax_rows(scores, 2, scale, state, correction, degree);
        break;
    case 3:
        softmax_rows(scores, 3, scale, state, correction, degree);
        break;
    case 4:
        softmax_rows(scores, 4, scale, state, correction, degree);
        break;
    case 5:
        softmax_rows(scores, 5, scale, state, correction, degree);
        break;
    default:
        softmax_rows(scores, TILE_ROWS, scale, state, correction, degree);
    }
}

#endif

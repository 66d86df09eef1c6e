#include <immintrin.h>
#include "kernels/cpu/instructions.h"

enum { VECTORS = PANEL_COLUMNS / 16 };

static inline __attribute__((always_inline)) __m512bh load_pair(const uint16_t *pair)
{
    uint32_t bits;
    memcpy(&bits, pair, sizeof bits);
    return (__m512bh)_mm512_set1_epi32((int)bits);
}

/* sums = in x panel for a number of rows that the compiler knows: all sums stay in registers. */
static inline __attribute__((always_inline)) void multiply_pairs(float *sums,
                                                                 const uint16_t *const *in,
                                                                 const int rows, int64_t depth,
                                                                 const uint16_t *panel)
{
    __m512 sum[TILE_ROWS][VECTORS];
    __m512bh weight[VECTORS];
#pragma GCC unroll 6
    for (int row = 0; row < rows; row++) {
#pragma GCC unroll 4
        for (int i = 0; i < VECTORS; i++)
            sum[row][i] = _mm512_setzero_ps();
    }
    for (int64_t k = 0; k + 2 <= depth; k += 2, panel += 2 * PANEL_COLUMNS) {
#pragma GCC unroll 4
        for (int i = 0; i < VECTORS; i++)
            weight[i] = (__m512bh)_mm512_loadu_si512(panel + 32 * i);
#pragma GCC unroll 6
        for (int row = 0; row < rows; row++) {
            __m512bh value = load_pair(in[row] + k);
#pragma GCC unroll 4
            for (int i = 0; i < VECTORS; i++)
                sum[row][i] = _mm512_dpbf16_ps(sum[row][i], value, weight[i]);
        }
    }
    if (depth % 2 != 0) {
        /* The input has no neighbour for its last element: it may be another row's. */
#pragma GCC unroll 4
        for (int i = 0; i < VECTORS; i++)
            weight[i] = (__m512bh)_mm512_loadu_si512(panel + 32 * i);
#pragma GCC unroll 6
        for (int row = 0; row < rows; row++) {
            const uint16_t last[2] = {in[row][depth - 1], 0};
            __m512bh value = load_pair(last);
#pragma GCC unroll 4
            for (int i = 0; i < VECTORS; i++)
                sum[row][i] = _mm512_dpbf16_ps(sum[row][i], value, weight[i]);
        }
    }
#pragma GCC unroll 6
    for (int row = 0; row < rows; row++) {
#pragma GCC unroll 4
        for (int i = 0; i < VECTORS; i++)
            _mm512_storeu_ps(sums + row * PANEL_COLUMNS + 16 * i, sum[row][i]);
    }
}

void cpu_product_bfloat16_avx512bf16(float *sums, const void *const *in, int32_t rows,
                                     int64_t depth, const void *panel)
{
    const uint16_t *const *lines = (const uint16_t *const *)in;
    switch (rows) {
    case 1:
        multiply_pairs(sums, lines, 1, depth, panel);
        break;
    case 2:
        multiply_pairs(sums, lines, 2, depth, panel);
        break;
    case 3:
        multiply_pairs(sums, lines, 3, depth, panel);
        break;
    case 4:
        multiply_pairs(sums, lines, 4, depth, panel);
        break;
    case 5:
        multiply_pairs(sums, lines, 5, depth, panel);
        break;
    default:
        multiply_pairs(sums, lines, TILE_ROWS, depth, panel);
    }
}

#include <immintrin.h>
#include <string.h>
#include "kernels/cpu/instructions.h"

enum { VECTORS = PANEL_COLUMNS / 16, GROUP_BYTES = 4 * PANEL_COLUMNS };

static inline __attribute__((always_inline)) __m512i load_group(const uint8_t *group)
{
    int32_t bits;
    memcpy(&bits, group, sizeof bits);
    return _mm512_set1_epi32(bits);
}

/*
 * sums = offset + in x weights for a number of rows that the compiler knows: all sums stay in
 * registers. vpdpbusd multiplies unsigned by signed bytes and adds four products without
 * saturation; a sum that wraps on its way is right in the end.
 */
static inline __attribute__((always_inline)) void
multiply_groups(int32_t *sums, const uint8_t *const *in, const int rows, int64_t groups,
                const int8_t *weights, const int32_t *offset)
{
    __m512i sum[TILE_ROWS][VECTORS], weight[VECTORS];
#pragma GCC unroll 6
    for (int row = 0; row < rows; row++) {
#pragma GCC unroll 4
        for (int i = 0; i < VECTORS; i++)
            sum[row][i] = _mm512_loadu_si512(offset + 16 * i);
    }
    for (int64_t group = 0; group < groups; group++, weights += GROUP_BYTES) {
#pragma GCC unroll 4
        for (int i = 0; i < VECTORS; i++)
            weight[i] = _mm512_loadu_si512(weights + 64 * i);
#pragma GCC unroll 6
        for (int row = 0; row < rows; row++) {
            __m512i value = load_group(in[row] + 4 * group);
#pragma GCC unroll 4
            for (int i = 0; i < VECTORS; i++)
                sum[row][i] = _mm512_dpbusd_epi32(sum[row][i], value, weight[i]);
        }
    }
#pragma GCC unroll 6
    for (int row = 0; row < rows; row++) {
#pragma GCC unroll 4
        for (int i = 0; i < VECTORS; i++)
            _mm512_storeu_si512(sums + row * PANEL_COLUMNS + 16 * i, sum[row][i]);
    }
}

void cpu_product_int8_avx512vnni(int32_t *sums, const uint8_t *const *in, int32_t rows,
                                 int64_t groups, const int8_t *weights, const int32_t *offset)
{
    switch (rows) {
    case 1:
        multiply_groups(sums, in, 1, groups, weights, offset);
        break;
    case 2:
        multiply_groups(sums, in, 2, groups, weights, offset);
        break;
    case 3:
        multiply_groups(sums, in, 3, groups, weights, offset);
        break;
    case 4:
        multiply_groups(sums, in, 4, groups, weights, offset);
        break;
    case 5:
        multiply_groups(sums, in, 5, groups, weights, offset);
        break;
    default:
        multiply_groups(sums, in, TILE_ROWS, groups, weights, offset);
    }
}

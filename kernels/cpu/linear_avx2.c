#include <immintrin.h>
#include "kernels/cpu/instructions.h"
#include "kernels/dtype.h"

enum {
    GROUP_COLUMNS = 16, /* two vectors times six rows: 12 of the 16 registers hold sums */
    VECTORS = GROUP_COLUMNS / 8,
    WIDENED_DEPTH = 256, /* so much of the input rows is widened to float32 at once: 6 KB */
};

#define ALWAYS_INLINE static inline __attribute__((always_inline))

/* sum += in[row][k] * weight for every row. */
ALWAYS_INLINE void add_products(__m256 (*sum)[VECTORS], const float *const *in, const int rows,
                                int64_t k, const __m256 *weight)
{
#pragma GCC unroll 6
    for (int row = 0; row < rows; row++) {
        __m256 value = _mm256_broadcast_ss(in[row] + k);
#pragma GCC unroll 2
        for (int i = 0; i < VECTORS; i++)
            sum[row][i] = _mm256_fmadd_ps(value, weight[i], sum[row][i]);
    }
}

/* sums += in x one group of the panel's columns, for a number of rows that the compiler knows. */
ALWAYS_INLINE void multiply_group(float *sums, const float *const *in, const int rows,
                                  int64_t depth, const void *group, enum dtype dtype)
{
    const __m256i upper = _mm256_set1_epi32((int)0xffff0000u);
    __m256 sum[TILE_ROWS][VECTORS], weight[VECTORS];
#pragma GCC unroll 6
    for (int row = 0; row < rows; row++) {
#pragma GCC unroll 2
        for (int i = 0; i < VECTORS; i++)
            sum[row][i] = _mm256_loadu_ps(sums + row * PANEL_COLUMNS + 8 * i);
    }
    if (dtype == DTYPE_BFLOAT16) {
        const uint16_t *pairs = group;
        for (int64_t k = 0; k < depth; k += 2, pairs += 2 * PANEL_COLUMNS) {
            for (int i = 0; i < VECTORS; i++)
                weight[i] = _mm256_castsi256_ps(
                    _mm256_slli_epi32(_mm256_loadu_si256((const __m256i *)(pairs + 16 * i)), 16));
            add_products(sum, in, rows, k, weight);
            for (int i = 0; i < VECTORS; i++)
                weight[i] = _mm256_castsi256_ps(
                    _mm256_and_si256(_mm256_loadu_si256((const __m256i *)(pairs + 16 * i)), upper));
            add_products(sum, in, rows, k + 1, weight);
        }
    } else {
        const float *columns = group;
        for (int64_t k = 0; k < depth; k++, columns += PANEL_COLUMNS) {
            for (int i = 0; i < VECTORS; i++)
                weight[i] = _mm256_loadu_ps(columns + 8 * i);
            add_products(sum, in, rows, k, weight);
        }
    }
#pragma GCC unroll 6
    for (int row = 0; row < rows; row++) {
#pragma GCC unroll 2
        for (int i = 0; i < VECTORS; i++)
            _mm256_storeu_ps(sums + row * PANEL_COLUMNS + 8 * i, sum[row][i]);
    }
}

ALWAYS_INLINE void multiply(float *sums, const float *const *in, int32_t rows, int64_t depth,
                            const void *panel, enum dtype dtype)
{
    /* An element and its neighbour of the depth lie side by side in bfloat16. */
    size_t element = dtype == DTYPE_BFLOAT16 ? 2 * sizeof(uint16_t) : sizeof(float);
    for (int column = 0; column < PANEL_COLUMNS; column += GROUP_COLUMNS) {
        const char *group = (const char *)panel + (size_t)column * element;
        switch (rows) {
        case 1:
            multiply_group(sums + column, in, 1, depth, group, dtype);
            break;
        case 2:
            multiply_group(sums + column, in, 2, depth, group, dtype);
            break;
        case 3:
            multiply_group(sums + column, in, 3, depth, group, dtype);
            break;
        case 4:
            multiply_group(sums + column, in, 4, depth, group, dtype);
            break;
        case 5:
            multiply_group(sums + column, in, 5, depth, group, dtype);
            break;
        default:
            multiply_group(sums + column, in, TILE_ROWS, depth, group, dtype);
        }
    }
}

void cpu_product_float32_avx2(float *sums, const void *const *in, int32_t rows, int64_t depth,
                              const void *panel)
{
    memset(sums, 0, (size_t)rows * PANEL_COLUMNS * sizeof *sums);
    multiply(sums, (const float *const *)in, rows, depth, panel, DTYPE_FLOAT32);
}

/* An odd depth ends with a zero, as the panel does. */
static void widen(float *out, const uint16_t *in, int64_t count)
{
    for (int64_t k = 0; k < count; k++)
        out[k] = bfloat16_to_float(in[k]);
    if (count % 2 != 0)
        out[count] = 0;
}

void cpu_product_bfloat16_avx2(float *sums, const void *const *in, int32_t rows, int64_t depth,
                               const void *panel)
{
    float widened[TILE_ROWS][WIDENED_DEPTH] __attribute__((aligned(64)));
    const float *lines[TILE_ROWS];
    for (int32_t row = 0; row < TILE_ROWS; row++)
        lines[row] = widened[row];
    memset(sums, 0, (size_t)rows * PANEL_COLUMNS * sizeof *sums);
    for (int64_t begin = 0; begin < depth; begin += WIDENED_DEPTH) {
        int64_t count = depth - begin < WIDENED_DEPTH ? depth - begin : WIDENED_DEPTH;
        for (int32_t row = 0; row < rows; row++)
            widen(widened[row], (const uint16_t *)in[row] + begin, count);
        multiply(sums, lines, rows, count, (const uint16_t *)panel + begin * PANEL_COLUMNS,
                 DTYPE_BFLOAT16);
    }
}

enum {
    INT8_COLUMNS = 8,    /* two vectors of pair sums a row */
    WIDENED_GROUPS = 64, /* so many groups of the input rows are widened to int16 at once: 3 KB */
    GROUP_BYTES = 4 * PANEL_COLUMNS,
};

typedef int32_t int_sums __attribute__((vector_size(32)));

/* The pair sums of four columns each become the sums of eight columns. */
ALWAYS_INLINE __m256i add_pairs(__m256i low, __m256i high)
{
    return _mm256_permute4x64_epi64(_mm256_hadd_epi32(low, high), _MM_SHUFFLE(3, 1, 2, 0));
}

/*
 * sums += in x eight columns of the weights, for a number of rows that the compiler knows. The
 * inputs are int16 here, and vpmaddwd adds two products of int16 without saturation.
 */
ALWAYS_INLINE void multiply_int8(int32_t *sums, int16_t (*in)[4 * WIDENED_GROUPS], const int rows,
                                 int64_t groups, const int8_t *weights)
{
    int_sums sum[TILE_ROWS][2];
    __m256i weight[2];
#pragma GCC unroll 6
    for (int row = 0; row < rows; row++)
        sum[row][0] = sum[row][1] = (int_sums){0};
    for (int64_t group = 0; group < groups; group++, weights += GROUP_BYTES) {
        weight[0] = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)weights));
        weight[1] = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(weights + 16)));
#pragma GCC unroll 6
        for (int row = 0; row < rows; row++) {
            int64_t four;
            memcpy(&four, in[row] + 4 * group, sizeof four);
            __m256i value = _mm256_set1_epi64x(four);
            sum[row][0] += (int_sums)_mm256_madd_epi16(value, weight[0]);
            sum[row][1] += (int_sums)_mm256_madd_epi16(value, weight[1]);
        }
    }
#pragma GCC unroll 6
    for (int row = 0; row < rows; row++) {
        __m256i *to = (__m256i *)(sums + row * PANEL_COLUMNS);
        _mm256_storeu_si256(
            to, _mm256_add_epi32(_mm256_loadu_si256(to),
                                 add_pairs((__m256i)sum[row][0], (__m256i)sum[row][1])));
    }
}

/* q of q + 128 */
static void widen_int8(int16_t *out, const uint8_t *in, int64_t count)
{
    for (int64_t k = 0; k < count; k++)
        out[k] = (int16_t)(in[k] - 128);
}

static void multiply_int8_rows(int32_t *sums, int16_t (*in)[4 * WIDENED_GROUPS], int32_t rows,
                               int64_t groups, const int8_t *weights)
{
    switch (rows) {
    case 1:
        multiply_int8(sums, in, 1, groups, weights);
        break;
    case 2:
        multiply_int8(sums, in, 2, groups, weights);
        break;
    case 3:
        multiply_int8(sums, in, 3, groups, weights);
        break;
    case 4:
        multiply_int8(sums, in, 4, groups, weights);
        break;
    case 5:
        multiply_int8(sums, in, 5, groups, weights);
        break;
    default: /* all six at once are one register too many */
        multiply_int8(sums, in, TILE_ROWS / 2, groups, weights);
        multiply_int8(sums + TILE_ROWS / 2 * PANEL_COLUMNS, in + TILE_ROWS / 2, TILE_ROWS / 2,
                      groups, weights);
    }
}

void cpu_product_int8_avx2(int32_t *sums, const uint8_t *const *in, int32_t rows, int64_t groups,
                           const int8_t *weights, const int32_t *offset)
{
    int16_t widened[TILE_ROWS][4 * WIDENED_GROUPS] __attribute__((aligned(64)));
    (void)offset; /* the inputs are brought back to q instead */
    memset(sums, 0, (size_t)rows * PANEL_COLUMNS * sizeof *sums);
    for (int64_t begin = 0; begin < groups; begin += WIDENED_GROUPS) {
        int64_t count = groups - begin < WIDENED_GROUPS ? groups - begin : WIDENED_GROUPS;
        for (int32_t row = 0; row < rows; row++)
            widen_int8(widened[row], in[row] + 4 * begin, 4 * count);
        for (int column = 0; column < PANEL_COLUMNS; column += INT8_COLUMNS)
            multiply_int8_rows(sums + column, widened, rows, count,
                               weights + begin * GROUP_BYTES + 4 * column);
    }
}

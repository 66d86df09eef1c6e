/* What the lanes of a warp compute together, in the layouts of the PTX manual. */
#include "kernels/quantise.h"
#include "tests/simt/simt_internal.h"

static void do_nothing(void *const *, uint32_t)
{
}

void simt_warp_barrier(uint32_t mask, struct simt_site site)
{
    simt_warp_arrive("warp_barrier", mask, site, nullptr, do_nothing);
}

struct shuffle {
    uint32_t value, source, result;
    struct simt_site site;
};

static void perform_shuffle(void *const operands[SIMT_WARP], uint32_t mask)
{
    for (uint32_t lane = 0; lane < SIMT_WARP; lane++) {
        if ((mask >> lane & 1) == 0)
            continue;
        struct shuffle *shuffle = (struct shuffle *)operands[lane];
        if (shuffle->source >= SIMT_WARP || (mask >> shuffle->source & 1) == 0)
            simt_fail("shuffle", shuffle->site, "lane %u reads lane %u, which mask %08x lacks",
                      lane, shuffle->source, mask);
        shuffle->result = ((const struct shuffle *)operands[shuffle->source])->value;
    }
}

uint32_t simt_shuffle_bits(uint32_t mask, uint32_t value, uint32_t source, struct simt_site site)
{
    struct shuffle shuffle = {value, source, 0, site};
    simt_warp_arrive("shuffle", mask, site, &shuffle, perform_shuffle);
    return shuffle.result;
}

struct ballot {
    bool vote;
    uint32_t result;
};

static void perform_ballot(void *const operands[SIMT_WARP], uint32_t mask)
{
    uint32_t result = 0;
    for (uint32_t lane = 0; lane < SIMT_WARP; lane++) {
        if ((mask >> lane & 1) != 0 && ((const struct ballot *)operands[lane])->vote)
            result |= 1u << lane;
    }
    for (uint32_t lane = 0; lane < SIMT_WARP; lane++) {
        if ((mask >> lane & 1) != 0)
            ((struct ballot *)operands[lane])->result = result;
    }
}

uint32_t simt_ballot(uint32_t mask, bool vote, struct simt_site site)
{
    struct ballot ballot = {vote, 0};
    simt_warp_arrive("ballot", mask, site, &ballot, perform_ballot);
    return ballot.result;
}

uint32_t simt_pack(float low, float high)
{
    return (uint32_t)bfloat16_from_float(high) << 16 | bfloat16_from_float(low);
}

uint32_t simt_pack_fp8(float low, float high)
{
    return (uint32_t)fp8_from_float(high) << 8 | fp8_from_float(low);
}

struct load {
    const uint16_t *row;
    uint32_t *out;
};

static uint16_t element(void *const *operands, uint32_t matrix, uint32_t row, uint32_t column)
{
    return ((const struct load *)operands[8 * matrix + row])->row[column];
}

/* Lane 8 i + j names row j of matrix i; lane l gets elements 2 (l % 4), + 1 of row l / 4. */
static void perform_load(void *const operands[SIMT_WARP], uint32_t)
{
    for (uint32_t lane = 0; lane < SIMT_WARP; lane++) {
        uint32_t row = lane / 4, column = lane % 4 * 2;
        for (uint32_t i = 0; i < 4; i++)
            ((const struct load *)operands[lane])->out[i] =
                (uint32_t)element(operands, i, row, column + 1) << 16 |
                element(operands, i, row, column);
    }
}

static void perform_load_transposed(void *const operands[SIMT_WARP], uint32_t)
{
    for (uint32_t lane = 0; lane < SIMT_WARP; lane++) {
        uint32_t row = lane % 4 * 2, column = lane / 4;
        for (uint32_t i = 0; i < 4; i++)
            ((const struct load *)operands[lane])->out[i] =
                (uint32_t)element(operands, i, row + 1, column) << 16 |
                element(operands, i, row, column);
    }
}

void simt_load_matrices(uint32_t (&out)[4], const void *row, struct simt_site site)
{
    struct load load = {(const uint16_t *)row, out};
    simt_check_shared("load_matrices", site, row, 16);
    simt_warp_arrive("load_matrices", SIMT_ALL, site, &load, perform_load);
}

void simt_load_matrices_transposed(uint32_t (&out)[4], const void *row, struct simt_site site)
{
    struct load load = {(const uint16_t *)row, out};
    simt_check_shared("load_matrices_transposed", site, row, 16);
    simt_warp_arrive("load_matrices_transposed", SIMT_ALL, site, &load, perform_load_transposed);
}

struct multiply {
    float *sum;        /* rows l / 4 (first two) and l / 4 + 8, columns 2 (l % 4), + 1 */
    const uint32_t *a; /* rows as above; depth 2 (l % 4), + 1, the last two registers + 8 */
    uint32_t b[2];     /* column l / 4; depth 2 (l % 4), + 1, the second register + 8 */
};

struct tiles {
    float a[16][16], b[16][8], sum[16][8];
};

static void gather_tiles(struct tiles *tiles, void *const *operands)
{
    for (uint32_t lane = 0; lane < SIMT_WARP; lane++) {
        const struct multiply *multiply = (const struct multiply *)operands[lane];
        uint32_t row = lane / 4, pair = lane % 4 * 2;
        for (uint32_t i = 0; i < 4; i++) {
            float *a = &tiles->a[row + 8 * (i % 2)][pair + 8 * (i / 2)];
            a[0] = bfloat16_to_float((uint16_t)multiply->a[i]);
            a[1] = bfloat16_to_float((uint16_t)(multiply->a[i] >> 16));
            tiles->sum[row + 8 * (i / 2)][pair + i % 2] = multiply->sum[i];
        }
        for (uint32_t i = 0; i < 2; i++) {
            tiles->b[pair + 8 * i][row] = bfloat16_to_float((uint16_t)multiply->b[i]);
            tiles->b[pair + 8 * i + 1][row] = bfloat16_to_float((uint16_t)(multiply->b[i] >> 16));
        }
    }
}

static void perform_multiply(void *const operands[SIMT_WARP], uint32_t)
{
    struct tiles tiles;
    gather_tiles(&tiles, operands);
    for (uint32_t row = 0; row < 16; row++) {
        for (uint32_t depth = 0; depth < 16; depth++) {
            for (uint32_t column = 0; column < 8; column++)
                tiles.sum[row][column] += tiles.a[row][depth] * tiles.b[depth][column];
        }
    }
    for (uint32_t lane = 0; lane < SIMT_WARP; lane++) {
        for (uint32_t i = 0; i < 4; i++)
            ((const struct multiply *)operands[lane])->sum[i] =
                tiles.sum[lane / 4 + 8 * (i / 2)][lane % 4 * 2 + i % 2];
    }
}

void simt_multiply(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                   struct simt_site site)
{
    struct multiply multiply = {sum, a, {b0, b1}};
    simt_warp_arrive("multiply", SIMT_ALL, site, &multiply, perform_multiply);
}

/* The same of 8-bit elements, with twice the depth: four of them lie where two were. */
struct multiply_bytes {
    uint32_t *sum;
    const uint32_t *a;
    uint32_t b[2];
    enum dtype dtype;
};

struct byte_tiles {
    float a[16][32], b[32][8]; /* whole numbers of int8 are exact in them */
    uint32_t sum[16][8];
};

static void gather_bytes(struct byte_tiles *tiles, void *const *operands)
{
    for (uint32_t lane = 0; lane < SIMT_WARP; lane++) {
        const struct multiply_bytes *multiply = (const struct multiply_bytes *)operands[lane];
        uint32_t row = lane / 4, first = lane % 4 * 4;
        for (uint32_t i = 0; i < 4; i++) {
            for (uint32_t j = 0; j < 4; j++)
                tiles->a[row + 8 * (i % 2)][first + 16 * (i / 2) + j] =
                    quantise_value(multiply->dtype, (uint8_t)(multiply->a[i] >> 8 * j));
            tiles->sum[row + 8 * (i / 2)][lane % 4 * 2 + i % 2] = multiply->sum[i];
        }
        for (uint32_t i = 0; i < 2; i++) {
            for (uint32_t j = 0; j < 4; j++)
                tiles->b[first + 16 * i + j][row] =
                    quantise_value(multiply->dtype, (uint8_t)(multiply->b[i] >> 8 * j));
        }
    }
}

/* Products of int8 over a depth of 32 are exact in float, too. */
static uint32_t sum_bytes(const struct byte_tiles *tiles, uint32_t row, uint32_t column,
                          enum dtype dtype)
{
    uint32_t sum = tiles->sum[row][column];
    float total = dtype == DTYPE_INT8 ? 0 : simt_float_of_bits(sum);
    for (uint32_t depth = 0; depth < 32; depth++)
        total += tiles->a[row][depth] * tiles->b[depth][column];
    return dtype == DTYPE_INT8 ? sum + (uint32_t)(int32_t)total : simt_bits_of_float(total);
}

static void perform_multiply_bytes(void *const operands[SIMT_WARP], uint32_t)
{
    struct byte_tiles tiles;
    gather_bytes(&tiles, operands);
    for (uint32_t lane = 0; lane < SIMT_WARP; lane++) {
        const struct multiply_bytes *multiply = (const struct multiply_bytes *)operands[lane];
        for (uint32_t i = 0; i < 4; i++)
            multiply->sum[i] =
                sum_bytes(&tiles, lane / 4 + 8 * (i / 2), lane % 4 * 2 + i % 2, multiply->dtype);
    }
}

void simt_multiply_bytes(uint32_t (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                         enum dtype dtype, struct simt_site site)
{
    struct multiply_bytes multiply = {sum, a, {b0, b1}, dtype};
    simt_warp_arrive("multiply_bytes", SIMT_ALL, site, &multiply, perform_multiply_bytes);
}

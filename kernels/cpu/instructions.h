/*
 * The inner loops and the table of instruction sets. Pure functions of their arguments; every sum
 * has one order that does not depend on how many rows are computed together.
 */
#ifndef KERNELS_CPU_INSTRUCTIONS_H
#define KERNELS_CPU_INSTRUCTIONS_H

#include <stdbool.h>
#include <stdint.h>
#include "kernels/backend.h"

enum {
    PANEL_COLUMNS = 64, /* four vectors of 512 bits */
    TILE_ROWS = 6,      /* with them 24 sums in registers, the rest for the panel */
};
_Static_assert((int)PANEL_COLUMNS == (int)KV_PAGE_POSITIONS, "the keys of a page are one panel");

/*
 * sums [rows, PANEL_COLUMNS] = offset [PANEL_COLUMNS] + in [rows][4 * groups] x weights [groups,
 * PANEL_COLUMNS, 4], exactly, modulo 2^32; rows <= TILE_ROWS. in holds q + 128, and the offsets are
 * -128 * sum of the weights of a column, so that the sums are those of q.
 */
typedef void cpu_product_int8(int32_t *sums, const uint8_t *const *in, int32_t rows, int64_t groups,
                              const int8_t *weights, const int32_t *offset);

/* sums [rows, PANEL_COLUMNS] = in [rows][depth] x panel [depth, PANEL_COLUMNS]; rows <= TILE_ROWS
 */
typedef void cpu_product(float *sums, const void *const *in, int32_t rows, int64_t depth,
                         const void *panel);

/* What online softmax keeps of a tile's rows. At first: -INFINITY and zeros. */
struct softmax_state {
    float *maximum;   /* [rows] of the scores so far, in the function's own unit */
    float (*sum)[16]; /* [rows] of the weights so far, in sixteen parts */
};

/*
 * One page of online softmax: the first `count` of scores [rows, PANEL_COLUMNS] become weights
 * exp(scale * score - largest) in the form that the set's cpu_accumulate takes, those behind them
 * 0. The state is brought up to date; correction [16] is the factor for everything that was summed
 * before, a row each. rows <= TILE_ROWS.
 */
typedef void cpu_softmax(float *scores, int32_t rows, int64_t count, float scale,
                         struct softmax_state state, float *correction);

/*
 * sums [rows, stride] = sums * correction [rows] + weights [rows, PANEL_COLUMNS] x a page of values
 * over the first `count` positions; stride is a multiple of 16, rows <= TILE_ROWS.
 */
typedef void cpu_accumulate(float *sums, int64_t stride, const float *correction,
                            const void *weights, int32_t rows, int64_t count, const void *values);

/* Functions of one row each; "activation" is the dtype that the table is for. */
struct cpu_elementwise {
    /* out [count] activation = sums (+ bias where not NULL) */
    void (*store)(void *out, const float *sums, const float *bias, int64_t count);
    /* out [count] activation = sums * factor */
    void (*store_scaled)(void *out, const float *sums, float factor, int64_t count);
    void (*add_rmsnorm)(void *out, float *residual, const void *delta, const float *scale,
                        float epsilon, int64_t columns);
    void (*swiglu)(void *out, const void *gate, const void *up, int64_t width);
    /* head [head_dim] in place: norm where scale is not NULL, then rotation of halves. */
    void (*rope)(void *head, const float *scale, float epsilon, const float *cosines,
                 const float *sines, int64_t head_dim, int64_t rotary_dim);
    /* The largest magnitude of a line; NaN or an infinity where it holds one. */
    float (*largest)(const void *line, int64_t count);
    /*
     * out = q + 128 of `count` activations (kernels/quantise.h), then 128 up to a multiple of 4.
     * Any q comes of NaN and infinities: their scale is NaN.
     */
    void (*quantise)(uint8_t *out, const void *line, int64_t count, float inverse);
    /*
     * out [count] activation = sums * (line_scale * scales) (+ bias where not NULL): a product of a
     * quantised line. sums and scales are [PANEL_COLUMNS].
     */
    void (*store_exact)(void *out, const int32_t *sums, float line_scale, const float *scales,
                        const float *bias, int64_t count);

    /* Rows of logits, where a NaN counts as -INFINITY. */
    float (*row_max)(const float *row, int64_t count);
    /* *sum = sum of e^t, *weighted = sum of t e^t, t = max(row - maximum, -87) */
    void (*row_exp_sums)(double *sum, double *weighted, const float *row, int64_t count,
                         float maximum);
    /* The first index in [begin, end) with row > threshold, or end. */
    int64_t (*find_greater)(const float *row, int64_t begin, int64_t end, float threshold);
};

/* Indexed by DTYPE_FLOAT32 and DTYPE_BFLOAT16. */
extern const struct cpu_elementwise CPU_ELEMENTWISE_SCALAR[2];
extern const struct cpu_elementwise CPU_ELEMENTWISE_AVX2[2];
extern const struct cpu_elementwise CPU_ELEMENTWISE_AVX512[2];
extern const struct cpu_elementwise CPU_ELEMENTWISE_AVX512BF16[2];

cpu_product cpu_product_float32_scalar, cpu_product_bfloat16_scalar;
cpu_product cpu_product_float32_avx2, cpu_product_bfloat16_avx2;
cpu_product cpu_product_float32_avx512, cpu_product_bfloat16_avx512;
cpu_product cpu_product_bfloat16_avx512bf16;

cpu_product_int8 cpu_product_int8_scalar, cpu_product_int8_avx2, cpu_product_int8_avx512vnni;

/* The last two leave weights in float32, and rounded to bfloat16. */
cpu_softmax cpu_softmax_scalar, cpu_softmax_avx2, cpu_softmax_avx512, cpu_softmax_avx512bf16;

cpu_accumulate cpu_accumulate_float32_scalar, cpu_accumulate_bfloat16_scalar;
cpu_accumulate cpu_accumulate_float32_avx2, cpu_accumulate_bfloat16_avx2;
cpu_accumulate cpu_accumulate_float32_avx512, cpu_accumulate_bfloat16_avx512;
cpu_accumulate cpu_accumulate_bfloat16_avx512bf16;

/* What a backend of one dtype runs. */
struct cpu_instructions {
    const char *name;
    cpu_product *product;
    cpu_product_int8 *product_int8;
    cpu_softmax *softmax;
    cpu_accumulate *accumulate;
    const struct cpu_elementwise *elementwise;
    const struct cpu_elementwise *elementwise_float32; /* whatever the dtype of activations */
};

/*
 * Chooses by name, or the best for this CPU where name is NULL. ERROR_INVALID lists what the CPU
 * has.
 */
int cpu_instructions_choose(struct cpu_instructions *out, const char *name, enum dtype dtype,
                            struct error *err);

#endif

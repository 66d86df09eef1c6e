/*
 * The reference backend: plain C, one thread, sums in double. It is the specification that the
 * other backends are checked against, so it says what is computed in the most direct way and knows
 * no layout but rows. Activations are rounded to the backend's dtype where they are stored.
 */
#ifndef KERNELS_REF_REF_H
#define KERNELS_REF_REF_H

#include "kernels/backend.h"
#include "kernels/host_backend.h"

struct ref_backend {
    struct host_backend host;
    struct backend_limits limits;
    struct step_rows step;
    /* [layers, kv_pages, KV_PAGE_POSITIONS, kv_heads, head_dim], values of the backend's dtype */
    float *key_cache, *value_cache;
    double *scores;         /* [max_positions] */
    double *raw, *adjusted; /* [vocabulary] */
    int32_t *order;         /* [vocabulary] */
    uint8_t *line;          /* [weight_columns] an input line; where weights are int8 or fp8 */
};

/* What struct weight is here. */
struct ref_weight {
    int64_t rows, columns;
    float *values;  /* [rows, columns], values of the backend's dtype; or NULL */
    uint8_t *small; /* [rows, columns] bytes where weights are int8 or fp8, or NULL */
    float *scales;  /* [rows] of them */
    float *bias;    /* [rows], or NULL */
};

int ref_backend_create(struct backend **out, const struct backend_options *options,
                       struct error *err);
bool ref_computes(enum dtype dtype, enum dtype weight_dtype);

/* Behind backend_reserved_bytes and backend_weight_bytes. */
void ref_reserved_bytes(size_t *kv_pool, size_t *scratch, const struct backend_limits *limits,
                        enum dtype dtype, enum dtype weight_dtype);
size_t ref_weight_bytes(int64_t rows, int64_t columns, bool bias, enum dtype weight_dtype);

/*
 * out [count] = line in the bytes of `to`, int8 or fp8; returns its scale. line holds `count`
 * elements of dtype from `at` on. kernels/quantise.h word by word.
 */
float ref_quantise(uint8_t *out, enum dtype to, const void *line, int64_t at, int64_t count,
                   enum dtype dtype);

/* One element of the product of the quantised line in ref->line, with the bias. */
float ref_product_small(const struct ref_backend *ref, const struct ref_weight *weight, int64_t row,
                        float line_scale);

/* The operations, as struct backend_ops describes them. */
void ref_embed(struct backend *backend, float *residual, const struct weight *table);
void ref_add_rmsnorm(struct backend *backend, void *out, float *residual, const void *delta,
                     const float *scale, float epsilon, int32_t columns);
void ref_linear(struct backend *backend, void *out, const void *in, const struct weight *weight,
                int32_t lines);
void ref_swiglu(struct backend *backend, void *out, const void *gate_up, int32_t width);
void ref_gather(struct backend *backend, void *out, const void *in, int32_t columns);
void ref_rope_store(struct backend *backend, void *qkv, const float *q_scale, const float *k_scale,
                    int32_t layer);
void ref_attention(struct backend *backend, void *out, const void *qkv, int32_t layer);
void ref_head(struct backend *backend, struct head_result *result, const void *gathered,
              const struct weight *weight, const struct head_batch *batch);

/* One element of an activation. */
static inline float ref_load(const void *activation, int64_t index, enum dtype dtype)
{
    return dtype == DTYPE_BFLOAT16 ? bfloat16_to_float(((const uint16_t *)activation)[index])
                                   : ((const float *)activation)[index];
}

static inline void ref_store(void *activation, int64_t index, double value, enum dtype dtype)
{
    if (dtype == DTYPE_BFLOAT16)
        ((uint16_t *)activation)[index] = bfloat16_from_float((float)value);
    else
        ((float *)activation)[index] = (float)value;
}

#endif

/*
 * The CUDA backend. bfloat16 activations, weights and KV pages; float32 residual and sums. Its host
 * side is plain C over device.h and runs in the emulation too; its kernels are the .cu files.
 *
 * Layouts in device memory:
 *
 * weight  [rows, columns] as in a checkpoint, bias float32; int8 and fp8: both sides filled up to
 *         multiples of 16 with zeros, a float32 scale a row
 * K page  of one layer and kv head: [64 positions, head_dim rounded up to 16], zero behind head_dim
 * V page  the same
 */
#ifndef KERNELS_CUDA_CUDA_H
#define KERNELS_CUDA_CUDA_H

#include "kernels/backend.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/products.h"
#include "kernels/cuda/recordings.h"
#include "kernels/cuda/step_tables.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    CUDA_HEAD_DIM_MAX = 128,
    CUDA_HEAD_DIM_STEP = 16, /* depth of a matrix instruction */
};

struct cuda_head_state; /* of head.c */

/* How a step of few rows is computed: it changes the last bits of what that gives at most. */
struct step_way {
    bool known;            /* a rehearsal has found it to be the fastest */
    bool own_products;     /* by few_lines.cu, of as few lines as that is made for */
    size_t prefetch_bytes; /* of the next product's weight while other kernels run */
};

enum {
    STEP_WAY_ROWS_MAX = 128, /* more, and products take longer than their weights take to arrive */
    STEP_WAYS = STEP_WAY_ROWS_MAX / 16 + 1, /* row buckets are multiples of 16, or the limit */
};

/* What was given out by memory_create. */
struct cuda_allocation {
    void *memory;
    size_t size;
};

struct cuda_backend {
    struct backend base;
    struct backend_ops ops; /* with the name of the device */
    char description[160];
    struct device_facts facts;
    struct simt_queue queue; /* of operations; the recorder where one is enqueued for a recording */
    struct recordings *recordings;
    struct noted_operations *noted; /* of recorded_operations.c */
    bool recording;      /* queue is the recorder: grids have to be those of the buckets */
    struct step_way way; /* of the step's kind */
    struct step_way ways[STEP_WAYS]; /* of row buckets: what rehearsals have found */
    struct backend_limits limits;

    /* KV pool: [layers, kv_pages, kv_heads] pages */
    uint16_t *keys, *values;
    int32_t padded_head_dim;
    float *rope_table; /* [max_positions, 2, rotary_dim / 2]: cosines, then sines */

    struct upload *upload; /* of weights */
    char *staging_block, *device_block;
    struct step_tables staging, tables; /* in these blocks */
    int32_t *line_of_sequence;          /* [max_sequences] -1 */
    struct step_rows step;
    int32_t row_bucket, gathered_bucket; /* of this step */
    bool parts;                          /* attention has some to merge in this step */

    /* Attention of rows with several chunks, before they are merged. */
    float *part_sums;  /* [parts, heads, padded_head_dim] weighted sums of V */
    float *part_norms; /* [parts, heads, 2] largest exponent, sum of weights */

    bool deterministic; /* struct backend_options */
    struct cuda_operand operand;
    void *sums; /* [lines of a slice, rows] of products, before they are scaled */
    struct cuda_product_state *product;
    uint32_t *few_parts, *few_tickets; /* of few_lines.cu */
    struct cuda_head_state *head;
    struct cuda_allocation *allocations;
    size_t allocation_count, allocation_room;
    size_t weight_bytes, kv_bytes, other_bytes;
};

/* What struct weight is here. */
struct cuda_weight {
    int64_t rows, columns;
    int64_t padded_rows, stride; /* the same in memory */
    enum dtype dtype;            /* bfloat16, int8 or fp8 */
    void *values;                /* [padded_rows, stride] */
    float *scales;               /* [padded_rows] of int8 and fp8, else NULL */
    float *bias;                 /* [padded_rows], or NULL */
};

int cuda_backend_create(struct backend **out, const struct backend_options *options,
                        struct error *err);
bool cuda_prefers_bfloat16(void);
bool cuda_computes(enum dtype dtype, enum dtype weight_dtype);

struct backend_memory cuda_memory(void);
int32_t cuda_next_bucket(int32_t rows);

/* ERROR_INVALID, with what this device has, where it lacks one of the dtypes. */
int cuda_dtypes_check(const struct device_facts *facts, enum dtype dtype, enum dtype weight_dtype,
                      struct error *err);

/* Behind backend_reserved_bytes and backend_weight_bytes. */
void cuda_reserved_bytes(size_t *kv_pool, size_t *scratch, const struct backend_limits *limits,
                         enum dtype dtype, enum dtype weight_dtype);
size_t cuda_weight_bytes(int64_t rows, int64_t columns, bool bias, enum dtype weight_dtype);

/* Behind backend_copy_rate: copy_rate.c */
int cuda_copy_rate(double *out, struct backend *backend, size_t size, struct error *err);

/* reserve.c */
int cuda_reserve(struct backend *backend, const struct backend_limits *limits, struct error *err);
/* Fills the tables of a step and enqueues their upload; sets step and buckets. */
void cuda_upload_tables(struct cuda_backend *cuda, const struct step_rows *rows);

/* weights.c */
int cuda_weight_create(struct backend *backend, struct weight **out,
                       const struct tensor_source *sources, int count, const float *bias,
                       struct error *err);
void cuda_weight_destroy(struct backend *backend, struct weight *weight);

/* out [rows, columns] bfloat16 = rows from `row` on of a source of random numbers:
 * random_matrix.cu */
void cuda_random_matrix(struct cuda_backend *cuda, uint16_t *out,
                        const struct tensor_source *source, int64_t row, int64_t rows);

/* While recording: asks for the first `most` bytes of a weight, beside what comes next: prefetch.cu
 */
void cuda_prefetch_load(void); /* at start */
void cuda_prefetch(struct cuda_backend *cuda, const struct cuda_weight *weight, size_t most);

/* The operations, as struct backend_ops describes them: layers.cu, rope_store.cu, attention.cu. */
void cuda_embed(struct backend *backend, float *residual, const struct weight *table);
void cuda_add_rmsnorm(struct backend *backend, void *out, float *residual, const void *delta,
                      const float *scale, float epsilon, int32_t columns);
void cuda_rope_store(struct backend *backend, void *qkv, const float *q_scale, const float *k_scale,
                     int32_t layer);
void cuda_attention(struct backend *backend, void *out, const void *qkv, int32_t layer);
void cuda_swiglu(struct backend *backend, void *out, const void *gate_up, int32_t width);
void cuda_gather(struct backend *backend, void *out, const void *in, int32_t columns);

/* The second half of attention for rows with several chunks: merge_parts.cu */
void cuda_merge_parts(struct cuda_backend *cuda, uint16_t *out);

static inline struct cuda_backend *cuda_self(struct backend *backend)
{
    return (struct cuda_backend *)backend;
}

/* Elements of the KV pool's keys that belong to one layer; of its values as many. */
static inline int64_t cuda_layer_elements(const struct cuda_backend *cuda)
{
    return (int64_t)cuda->limits.kv_pages * cuda->limits.attention.kv_heads * KV_PAGE_POSITIONS *
           cuda->padded_head_dim;
}

#ifdef __cplusplus
}
#endif

#endif

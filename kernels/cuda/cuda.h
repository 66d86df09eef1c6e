/*
 * The CUDA backend. bfloat16 activations, weights and KV pages; float32 residual and sums. Its host
 * side is plain C over device.h and runs in the emulation too; its kernels are the .cu files.
 *
 * Layouts in device memory:
 *
 * weight  [rows, columns] as in a checkpoint, bias float32
 * K page  of one layer and kv head: [64 positions, head_dim rounded up to 16], zero behind head_dim
 * V page  the same
 */
#ifndef KERNELS_CUDA_CUDA_H
#define KERNELS_CUDA_CUDA_H

#include "kernels/backend.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/recordings.h"
#include "kernels/cuda/step_tables.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    CUDA_HEAD_DIM_MAX = 128,
    CUDA_HEAD_DIM_STEP = 16, /* depth of a matrix instruction */
};

struct cuda_linear_state; /* of linear_cublaslt.cu: handle, workspace, plans */

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
    bool recording; /* queue is the recorder: grids have to be those of the buckets */
    struct backend_limits limits;

    /* KV pool: [layers, kv_pages, kv_heads] pages */
    uint16_t *keys, *values;
    int32_t padded_head_dim;
    float *rope_table; /* [max_positions, 2, rotary_dim / 2]: cosines, then sines */

    char *staging_block, *device_block;
    struct step_tables staging, tables; /* in these blocks */
    int32_t *line_of_sequence;          /* [max_sequences] -1 */
    struct step_rows step;
    int32_t row_bucket, gathered_bucket; /* of this step */

    /* Attention of rows with several chunks, before they are merged. */
    float *part_sums;  /* [parts, heads, padded_head_dim] weighted sums of V */
    float *part_norms; /* [parts, heads, 2] largest exponent, sum of weights */

    struct cuda_linear_state *linear;
    void *head; /* what the head's implementation keeps */
    struct cuda_allocation *allocations;
    size_t allocation_count, allocation_room;
    size_t weight_bytes, kv_bytes, other_bytes;
};

/* What struct weight is here. */
struct cuda_weight {
    int64_t rows, columns;
    uint16_t *values; /* [rows, columns] */
    float *bias;      /* [rows], or NULL */
};

int cuda_backend_create(struct backend **out, const struct backend_options *options,
                        struct error *err);
bool cuda_prefers_bfloat16(void);
bool cuda_computes(enum dtype dtype, enum dtype weight_dtype);

/* ERROR_NO_DEVICE says what is missing; *is_there: whether there is a device at all. */
int cuda_check(bool *is_there, struct error *err);
struct backend_memory cuda_memory(void);
int32_t cuda_next_bucket(int32_t rows);

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

/* The operations, as struct backend_ops describes them: layers.cu, rope_store.cu, attention.cu. */
void cuda_embed(struct backend *backend, float *residual, const struct weight *table);
void cuda_add_rmsnorm(struct backend *backend, void *out, float *residual, const void *delta,
                      const float *scale, float epsilon, int32_t columns);
void cuda_rope_store(struct backend *backend, void *qkv, const float *q_scale, const float *k_scale,
                     int32_t layer);
void cuda_attention(struct backend *backend, void *out, const void *qkv, int32_t layer);
void cuda_swiglu(struct backend *backend, void *out, const void *gate_up, int32_t width);
void cuda_gather(struct backend *backend, void *out, const void *in, int32_t columns);

/* linear_cublaslt.cu on the device, tests/simt/ref_operations.c in the emulation. */
/* Rows of a weight with a bias, at most: 128 lines of its sums fit into the memory for them. */
enum { CUDA_BIASED_ROWS_MAX = 1 << 16 };
size_t cuda_linear_bytes(void); /* that open takes; counted when memory is reserved */
int cuda_linear_open(struct cuda_backend *cuda, struct error *err);
void cuda_linear_close(struct cuda_backend *cuda);
void cuda_linear(struct backend *backend, void *out, const void *in, const struct weight *weight,
                 int32_t lines);

/* The second half of attention for rows with several chunks: merge_parts.cu */
void cuda_merge_parts(struct cuda_backend *cuda, uint16_t *out);

/* out [lines, rows] = sums [lines, rows] + bias [rows]: layers.cu */
void cuda_add_bias(struct cuda_backend *cuda, uint16_t *out, const float *sums, const float *bias,
                   int32_t lines, int64_t rows);

/* So far in the emulation alone: tests/simt/ref_operations.c. */
int cuda_head_reserve(struct cuda_backend *cuda, struct error *err);
void cuda_head_close(struct cuda_backend *cuda);
void cuda_head(struct backend *backend, struct head_result *result, const void *gathered,
               const struct weight *weight, const struct head_batch *batch);

static inline struct cuda_backend *cuda_self(struct backend *backend)
{
    return (struct cuda_backend *)backend;
}

#ifdef __cplusplus
}
#endif

#endif

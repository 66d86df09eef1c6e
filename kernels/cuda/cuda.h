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
#include "kernels/cuda/recordings.h"
#include "kernels/cuda/step_tables.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    CUDA_HEAD_DIM_MAX = 128,
    CUDA_HEAD_DIM_STEP = 16, /* depth of a matrix instruction */
    CUDA_BYTES_STEP = 16,    /* sides of matrices of int8 and fp8 are multiples of this */
};

struct cuda_head_state;    /* of head.c */
struct cuda_product_state; /* of linear_cublaslt.cu: handle, workspace, plans */

/* Lines in int8 or fp8, with zeros behind their columns. Device memory. */
struct quantised_lines {
    uint8_t *bytes; /* [lines, stride] */
    float *scales;  /* [lines] */
    int64_t stride; /* a multiple of CUDA_BYTES_STEP */
};

/*
 * The lines that were quantised last, which linear takes where they are its input: add_rmsnorm and
 * swiglu quantise what they write, all others are quantised by linear itself. What overwrites the
 * lines has to say so (cuda_overwrites).
 */
struct cuda_operand {
    struct quantised_lines lines; /* room for all lines of weight_columns; NULL for bfloat16 */
    const void *of;               /* [count, columns] bfloat16 that these are; NULL: none */
    int32_t count;
    int64_t columns;
};

/* How a step of few rows is computed; all that can be changed without changing what it computes. */
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

/* ERROR_NO_DEVICE says what is missing; *is_there: whether there is a device at all. */
int cuda_check(bool *is_there, struct error *err);
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

/* linear.c */
size_t cuda_linear_bytes(void); /* that open takes; counted when memory is reserved */
int cuda_linear_open(struct cuda_backend *cuda, struct error *err);
void cuda_linear_close(struct cuda_backend *cuda);
size_t cuda_operand_bytes(const struct backend_limits *limits, enum dtype weight_dtype);
int cuda_operand_reserve(struct cuda_backend *cuda, struct error *err);
void cuda_linear(struct backend *backend, void *out, const void *in, const struct weight *weight,
                 int32_t lines);

/*
 * out [lines, rows] float32 in lines of `stride` >= rows: the products of in [lines, columns] with
 * rows [first_row, first_row + rows) of the weight, without its bias. Beside cuda_linear; out and
 * stride are multiples of 16 bytes. What lies between rows and stride may be written.
 */
void cuda_logits(struct cuda_backend *cuda, float *out, int64_t stride, const void *in,
                 const struct cuda_weight *weight, int64_t first_row, int64_t rows, int32_t lines);
/*
 * Room for `count` quantised lines of `of`, which the caller fills; they are the operand then.
 * False where weights are bfloat16 or there is no room: nothing has to be quantised.
 */
bool cuda_operand_take(struct cuda_backend *cuda, struct quantised_lines *to, const void *of,
                       int32_t count, int64_t columns);

/* An operation writes [size] bytes from `out` on: the operand is no copy of that any more. */
void cuda_overwrites(struct cuda_backend *cuda, const void *out, size_t size);

/* A product of lines by rows of a weight, without its bias. */
struct cuda_product {
    const struct cuda_weight *weight;
    int64_t first, rows; /* of the weight */
    const void *in;      /* [lines, stride of the weight] in the weight's dtype */
    int32_t lines;
    void *out; /* [lines, out_stride] */
    int64_t out_stride;
    /* [lines] of fp8, or NULL: out is scaled by these and by the scales of the rows. */
    const float *in_scales;
    /* out is bfloat16; else it is float32, and int32 of int8, which is never rounded. */
    bool rounded;
    /* Results must not depend on where such a range of rows begins and ends (logits). */
    bool ranged;
};

/*
 * linear_cublaslt.cu on the device, tests/simt/ref_operations.c in the emulation. cuda_multiply is
 * false, and does nothing, where the library does not multiply the scales into fp8 products of this
 * size: the caller takes the sums. Any other failure is a fault of the queue.
 */
size_t cuda_product_bytes(void); /* of device memory that open takes */
size_t cuda_sums_bytes(void);    /* that products may leave unscaled at a time */
int cuda_product_open(struct cuda_backend *cuda, struct error *err);
void cuda_product_close(struct cuda_backend *cuda);
bool cuda_multiply(struct cuda_backend *cuda, const struct cuda_product *product);
/*
 * The kernels around products: quantise.cu. Lines of bfloat16 or float32 [count, columns] to int8
 * or fp8 by kernels/quantise.h.
 */
void cuda_quantise(struct cuda_backend *cuda, const struct quantised_lines *to, enum dtype to_dtype,
                   const void *from, enum dtype from_dtype, int32_t count, int64_t columns);

/* Sums of products on their way to results. */
struct cuda_epilogue {
    void *out;        /* [lines, out_stride] */
    enum dtype dtype; /* of out: bfloat16 or float32 */
    int64_t out_stride;
    const void *sums; /* [lines, stride] int32 or float32; may be out where that is float32 */
    bool integers;    /* the former */
    int64_t stride;
    const float *line_scales; /* [lines] and [rows], or both NULL: not scaled */
    const float *row_scales;
    const float *bias; /* [rows], or NULL */
    int32_t lines;
    int64_t rows;
};
void cuda_finish_sums(struct cuda_backend *cuda, const struct cuda_epilogue *epilogue);

/* The second half of attention for rows with several chunks: merge_parts.cu */
void cuda_merge_parts(struct cuda_backend *cuda, uint16_t *out);

/* ---- the head: head.c and head_*.cu ---------------------------------------------------------- */

/* Bits of cuda_head_shape.kinds; from the shift on: how many slices the stored rows take. */
enum { CUDA_HEAD_LISTS = 1, CUDA_HEAD_SLICES_SHIFT = 8 };

/* All that decides what a head enqueues: grids, sizes and launches. */
struct cuda_head_shape {
    int32_t rows;  /* the bucket of the head rows; 0: there are none and nothing is enqueued */
    int32_t lines; /* of logits, as many as the rows name. Its bucket may be put in its place where
                      `gathered` has so many lines. */
    uint32_t kinds;
};

size_t cuda_head_bytes(const struct backend_limits *limits); /* that reserve takes */
int cuda_head_reserve(struct cuda_backend *cuda, struct error *err);
void cuda_head_close(struct cuda_backend *cuda);

/*
 * The host's half of a head: fills the tables and enqueues their upload. The result is filled by
 * cuda_head_finish.
 */
struct cuda_head_shape cuda_head_prepare(struct cuda_backend *cuda, struct head_result *result,
                                         const struct weight *weight,
                                         const struct head_batch *batch);

/*
 * The device's half: products, kernels and the download of the results, which depend on the shape,
 * `gathered` and the weight alone. All else is read from the tables.
 */
void cuda_head_enqueue(struct cuda_backend *cuda, const void *gathered, const struct weight *weight,
                       const struct cuda_head_shape *shape);

/* Where a head was prepared, empties all lists of its result: before the queue is waited for. */
void cuda_head_clear_lists(struct cuda_backend *cuda);

/* Hands over what was computed, behind that; the queue is at its end. */
void cuda_head_finish(struct cuda_backend *cuda);

/* A side of a matrix of int8 or fp8 as it lies in memory. */
static inline int64_t cuda_padded(int64_t side)
{
    return (side + CUDA_BYTES_STEP - 1) / CUDA_BYTES_STEP * CUDA_BYTES_STEP;
}

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

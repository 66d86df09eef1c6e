/*
 * Products of lines by the rows of a weight: linear and the logits of the head, what they read of
 * quantised inputs, and the library and the kernels below them. linear.c puts them together.
 */
#ifndef KERNELS_CUDA_PRODUCTS_H
#define KERNELS_CUDA_PRODUCTS_H

#include "kernels/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

struct cuda_backend;
struct cuda_weight;
struct cuda_product_state; /* of linear_cublaslt.cu: handle, workspace, plans */

/* Sides of matrices of int8 and fp8 are multiples of this in memory. */
enum { CUDA_BYTES_STEP = 16 };

/* A side of such a matrix as it lies in memory. */
static inline int64_t cuda_padded(int64_t side)
{
    return (side + CUDA_BYTES_STEP - 1) / CUDA_BYTES_STEP * CUDA_BYTES_STEP;
}

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
    /* Logits: where results must not depend on the batch (deterministic), not on the range either.
     */
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

#ifdef __cplusplus
}
#endif

#endif

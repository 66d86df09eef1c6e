/*
 * Products of few lines by a kernel of our own, beside the library's: few_lines.cu. A step of few
 * rows is as long as its weights take to arrive, and this kernel begins to fetch them while the
 * kernel before it still runs, which a library's cannot.
 */
#ifndef KERNELS_CUDA_FEW_LINES_H
#define KERNELS_CUDA_FEW_LINES_H

#include "kernels/cuda/cuda.h"
#include "kernels/cuda/products.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { FEW_LINES_MAX = 64 }; /* of a launch */

/* Bytes of device memory that open takes. ERROR_MEMORY. */
size_t cuda_few_lines_bytes(void);
int cuda_few_lines_open(struct cuda_backend *cuda, struct error *err);
void cuda_few_lines_close(struct cuda_backend *cuda);

/* Whether the kernel can compute this product on this device. */
bool cuda_few_lines_fits(const struct cuda_backend *cuda, const struct cuda_product *product);

/*
 * The product as cuda_multiply computes it, FEW_LINES_MAX lines at a time. A result depends on its
 * line, its row and the shape of the weight, whatever else is computed with it.
 */
void cuda_few_lines(struct cuda_backend *cuda, const struct cuda_product *product);

#ifdef __cplusplus
}
#endif

#endif

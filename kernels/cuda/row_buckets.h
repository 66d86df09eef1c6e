/*
 * The few sizes that steps are rounded up to, so that launch grids, GEMM plans and recordings come
 * from a short list. Pure functions.
 */
#ifndef KERNELS_CUDA_ROW_BUCKETS_H
#define KERNELS_CUDA_ROW_BUCKETS_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { ROW_BUCKET_MIN = 32 };

/*
 * The smallest of 32 * {1, 1.5, 2, 3, 4, 6, ...} that holds `rows`, but `limit` at most: the
 * activations of a step have no room for more. rows in [0, limit], limit at most 2^24.
 */
int32_t row_bucket(int32_t rows, int32_t limit);

/* How many values row_bucket takes for this limit. */
int32_t row_bucket_count(int32_t limit);

#ifdef __cplusplus
}
#endif

#endif

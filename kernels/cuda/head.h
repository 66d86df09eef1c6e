/*
 * The LM head as the rest of the backend sees it: head.c. What it uploads and what its kernels
 * share is in head_kernels.h.
 */
#ifndef KERNELS_CUDA_HEAD_H
#define KERNELS_CUDA_HEAD_H

#include "kernels/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

struct cuda_backend;

/* All that decides what a head enqueues: grids, sizes and launches. */
struct cuda_head_shape {
    int32_t rows;   /* the bucket of the head rows; 0: there are none and nothing is enqueued */
    int32_t lines;  /* of logits, as many as the rows name. Its bucket may be put in its place where
                       `gathered` has so many lines. */
    uint32_t kinds; /* bits of head.c */
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

#ifdef __cplusplus
}
#endif

#endif

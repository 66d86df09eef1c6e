/*
 * Pieces of host memory on their way to the device, through two pinned buffers by turns: one is
 * filled while the other one is copied. One owner thread.
 */
#ifndef KERNELS_CUDA_UPLOAD_H
#define KERNELS_CUDA_UPLOAD_H

#include <stddef.h>

struct error;
struct simt_queue;
struct upload;

int upload_create(struct upload **out, struct error *err);
void upload_destroy(struct upload *upload); /* NULL is fine; the queue has been waited for */

/* Both buffers hold `size` bytes from here on. Nothing is under way. ERROR_MEMORY. */
int upload_reserve(struct upload *upload, size_t size, struct error *err);

/* The buffer to fill next; waits until what it held before has been copied. */
void *upload_buffer(struct upload *upload, struct simt_queue *queue);

/* Enqueues the copy of the first bytes of that buffer. */
void upload_send(struct upload *upload, struct simt_queue *queue, void *to, size_t size);

#endif

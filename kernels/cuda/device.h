/*
 * The machine under the CUDA backend: memory and copies. On the device it is the CUDA runtime, in
 * the tests the host's own memory and the emulation of tests/simt. One owner thread.
 */
#ifndef KERNELS_CUDA_DEVICE_H
#define KERNELS_CUDA_DEVICE_H

#include <stddef.h>

#include "kernels/cuda/queue.h"

#ifdef __cplusplus
extern "C" {
#endif

struct error;

struct device_facts {
    const char *backend; /* "cuda", "simt" */
    char name[80];       /* of the device */
    int multiprocessors;
};

/*
 * Opens the device and the queue of its operations. `instructions` is struct backend_options': NULL
 * or empty on a device. ERROR_NO_DEVICE where there is none, ERROR_INVALID for other instructions.
 */
int device_open(struct simt_queue *queue, struct device_facts *facts, const char *instructions,
                struct error *err);
void device_close(struct simt_queue *queue);

/* Zeroed memory of the device, at a multiple of 256 bytes. ERROR_MEMORY names `what`. */
int device_memory_create(void **out, size_t size, const char *what, struct error *err);
void device_memory_destroy(void *memory); /* NULL is fine */

/* Zeroed memory of the host that copies to the device can be enqueued from. */
int device_staging_create(void **out, size_t size, const char *what, struct error *err);
void device_staging_destroy(void *staging); /* NULL is fine */

/* In the order of the queue. `from` stays as it is until the queue has been waited for. */
void device_enqueue_upload(struct simt_queue *queue, void *to, const void *from, size_t size);

/* From one place of the device's memory to another. */
void device_enqueue_copy(struct simt_queue *queue, void *to, const void *from, size_t size);

/* Done when they return. */
void device_upload(struct simt_queue *queue, void *to, const void *from, size_t size);
void device_download(struct simt_queue *queue, void *to, const void *from, size_t size);

/* Waits for all that was enqueued. ERROR_DEVICE_LOST with the first fault, now and ever after. */
int device_wait(struct simt_queue *queue, struct error *err);

#ifdef __cplusplus
}
#endif

#endif

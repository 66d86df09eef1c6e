/*
 * The machine under the CUDA backend: memory, copies and recordings. On the device it is the CUDA
 * runtime, in the tests the host's own memory and the emulation of tests/simt. One owner thread.
 */
#ifndef KERNELS_CUDA_DEVICE_H
#define KERNELS_CUDA_DEVICE_H

#include <stdbool.h>
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
    bool fp8;            /* has matrix instructions for it */
    size_t shared_bytes; /* that a block may have */
    size_t cache_bytes;  /* of L2 */
    int capability;      /* 10 * major + minor */
    bool own_alone;      /* those of few_lines.cu are taken wherever it can, but for logits */
    bool library_alone;  /* they are never taken, and nothing is fetched ahead */
};

/*
 * Whether there is a device that device_open would take, without opening it. ERROR_NO_DEVICE names
 * what is missing: driver, device, or what they lack. *is_there (NULL is fine) tells whether there
 * seems to be a device at all.
 */
int device_check(bool *is_there, struct error *err);

/* Of the device that device_open would take: struct device_facts' fp8. False where there is none.
 */
bool device_has_fp8(void);

/* Bytes of the device, and how many of them are free; 0 where there is no device. */
struct device_memory {
    size_t total, free;
};
struct device_memory device_memory_read(void);

/*
 * Opens the device and the queue of its operations. `instructions` is struct backend_options'.
 * ERROR_NO_DEVICE where there is none, ERROR_INVALID for other instructions.
 */
int device_open(struct simt_queue *queue, struct device_facts *facts, const char *instructions,
                struct error *err);
void device_close(struct simt_queue *queue);

/* Zeroed memory of the device, at a multiple of 256 bytes. ERROR_MEMORY names `what`. */
int device_memory_create(void **out, size_t size, const char *what, struct error *err);
void device_memory_destroy(void *memory); /* NULL is fine */

/* Zeroed memory of the host that copies to and from the device can be enqueued with. */
int device_staging_create(void **out, size_t size, const char *what, struct error *err);
void device_staging_destroy(void *staging); /* NULL is fine */

/* In the order of the queue. `from` stays as it is until the queue has been waited for. */
void device_enqueue_upload(struct simt_queue *queue, void *to, const void *from, size_t size);
/* The same the other way round: `to` is there when the queue has been waited for. */
void device_enqueue_download(struct simt_queue *queue, void *to, const void *from, size_t size);

/* From one place of the device's memory to another. */
void device_enqueue_copy(struct simt_queue *queue, void *to, const void *from, size_t size);

/* Done when they return. */
void device_upload(struct simt_queue *queue, void *to, const void *from, size_t size);
void device_download(struct simt_queue *queue, void *to, const void *from, size_t size);

/*
 * Places [0, DEVICE_MARKS) in a queue, to learn when the copies before them are done.
 * device_mark_wait returns at once for a mark that was never set.
 */
void device_mark_set(struct simt_queue *queue, int mark);
void device_mark_wait(struct simt_queue *queue, int mark);

/*
 * What was enqueued once, to be enqueued again as a whole. `recorder` is a queue of its own
 * (device_recorder_open): nothing enqueued there between begin and end runs, it becomes the
 * recording. Arguments of kernels and addresses are kept as they are. device_recording_end gives
 * NULL, and says why, where something that was enqueued cannot be recorded; the recorder can then
 * be used again.
 */
struct device_recording;
int device_recorder_open(struct simt_queue *recorder, struct error *err);
void device_recorder_close(struct simt_queue *recorder); /* one that was never opened is fine */
void device_recording_begin(struct simt_queue *recorder);
struct device_recording *device_recording_end(struct simt_queue *recorder, struct error *err);
void device_recording_launch(struct simt_queue *queue, struct device_recording *recording);
/*
 * Between begin and end: *beside takes kernels that run beside whatever the recorder is given next.
 * They begin when all that it was given so far is done, and are done before the recording is. The
 * caller looks at the fault of *beside.
 */
void device_recording_beside(struct simt_queue *recorder, struct simt_queue *beside);
/* Launches it a few times and waits: seconds of the fastest, INFINITY behind a fault. */
double device_recording_time(struct simt_queue *queue, struct device_recording *recording);
void device_recording_destroy(struct device_recording *recording); /* NULL is fine */

/* Waits for all that was enqueued. ERROR_DEVICE_LOST with the first fault, now and ever after. */
int device_wait(struct simt_queue *queue, struct error *err);

#ifdef __cplusplus
}
#endif

#endif

/*
 * Recordings of steps: what a step enqueues for one key, kept by the device as a whole (on NVIDIA's
 * a CUDA graph) and launched again with other contents of the step's tables. It holds addresses and
 * grids, which a key fixes, and nothing of a step's contents.
 *
 * The first step of a key runs as it is, so that whatever its operations make once is there: plans
 * of products, loaded kernels. Behind it the same operations are enqueued once more, for the
 * recording (recorded_operations.c). So nothing is lost where a recording is refused: the steps of
 * that key run as they are from then on. Later steps launch the recording.
 *
 * The memory that a driver takes for a recording is the one thing that is not reserved at start.
 * One owner thread.
 */
#ifndef KERNELS_CUDA_RECORDINGS_H
#define KERNELS_CUDA_RECORDINGS_H

#include <stdbool.h>

#include "kernels/cuda/keyed_slots.h"
#include "kernels/cuda/queue.h"

#ifdef __cplusplus
extern "C" {
#endif

/*
 * Row buckets of both programs of the model, of short and long canvases, and of its heads; more are
 * made again when needed.
 */
enum { RECORDINGS_MAX = 128 };

struct recordings;

int recordings_create(struct recordings **out, struct error *err);
void recordings_destroy(struct recordings *recordings); /* NULL is fine */

/* A buffer or a weight has gone: all recordings are dropped. Not inside of a step. */
void recordings_forget(struct recordings *recordings);

/* What the step of a key has to do. */
enum recordings_use {
    RECORDINGS_LAUNCHED, /* nothing: its recording was launched on the queue */
    RECORDINGS_MAKE,     /* enqueue its operations, and then again between begin and end */
    RECORDINGS_NONE,     /* enqueue its operations: they cannot be recorded */
};
enum recordings_use recordings_use(struct recordings *recordings, struct simt_queue *queue,
                                   struct slot_key key);

/* The same where the step is to be recorded even if there is a recording of it. */
enum recordings_use recordings_renew(struct recordings *recordings, struct slot_key key);

/*
 * Around the operations that are the recording of the key that was to be made last: begin exchanges
 * the queue for one where nothing runs, end takes that back. The same key may be recorded several
 * times, in other ways: end drops what there was. Behind the last one comes keep, which logs the
 * first refusal.
 */
void recordings_begin(struct recordings *recordings, struct simt_queue *queue);
void recordings_end(struct recordings *recordings, struct simt_queue *queue);
void recordings_keep(struct recordings *recordings);

/*
 * Seconds of a launch of what end has made last; INFINITY where it made nothing. Waits: not in a
 * step that anyone waits for.
 */
double recordings_time(struct recordings *recordings, struct simt_queue *queue);

/* How many were kept and refused, and how often one was launched. */
struct recordings_counts {
    int32_t made, refused;
    int64_t launched;
};
struct recordings_counts recordings_count(const struct recordings *recordings);

#ifdef __cplusplus
}
#endif

#endif

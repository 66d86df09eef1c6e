/*
 * Recordings of steps: what a step enqueues for one key, kept by the device as a whole (on NVIDIA's
 * a CUDA graph) and launched again with other contents of the step's tables. It holds addresses and
 * grids, which a key fixes, and nothing of a step's contents.
 *
 * The first step of a key runs as it is, so that whatever its operations make once is there: plans
 * of products, loaded kernels. In the second step every operation runs as well and is then recorded
 * beside that (recorded_operations.c). So nothing is lost where a recording is refused: the steps
 * of that key run as they are from then on. Later steps launch the recording.
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

/* Row buckets of both programs of the model, and of its heads; more are made again when needed. */
enum { RECORDINGS_MAX = 128 };

struct recordings;

int recordings_create(struct recordings **out, struct error *err);
void recordings_destroy(struct recordings *recordings); /* NULL is fine */

/* A buffer or a weight has gone: all recordings are dropped. Not inside of a step. */
void recordings_forget(struct recordings *recordings);

/*
 * True where a recording of the key was launched on the queue: nothing is left to enqueue. Else the
 * caller enqueues, and calls recordings_end behind the last operation.
 */
bool recordings_begin(struct recordings *recordings, struct simt_queue *queue, struct slot_key key);
void recordings_end(struct recordings *recordings);

/*
 * Between begin and end of a step that is being recorded: exchanges the queue for the recorder.
 * False, and nothing is exchanged, in other steps.
 */
bool recordings_exchange(struct recordings *recordings, struct simt_queue *queue);

/* For tests: how many there are, and how many launches. */
struct recordings_counts {
    int32_t made, refused;
    int64_t launched;
};
struct recordings_counts recordings_count(const struct recordings *recordings);

#ifdef __cplusplus
}
#endif

#endif

/*
 * Where the operations of a step are enqueued. Plain C, for both sides. A launch that fails is
 * noted here and shows at the end of the step. One owner thread.
 */
#ifndef KERNELS_CUDA_QUEUE_H
#define KERNELS_CUDA_QUEUE_H

#include <stdbool.h>

enum { DEVICE_MARKS = 2 };

struct simt_queue {
    void *stream; /* cudaStream_t; in the emulation NULL, or what is being recorded */
    /* device_open makes these cudaEvent_t; a recorder has them for itself, the emulation has none
     */
    void *marks[DEVICE_MARKS];
    void *beside;  /* cudaStream_t of a recorder, for device_recording_beside */
    bool forked;   /* it is part of what is being recorded */
    bool overlaps; /* a kernel may begin beside the one before it, as far as simt_begin allows */
    int fault;     /* the first cudaError_t, 0 where there was none */
};

#endif

/*
 * Where the operations of a step are enqueued. Plain C, for both sides. A launch that fails is
 * noted here and shows at the end of the step. One owner thread.
 */
#ifndef KERNELS_CUDA_QUEUE_H
#define KERNELS_CUDA_QUEUE_H

struct simt_queue {
    void *stream;   /* cudaStream_t; in the emulation NULL, or what is being recorded */
    void *marks[2]; /* device.h: cudaEvent_t, NULL before the first use */
    int fault;      /* the first cudaError_t, 0 where there was none */
};

#endif

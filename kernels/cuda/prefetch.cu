/*
 * The beginning of a weight on its way into the device's cache before its product comes. With few
 * rows a step is as long as its weights take to arrive, and while anything but a product runs,
 * memory would have nothing to do. What is asked for changes no result, and is written by no
 * kernel: so this one needs no simt_begin.
 */
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/simt.h"

enum { THREADS = 128, PIECE = 1 << 10 /* bytes that a thread asks for */ };

struct prefetch_arguments {
    const char *from;
    int64_t size; /* a multiple of 16 */
};

SIMT_KERNEL(THREADS) void prefetch(const struct prefetch_arguments arguments)
{
    int64_t at = ((int64_t)simt_block_x() * THREADS + simt_thread()) * PIECE;
    int64_t left = arguments.size - at, bytes = left < (int64_t)PIECE ? left : (int64_t)PIECE;
    if (bytes > 0)
        simt_prefetch(arguments.from + at, (uint32_t)bytes);
}

/* Its first launch is one of a recording. */
extern "C" void cuda_prefetch_load(void)
{
    simt_load(prefetch);
}

extern "C" void cuda_prefetch(struct cuda_backend *cuda, const struct cuda_weight *weight,
                              size_t most)
{
    const size_t all =
        (size_t)(weight->padded_rows * weight->stride) * dtype_size(weight->dtype) / 16 * 16;
    const size_t size = all < most ? all : most / 16 * 16, block = (size_t)THREADS * PIECE;
    const struct prefetch_arguments arguments = {(const char *)weight->values, (int64_t)size};
    const struct simt_grid grid = {(uint32_t)((size + block - 1) / block), 1, THREADS, 0};
    struct simt_queue beside;
    if (size == 0)
        return;
    device_recording_beside(&cuda->queue, &beside);
    simt_launch(&beside, prefetch, grid, arguments);
    if (cuda->queue.fault == 0)
        cuda->queue.fault = beside.fault;
}

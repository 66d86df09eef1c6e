/* Kernels of the emulation (tests/simt) on the streams of the CUDA runtime on the host. */
#include "tests/runtime/host_runtime.h"
#include "tests/simt/emulation.h"

void simt_enqueue(struct simt_queue *queue, void (*run)(const void *context), const void *context,
                  size_t size)
{
    host_runtime_enqueue(queue->stream, run, context, size);
}

/*
 * The CUDA runtime on the host, for tests of what calls it: kernels/cuda/device.cu and
 * linear_cublaslt.cu run on it without a device. Its own work is late on purpose: nothing that was
 * enqueued runs before somebody waits for it. Memory of the device cannot be reached between that.
 * A call that CUDA forbids ends the program with a line that names it. What it accepts proves
 * nothing of a device.
 *
 * By environment variables:
 *     HOST_RUNTIME_DEVICE=9.0    compute capability of the one device
 *     HOST_RUNTIME_MEMORY=bytes  of the device
 *     HOST_RUNTIME_FAIL=cudaMalloc:3    that call fails the third time, with 3+ from then on; also
 *                                       cudaMallocHost, cudaGraphInstantiate,
 *                                       cudaStreamSynchronize
 */
#ifndef TESTS_RUNTIME_HOST_RUNTIME_H
#define TESTS_RUNTIME_HOST_RUNTIME_H

#include <driver_types.h>
#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * run(context), with a copy of the context's `size` bytes, when the stream comes to it. On a stream
 * that captures it becomes part of the graph. For what runs on a device in place of the host.
 */
void host_runtime_enqueue(cudaStream_t stream, void (*run)(const void *context),
                          const void *context, size_t size);

/* Whether it all lies in one allocation of the device that was not freed. */
bool host_runtime_has(const void *memory, size_t size);

/* major * 10 + minor of the device. */
int host_runtime_capability(void);

#ifdef __cplusplus
}
#endif

#endif

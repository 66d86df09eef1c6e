/* Between the parts of the runtime on the host. */
#ifndef TESTS_RUNTIME_HOST_RUNTIME_INTERNAL_H
#define TESTS_RUNTIME_HOST_RUNTIME_INTERNAL_H

#include <driver_types.h>
#include <stdbool.h>

/* Ends the program: CUDA forbids the call, because of `why`. */
_Noreturn void host_runtime_forbids(const char *call, const char *why);

/* Notes an error for cudaGetLastError. */
cudaError_t host_runtime_result(cudaError_t status);

/* Ends the program where the host itself has no memory. */
void *host_runtime_need(void *memory);

/* Whether HOST_RUNTIME_FAIL means this call, this time. */
bool host_runtime_fails(const char *call);

void host_runtime_not_in_capture(const char *call);
bool host_runtime_captures(cudaStream_t stream, const char *call);

/* Runs what was enqueued on the stream, or on all. */
void host_runtime_finish(cudaStream_t stream);
void host_runtime_finish_all(void);

/* The device's memory can be reached between these two. */
void host_memory_open(void);
void host_memory_close(void);

#endif

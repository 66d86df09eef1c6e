/*
 * libcublasLt, loaded when a device is there and not before: the library has half a gigabyte, and a
 * machine without a GPU has no use for it. It is looked for as the system's loader does, and in the
 * toolkit that the program was built with.
 */
#ifndef KERNELS_CUDA_CUBLASLT_LIBRARY_H
#define KERNELS_CUDA_CUBLASLT_LIBRARY_H

#ifdef __cplusplus
extern "C" {
#endif

struct error;

/* Before any function of the library is called. ERROR_NO_DEVICE where it cannot be loaded. */
int cublaslt_library_open(struct error *err);

#ifdef __cplusplus
}
#endif

#endif

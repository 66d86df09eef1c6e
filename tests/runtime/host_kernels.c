/*
 * Kernels that nvcc compiled, in the CUDA runtime on the host: a launch is looked at and does
 * nothing.
 */
#include <cuda_runtime_api.h>
#include <stdio.h>
#include <string.h>

#include "tests/runtime/host_runtime.h"
#include "tests/runtime/host_runtime_internal.h"

enum { KERNELS = 256, SHARED_WITHOUT_ASKING = 48 << 10 };

static struct kernel {
    const void *function;
    const char *name;
    size_t shared;
} kernels[KERNELS];
static int kernel_count;

void **__cudaRegisterFatBinary(void *binary);
void __cudaRegisterFatBinaryEnd(void **handle);
void __cudaUnregisterFatBinary(void **handle);
void __cudaRegisterFunction(void **handle, const char *function, char *device_function,
                            const char *name, int thread_limit, uint3 *thread, uint3 *block,
                            dim3 *block_size, dim3 *grid_size, int *warp_size);
cudaError_t __cudaPopCallConfiguration(dim3 *grid, dim3 *block, size_t *shared, void *stream);
cudaError_t __cudaGetKernel(cudaKernel_t *kernel, const void *function);
cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void **arguments,
                               size_t shared, cudaStream_t stream);

void **__cudaRegisterFatBinary(void *binary)
{
    static void *handle;
    handle = binary;
    return &handle;
}

void __cudaRegisterFatBinaryEnd(void **handle)
{
    (void)handle;
}

void __cudaUnregisterFatBinary(void **handle)
{
    (void)handle;
}

void __cudaRegisterFunction(void **handle, const char *function, char *device_function,
                            const char *name, int thread_limit, uint3 *thread, uint3 *block,
                            dim3 *block_size, dim3 *grid_size, int *warp_size)
{
    (void)handle, (void)device_function, (void)thread_limit, (void)thread, (void)block;
    (void)block_size, (void)grid_size, (void)warp_size;
    if (kernel_count == KERNELS)
        host_runtime_forbids("a kernel", "there are too many for tests/runtime/host_kernels.c");
    kernels[kernel_count++] = (struct kernel){function, name, SHARED_WITHOUT_ASKING};
}

static struct kernel *find(const void *function)
{
    for (int i = 0; i < kernel_count; i++) {
        if (kernels[i].function == function)
            return &kernels[i];
    }
    host_runtime_forbids("a launch", "of what is no kernel");
}

cudaError_t cudaFuncSetAttribute(const void *function, enum cudaFuncAttribute attribute, int value)
{
    struct cudaDeviceProp properties;
    struct kernel *kernel = find(function);
    cudaGetDeviceProperties(&properties, 0);
    if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize || value < 0 ||
        (size_t)value > properties.sharedMemPerBlockOptin)
        host_runtime_forbids(kernel->name, "more shared memory than a block has");
    kernel->shared = (size_t)value;
    return cudaSuccess;
}

cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *attributes, const void *function)
{
    const struct kernel *kernel = find(function);
    *attributes = (struct cudaFuncAttributes){.maxDynamicSharedSizeBytes = (int)kernel->shared};
    return cudaSuccess;
}

static void check_attributes(const struct kernel *kernel, const cudaLaunchConfig_t *config)
{
    for (unsigned i = 0; i < config->numAttrs; i++) {
        cudaLaunchAttributeID id = config->attrs[i].id;
        if (id == cudaLaunchAttributePreferredSharedMemoryCarveout)
            continue;
        if (id != cudaLaunchAttributeProgrammaticStreamSerialization ||
            host_runtime_capability() < 90)
            host_runtime_forbids(kernel->name, "a launch attribute that the device lacks");
    }
}

static void nothing(const void *context)
{
    (void)context;
}

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t *config, const void *function,
                                void **arguments)
{
    struct kernel *kernel = find(function);
    const dim3 grid = config->gridDim, block = config->blockDim;
    (void)arguments;
    check_attributes(kernel, config);
    if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > 0x7fffffff || grid.y > 65535 ||
        grid.z > 65535)
        host_runtime_forbids(kernel->name, "a grid of none or too many blocks");
    if (block.x == 0 || block.y != 1 || block.z != 1 || block.x > 1024 || block.x % 32 != 0)
        host_runtime_forbids(kernel->name, "a block of none or too many threads, or half a warp");
    if (config->dynamicSmemBytes > kernel->shared)
        host_runtime_forbids(kernel->name, "more shared memory than was asked for");
    host_runtime_enqueue(config->stream, nothing, "", 1);
    return cudaSuccess;
}

/* What the compiler makes of a launch with <<< >>>, which no kernel here is started by. */

cudaError_t __cudaPopCallConfiguration(dim3 *grid, dim3 *block, size_t *shared, void *stream)
{
    (void)grid, (void)block, (void)shared, (void)stream;
    host_runtime_forbids("<<< >>>", "kernels are launched by simt_launch");
}

cudaError_t __cudaGetKernel(cudaKernel_t *kernel, const void *function)
{
    (void)kernel, (void)function;
    host_runtime_forbids("<<< >>>", "kernels are launched by simt_launch");
}

cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void **arguments,
                               size_t shared, cudaStream_t stream)
{
    (void)kernel, (void)grid, (void)block, (void)arguments, (void)shared, (void)stream;
    host_runtime_forbids("<<< >>>", "kernels are launched by simt_launch");
}

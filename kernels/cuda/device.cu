/* kernels/cuda/device.h by the CUDA runtime. */
#include <cuda_runtime.h>
#include <stdio.h>
#include <string.h>

#include "kernels/cuda/device.h"

extern "C" {
#include "common/error.h"
}

static int fail(struct error *err, int code, const char *what, cudaError_t status)
{
    return error_set(err, code, "%s: %s", what, cudaGetErrorString(status));
}

static int read_facts(struct device_facts *facts, struct error *err)
{
    int count = 0, device = 0;
    cudaDeviceProp properties;
    cudaError_t status = cudaGetDeviceCount(&count);
    if (status != cudaSuccess || count == 0)
        return error_set(err, ERROR_NO_DEVICE,
                         "device \"cuda\": no CUDA device was found (%s); check the driver with "
                         "nvidia-smi, or use device cpu",
                         cudaGetErrorString(status));
    status = cudaGetDevice(&device);
    if (status == cudaSuccess)
        status = cudaGetDeviceProperties(&properties, device);
    if (status != cudaSuccess)
        return fail(err, ERROR_NO_DEVICE, "device \"cuda\" cannot be opened", status);
    if (properties.major < 8)
        return error_set(err, ERROR_NO_DEVICE,
                         "device \"cuda\": %s has compute capability %d.%d, but 8.0 or newer is "
                         "needed; use device cpu",
                         properties.name, properties.major, properties.minor);
    facts->backend = "cuda";
    facts->multiprocessors = properties.multiProcessorCount;
    snprintf(facts->name, sizeof facts->name, "%.40s, compute capability %d.%d", properties.name,
             properties.major, properties.minor);
    return 0;
}

int device_open(struct simt_queue *queue, struct device_facts *facts, const char *instructions,
                struct error *err)
{
    cudaStream_t stream;
    *queue = {};
    if (instructions != NULL && *instructions != 0)
        return error_set(err, ERROR_INVALID,
                         "instructions \"%s\": device cuda has no choice of them; leave it out",
                         instructions);
    int code = read_facts(facts, err);
    if (code != 0)
        return code;
    cudaError_t status = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    if (status != cudaSuccess)
        return fail(err, ERROR_NO_DEVICE, "device \"cuda\" cannot be opened", status);
    queue->stream = stream;
    return 0;
}

void device_close(struct simt_queue *queue)
{
    if (queue->stream != NULL)
        cudaStreamDestroy((cudaStream_t)queue->stream);
    queue->stream = NULL;
}

int device_memory_create(void **out, size_t size, const char *what, struct error *err)
{
    *out = NULL;
    cudaError_t status = cudaMalloc(out, size > 0 ? size : 1);
    if (status == cudaSuccess)
        status = cudaMemset(*out, 0, size);
    /* The queue does not wait for the default stream, where this runs. */
    if (status == cudaSuccess)
        status = cudaDeviceSynchronize();
    if (status == cudaSuccess)
        return 0;
    cudaFree(*out);
    cudaGetLastError(); /* an allocation that failed is no fault of the step that comes next */
    *out = NULL;
    return error_set(err, ERROR_MEMORY,
                     "%s: cannot allocate %zu bytes on the device (%s); use a smaller model or "
                     "limits",
                     what, size, cudaGetErrorString(status));
}

void device_memory_destroy(void *memory)
{
    cudaFree(memory);
}

int device_staging_create(void **out, size_t size, const char *what, struct error *err)
{
    *out = NULL;
    cudaError_t status = cudaMallocHost(out, size > 0 ? size : 1);
    if (status != cudaSuccess) {
        cudaGetLastError();
        return error_set(err, ERROR_MEMORY,
                         "%s: cannot pin %zu bytes of host memory (%s); use smaller limits", what,
                         size, cudaGetErrorString(status));
    }
    memset(*out, 0, size);
    return 0;
}

void device_staging_destroy(void *staging)
{
    cudaFreeHost(staging);
}

static void note_fault(struct simt_queue *queue, cudaError_t status)
{
    if (status != cudaSuccess && queue->fault == 0)
        queue->fault = (int)status;
}

void device_enqueue_upload(struct simt_queue *queue, void *to, const void *from, size_t size)
{
    if (size > 0)
        note_fault(queue, cudaMemcpyAsync(to, from, size, cudaMemcpyHostToDevice,
                                          (cudaStream_t)queue->stream));
}

void device_enqueue_copy(struct simt_queue *queue, void *to, const void *from, size_t size)
{
    if (size > 0)
        note_fault(queue, cudaMemcpyAsync(to, from, size, cudaMemcpyDeviceToDevice,
                                          (cudaStream_t)queue->stream));
}

static void copy_now(struct simt_queue *queue, void *to, const void *from, size_t size)
{
    cudaStream_t stream = (cudaStream_t)queue->stream;
    cudaError_t status = cudaMemcpyAsync(to, from, size, cudaMemcpyDefault, stream);
    if (status == cudaSuccess)
        status = cudaStreamSynchronize(stream);
    note_fault(queue, status);
}

void device_upload(struct simt_queue *queue, void *to, const void *from, size_t size)
{
    copy_now(queue, to, from, size);
}

void device_download(struct simt_queue *queue, void *to, const void *from, size_t size)
{
    copy_now(queue, to, from, size);
}

int device_wait(struct simt_queue *queue, struct error *err)
{
    note_fault(queue, cudaStreamSynchronize((cudaStream_t)queue->stream));
    if (queue->fault == 0)
        return 0;
    return fail(err, ERROR_DEVICE_LOST, "the CUDA device failed; restart the server",
                (cudaError_t)queue->fault);
}

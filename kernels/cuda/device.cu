/* kernels/cuda/device.h by the CUDA runtime. */
#include <cuda_runtime.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/cublaslt_library.h"
#include "kernels/cuda/device.h"

extern "C" {
#include "common/error.h"
}

/* Compute capabilities: of mma.sync of bfloat16 and cp.async, of griddepcontrol */
enum { LEAST_MAJOR = 8, OVERLAP_CAPABILITY = 90 };

struct device_recording {
    cudaGraphExec_t graph;
};

/* Of the device, from find_device's first success on: one thread starts the program. */
static cudaDeviceProp device_properties;

static int fail(struct error *err, int code, const char *what, cudaError_t status)
{
    return error_set(err, code, "%s: %s", what, cudaGetErrorString(status));
}

/* Both versions are 1000 * major + 10 * minor. Where there is a driver there should be a device. */
static int check_driver(bool *is_there, struct error *err)
{
    int driver = 0, runtime = 0;
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    *is_there = driver > 0;
    if (driver == 0)
        return error_set(err, ERROR_NO_DEVICE,
                         "device \"cuda\": there is no NVIDIA driver; install it (nvidia-smi shows "
                         "whether it works), or use device cpu");
    /* A driver serves every runtime of its major version. */
    if (driver / 1000 < runtime / 1000)
        return error_set(err, ERROR_NO_DEVICE,
                         "device \"cuda\": the NVIDIA driver serves CUDA %d.%d at most, and this "
                         "build needs %d.0; update the driver, or use device cpu",
                         driver / 1000, driver % 1000 / 10, runtime / 1000);
    return 0;
}

static int check_device(struct error *err)
{
    if (device_properties.major >= LEAST_MAJOR)
        return 0;
    return error_set(err, ERROR_NO_DEVICE,
                     "device \"cuda\": %s has compute capability %d.%d, but %d.0 or newer is "
                     "needed; use device cpu",
                     device_properties.name, device_properties.major, device_properties.minor,
                     LEAST_MAJOR);
}

/* Reads the properties of the device that CUDA_VISIBLE_DEVICES puts first, once. */
static int find_device(bool *is_there, struct error *err)
{
    static bool is_found;
    *is_there = true;
    if (is_found)
        return 0;
    int count = 0, device = 0, code = check_driver(is_there, err);
    if (code != 0)
        return code;
    cudaError_t status = cudaGetDeviceCount(&count);
    *is_there = status != cudaErrorNoDevice && (status != cudaSuccess || count > 0);
    if (!*is_there)
        return error_set(err, ERROR_NO_DEVICE,
                         "device \"cuda\": the NVIDIA driver finds no device; see nvidia-smi and "
                         "CUDA_VISIBLE_DEVICES, or use device cpu");
    if (status == cudaSuccess)
        status = cudaGetDevice(&device);
    if (status == cudaSuccess)
        status = cudaGetDeviceProperties(&device_properties, device);
    is_found = status == cudaSuccess;
    if (is_found)
        return 0;
    return error_set(err, ERROR_NO_DEVICE,
                     "device \"cuda\" cannot be used (%s); see nvidia-smi, or use device cpu",
                     cudaGetErrorString(status));
}

int device_check(bool *is_there, struct error *err)
{
    bool found;
    int code = find_device(&found, err);
    if (is_there != NULL)
        *is_there = found;
    if (code == 0)
        code = check_device(err);
    return code != 0 ? code : cublaslt_library_open(err);
}

bool device_has_fp8(void)
{
    bool found;
    return find_device(&found, NULL) == 0 &&
           device_properties.major * 10 + device_properties.minor >= 89;
}

struct device_memory device_memory_read(void)
{
    struct device_memory memory = {};
    if (device_check(NULL, NULL) == 0 && cudaMemGetInfo(&memory.free, &memory.total) != cudaSuccess)
        memory = {};
    return memory;
}

/* A queue's stream and marks. */
static int open_queue(struct simt_queue *queue, struct error *err)
{
    cudaStream_t stream = NULL;
    cudaEvent_t event = NULL;
    *queue = {};
    cudaError_t status = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    queue->stream = stream;
    for (int i = 0; i < DEVICE_MARKS && status == cudaSuccess; i++) {
        status = cudaEventCreateWithFlags(&event, cudaEventDisableTiming);
        queue->marks[i] = status == cudaSuccess ? event : NULL;
    }
    if (status == cudaSuccess)
        return 0;
    device_close(queue);
    return fail(err, ERROR_NO_DEVICE, "device \"cuda\" cannot be opened", status);
}

int device_open(struct simt_queue *queue, struct device_facts *facts, const char *instructions,
                struct error *err)
{
    const char *name = instructions != NULL ? instructions : "";
    facts->own_alone = strcmp(name, "own") == 0;
    facts->library_alone = strcmp(name, "library") == 0;
    if (*name != 0 && !facts->own_alone && !facts->library_alone)
        return error_set(err, ERROR_INVALID,
                         "instructions \"%s\": device cuda has \"library\" and \"own\"; leave it "
                         "out for the fastest",
                         name);
    int code = device_check(NULL, err);
    if (code == 0)
        code = open_queue(queue, err);
    if (code != 0)
        return code;
    facts->backend = "cuda";
    facts->multiprocessors = device_properties.multiProcessorCount;
    facts->fp8 = device_has_fp8();
    facts->shared_bytes = device_properties.sharedMemPerBlockOptin;
    facts->cache_bytes = (size_t)device_properties.l2CacheSize;
    facts->capability = device_properties.major * 10 + device_properties.minor;
    queue->overlaps = facts->capability >= OVERLAP_CAPABILITY && !facts->library_alone;
    snprintf(facts->name, sizeof facts->name, "%.40s, compute capability %d.%d",
             device_properties.name, device_properties.major, device_properties.minor);
    return 0;
}

void device_close(struct simt_queue *queue)
{
    for (void *mark : queue->marks) {
        if (mark != NULL)
            cudaEventDestroy((cudaEvent_t)mark);
    }
    if (queue->beside != NULL)
        cudaStreamDestroy((cudaStream_t)queue->beside);
    if (queue->stream != NULL)
        cudaStreamDestroy((cudaStream_t)queue->stream);
    *queue = {};
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

void device_enqueue_download(struct simt_queue *queue, void *to, const void *from, size_t size)
{
    if (size > 0)
        note_fault(queue, cudaMemcpyAsync(to, from, size, cudaMemcpyDeviceToHost,
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

void device_mark_set(struct simt_queue *queue, int mark)
{
    note_fault(queue,
               cudaEventRecord((cudaEvent_t)queue->marks[mark], (cudaStream_t)queue->stream));
}

void device_mark_wait(struct simt_queue *queue, int mark)
{
    note_fault(queue, cudaEventSynchronize((cudaEvent_t)queue->marks[mark]));
}

int device_recorder_open(struct simt_queue *recorder, struct error *err)
{
    cudaStream_t beside;
    int code = open_queue(recorder, err);
    if (code != 0)
        return code;
    cudaError_t status = cudaStreamCreateWithFlags(&beside, cudaStreamNonBlocking);
    if (status != cudaSuccess) {
        device_close(recorder);
        return fail(err, ERROR_NO_DEVICE, "the CUDA device has no room for a stream", status);
    }
    recorder->beside = beside;
    return 0;
}

void device_recorder_close(struct simt_queue *recorder)
{
    device_close(recorder);
}

void device_recording_begin(struct simt_queue *recorder)
{
    note_fault(recorder, cudaStreamBeginCapture((cudaStream_t)recorder->stream,
                                                cudaStreamCaptureModeThreadLocal));
}

enum { FORK, JOIN }; /* marks of a recorder */

void device_recording_beside(struct simt_queue *recorder, struct simt_queue *beside)
{
    cudaEvent_t fork = (cudaEvent_t)recorder->marks[FORK];
    *beside = {};
    beside->stream = recorder->beside;
    note_fault(recorder, cudaEventRecord(fork, (cudaStream_t)recorder->stream));
    note_fault(recorder, cudaStreamWaitEvent((cudaStream_t)recorder->beside, fork, 0));
    recorder->forked = true;
}

/* What runs beside is part of a recording only if its end waits for that. */
static void join(struct simt_queue *recorder)
{
    cudaEvent_t done = (cudaEvent_t)recorder->marks[JOIN];
    if (!recorder->forked)
        return;
    note_fault(recorder, cudaEventRecord(done, (cudaStream_t)recorder->beside));
    note_fault(recorder, cudaStreamWaitEvent((cudaStream_t)recorder->stream, done, 0));
    recorder->forked = false;
}

struct device_recording *device_recording_end(struct simt_queue *recorder, struct error *err)
{
    cudaStream_t stream = (cudaStream_t)recorder->stream;
    cudaGraph_t graph = NULL;
    cudaGraphExec_t executable = NULL;
    join(recorder);
    /* Ended whatever came before: the stream stays in its capture otherwise. */
    note_fault(recorder, cudaStreamEndCapture(stream, &graph));
    if (recorder->fault == 0)
        note_fault(recorder, cudaGraphInstantiate(&executable, graph, 0));
    if (recorder->fault == 0)
        note_fault(recorder, cudaGraphUpload(executable, stream));
    if (graph != NULL)
        cudaGraphDestroy(graph);
    struct device_recording *recording =
        recorder->fault == 0 ? (struct device_recording *)malloc(sizeof *recording) : NULL;
    if (recording != NULL) {
        recording->graph = executable;
        return recording;
    }
    fail(err, ERROR_UNSUPPORTED, "this step cannot be recorded as a CUDA graph",
         recorder->fault != 0 ? (cudaError_t)recorder->fault : cudaErrorMemoryAllocation);
    if (executable != NULL)
        cudaGraphExecDestroy(executable);
    cudaGetLastError(); /* no fault of the step that comes next */
    recorder->fault = 0;
    return NULL;
}

void device_recording_launch(struct simt_queue *queue, struct device_recording *recording)
{
    note_fault(queue, cudaGraphLaunch(recording->graph, (cudaStream_t)queue->stream));
}

double device_recording_time(struct simt_queue *queue, struct device_recording *recording)
{
    enum { RUNS = 3 };
    cudaStream_t stream = (cudaStream_t)queue->stream;
    cudaEvent_t begin = NULL, end = NULL;
    float milliseconds, best = INFINITY;
    cudaError_t status = cudaEventCreate(&begin);
    if (status == cudaSuccess)
        status = cudaEventCreate(&end);
    device_recording_launch(queue, recording); /* the first one may be slower */
    for (int i = 0; i < RUNS && status == cudaSuccess; i++) {
        status = cudaEventRecord(begin, stream);
        device_recording_launch(queue, recording);
        if (status == cudaSuccess)
            status = cudaEventRecord(end, stream);
        if (status == cudaSuccess)
            status = cudaEventSynchronize(end);
        if (status == cudaSuccess)
            status = cudaEventElapsedTime(&milliseconds, begin, end);
        if (status == cudaSuccess)
            best = fminf(best, milliseconds);
    }
    note_fault(queue, status);
    if (begin != NULL)
        cudaEventDestroy(begin);
    if (end != NULL)
        cudaEventDestroy(end);
    return queue->fault != 0 ? INFINITY : 1e-3 * best;
}

void device_recording_destroy(struct device_recording *recording)
{
    if (recording == NULL)
        return;
    cudaGraphExecDestroy(recording->graph);
    free(recording);
}

int device_wait(struct simt_queue *queue, struct error *err)
{
    note_fault(queue, cudaStreamSynchronize((cudaStream_t)queue->stream));
    if (queue->fault == 0)
        return 0;
    return fail(err, ERROR_DEVICE_LOST, "the CUDA device failed; restart the server",
                (cudaError_t)queue->fault);
}

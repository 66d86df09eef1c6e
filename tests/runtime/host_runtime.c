/* Streams, events and graphs of the CUDA runtime on the host; memory is in host_memory.c. */
#include "tests/runtime/host_runtime.h"

#include <cuda_runtime_api.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "tests/runtime/host_runtime_internal.h"

struct call {
    void (*run)(const void *context);
    void *context;
    size_t size;
};

struct call_list {
    struct call *calls;
    size_t count, room;
    size_t done, forgotten; /* calls before `done` have run; those before all these, too */
};

struct CUstream_st {
    struct CUstream_st *next; /* of all that live */
    struct call_list list;
    bool blocking, captures;
    pthread_t owner; /* of the capture */
    struct call_list captured;
    cudaStream_t origin; /* of the capture that it was drawn into by an event, else NULL */
    bool is_open;        /* it was given work there that the origin does not wait for yet */
};

struct CUevent_st {
    bool timed, recorded, destroyed;
    int coming;                  /* calls of streams that will write its time */
    cudaStream_t stream, origin; /* origin: of the capture in which it was recorded, else NULL */
    size_t behind;               /* the stream's calls, counted from its beginning */
    double milliseconds;
};

struct CUgraph_st {
    struct call_list list;
};

struct CUgraphExec_st {
    struct call_list list;
};

static struct CUstream_st legacy = {.blocking = true};
static cudaStream_t streams = &legacy;
static cudaError_t last;
static double clock_of_device; /* milliseconds: every call takes one */

cudaError_t host_runtime_result(cudaError_t status)
{
    if (status != cudaSuccess)
        last = status;
    return status;
}

static void append(struct call_list *list, void (*run)(const void *context), const void *context,
                   size_t size)
{
    if (list->count == list->room) {
        list->room = list->room * 2 + 16;
        list->calls = host_runtime_need(realloc(list->calls, list->room * sizeof *list->calls));
    }
    void *copy = host_runtime_need(malloc(size > 0 ? size : 1));
    memcpy(copy, context, size);
    list->calls[list->count++] = (struct call){run, copy, size};
}

static void append_all(struct call_list *to, const struct call_list *from)
{
    for (size_t i = 0; i < from->count; i++)
        append(to, from->calls[i].run, from->calls[i].context, from->calls[i].size);
}

static void clear(struct call_list *list)
{
    for (size_t i = 0; i < list->count; i++)
        free(list->calls[i].context);
    free(list->calls);
    *list = (struct call_list){0};
}

static size_t end_of(const struct call_list *list)
{
    return list->forgotten + list->count;
}

/* The stream's calls before `end`, counted from its beginning. A list that is done begins anew. */
static void run_until(cudaStream_t stream, size_t end)
{
    struct call_list *list = &stream->list;
    if (list->forgotten + list->done >= end)
        return;
    host_memory_open();
    while (list->forgotten + list->done < end) {
        const struct call *call = &list->calls[list->done++];
        call->run(call->context);
    }
    host_memory_close();
    if (list->done < list->count)
        return;
    end = end_of(list);
    clear(list);
    list->forgotten = end;
}

static void run_all(cudaStream_t stream)
{
    run_until(stream, end_of(&stream->list));
}

static cudaStream_t live(cudaStream_t stream, const char *call)
{
    if (stream == NULL || stream == cudaStreamLegacy)
        return &legacy;
    for (cudaStream_t other = streams; other != NULL; other = other->next) {
        if (other == stream)
            return stream;
    }
    host_runtime_forbids(call, "it gets a stream that is none, or was destroyed");
}

/* Calls that a thread must not make while it captures. */
void host_runtime_not_in_capture(const char *call)
{
    for (cudaStream_t stream = streams; stream != NULL; stream = stream->next) {
        if (stream->captures && pthread_equal(stream->owner, pthread_self()))
            host_runtime_forbids(call, "the thread captures a stream");
    }
}

void host_runtime_enqueue(cudaStream_t stream, void (*run)(const void *context),
                          const void *context, size_t size)
{
    stream = live(stream, "a launch");
    if (stream == &legacy)
        for (cudaStream_t other = streams; other != NULL; other = other->next)
            if (other->captures && other->blocking)
                host_runtime_forbids("a launch", "the legacy stream waits for one that captures");
    stream->is_open = stream->origin != NULL;
    cudaStream_t to = stream->is_open ? stream->origin : stream;
    append(to->captures ? &to->captured : &to->list, run, context, size);
}

bool host_runtime_captures(cudaStream_t stream, const char *call)
{
    return live(stream, call)->captures;
}

void host_runtime_finish(cudaStream_t stream)
{
    run_all(live(stream, "a copy"));
}

void host_runtime_finish_all(void)
{
    for (cudaStream_t stream = streams; stream != NULL; stream = stream->next)
        run_all(stream);
}

/* ---- streams --------------------------------------------------------------------------------- */

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned flags)
{
    cudaStream_t stream = host_runtime_need(calloc(1, sizeof *stream));
    stream->blocking = (flags & cudaStreamNonBlocking) == 0;
    stream->next = streams;
    streams = stream;
    *out = stream;
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    cudaStream_t *link = &streams;
    stream = live(stream, "cudaStreamDestroy");
    if (stream == &legacy || stream->captures)
        host_runtime_forbids("cudaStreamDestroy", "the stream captures, or is the legacy one");
    run_all(stream);
    while (*link != stream)
        link = &(*link)->next;
    *link = stream->next;
    clear(&stream->list);
    free(stream);
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    stream = live(stream, "cudaStreamSynchronize");
    host_runtime_not_in_capture("cudaStreamSynchronize");
    run_all(stream);
    if (host_runtime_fails("cudaStreamSynchronize"))
        return host_runtime_result(cudaErrorLaunchFailure);
    return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize(void)
{
    host_runtime_not_in_capture("cudaDeviceSynchronize");
    host_runtime_finish_all();
    return cudaSuccess;
}

/* ---- events ---------------------------------------------------------------------------------- */

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *out, unsigned flags)
{
    cudaEvent_t event = host_runtime_need(calloc(1, sizeof *event));
    event->timed = (flags & cudaEventDisableTiming) == 0;
    *out = event;
    return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t *out)
{
    return cudaEventCreateWithFlags(out, cudaEventDefault);
}

static void free_unless_coming(cudaEvent_t event)
{
    if (event->destroyed && event->coming == 0)
        free(event);
}

/* Also of one that a stream has yet to come to. */
cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    if (event == NULL)
        return host_runtime_result(cudaErrorInvalidResourceHandle);
    event->destroyed = true;
    free_unless_coming(event);
    return cudaSuccess;
}

static void run_mark(const void *context)
{
    cudaEvent_t event = *(cudaEvent_t const *)context;
    event->milliseconds = clock_of_device++;
    event->coming--;
    free_unless_coming(event);
}

/* An event in a stream's order, and the stream waits for nobody. */
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    stream = live(stream, "cudaEventRecord");
    event->origin = stream->origin != NULL ? stream->origin : stream->captures ? stream : NULL;
    event->stream = stream;
    event->recorded = event->origin == NULL;
    if (!event->recorded)
        return cudaSuccess;
    if (event->timed) {
        append(&stream->list, run_mark, &event, sizeof event);
        event->coming++;
    }
    event->behind = end_of(&stream->list);
    return cudaSuccess;
}

/* Here alone for the branches of a capture: the order of calls is that of the origin's list. */
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags)
{
    (void)flags;
    stream = live(stream, "cudaStreamWaitEvent");
    if (event->origin == NULL || !event->origin->captures || stream->blocking)
        host_runtime_forbids("cudaStreamWaitEvent", "the event is of no capture under way");
    if (stream != event->origin) {
        if (stream->captures && stream->origin != event->origin)
            host_runtime_forbids("cudaStreamWaitEvent", "the stream is part of another capture");
        stream->captures = true;
        stream->owner = event->origin->owner;
        stream->origin = event->origin;
    }
    if (event->stream != stream)
        event->stream->is_open = false;
    return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    host_runtime_not_in_capture("cudaEventSynchronize");
    if (event->recorded)
        run_until(live(event->stream, "cudaEventSynchronize"), event->behind);
    return cudaSuccess;
}

cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t begin, cudaEvent_t end)
{
    if (!begin->timed || !end->timed || !begin->recorded || !end->recorded)
        return host_runtime_result(cudaErrorInvalidResourceHandle);
    if (end->stream->list.forgotten + end->stream->list.done < end->behind)
        return host_runtime_result(cudaErrorNotReady);
    *milliseconds = (float)(end->milliseconds - begin->milliseconds);
    return cudaSuccess;
}

/* ---- graphs ---------------------------------------------------------------------------------- */

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode mode)
{
    stream = live(stream, "cudaStreamBeginCapture");
    if (stream == &legacy || stream->captures || mode != cudaStreamCaptureModeThreadLocal)
        host_runtime_forbids("cudaStreamBeginCapture",
                             "the stream captures, or is the legacy one, or the mode is another "
                             "than the thread's own");
    stream->captures = true;
    stream->owner = pthread_self();
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *out)
{
    stream = live(stream, "cudaStreamEndCapture");
    if (!stream->captures || !pthread_equal(stream->owner, pthread_self()))
        host_runtime_forbids("cudaStreamEndCapture", "the stream does not capture, or another's");
    if (stream->origin != NULL)
        host_runtime_forbids("cudaStreamEndCapture", "the capture began on another stream");
    for (cudaStream_t other = streams; other != NULL; other = other->next) {
        if (other->origin != stream)
            continue;
        if (other->is_open)
            host_runtime_forbids("cudaStreamEndCapture", "a branch was not joined");
        other->captures = false;
        other->origin = NULL;
    }
    cudaGraph_t graph = host_runtime_need(calloc(1, sizeof *graph));
    graph->list = stream->captured;
    stream->captured = (struct call_list){0};
    stream->captures = false;
    *out = graph;
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t graph, unsigned long long flags)
{
    (void)flags;
    host_runtime_not_in_capture("cudaGraphInstantiate");
    if (host_runtime_fails("cudaGraphInstantiate"))
        return host_runtime_result(cudaErrorMemoryAllocation);
    cudaGraphExec_t executable = host_runtime_need(calloc(1, sizeof *executable));
    append_all(&executable->list, &graph->list);
    *out = executable;
    return cudaSuccess;
}

cudaError_t cudaGraphUpload(cudaGraphExec_t executable, cudaStream_t stream)
{
    (void)executable;
    if (host_runtime_captures(stream, "cudaGraphUpload"))
        host_runtime_forbids("cudaGraphUpload", "the stream captures");
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream)
{
    stream = live(stream, "cudaGraphLaunch");
    if (stream->captures)
        host_runtime_forbids("cudaGraphLaunch", "the stream captures");
    append_all(&stream->list, &executable->list);
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    clear(&graph->list);
    free(graph);
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable)
{
    clear(&executable->list);
    free(executable);
    return cudaSuccess;
}

/* ---- errors ---------------------------------------------------------------------------------- */

cudaError_t cudaGetLastError(void)
{
    cudaError_t status = last;
    last = cudaSuccess;
    return status;
}

const char *cudaGetErrorString(cudaError_t status)
{
    if (status == cudaErrorMemoryAllocation)
        return "out of memory";
    return status == cudaErrorLaunchFailure ? "unspecified launch failure" : "an error";
}

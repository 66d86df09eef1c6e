/*
 * The queue of the emulation. What is enqueued runs at once, but for uploads: they wait for whoever
 * needs them, so that memory which is overwritten too early shows. On a recorder nothing runs: a
 * copy of every call becomes part of the recording.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "common/error.h"
#include "kernels/cuda/device.h"
#include "tests/simt/emulation.h"

struct call {
    void (*run)(const void *context);
    void *context;
};

struct call_list {
    struct call *calls;
    size_t count, room;
};

struct device_recording {
    struct call_list list;
};

struct upload {
    void *to;
    const void *from;
    size_t size;
};

/* Uploads that nobody has needed yet. */
static struct call_list waiting;
static bool refuses_recordings, prefers_later;

static void *must_allocate(void *memory)
{
    if (memory != NULL)
        return memory;
    fprintf(stderr, "simt: no memory for the queue\n");
    abort();
}

static void append(struct call_list *list, void (*run)(const void *context), const void *context,
                   size_t size)
{
    if (list->count == list->room) {
        list->room = list->room * 2 + 16;
        list->calls = must_allocate(realloc(list->calls, list->room * sizeof *list->calls));
    }
    void *copy = must_allocate(malloc(size));
    memcpy(copy, context, size);
    list->calls[list->count++] = (struct call){run, copy};
}

static void clear(struct call_list *list)
{
    for (size_t i = 0; i < list->count; i++)
        free(list->calls[i].context);
    free(list->calls);
    *list = (struct call_list){0};
}

static void run_all(const struct call_list *list)
{
    for (size_t i = 0; i < list->count; i++)
        list->calls[i].run(list->calls[i].context);
}

void simt_finish_uploads(void)
{
    struct call_list now = waiting;
    waiting = (struct call_list){0};
    run_all(&now);
    clear(&now);
}

static struct device_recording *recording_of(const struct simt_queue *queue)
{
    return queue->stream;
}

void simt_enqueue(struct simt_queue *queue, void (*run)(const void *context), const void *context,
                  size_t size)
{
    if (recording_of(queue) != NULL) {
        append(&recording_of(queue)->list, run, context, size);
        return;
    }
    simt_finish_uploads();
    run(context);
}

static void run_upload(const void *context)
{
    const struct upload *upload = context;
    memcpy(upload->to, upload->from, upload->size);
}

void device_enqueue_upload(struct simt_queue *queue, void *to, const void *from, size_t size)
{
    const struct upload upload = {to, from, size};
    struct device_recording *recording = recording_of(queue);
    append(recording != NULL ? &recording->list : &waiting, run_upload, &upload, sizeof upload);
}

void device_enqueue_download(struct simt_queue *queue, void *to, const void *from, size_t size)
{
    const struct upload download = {to, from, size};
    simt_enqueue(queue, run_upload, &download, sizeof download);
}

void device_mark_set(struct simt_queue *queue, int mark)
{
    (void)queue;
    (void)mark;
}

/* It may be the mark of the last upload. */
void device_mark_wait(struct simt_queue *queue, int mark)
{
    (void)queue;
    (void)mark;
    simt_finish_uploads();
}

int device_recorder_open(struct simt_queue *recorder, struct error *err)
{
    (void)err;
    *recorder = (struct simt_queue){0};
    return 0;
}

void device_recorder_close(struct simt_queue *recorder)
{
    device_recording_destroy(recording_of(recorder));
    recorder->stream = NULL;
}

void device_recording_begin(struct simt_queue *recorder)
{
    recorder->stream = must_allocate(calloc(1, sizeof(struct device_recording)));
}

struct device_recording *device_recording_end(struct simt_queue *recorder, struct error *err)
{
    struct device_recording *recording = recording_of(recorder);
    recorder->stream = NULL;
    if (!refuses_recordings)
        return recording;
    device_recording_destroy(recording);
    error_set(err, ERROR_UNSUPPORTED, "the emulation was told to refuse recordings");
    return NULL;
}

void device_recording_launch(struct simt_queue *queue, struct device_recording *recording)
{
    (void)queue;
    simt_finish_uploads();
    run_all(&recording->list);
}

/* One after the other here, in the order in which they were enqueued. */
void device_recording_beside(struct simt_queue *recorder, struct simt_queue *beside)
{
    *beside = *recorder;
}

/* What fetches ahead counts as faster, or whatever was recorded later. */
double device_recording_time(struct simt_queue *queue, struct device_recording *recording)
{
    static int64_t asked;
    (void)queue;
    return 1.0 / (double)(prefers_later ? ++asked : 1 + (int64_t)recording->list.count);
}

void device_recording_destroy(struct device_recording *recording)
{
    if (recording == NULL)
        return;
    clear(&recording->list);
    free(recording);
}

void simt_refuse_recordings(bool refuse)
{
    refuses_recordings = refuse;
}

void simt_prefer_later_recordings(bool prefer)
{
    prefers_later = prefer;
}

#include "kernels/cuda/recordings.h"

#include <math.h>
#include <stdlib.h>
#include "common/error.h"
#include "common/log.h"
#include "kernels/cuda/device.h"

struct recordings {
    struct simt_queue recorder;
    struct keyed_slots *slots;
    struct recording_slot {
        struct device_recording *recording; /* NULL: not made */
        bool refused;
    } slot[RECORDINGS_MAX];
    struct recording_slot *to_make; /* what recordings_end makes */
    struct recordings_counts counts;
    struct error refusal; /* the last one */
};

int recordings_create(struct recordings **out, struct error *err)
{
    struct recordings *recordings = calloc(1, sizeof *recordings);
    *out = recordings;
    if (recordings == NULL)
        return error_set(err, ERROR_MEMORY, "cannot allocate the recordings; free some memory");
    int status = device_recorder_open(&recordings->recorder, err);
    return status != 0 ? status : keyed_slots_create(&recordings->slots, RECORDINGS_MAX, err);
}

static void slot_clear(struct recording_slot *slot)
{
    device_recording_destroy(slot->recording);
    *slot = (struct recording_slot){0};
}

void recordings_forget(struct recordings *recordings)
{
    for (int32_t i = 0; i < RECORDINGS_MAX; i++)
        slot_clear(&recordings->slot[i]);
}

void recordings_destroy(struct recordings *recordings)
{
    if (recordings == NULL)
        return;
    recordings_forget(recordings);
    keyed_slots_destroy(recordings->slots);
    device_recorder_close(&recordings->recorder);
    free(recordings);
}

enum recordings_use recordings_renew(struct recordings *recordings, struct slot_key key)
{
    bool is_new;
    struct recording_slot *slot =
        &recordings->slot[keyed_slots_find(recordings->slots, key, &is_new)];
    if (is_new)
        slot_clear(slot);
    recordings->to_make = slot;
    return slot->refused ? RECORDINGS_NONE : RECORDINGS_MAKE;
}

enum recordings_use recordings_use(struct recordings *recordings, struct simt_queue *queue,
                                   struct slot_key key)
{
    enum recordings_use use = recordings_renew(recordings, key);
    struct device_recording *recording = recordings->to_make->recording;
    if (recording == NULL)
        return use;
    recordings->counts.launched++;
    device_recording_launch(queue, recording);
    return RECORDINGS_LAUNCHED;
}

static void exchange(struct simt_queue *a, struct simt_queue *b)
{
    struct simt_queue other = *a;
    *a = *b;
    *b = other;
}

void recordings_begin(struct recordings *recordings, struct simt_queue *queue)
{
    recordings->recorder.overlaps = queue->overlaps;
    device_recording_begin(&recordings->recorder);
    exchange(&recordings->recorder, queue);
}

void recordings_end(struct recordings *recordings, struct simt_queue *queue)
{
    struct recording_slot *slot = recordings->to_make;
    exchange(&recordings->recorder, queue);
    device_recording_destroy(slot->recording);
    slot->recording = device_recording_end(&recordings->recorder, &recordings->refusal);
    slot->refused = slot->recording == NULL;
}

void recordings_keep(struct recordings *recordings)
{
    bool refused = recordings->to_make->refused;
    recordings->counts.made += !refused;
    recordings->counts.refused += refused;
    if (refused && recordings->counts.refused == 1)
        log_line(LOG_WARNING, recordings->refusal.message,
                 "\"effect\":\"its operations are launched one by one\"");
}

double recordings_time(struct recordings *recordings, struct simt_queue *queue)
{
    struct device_recording *recording = recordings->to_make->recording;
    return recording != NULL ? device_recording_time(queue, recording) : INFINITY;
}

struct recordings_counts recordings_count(const struct recordings *recordings)
{
    return recordings->counts;
}

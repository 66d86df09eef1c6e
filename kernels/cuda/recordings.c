#include "kernels/cuda/recordings.h"

#include <stdlib.h>
#include "common/error.h"
#include "common/log.h"
#include "kernels/cuda/device.h"

enum slot_state {
    SLOT_UNSEEN,  /* the next step is the first one */
    SLOT_SEEN,    /* the next step is recorded */
    SLOT_READY,   /* the next step launches the recording */
    SLOT_REFUSED, /* it cannot be recorded */
};

struct recordings {
    struct simt_queue recorder;
    struct keyed_slots *slots;
    struct recording_slot {
        enum slot_state state;
        struct device_recording *recording;
    } slot[RECORDINGS_MAX];
    struct recording_slot *under_way; /* that is being recorded, or NULL */
    bool noted;                       /* that one was refused */
    struct recordings_counts counts;
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
    *slot = (struct recording_slot){SLOT_UNSEEN, NULL};
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

bool recordings_begin(struct recordings *recordings, struct simt_queue *queue, struct slot_key key)
{
    bool is_new;
    struct recording_slot *slot =
        &recordings->slot[keyed_slots_find(recordings->slots, key, &is_new)];
    if (is_new)
        slot_clear(slot);
    switch (slot->state) {
    case SLOT_UNSEEN:
        slot->state = SLOT_SEEN;
        return false;
    case SLOT_SEEN:
        recordings->under_way = slot;
        device_recording_begin(&recordings->recorder);
        return false;
    case SLOT_READY:
        recordings->counts.launched++;
        device_recording_launch(queue, slot->recording);
        return true;
    case SLOT_REFUSED:
        break;
    }
    return false;
}

void recordings_end(struct recordings *recordings)
{
    struct error err = {0};
    struct recording_slot *slot = recordings->under_way;
    if (slot == NULL)
        return;
    recordings->under_way = NULL;
    slot->recording = device_recording_end(&recordings->recorder, &err);
    slot->state = slot->recording != NULL ? SLOT_READY : SLOT_REFUSED;
    if (slot->recording != NULL) {
        recordings->counts.made++;
        return;
    }
    recordings->counts.refused++;
    if (!recordings->noted)
        log_line(LOG_WARNING, err.message, "\"effect\":\"such steps are launched one by one\"");
    recordings->noted = true;
}

bool recordings_exchange(struct recordings *recordings, struct simt_queue *queue)
{
    if (recordings->under_way == NULL)
        return false;
    struct simt_queue other = *queue;
    *queue = recordings->recorder;
    recordings->recorder = other;
    return true;
}

struct recordings_counts recordings_count(const struct recordings *recordings)
{
    return recordings->counts;
}

/*
 * The inside of the engine, for its own files and for tests that watch its rounds.
 */
#ifndef SERVER_ENGINE_ENGINE_INTERNAL_H
#define SERVER_ENGINE_ENGINE_INTERNAL_H

#include <pthread.h>

#include "common/error.h"
#include "server/engine/counters.h"
#include "server/engine/engine.h"
#include "server/engine/intake.h"
#include "server/engine/round.h"
#include "server/engine/scheduler.h"
#include "server/engine/step_batch.h"

/* Told of every round right after it, before its draft is posted. */
struct round_observer {
    void (*observe)(void *context, const struct sequence *sequence);
    void *context;
};

struct engine {
    /* Constant after engine_create. */
    struct model *model;
    struct engine_options options;
    int32_t kv_pages;
    int32_t canvas_limit; /* longest canvas that model, pool and rows allow */
    struct round_observer observer;

    /* Any thread. */
    struct counters counters;
    struct engine_histograms histograms;
    struct intake intake;
    struct intake leftovers; /* requests that ended and wait to be freed, linked by next */

    /* The engine thread. */
    struct scheduler scheduler;
    struct step_batch batch;
    struct head_result result;
    struct candidate *candidates; /* [canvas_limit] scratch of one selection */
    char *text;                   /* scratch of one check for banned words */
    struct error device_error;    /* why the device is lost; code 0 while it is not */

    /* Sleeping and waking, never touched inside a tick. */
    pthread_t thread;
    bool started; /* of the thread that starts and stops the engine */
    pthread_mutex_t sleep_lock;
    pthread_cond_t wake, idle; /* work may be there; nothing is left */
    atomic_bool asleep, stopping;
};

void engine_observe(struct engine *engine, struct round_observer observer); /* before any submit */

/*
 * Any thread, the request not yet submitted. Check refuses what can never run or is out of range.
 * Prepare sets what the ticks need; ERROR_INVALID where no token is left to choose. Both say what
 * is wrong in request->fault.
 */
int request_check(const struct engine *engine, struct request *request, struct error *err);
int request_prepare(const struct engine *engine, struct request *request, struct error *err);

/* Any thread, outside a tick: frees what ended while nobody else held it. */
void engine_free_leftovers(struct engine *engine);

/* Any thread: a new request or the end may be waiting for a thread that sleeps. */
void engine_wake(struct engine *engine);
/* Any thread, outside a tick: whoever waits for the end of all work looks again. */
void engine_announce_idle(struct engine *engine);
/* Stops and joins the thread, if one was started. */
void engine_join(struct engine *engine);

#endif

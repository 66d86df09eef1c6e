/* The engine's door for other threads: checks, the queue limit and the way into the intake. */
#include <assert.h>

#include "common/error.h"
#include "server/engine/engine_internal.h"

/* Counts the request's sequences in; ERROR_LIMIT when there is no room for all of them. */
static int reserve_places(struct engine *engine, int32_t choices, struct error *err)
{
    const struct engine_options *options = &engine->options;
    int32_t limit = options->max_sequences + options->queue_limit;
    if (choices > limit)
        return error_set(err, ERROR_INVALID,
                         "%d answers were asked for, at most %d can run and wait: ask for fewer, "
                         "or have queue_limit raised",
                         choices, limit);
    int outstanding = atomic_load(&engine->counters.outstanding);
    do {
        if (outstanding > limit - choices)
            return error_set(err, ERROR_LIMIT,
                             "the queue is full: %d sequences run or wait and %d more do not fit "
                             "the limit of %d; try again later",
                             outstanding, choices, limit);
    } while (!atomic_compare_exchange_weak(&engine->counters.outstanding, &outstanding,
                                           outstanding + choices));
    return 0;
}

static int check_open(const struct engine *engine, struct error *err)
{
    if (atomic_load(&engine->counters.device_lost))
        return error_set(err, ERROR_DEVICE_LOST,
                         "the device is lost: the server has to be started again");
    if (atomic_load(&engine->counters.draining))
        return error_set(err, ERROR_UNAVAILABLE,
                         "the server is draining: send the request to another one");
    return 0;
}

static int submit_request(struct engine *engine, struct request *request, struct error *err)
{
    int rc = check_open(engine, err);
    if (rc == 0)
        rc = request_check(engine, request, err);
    if (rc == 0)
        rc = reserve_places(engine, request->choices, err);
    if (rc != 0)
        return rc;
    request->unfinished = request->choices;
    request_retain(request);
    rc = request_prepare(engine, request, err);
    /* Once more: who drains first and then sees nothing outstanding must be right. */
    if (rc == 0)
        rc = check_open(engine, err);
    if (rc == 0 && !intake_push(&engine->intake, request))
        rc = error_set(err, ERROR_UNAVAILABLE, "the server has stopped: send the request again");
    if (rc != 0) {
        atomic_fetch_sub(&engine->counters.outstanding, request->choices);
        engine_announce_idle(engine); /* a waiter may have counted this one */
        request_release(request);
        return rc;
    }
    engine_wake(engine);
    return 0;
}

int engine_submit(struct engine *engine, struct request *request, struct error *err)
{
    assert(request->params.block_length >= 1 && request->params.steps >= 0);
    engine_free_leftovers(engine);
    int rc = submit_request(engine, request, err);
    if (rc != 0)
        counter_add(&engine->counters.rejected, 1);
    return rc;
}

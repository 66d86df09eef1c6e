/* The engine's door for other threads: checks, the queue limit and the way into the intake. */
#include <assert.h>

#include "common/error.h"
#include "server/engine/engine_internal.h"

/* Counts the requests in; ERROR_LIMIT when there is no room for all of them. */
static int reserve_places(struct engine *engine, int32_t count, struct error *err)
{
    const struct engine_options *options = &engine->options;
    int32_t limit = options->max_sequences + options->queue_limit;
    if (count > limit)
        return error_set(err, ERROR_INVALID,
                         "%d answers were asked for, at most %d can run and wait: ask for fewer, "
                         "or have queue_limit raised",
                         count, limit);
    int outstanding = atomic_load(&engine->counters.outstanding);
    do {
        if (outstanding > limit - count)
            return error_set(err, ERROR_LIMIT,
                             "the queue is full: %d sequences run or wait and %d more do not fit "
                             "the limit of %d; try again later",
                             outstanding, count, limit);
    } while (!atomic_compare_exchange_weak(&engine->counters.outstanding, &outstanding,
                                           outstanding + count));
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

/* Before the engine sees any of them: a list that is refused leaves nothing behind. */
static int prepare_all(struct engine *engine, struct request *const *requests, int32_t count,
                       struct error *err)
{
    int rc = 0;
    for (int32_t i = 0; rc == 0 && i < count; i++)
        rc = request_prepare(engine, requests[i], err);
    /* Once more: who drains first and then sees nothing outstanding must be right. */
    return rc == 0 ? check_open(engine, err) : rc;
}

/* How many went in; fewer than all only where the engine stops, which ends those. */
static int32_t push_all(struct engine *engine, struct request *const *requests, int32_t count)
{
    for (int32_t i = 0; i < count; i++) {
        request_retain(requests[i]);
        if (!intake_push(&engine->intake, requests[i])) {
            request_release(requests[i]);
            return i;
        }
    }
    return count;
}

static int check_and_reserve(struct engine *engine, struct request *const *requests, int32_t count,
                             struct error *err)
{
    int rc = check_open(engine, err);
    for (int32_t i = 0; rc == 0 && i < count; i++)
        rc = request_check(engine, requests[i], err);
    if (rc != 0)
        return rc;
    rc = reserve_places(engine, count, err);
    if (rc == ERROR_INVALID)
        requests[0]->fault = REQUEST_FAULT_CHOICES;
    return rc;
}

int engine_submit_all(struct engine *engine, struct request *const *requests, int32_t count,
                      struct error *err)
{
    for (int32_t i = 0; i < count; i++)
        assert(requests[i]->params.block_length >= 1 && requests[i]->params.steps >= 0);
    engine_free_leftovers(engine);
    int32_t pushed = 0;
    int rc = check_and_reserve(engine, requests, count, err);
    if (rc == 0) {
        rc = prepare_all(engine, requests, count, err);
        if (rc == 0)
            pushed = push_all(engine, requests, count);
        if (rc == 0 && pushed < count)
            rc =
                error_set(err, ERROR_UNAVAILABLE, "the server has stopped: send the request again");
        if (rc != 0) {
            atomic_fetch_sub(&engine->counters.outstanding, count - pushed);
            engine_announce_idle(engine); /* a waiter may have counted these */
        }
    }
    if (pushed > 0)
        engine_wake(engine);
    if (rc != 0)
        counter_add(&engine->counters.rejected, (uint64_t)(count - pushed));
    return rc;
}

int engine_submit(struct engine *engine, struct request *request, struct error *err)
{
    return engine_submit_all(engine, &request, 1, err);
}

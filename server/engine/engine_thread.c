/* The engine's own thread: ticks while there is work, sleeps while there is none. */
#include <errno.h>
#include <string.h>
#include <time.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/log.h"
#include "server/engine/engine_internal.h"

void engine_announce_idle(struct engine *engine)
{
    pthread_mutex_lock(&engine->sleep_lock);
    pthread_cond_broadcast(&engine->idle);
    pthread_mutex_unlock(&engine->sleep_lock);
}

/* Sleeps until a request or the end comes. */
static void engine_sleep(struct engine *engine)
{
    pthread_mutex_lock(&engine->sleep_lock);
    /* First asleep, then the look into the intake; who submits does it the other way round. */
    atomic_store(&engine->asleep, true);
    while (intake_is_empty(&engine->intake) && !atomic_load(&engine->stopping))
        pthread_cond_wait(&engine->wake, &engine->sleep_lock);
    atomic_store(&engine->asleep, false);
    pthread_mutex_unlock(&engine->sleep_lock);
}

void engine_wake(struct engine *engine)
{
    if (!atomic_load(&engine->asleep))
        return;
    pthread_mutex_lock(&engine->sleep_lock);
    pthread_cond_signal(&engine->wake);
    pthread_mutex_unlock(&engine->sleep_lock);
}

static void *engine_run(void *context)
{
    struct engine *engine = context;
    bool loss_logged = false;
    pthread_setname_np(pthread_self(), "engine");
    while (!atomic_load(&engine->stopping)) {
        bool busy = engine_tick(engine, clock_now_us());
        if (engine->device_error.code != 0 && !loss_logged) {
            log_line(LOG_ERROR, engine->device_error.message, NULL);
            loss_logged = true;
        }
        if (!busy) {
            engine_free_leftovers(engine);
            engine_announce_idle(engine);
            engine_sleep(engine);
        }
    }
    return NULL;
}

int engine_start(struct engine *engine, struct error *err)
{
    int failure = pthread_create(&engine->thread, NULL, engine_run, engine);
    if (failure != 0)
        return error_set(err, ERROR_IO, "cannot start the engine's thread: %s", strerror(failure));
    engine->started = true;
    return 0;
}

void engine_join(struct engine *engine)
{
    if (!engine->started)
        return;
    atomic_store(&engine->stopping, true);
    engine_wake(engine);
    pthread_join(engine->thread, NULL);
    engine->started = false;
}

void engine_drain(struct engine *engine)
{
    atomic_store(&engine->counters.draining, true);
}

static struct timespec monotonic_after(int64_t timeout_us)
{
    struct timespec when;
    clock_gettime(CLOCK_MONOTONIC, &when);
    int64_t nanoseconds = when.tv_nsec + timeout_us % 1000000 * 1000;
    when.tv_sec += (time_t)(timeout_us / 1000000 + nanoseconds / 1000000000);
    when.tv_nsec = (long)(nanoseconds % 1000000000);
    return when;
}

bool engine_wait_idle(struct engine *engine, int64_t timeout_us)
{
    const struct timespec until = monotonic_after(timeout_us);
    pthread_mutex_lock(&engine->sleep_lock);
    int failure = 0;
    while (engine->started && failure != ETIMEDOUT &&
           atomic_load(&engine->counters.outstanding) > 0)
        failure = pthread_cond_timedwait(&engine->idle, &engine->sleep_lock, &until);
    pthread_mutex_unlock(&engine->sleep_lock);
    return atomic_load(&engine->counters.outstanding) == 0;
}

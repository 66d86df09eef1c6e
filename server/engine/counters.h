/*
 * The engine's numbers as atomics: written by the engine thread (outstanding and rejected by
 * submitters too), read by any thread.
 */
#ifndef SERVER_ENGINE_COUNTERS_H
#define SERVER_ENGINE_COUNTERS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum { PACE_SECONDS = 30, PACE_SLOTS = 32 };

/*
 * How many places became free in each of the last seconds with a tick. Idle seconds have no slot,
 * so that a rate says what the engine does while it works. A reader may meet the present second
 * before all of it is counted.
 */
struct pace {
    _Atomic int64_t second[PACE_SLOTS]; /* counted from 1; 0: not used yet */
    _Atomic uint32_t freed[PACE_SLOTS];
    _Atomic int64_t latest;
};

struct counters {
    atomic_int outstanding; /* sequences that were accepted and have not ended */
    atomic_int running;     /* sequences; the other outstanding ones wait */
    atomic_int kv_pages_used;
    _Atomic uint64_t ticks, rows, rounds, committed_tokens, revised_tokens;
    _Atomic uint64_t finished, cancelled, rejected, deadline_misses;
    _Atomic int64_t forward_us, tick_us;
    atomic_bool draining, device_lost;
    struct pace pace;
};

static inline void counter_add(_Atomic uint64_t *counter, uint64_t amount)
{
    atomic_fetch_add_explicit(counter, amount, memory_order_relaxed);
}

/* Engine thread: a tick with rows begins; places of sequences that have ended are free again. */
void counters_begin_tick(struct counters *counters, int64_t now_us);
void counters_free_places(struct counters *counters, int32_t places);

/*
 * Any thread: whole seconds until so many more places will have become free, at the rate of the
 * last PACE_SECONDS seconds of work; 1 to PACE_LONGEST_S, 1 where there was no work yet.
 */
enum { PACE_LONGEST_S = 120 };
int counters_seconds_until(const struct counters *counters, int32_t places);

#endif

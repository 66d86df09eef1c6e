/*
 * The engine's numbers as atomics: written by the engine thread (outstanding and rejected by
 * submitters too), read by any thread.
 */
#ifndef SERVER_ENGINE_COUNTERS_H
#define SERVER_ENGINE_COUNTERS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct counters {
    atomic_int outstanding; /* sequences that were accepted and have not ended */
    atomic_int running;     /* sequences; the other outstanding ones wait */
    atomic_int kv_pages_used;
    _Atomic uint64_t ticks, rows, rounds, committed_tokens, revised_tokens;
    _Atomic uint64_t finished, cancelled, rejected, deadline_misses;
    _Atomic int64_t forward_us, tick_us;
    atomic_bool draining, device_lost;
};

static inline void counter_add(_Atomic uint64_t *counter, uint64_t amount)
{
    atomic_fetch_add_explicit(counter, amount, memory_order_relaxed);
}

#endif

#include "server/engine/counters.h"

void counters_begin_tick(struct counters *counters, int64_t now_us)
{
    struct pace *pace = &counters->pace;
    int64_t second = now_us / 1000000 + 1;
    int64_t slot = second % PACE_SLOTS;

    if (atomic_load_explicit(&pace->second[slot], memory_order_relaxed) == second)
        return;
    atomic_store(&pace->freed[slot], 0);
    atomic_store(&pace->second[slot], second);
    atomic_store(&pace->latest, second);
}

void counters_free_places(struct counters *counters, int32_t places)
{
    struct pace *pace = &counters->pace;
    int64_t slot = atomic_load_explicit(&pace->latest, memory_order_relaxed) % PACE_SLOTS;

    atomic_fetch_add_explicit(&pace->freed[slot], (uint32_t)places, memory_order_relaxed);
    atomic_fetch_sub(&counters->outstanding, places);
}

int counters_seconds_until(const struct counters *counters, int32_t places)
{
    const struct pace *pace = &counters->pace;
    int64_t latest = atomic_load(&pace->latest), worked = 0, freed = 0;

    for (int slot = 0; slot < PACE_SLOTS; slot++) {
        int64_t second = atomic_load(&pace->second[slot]);
        if (second == 0 || second <= latest - PACE_SECONDS)
            continue;
        worked++;
        freed += atomic_load(&pace->freed[slot]);
    }
    /* Where none became free yet one might do so at once: nothing better is known. */
    if (freed == 0)
        freed = 1;
    int64_t seconds = (worked * places + freed - 1) / freed;
    return seconds < 1 ? 1 : seconds > PACE_LONGEST_S ? PACE_LONGEST_S : (int)seconds;
}

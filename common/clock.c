#include "common/clock.h"

#include <time.h>

static int64_t clock_read_ns(clockid_t clock)
{
    /* Cannot fail: both clocks exist on every Linux. */
    struct timespec now = {0};
    clock_gettime(clock, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

int64_t clock_now_ns(void)
{
    return clock_read_ns(CLOCK_MONOTONIC);
}

int64_t clock_now_us(void)
{
    return clock_now_ns() / 1000;
}

int64_t clock_wall_us(void)
{
    return clock_read_ns(CLOCK_REALTIME) / 1000;
}

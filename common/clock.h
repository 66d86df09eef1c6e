/* Time in microseconds, or nanoseconds where a figure is made of short pieces. Any thread. */
#ifndef COMMON_CLOCK_H
#define COMMON_CLOCK_H

#include <stdint.h>

int64_t clock_now_us(void);  /* monotonic, from an arbitrary start */
int64_t clock_now_ns(void);  /* the same clock */
int64_t clock_wall_us(void); /* since 1970-01-01 UTC */

#endif

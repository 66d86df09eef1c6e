/* The smaller of two. */
#ifndef SERVER_ENGINE_NUMBERS_H
#define SERVER_ENGINE_NUMBERS_H

#include <stdint.h>

static inline int32_t min_int32(int32_t a, int32_t b)
{
    return a < b ? a : b;
}

static inline int64_t min_int64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

#endif

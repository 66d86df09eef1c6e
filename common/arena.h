/*
 * Arena: memory that is freed at once. One owner at a time; not thread-safe. Everything a request
 * needs lives in the arena of that request.
 */
#ifndef COMMON_ARENA_H
#define COMMON_ARENA_H

#include <stddef.h>

struct arena_block;

struct arena {
    struct arena_block *blocks; /* newest first */
    size_t used;                /* bytes handed out */
};

void arena_init(struct arena *arena);

/* Zeroed memory, aligned for any type; NULL when the system has none left (size 0 gives a valid
 * pointer). */
void *arena_alloc(struct arena *arena, size_t size);

/*
 * The same without clearing it. Large pieces are not touched: until someone writes to them the
 * system gives them no memory.
 */
void *arena_alloc_uncleared(struct arena *arena, size_t size);

/* A copy of `length` bytes with a terminating NUL behind them; NULL when out of memory. */
char *arena_copy(struct arena *arena, const char *bytes, size_t length);

/* Frees everything; the arena can be used again. */
void arena_free(struct arena *arena);

#endif

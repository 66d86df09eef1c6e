#include "common/arena.h"

#include <stdalign.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum {
    ARENA_FIRST_BLOCK = 4096,
    ARENA_LARGEST_BLOCK = 1 << 20, /* blocks double up to here; larger pieces get their own */
};

struct arena_block {
    struct arena_block *next;
    size_t capacity, used;            /* bytes of data */
    alignas(max_align_t) char data[]; /* [capacity], zeroed */
};

void arena_init(struct arena *arena)
{
    *arena = (struct arena){0};
}

static struct arena_block *block_create(size_t capacity)
{
    struct arena_block *block = calloc(1, sizeof *block + capacity);
    if (block != NULL) {
        block->capacity = capacity;
    }
    return block;
}

/* A block with room for `size` bytes behind what is used; NULL when out of memory. */
static struct arena_block *arena_find_block(struct arena *arena, size_t size)
{
    struct arena_block *newest = arena->blocks;
    if (newest != NULL && newest->capacity - newest->used >= size) {
        return newest;
    }
    size_t capacity = newest == NULL ? ARENA_FIRST_BLOCK : 2 * newest->capacity;
    if (capacity > ARENA_LARGEST_BLOCK) {
        capacity = ARENA_LARGEST_BLOCK;
    }
    bool own_block = size > capacity / 2;
    struct arena_block *block = block_create(own_block ? size : capacity);
    if (block == NULL) {
        return NULL;
    }
    if (own_block && newest != NULL) {
        /* Behind the newest, whose free room stays in use. */
        block->next = newest->next;
        newest->next = block;
    } else {
        block->next = newest;
        arena->blocks = block;
    }
    return block;
}

void *arena_alloc(struct arena *arena, size_t size)
{
    const size_t alignment = alignof(max_align_t);
    if (size > PTRDIFF_MAX / 2) {
        return NULL;
    }
    /* At least one unit, so that pieces of size 0 have addresses of their own too. */
    size_t rounded = size == 0 ? alignment : (size + alignment - 1) / alignment * alignment;
    struct arena_block *block = arena_find_block(arena, rounded);
    if (block == NULL) {
        return NULL;
    }
    void *memory = block->data + block->used;
    block->used += rounded;
    arena->used += rounded;
    return memory;
}

char *arena_copy(struct arena *arena, const char *bytes, size_t length)
{
    if (length == SIZE_MAX) {
        return NULL;
    }
    char *copy = arena_alloc(arena, length + 1);
    if (copy != NULL && length > 0) {
        memcpy(copy, bytes, length);
    }
    return copy;
}

void arena_free(struct arena *arena)
{
    struct arena_block *block = arena->blocks;
    while (block != NULL) {
        struct arena_block *next = block->next;
        free(block);
        block = next;
    }
    arena_init(arena);
}

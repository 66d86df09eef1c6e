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
    alignas(max_align_t) char data[]; /* [capacity], zeroed where it is not used yet */
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

/* Puts a block that one piece fills behind the newest, whose free room stays in use. */
static void add_behind_newest(struct arena *arena, struct arena_block *block)
{
    struct arena_block *newest = arena->blocks;
    block->next = newest == NULL ? NULL : newest->next;
    if (newest == NULL) {
        arena->blocks = block;
    } else {
        newest->next = block;
    }
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
    if (own_block) {
        add_behind_newest(arena, block);
    } else {
        block->next = newest;
        arena->blocks = block;
    }
    return block;
}

/* At least one unit, so that pieces of size 0 have addresses of their own too. */
static size_t round_up(size_t size)
{
    const size_t alignment = alignof(max_align_t);
    return size == 0 ? alignment : (size + alignment - 1) / alignment * alignment;
}

void *arena_alloc(struct arena *arena, size_t size)
{
    if (size > PTRDIFF_MAX / 2) {
        return NULL;
    }
    size_t rounded = round_up(size);
    struct arena_block *block = arena_find_block(arena, rounded);
    if (block == NULL) {
        return NULL;
    }
    void *memory = block->data + block->used;
    block->used += rounded;
    arena->used += rounded;
    return memory;
}

/* A block for the piece alone: calloc clears what it takes from the heap's end as well. */
void *arena_alloc_uncleared(struct arena *arena, size_t size)
{
    if (size < ARENA_FIRST_BLOCK || size > PTRDIFF_MAX / 2) {
        return arena_alloc(arena, size);
    }
    size_t rounded = round_up(size);
    struct arena_block *block = malloc(sizeof *block + rounded);
    if (block == NULL) {
        return NULL;
    }
    block->capacity = block->used = rounded;
    add_behind_newest(arena, block);
    arena->used += rounded;
    return block->data;
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

#include "kernels/memory_block.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include "common/error.h"

enum {
    HEADER_BYTES = 64,        /* keeps the block behind it aligned */
    LARGE_BYTES = 4 << 20,    /* from here on a block is mapped, in huge pages */
    HUGE_PAGE_BYTES = 2 << 20 /* of x86-64 */
};

size_t memory_block_product(size_t a, size_t b)
{
    size_t product;
    return __builtin_mul_overflow(a, b, &product) ? SIZE_MAX : product;
}

size_t memory_block_sum(size_t a, size_t b)
{
    size_t sum;
    return __builtin_add_overflow(a, b, &sum) ? SIZE_MAX : sum;
}

/* Bytes that a block takes with its header. */
static size_t total_bytes(size_t size)
{
    size_t alignment = size >= LARGE_BYTES ? HUGE_PAGE_BYTES : HEADER_BYTES;
    return (size + HEADER_BYTES + alignment - 1) / alignment * alignment;
}

/* Fresh pages at a multiple of a huge page; the kernel zeroes each when it is first touched. */
static char *map_pages(size_t total)
{
    size_t mapped = total + HUGE_PAGE_BYTES;
    char *memory = mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return NULL;
    size_t before = -(uintptr_t)memory % HUGE_PAGE_BYTES;
    if (before > 0)
        munmap(memory, before);
    munmap(memory + before + total, HUGE_PAGE_BYTES - before);
    madvise(memory + before, total, MADV_HUGEPAGE); /* only a hint: a refusal costs speed alone */
    return memory + before;
}

static char *allocate_zeroed(size_t total)
{
    char *memory = aligned_alloc(HEADER_BYTES, total);
    return memory == NULL ? NULL : memset(memory, 0, total);
}

int memory_block_create(void **out, size_t size, const char *what, struct error *err)
{
    *out = NULL;
    if (size > SIZE_MAX / 2 - 2 * HUGE_PAGE_BYTES)
        return error_set(err, ERROR_MEMORY, "%s: the size overflows; use a smaller model or limits",
                         what);
    size_t total = total_bytes(size);
    char *memory = size >= LARGE_BYTES ? map_pages(total) : allocate_zeroed(total);
    if (memory == NULL)
        return error_set(err, ERROR_MEMORY,
                         "%s: cannot allocate %zu bytes; use a smaller model or limits", what,
                         size);
    memcpy(memory, &size, sizeof size);
    *out = memory + HEADER_BYTES;
    return 0;
}

size_t memory_block_size(const void *block)
{
    size_t size = 0;
    if (block != NULL)
        memcpy(&size, (const char *)block - HEADER_BYTES, sizeof size);
    return size;
}

void memory_block_destroy(void *block)
{
    if (block == NULL)
        return;
    size_t size = memory_block_size(block);
    char *memory = (char *)block - HEADER_BYTES;
    if (size >= LARGE_BYTES)
        munmap(memory, total_bytes(size));
    else
        free(memory);
}

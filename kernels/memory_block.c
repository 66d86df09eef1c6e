#include "kernels/memory_block.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include "common/error.h"

enum {
    HEADER_BYTES = 64,        /* keeps the block behind it aligned */
    LARGE_BYTES = 4 << 20,    /* from here on a block asks for huge pages */
    HUGE_PAGE_BYTES = 2 << 20 /* of x86-64 */
};

size_t memory_block_product(size_t a, size_t b)
{
    size_t product;
    return __builtin_mul_overflow(a, b, &product) ? SIZE_MAX : product;
}

int memory_block_create(void **out, size_t size, const char *what, struct error *err)
{
    *out = NULL;
    size_t alignment = size >= LARGE_BYTES ? HUGE_PAGE_BYTES : HEADER_BYTES;
    if (size > SIZE_MAX / 2 - HUGE_PAGE_BYTES - HEADER_BYTES)
        return error_set(err, ERROR_MEMORY, "%s: the size overflows; use a smaller model or limits",
                         what);
    size_t total = (size + HEADER_BYTES + alignment - 1) / alignment * alignment;
    char *memory = aligned_alloc(alignment, total);
    if (memory == NULL)
        return error_set(err, ERROR_MEMORY,
                         "%s: cannot allocate %zu bytes; use a smaller model or limits", what,
                         size);
    if (size >= LARGE_BYTES)
        madvise(memory, total, MADV_HUGEPAGE); /* only a hint: a refusal costs speed alone */
    memset(memory, 0, total);
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
    if (block != NULL)
        free((char *)block - HEADER_BYTES);
}

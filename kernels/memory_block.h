/*
 * Zeroed host memory, aligned to 64 bytes, that knows its size. The owner destroys it; any thread.
 * A large block takes memory only where it is touched.
 */
#ifndef KERNELS_MEMORY_BLOCK_H
#define KERNELS_MEMORY_BLOCK_H

#include <stddef.h>

struct error;

/* a * b, or SIZE_MAX where that does not fit: no block of that size can be made. */
size_t memory_block_product(size_t a, size_t b);
size_t memory_block_sum(size_t a, size_t b); /* the same of a + b */

/* ERROR_MEMORY names `what` and the size. Size 0 gives a valid pointer. */
int memory_block_create(void **out, size_t size, const char *what, struct error *err);
size_t memory_block_size(const void *block); /* as asked for; 0 for NULL */
void memory_block_destroy(void *block);      /* NULL is fine */

#endif

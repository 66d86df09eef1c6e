/*
 * What backends have in common whose memory is the host's: ref and cpu. One thread, but for what
 * any thread may ask of memory_block.h.
 */
#ifndef KERNELS_HOST_BACKEND_H
#define KERNELS_HOST_BACKEND_H

#include "kernels/backend.h"

/* Begins such a backend; counts the bytes it holds. */
struct host_backend {
    struct backend base;
    char description[96];
    size_t weight_bytes, kv_bytes, other_bytes;
};

/* memory_block_create of `out`, the address of a pointer of any type; *used grows with it. */
int host_reserve(void *out, size_t *used, size_t size, const char *what, struct error *err);

/* Sets base, and a description like "cpu, int8 weights, bfloat16, ...", `rest` behind the dtypes.
 */
void host_backend_init(struct host_backend *host, const struct backend_ops *ops,
                       const struct backend_options *options, const char *rest);

/* Operations as struct backend_ops describes them. */
const char *host_description(const struct backend *backend);
int host_memory_create(struct backend *backend, void **out, size_t size, struct error *err);
void host_memory_destroy(struct backend *backend, void *memory);
void host_memory_write(struct backend *backend, void *memory, const void *source, size_t size);
void host_memory_read(struct backend *backend, void *destination, const void *memory, size_t size);
int host_step_end(struct backend *backend, struct error *err);
void host_memory_used(const struct backend *backend, size_t *weights, size_t *kv, size_t *other);

#endif

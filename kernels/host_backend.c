#include "kernels/host_backend.h"

#include <stdio.h>
#include <string.h>
#include "kernels/memory_block.h"

static struct host_backend *self(struct backend *backend)
{
    return (struct host_backend *)backend;
}

int host_reserve(void *out, size_t *used, size_t size, const char *what, struct error *err)
{
    void *block;
    int status = memory_block_create(&block, size, what, err);
    *(void **)out = block;
    if (status == 0)
        *used += size;
    return status;
}

void host_backend_init(struct host_backend *host, const struct backend_ops *ops,
                       const struct backend_options *options, const char *rest)
{
    bool scaled = dtype_has_scales(options->weight_dtype);
    host->base = (struct backend){
        .ops = ops, .dtype = options->dtype, .weight_dtype = options->weight_dtype};
    snprintf(host->description, sizeof host->description, "%s, %s%s%s, %s", ops->name,
             scaled ? dtype_name(options->weight_dtype) : "", scaled ? " weights, " : "",
             dtype_name(options->dtype), rest);
}

const char *host_description(const struct backend *backend)
{
    return ((const struct host_backend *)backend)->description;
}

int host_memory_create(struct backend *backend, void **out, size_t size, struct error *err)
{
    return host_reserve(out, &self(backend)->other_bytes, size, "activations", err);
}

void host_memory_destroy(struct backend *backend, void *memory)
{
    self(backend)->other_bytes -= memory_block_size(memory);
    memory_block_destroy(memory);
}

void host_memory_write(struct backend *backend, void *memory, const void *source, size_t size)
{
    (void)backend;
    memcpy(memory, source, size);
}

void host_memory_read(struct backend *backend, void *destination, const void *memory, size_t size)
{
    (void)backend;
    memcpy(destination, memory, size);
}

int host_step_end(struct backend *backend, struct error *err)
{
    (void)backend;
    (void)err;
    return 0;
}

void host_memory_used(const struct backend *backend, size_t *weights, size_t *kv, size_t *other)
{
    const struct host_backend *host = (const struct host_backend *)backend;
    *weights = host->weight_bytes;
    *kv = host->kv_bytes;
    *other = host->other_bytes;
}

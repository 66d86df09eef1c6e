/* The CUDA backend's life, its memory, and the table of its operations. */
#include <stdio.h>
#include <stdlib.h>
#include "common/error.h"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/head.h"
#include "kernels/cuda/products.h"
#include "kernels/cuda/recorded_operations.h"
#include "kernels/cuda/row_buckets.h"
#include "kernels/cuda/upload.h"

/* Of the device's memory, for whatever the driver and libraries take later: recordings, modules. */
enum { KEPT_SHARE = 20, KEPT_BYTES = 512 << 20 };

static const char *cuda_description(const struct backend *backend)
{
    return ((const struct cuda_backend *)backend)->description;
}

static void cuda_destroy(struct backend *backend)
{
    struct cuda_backend *cuda = cuda_self(backend);
    cuda_head_close(cuda);
    cuda_linear_close(cuda);
    recordings_destroy(cuda->recordings);
    noted_operations_destroy(cuda->noted);
    upload_destroy(cuda->upload);
    device_memory_destroy(cuda->keys);
    device_memory_destroy(cuda->values);
    device_memory_destroy(cuda->rope_table);
    device_memory_destroy(cuda->device_block);
    device_memory_destroy(cuda->part_sums);
    device_memory_destroy(cuda->part_norms);
    device_staging_destroy(cuda->staging_block);
    device_close(&cuda->queue);
    free(cuda->line_of_sequence);
    free(cuda->allocations);
    free(cuda);
}

static int note_allocation(struct cuda_backend *cuda, struct error *err)
{
    if (cuda->allocation_count < cuda->allocation_room)
        return 0;
    size_t room = cuda->allocation_room * 2 + 16;
    struct cuda_allocation *more = realloc(cuda->allocations, room * sizeof *more);
    if (more == NULL)
        return error_set(err, ERROR_MEMORY, "cannot note an allocation; free some memory");
    cuda->allocations = more;
    cuda->allocation_room = room;
    return 0;
}

static int cuda_memory_create(struct backend *backend, void **out, size_t size, struct error *err)
{
    struct cuda_backend *cuda = cuda_self(backend);
    int status = note_allocation(cuda, err);
    if (status == 0)
        status = device_memory_create(out, size, "activations", err);
    if (status != 0)
        return status;
    cuda->allocations[cuda->allocation_count++] = (struct cuda_allocation){*out, size};
    cuda->other_bytes += size;
    return 0;
}

static void cuda_memory_destroy(struct backend *backend, void *memory)
{
    struct cuda_backend *cuda = cuda_self(backend);
    recordings_forget(cuda->recordings);
    for (size_t i = 0; i < cuda->allocation_count; i++) {
        if (cuda->allocations[i].memory != memory)
            continue;
        cuda->other_bytes -= cuda->allocations[i].size;
        cuda->allocations[i] = cuda->allocations[--cuda->allocation_count];
        break;
    }
    device_memory_destroy(memory);
}

static void cuda_memory_write(struct backend *backend, void *memory, const void *source,
                              size_t size)
{
    struct cuda_backend *cuda = cuda_self(backend);
    cuda_overwrites(cuda, memory, size);
    device_upload(&cuda->queue, memory, source, size);
}

static void cuda_memory_read(struct backend *backend, void *destination, const void *memory,
                             size_t size)
{
    device_download(&cuda_self(backend)->queue, destination, memory, size);
}

static void cuda_memory_used(const struct backend *backend, size_t *weights, size_t *kv,
                             size_t *other)
{
    const struct cuda_backend *cuda = (const struct cuda_backend *)backend;
    *weights = cuda->weight_bytes;
    *kv = cuda->kv_bytes;
    *other = cuda->other_bytes;
}

static const struct backend_ops CUDA_OPS = {
    .description = cuda_description,
    .destroy = cuda_destroy,
    .reserve = cuda_reserve,
    .memory_create = cuda_memory_create,
    .memory_destroy = cuda_memory_destroy,
    .memory_write = cuda_memory_write,
    .memory_read = cuda_memory_read,
    .weight_create = cuda_weight_create,
    .weight_destroy = cuda_weight_destroy,
    .memory_used = cuda_memory_used,
};

struct backend_memory cuda_memory(void)
{
    const struct device_memory memory = device_memory_read();
    size_t kept = memory.total / KEPT_SHARE;
    kept = kept > KEPT_BYTES ? kept : KEPT_BYTES;
    return (struct backend_memory){
        .available = memory.free > kept ? (int64_t)(memory.free - kept) : 0,
        .total = (int64_t)memory.total,
    };
}

int32_t cuda_next_bucket(int32_t rows)
{
    return row_bucket(rows + 1, 1 << 24);
}

bool cuda_prefers_bfloat16(void)
{
    return true;
}

static bool computes(enum dtype dtype, enum dtype weight_dtype, bool has_fp8)
{
    return dtype == DTYPE_BFLOAT16 && (weight_dtype == dtype || weight_dtype == DTYPE_INT8 ||
                                       (weight_dtype == DTYPE_FP8 && has_fp8));
}

bool cuda_computes(enum dtype dtype, enum dtype weight_dtype)
{
    return computes(dtype, weight_dtype, weight_dtype == DTYPE_FP8 && device_has_fp8());
}

int cuda_dtypes_check(const struct device_facts *facts, enum dtype dtype, enum dtype weight_dtype,
                      struct error *err)
{
    if (computes(dtype, weight_dtype, facts->fp8))
        return 0;
    if (dtype != DTYPE_BFLOAT16)
        return error_set(err, ERROR_INVALID,
                         "device %s computes in bfloat16, not in %s: set dtype to bfloat16, int8%s "
                         "or auto, or use device cpu",
                         facts->backend, dtype_name(dtype), facts->fp8 ? ", fp8" : "");
    return error_set(err, ERROR_INVALID,
                     "dtype \"%s\": device %s, %s, has bfloat16 and int8%s; use one of them or "
                     "auto (fp8 needs compute capability 8.9)",
                     dtype_name(weight_dtype), facts->backend, facts->name,
                     facts->fp8 ? ", fp8" : "");
}

int cuda_backend_create(struct backend **out, const struct backend_options *options,
                        struct error *err)
{
    struct cuda_backend *cuda = calloc(1, sizeof *cuda);
    if (cuda == NULL)
        return error_set(err, ERROR_MEMORY, "cannot allocate the cuda backend; free some memory");
    int status = device_open(&cuda->queue, &cuda->facts, options->instructions, err);
    if (status != 0) {
        free(cuda);
        return status;
    }
    cuda_prefetch_load();
    cuda->ops = CUDA_OPS;
    recorded_operations_set(&cuda->ops);
    cuda->ops.name = cuda->facts.backend;
    cuda->base.ops = &cuda->ops;
    cuda->base.dtype = options->dtype;
    cuda->base.weight_dtype = options->weight_dtype;
    cuda->deterministic = options->deterministic;
    status = cuda_dtypes_check(&cuda->facts, options->dtype, options->weight_dtype, err);
    if (status == 0)
        status = recordings_create(&cuda->recordings, err);
    if (status == 0)
        status = noted_operations_create(&cuda->noted, err);
    if (status == 0)
        status = upload_create(&cuda->upload, err);
    if (status == 0)
        status = cuda_linear_open(cuda, err);
    if (status != 0) {
        cuda_destroy(&cuda->base);
        return status;
    }
    bool scaled = dtype_has_scales(options->weight_dtype);
    snprintf(cuda->description, sizeof cuda->description, "%s, %s%s%s, %s%s%s, %d multiprocessors",
             cuda->facts.backend, scaled ? dtype_name(options->weight_dtype) : "",
             scaled ? " weights, " : "", dtype_name(options->dtype), cuda->facts.name,
             options->deterministic ? ", deterministic" : "",
             cuda->facts.library_alone ? ", library"
             : cuda->facts.own_alone   ? ", own"
                                       : "",
             cuda->facts.multiprocessors);
    *out = &cuda->base;
    return 0;
}

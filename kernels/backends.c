#include <stdio.h>
#include <string.h>
#include "common/error.h"
#include "common/memory_available.h"
#include "kernels/backend.h"
#include "kernels/cpu/cpu.h"
#ifdef CUDA_BACKEND
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/device.h"
#endif
#include "kernels/ref/ref.h"

struct backend_entry {
    const char *name;
    /* NULL: always there. Else ERROR_NO_DEVICE says what is missing. */
    int (*check)(bool *is_there, struct error *err);
    int (*create)(struct backend **out, const struct backend_options *options, struct error *err);
    bool (*prefers_bfloat16)(void); /* NULL: never */
    bool (*computes)(enum dtype dtype, enum dtype weight_dtype);
    void (*reserved_bytes)(size_t *kv_pool, size_t *scratch, const struct backend_limits *limits,
                           enum dtype dtype, enum dtype weight_dtype);
    size_t (*weight_bytes)(int64_t rows, int64_t columns, bool bias, enum dtype weight_dtype);
    struct backend_memory (*memory)(void); /* NULL: the host's */
    int32_t (*next_bucket)(int32_t rows);  /* NULL: every number of rows is one */
    /* NULL: operations compute on the CPU */
    int (*copy_rate)(double *out, struct backend *backend, size_t size, struct error *err);
};

static struct backend_memory host_memory(void)
{
    return (struct backend_memory){.available = memory_available("")};
}

/* "auto" takes the first one that is there. */
static const struct backend_entry BACKENDS[] = {
#ifdef CUDA_BACKEND
    {
        .name = CUDA_BACKEND, /* "simt" in the tests on the emulation */
        .check = device_check,
        .create = cuda_backend_create,
        .prefers_bfloat16 = cuda_prefers_bfloat16,
        .computes = cuda_computes,
        .reserved_bytes = cuda_reserved_bytes,
        .weight_bytes = cuda_weight_bytes,
        .memory = cuda_memory,
        .next_bucket = cuda_next_bucket,
        .copy_rate = cuda_copy_rate,
    },
#endif
    {
        .name = "cpu",
        .create = cpu_backend_create,
        .prefers_bfloat16 = cpu_prefers_bfloat16,
        .computes = cpu_computes,
        .reserved_bytes = cpu_reserved_bytes,
        .weight_bytes = cpu_weight_bytes,
    },
    {
        .name = "ref",
        .create = ref_backend_create,
        .computes = ref_computes,
        .reserved_bytes = ref_reserved_bytes,
        .weight_bytes = ref_weight_bytes,
    },
};
enum { BACKEND_COUNT = sizeof BACKENDS / sizeof BACKENDS[0] };

static const struct backend_entry *find_backend(const char *name)
{
    bool automatic = strcmp(name, "auto") == 0;
    for (size_t i = 0; i < BACKEND_COUNT; i++) {
        const struct backend_entry *entry = &BACKENDS[i];
        bool is_it = automatic ? entry->check == NULL || entry->check(NULL, NULL) == 0
                               : strcmp(entry->name, name) == 0;
        if (is_it)
            return entry;
    }
    return NULL;
}

const char *backend_best_name(const char *name)
{
    const struct backend_entry *entry = find_backend(name);
    return entry != NULL ? entry->name : name;
}

int backend_passed_over(const char *name, struct error *err)
{
    for (size_t i = 0; strcmp(name, "auto") == 0 && i < BACKEND_COUNT; i++) {
        bool is_there = false;
        int code = BACKENDS[i].check != NULL ? BACKENDS[i].check(&is_there, err) : 0;
        if (code == 0 || is_there)
            return code;
    }
    return 0;
}

static int unknown_backend(const char *name, struct error *err)
{
    char names[100] = "auto";
    for (size_t i = 0; i < BACKEND_COUNT; i++) {
        size_t used = strlen(names);
        snprintf(names + used, sizeof names - used, "%s%s",
                 i + 1 < (size_t)BACKEND_COUNT ? ", " : " or ", BACKENDS[i].name);
    }
    return error_set(err, ERROR_NO_DEVICE, "device \"%s\": this build has no such backend; use %s",
                     name, names);
}

int backend_check(const char *name, struct error *err)
{
    const struct backend_entry *entry = find_backend(name);
    if (entry == NULL)
        return unknown_backend(name, err);
    return entry->check != NULL ? entry->check(NULL, err) : 0;
}

int backend_create(struct backend **out, const char *name, const struct backend_options *options,
                   struct error *err)
{
    *out = NULL;
    const struct backend_entry *entry = find_backend(name);
    if (entry == NULL)
        return unknown_backend(name, err);
    if (!dtype_is_activation(options->dtype))
        return error_set(err, ERROR_INVALID,
                         "backend %s cannot compute in %s; use float32 or bfloat16", entry->name,
                         dtype_name(options->dtype));
    if (options->weight_dtype != options->dtype && !dtype_has_scales(options->weight_dtype))
        return error_set(err, ERROR_INVALID,
                         "backend %s cannot compute in %s with weights in %s; use the same for "
                         "both, or int8 or fp8 weights",
                         entry->name, dtype_name(options->dtype),
                         dtype_name(options->weight_dtype));
    return entry->create(out, options, err);
}

int backend_copy_rate(double *out, struct backend *backend, size_t size, struct error *err)
{
    const struct backend_entry *entry = find_backend(backend->ops->name);
    *out = 0;
    return entry->copy_rate != NULL ? entry->copy_rate(out, backend, size, err) : 0;
}

void backend_destroy(struct backend *backend)
{
    if (backend != NULL)
        backend->ops->destroy(backend);
}

bool backend_prefers_bfloat16(const char *name)
{
    const struct backend_entry *entry = find_backend(name);
    return entry != NULL && entry->prefers_bfloat16 != NULL && entry->prefers_bfloat16();
}

void backend_automatic_dtype(enum dtype *activations, enum dtype *weights, const char *name,
                             enum dtype checkpoint)
{
    const struct backend_entry *entry = find_backend(name);
    dtype_automatic(activations, weights, checkpoint, backend_prefers_bfloat16(name));
    if (entry == NULL || entry->computes(*activations, *weights))
        return;
    if (*weights == *activations)
        *weights = DTYPE_BFLOAT16;
    *activations = DTYPE_BFLOAT16;
    if (!entry->computes(*activations, *weights))
        *weights = *activations;
}

bool backend_computes(const char *name, enum dtype dtype, enum dtype weight_dtype)
{
    const struct backend_entry *entry = find_backend(name);
    return entry != NULL && entry->computes(dtype, weight_dtype);
}

struct backend_memory backend_memory_read(const char *name)
{
    const struct backend_entry *entry = find_backend(name);
    return entry != NULL && entry->memory != NULL ? entry->memory() : host_memory();
}

int32_t backend_next_bucket(const char *name, int32_t rows)
{
    const struct backend_entry *entry = find_backend(name);
    return entry != NULL && entry->next_bucket != NULL ? entry->next_bucket(rows) : 0;
}

void backend_reserved_bytes(size_t *kv_pool, size_t *scratch, const char *name,
                            const struct backend_limits *limits, enum dtype dtype,
                            enum dtype weight_dtype)
{
    const struct backend_entry *entry = find_backend(name);
    *kv_pool = *scratch = 0;
    if (entry != NULL)
        entry->reserved_bytes(kv_pool, scratch, limits, dtype, weight_dtype);
}

size_t backend_weight_bytes(const char *name, int64_t rows, int64_t columns, bool bias,
                            enum dtype weight_dtype)
{
    const struct backend_entry *entry = find_backend(name);
    return entry == NULL ? 0 : entry->weight_bytes(rows, columns, bias, weight_dtype);
}

size_t backend_kv_bytes(const struct attention_shape *shape, enum dtype dtype)
{
    return 2 * (size_t)shape->layers * (size_t)shape->kv_heads * (size_t)shape->head_dim *
           dtype_size(dtype);
}

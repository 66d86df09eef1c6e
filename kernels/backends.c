#include <string.h>
#include "common/error.h"
#include "kernels/backend.h"
#include "kernels/cpu/cpu.h"
#ifdef CUDA_BACKEND
#include "kernels/cuda/cuda.h"
#endif
#include "kernels/ref/ref.h"

struct backend_entry {
    const char *name;
    int (*create)(struct backend **out, const struct backend_options *options, struct error *err);
    bool (*prefers_bfloat16)(void);
    void (*reserved_bytes)(size_t *kv_pool, size_t *scratch, const struct backend_limits *limits,
                           enum dtype dtype, enum dtype weight_dtype);
    size_t (*weight_bytes)(int64_t rows, int64_t columns, bool bias, enum dtype weight_dtype);
    int (*copy_rate)(double *out, struct backend *backend, size_t size, struct error *err);
};

static int no_copy_rate(double *out, struct backend *backend, size_t size, struct error *err)
{
    (void)backend;
    (void)size;
    (void)err;
    *out = 0;
    return 0;
}

static bool never(void)
{
    return false;
}

/* "auto" takes the first one. */
static const struct backend_entry BACKENDS[] = {
    {"cpu", cpu_backend_create, cpu_prefers_bfloat16, cpu_reserved_bytes, cpu_weight_bytes,
     no_copy_rate},
    {"ref", ref_backend_create, never, ref_reserved_bytes, ref_weight_bytes, no_copy_rate},
#ifdef CUDA_BACKEND /* the name that it goes by: "simt" on the emulation of tests/simt */
    {CUDA_BACKEND, cuda_backend_create, cuda_prefers_bfloat16, cuda_reserved_bytes,
     cuda_weight_bytes, cuda_copy_rate},
#endif
};

static const struct backend_entry *find_backend(const char *name)
{
    if (strcmp(name, "auto") == 0)
        return &BACKENDS[0];
    for (size_t i = 0; i < sizeof BACKENDS / sizeof BACKENDS[0]; i++) {
        if (strcmp(BACKENDS[i].name, name) == 0)
            return &BACKENDS[i];
    }
    return NULL;
}

int backend_create(struct backend **out, const char *name, const struct backend_options *options,
                   struct error *err)
{
    *out = NULL;
    const struct backend_entry *entry = find_backend(name);
    if (entry == NULL)
        return error_set(err, ERROR_NO_DEVICE,
                         "device \"%s\": this build has no such backend; use auto, cpu or ref",
                         name);
    if (options->dtype != DTYPE_FLOAT32 && options->dtype != DTYPE_BFLOAT16)
        return error_set(err, ERROR_INVALID,
                         "backend %s cannot compute in %s; use float32 or bfloat16", entry->name,
                         dtype_name(options->dtype));
    if (options->weight_dtype != options->dtype && options->weight_dtype != DTYPE_INT8)
        return error_set(err, ERROR_INVALID,
                         "backend %s cannot compute in %s with weights in %s; use the same for "
                         "both, or int8 weights",
                         entry->name, dtype_name(options->dtype),
                         dtype_name(options->weight_dtype));
    return entry->create(out, options, err);
}

int backend_copy_rate(double *out, struct backend *backend, size_t size, struct error *err)
{
    return find_backend(backend->ops->name)->copy_rate(out, backend, size, err);
}

void backend_destroy(struct backend *backend)
{
    if (backend != NULL)
        backend->ops->destroy(backend);
}

const char *backend_best_name(const char *name)
{
    const struct backend_entry *entry = find_backend(name);
    return entry != NULL ? entry->name : name;
}

bool backend_prefers_bfloat16(const char *name)
{
    const struct backend_entry *entry = find_backend(name);
    return entry != NULL && entry->prefers_bfloat16();
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

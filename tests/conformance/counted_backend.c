/* Counts the calls of every operation and passes them on. */
#include <stdlib.h>
#include "conformance.h"

struct counted_backend {
    struct backend base;
    struct backend *real;
    struct backend_ops ops;
    bool in_step;
    size_t used; /* memory at the step's begin */
};

static struct counted_backend *self(struct backend *backend)
{
    return (struct counted_backend *)backend;
}

static struct backend *count(struct backend *backend, enum operation operation)
{
    record_called(operation);
    return self(backend)->real;
}

/* An operation of a step. */
static struct backend *enqueue(struct backend *backend, enum operation operation)
{
    cr_assert(self(backend)->in_step, "an operation outside of a step");
    return count(backend, operation);
}

static const char *counted_description(const struct backend *backend)
{
    const struct backend *real = ((const struct counted_backend *)backend)->real;
    record_called(OPERATION_DESCRIPTION);
    return real->ops->description(real);
}

static void counted_destroy(struct backend *backend)
{
    backend_destroy(count(backend, OPERATION_DESTROY));
    free(backend);
}

static int counted_reserve(struct backend *backend, const struct backend_limits *limits,
                           struct error *err)
{
    struct backend *real = count(backend, OPERATION_RESERVE);
    return real->ops->reserve(real, limits, err);
}

static int counted_memory_create(struct backend *backend, void **out, size_t size,
                                 struct error *err)
{
    struct backend *real = count(backend, OPERATION_MEMORY_CREATE);
    return real->ops->memory_create(real, out, size, err);
}

static void counted_memory_destroy(struct backend *backend, void *memory)
{
    struct backend *real = count(backend, OPERATION_MEMORY_DESTROY);
    real->ops->memory_destroy(real, memory);
}

static void counted_memory_write(struct backend *backend, void *memory, const void *source,
                                 size_t size)
{
    struct backend *real = count(backend, OPERATION_MEMORY_WRITE);
    real->ops->memory_write(real, memory, source, size);
}

static void counted_memory_read(struct backend *backend, void *destination, const void *memory,
                                size_t size)
{
    struct backend *real = count(backend, OPERATION_MEMORY_READ);
    real->ops->memory_read(real, destination, memory, size);
}

static int counted_weight_create(struct backend *backend, struct weight **out,
                                 const struct tensor_source *sources, int sources_count,
                                 const float *bias, struct error *err)
{
    struct backend *real = count(backend, OPERATION_WEIGHT_CREATE);
    return real->ops->weight_create(real, out, sources, sources_count, bias, err);
}

static void counted_weight_destroy(struct backend *backend, struct weight *weight)
{
    struct backend *real = count(backend, OPERATION_WEIGHT_DESTROY);
    real->ops->weight_destroy(real, weight);
}

static size_t all_memory(const struct backend *real)
{
    size_t weights, kv, other;
    real->ops->memory_used(real, &weights, &kv, &other);
    return weights + kv + other;
}

static bool counted_step_begin(struct backend *backend, const struct step_rows *rows)
{
    struct backend *real = count(backend, OPERATION_STEP_BEGIN);
    cr_assert(!self(backend)->in_step, "a step inside of a step");
    self(backend)->in_step = true;
    self(backend)->used = all_memory(real);
    return real->ops->step_begin(real, rows);
}

static void counted_embed(struct backend *backend, float *residual, const struct weight *table)
{
    struct backend *real = enqueue(backend, OPERATION_EMBED);
    real->ops->embed(real, residual, table);
}

static void counted_add_rmsnorm(struct backend *backend, void *out, float *residual,
                                const void *delta, const float *scale, float epsilon,
                                int32_t columns)
{
    struct backend *real = enqueue(backend, OPERATION_ADD_RMSNORM);
    real->ops->add_rmsnorm(real, out, residual, delta, scale, epsilon, columns);
}

static void counted_linear(struct backend *backend, void *out, const void *in,
                           const struct weight *weight, int32_t lines)
{
    struct backend *real = enqueue(backend, OPERATION_LINEAR);
    real->ops->linear(real, out, in, weight, lines);
}

static void counted_rope_store(struct backend *backend, void *qkv, const float *q_scale,
                               const float *k_scale, int32_t layer)
{
    struct backend *real = enqueue(backend, OPERATION_ROPE_STORE);
    real->ops->rope_store(real, qkv, q_scale, k_scale, layer);
}

static void counted_attention(struct backend *backend, void *out, const void *qkv, int32_t layer)
{
    struct backend *real = enqueue(backend, OPERATION_ATTENTION);
    real->ops->attention(real, out, qkv, layer);
}

static void counted_swiglu(struct backend *backend, void *out, const void *gate_up, int32_t width)
{
    struct backend *real = enqueue(backend, OPERATION_SWIGLU);
    real->ops->swiglu(real, out, gate_up, width);
}

static void counted_gather(struct backend *backend, void *out, const void *in, int32_t columns)
{
    struct backend *real = enqueue(backend, OPERATION_GATHER);
    real->ops->gather(real, out, in, columns);
}

static void counted_head(struct backend *backend, struct head_result *result, const void *gathered,
                         const struct weight *weight, const struct head_batch *batch)
{
    struct backend *real = enqueue(backend, OPERATION_HEAD);
    real->ops->head(real, result, gathered, weight, batch);
}

static int counted_step_end(struct backend *backend, struct error *err)
{
    struct backend *real = enqueue(backend, OPERATION_STEP_END);
    int status = real->ops->step_end(real, err);
    self(backend)->in_step = false;
    cr_assert_eq(all_memory(real), self(backend)->used, "a step took or gave back memory");
    record_checked(OPERATION_STEP_END);
    return status;
}

static void counted_memory_used(const struct backend *backend, size_t *weights, size_t *kv,
                                size_t *other)
{
    const struct backend *real = ((const struct counted_backend *)backend)->real;
    record_called(OPERATION_MEMORY_USED);
    real->ops->memory_used(real, weights, kv, other);
}

static const struct backend_ops COUNTED_OPS = {
    .description = counted_description,
    .destroy = counted_destroy,
    .reserve = counted_reserve,
    .memory_create = counted_memory_create,
    .memory_destroy = counted_memory_destroy,
    .memory_write = counted_memory_write,
    .memory_read = counted_memory_read,
    .weight_create = counted_weight_create,
    .weight_destroy = counted_weight_destroy,
    .step_begin = counted_step_begin,
    .embed = counted_embed,
    .add_rmsnorm = counted_add_rmsnorm,
    .linear = counted_linear,
    .rope_store = counted_rope_store,
    .attention = counted_attention,
    .swiglu = counted_swiglu,
    .gather = counted_gather,
    .head = counted_head,
    .step_end = counted_step_end,
    .memory_used = counted_memory_used,
};

struct backend *counted_backend_create(struct backend *real)
{
    struct counted_backend *counted = calloc(1, sizeof *counted);
    cr_assert_not_null(counted);
    counted->base = *real;
    counted->real = real;
    counted->ops = COUNTED_OPS;
    counted->ops.name = real->ops->name;
    counted->base.ops = &counted->ops;
    return &counted->base;
}

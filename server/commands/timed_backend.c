#include "server/commands/timed_backend.h"

#include <stdlib.h>

#include "common/clock.h"
#include "common/error.h"
#include "kernels/backend.h"

const char *const TIMED_OPERATION_NAMES[TIMED_OPERATIONS] = {
    "embed", "add_rmsnorm", "linear", "rope_store", "attention", "swiglu", "gather", "head",
};

struct timed_backend {
    struct backend base;
    struct backend *inner;
    struct timed_figures figures;
};

/* What struct weight is here: the product's size stands beside the inner backend's weight. */
struct timed_weight {
    struct weight *inner;
    int64_t rows, columns;
    int shape; /* of figures.shapes; -1: beyond the last */
};

static struct timed_backend *timed_self(struct backend *backend)
{
    return (struct timed_backend *)backend;
}

static const struct weight *inner_weight(const struct weight *weight)
{
    return ((const struct timed_weight *)weight)->inner;
}

/* ---- passed on ------------------------------------------------------------------------------- */

static const char *timed_description(const struct backend *backend)
{
    const struct backend *inner = ((const struct timed_backend *)backend)->inner;
    return inner->ops->description(inner);
}

static void timed_destroy(struct backend *backend)
{
    backend_destroy(timed_self(backend)->inner);
    free(backend);
}

static int timed_reserve(struct backend *backend, const struct backend_limits *limits,
                         struct error *err)
{
    struct backend *inner = timed_self(backend)->inner;
    return inner->ops->reserve(inner, limits, err);
}

static int timed_memory_create(struct backend *backend, void **out, size_t size, struct error *err)
{
    struct backend *inner = timed_self(backend)->inner;
    return inner->ops->memory_create(inner, out, size, err);
}

static void timed_memory_destroy(struct backend *backend, void *memory)
{
    struct backend *inner = timed_self(backend)->inner;
    inner->ops->memory_destroy(inner, memory);
}

static void timed_memory_write(struct backend *backend, void *memory, const void *source,
                               size_t size)
{
    struct backend *inner = timed_self(backend)->inner;
    inner->ops->memory_write(inner, memory, source, size);
}

static void timed_memory_read(struct backend *backend, void *destination, const void *memory,
                              size_t size)
{
    struct backend *inner = timed_self(backend)->inner;
    inner->ops->memory_read(inner, destination, memory, size);
}

static bool timed_step_begin(struct backend *backend, const struct step_rows *rows)
{
    struct backend *inner = timed_self(backend)->inner;
    return inner->ops->step_begin(inner, rows);
}

static int timed_step_end(struct backend *backend, struct error *err)
{
    struct backend *inner = timed_self(backend)->inner;
    return inner->ops->step_end(inner, err);
}

static void timed_memory_used(const struct backend *backend, size_t *weights, size_t *kv,
                              size_t *other)
{
    const struct backend *inner = ((const struct timed_backend *)backend)->inner;
    inner->ops->memory_used(inner, weights, kv, other);
}

/* ---- weights --------------------------------------------------------------------------------- */

static int find_shape(struct timed_figures *figures, int64_t rows, int64_t columns)
{
    for (int i = 0; i < figures->shape_count; i++) {
        if (figures->shapes[i].rows == rows && figures->shapes[i].columns == columns)
            return i;
    }
    if (figures->shape_count == TIMED_SHAPES_MAX)
        return -1;
    figures->shapes[figures->shape_count] = (struct timed_shape){rows, columns, 0};
    return figures->shape_count++;
}

static int timed_weight_create(struct backend *backend, struct weight **out,
                               const struct tensor_source *sources, int count, const float *bias,
                               struct error *err)
{
    struct timed_backend *timed = timed_self(backend);
    *out = NULL;
    struct timed_weight *weight = calloc(1, sizeof *weight);
    if (weight == NULL)
        return error_set(err, ERROR_MEMORY, "cannot allocate a weight; free some memory");
    int code =
        timed->inner->ops->weight_create(timed->inner, &weight->inner, sources, count, bias, err);
    if (code != 0) {
        free(weight);
        return code;
    }
    for (int i = 0; i < count; i++)
        weight->rows += sources[i].rows;
    weight->columns = sources[0].columns;
    weight->shape = find_shape(&timed->figures, weight->rows, weight->columns);
    *out = (struct weight *)weight;
    return 0;
}

static void timed_weight_destroy(struct backend *backend, struct weight *opaque)
{
    struct backend *inner = timed_self(backend)->inner;
    struct timed_weight *weight = (struct timed_weight *)opaque;
    if (weight == NULL)
        return;
    inner->ops->weight_destroy(inner, weight->inner);
    free(weight);
}

/* ---- timed ----------------------------------------------------------------------------------- */

static int64_t add_time(struct timed_backend *timed, enum timed_operation operation, int64_t begin)
{
    int64_t ns = clock_now_ns() - begin;
    timed->figures.ns[operation] += ns;
    return ns;
}

static void add_flops(struct timed_backend *timed, const struct timed_weight *weight, int32_t lines)
{
    timed->figures.product_flops +=
        2.0 * (double)lines * (double)weight->rows * (double)weight->columns;
}

static void timed_embed(struct backend *backend, float *residual, const struct weight *table)
{
    struct timed_backend *timed = timed_self(backend);
    int64_t begin = clock_now_ns();
    timed->inner->ops->embed(timed->inner, residual, inner_weight(table));
    add_time(timed, TIMED_EMBED, begin);
}

static void timed_add_rmsnorm(struct backend *backend, void *out, float *residual,
                              const void *delta, const float *scale, float epsilon, int32_t columns)
{
    struct timed_backend *timed = timed_self(backend);
    int64_t begin = clock_now_ns();
    timed->inner->ops->add_rmsnorm(timed->inner, out, residual, delta, scale, epsilon, columns);
    add_time(timed, TIMED_ADD_RMSNORM, begin);
}

static void timed_linear(struct backend *backend, void *out, const void *in,
                         const struct weight *opaque, int32_t lines)
{
    struct timed_backend *timed = timed_self(backend);
    const struct timed_weight *weight = (const struct timed_weight *)opaque;
    int64_t begin = clock_now_ns();
    timed->inner->ops->linear(timed->inner, out, in, weight->inner, lines);
    int64_t ns = add_time(timed, TIMED_LINEAR, begin);
    if (weight->shape >= 0)
        timed->figures.shapes[weight->shape].ns += ns;
    add_flops(timed, weight, lines);
}

static void timed_rope_store(struct backend *backend, void *qkv, const float *q_scale,
                             const float *k_scale, int32_t layer)
{
    struct timed_backend *timed = timed_self(backend);
    int64_t begin = clock_now_ns();
    timed->inner->ops->rope_store(timed->inner, qkv, q_scale, k_scale, layer);
    add_time(timed, TIMED_ROPE_STORE, begin);
}

static void timed_attention(struct backend *backend, void *out, const void *qkv, int32_t layer)
{
    struct timed_backend *timed = timed_self(backend);
    int64_t begin = clock_now_ns();
    timed->inner->ops->attention(timed->inner, out, qkv, layer);
    add_time(timed, TIMED_ATTENTION, begin);
}

static void timed_swiglu(struct backend *backend, void *out, const void *gate_up, int32_t width)
{
    struct timed_backend *timed = timed_self(backend);
    int64_t begin = clock_now_ns();
    timed->inner->ops->swiglu(timed->inner, out, gate_up, width);
    add_time(timed, TIMED_SWIGLU, begin);
}

static void timed_gather(struct backend *backend, void *out, const void *in, int32_t columns)
{
    struct timed_backend *timed = timed_self(backend);
    int64_t begin = clock_now_ns();
    timed->inner->ops->gather(timed->inner, out, in, columns);
    add_time(timed, TIMED_GATHER, begin);
}

static void timed_head(struct backend *backend, struct head_result *result, const void *gathered,
                       const struct weight *opaque, const struct head_batch *batch)
{
    struct timed_backend *timed = timed_self(backend);
    const struct timed_weight *weight = (const struct timed_weight *)opaque;
    int32_t lines = batch->rows;
    for (int32_t i = 0; i < batch->rows; i++)
        lines += batch->row[i].partner >= 0;
    int64_t begin = clock_now_ns();
    timed->inner->ops->head(timed->inner, result, gathered, weight->inner, batch);
    add_time(timed, TIMED_HEAD, begin);
    add_flops(timed, weight, lines);
}

static const struct backend_ops TIMED_OPS = {
    .name = "timed",
    .description = timed_description,
    .destroy = timed_destroy,
    .reserve = timed_reserve,
    .memory_create = timed_memory_create,
    .memory_destroy = timed_memory_destroy,
    .memory_write = timed_memory_write,
    .memory_read = timed_memory_read,
    .weight_create = timed_weight_create,
    .weight_destroy = timed_weight_destroy,
    .step_begin = timed_step_begin,
    .embed = timed_embed,
    .add_rmsnorm = timed_add_rmsnorm,
    .linear = timed_linear,
    .rope_store = timed_rope_store,
    .attention = timed_attention,
    .swiglu = timed_swiglu,
    .gather = timed_gather,
    .head = timed_head,
    .step_end = timed_step_end,
    .memory_used = timed_memory_used,
};

int timed_backend_create(struct backend **out, struct backend *inner, struct error *err)
{
    struct timed_backend *timed = calloc(1, sizeof *timed);
    *out = NULL;
    if (timed == NULL) {
        backend_destroy(inner);
        return error_set(err, ERROR_MEMORY, "cannot allocate a backend; free some memory");
    }
    timed->base = *inner; /* the dtype */
    timed->base.ops = &TIMED_OPS;
    timed->inner = inner;
    *out = &timed->base;
    return 0;
}

const struct timed_figures *timed_backend_figures(const struct backend *backend)
{
    return &((const struct timed_backend *)backend)->figures;
}

void timed_backend_reset(struct backend *backend)
{
    struct timed_figures *figures = &timed_self(backend)->figures;
    for (int i = 0; i < TIMED_OPERATIONS; i++)
        figures->ns[i] = 0;
    for (int i = 0; i < figures->shape_count; i++)
        figures->shapes[i].ns = 0;
    figures->product_flops = 0;
}

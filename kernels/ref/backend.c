#include <stdlib.h>
#include "common/error.h"
#include "kernels/memory_block.h"
#include "kernels/ref/ref.h"
#include "kernels/tensor_source.h"

static struct ref_backend *self(struct backend *backend)
{
    return (struct ref_backend *)backend;
}

static void ref_destroy(struct backend *backend)
{
    struct ref_backend *ref = self(backend);
    memory_block_destroy(ref->key_cache);
    memory_block_destroy(ref->value_cache);
    memory_block_destroy(ref->scores);
    memory_block_destroy(ref->raw);
    memory_block_destroy(ref->adjusted);
    memory_block_destroy(ref->order);
    memory_block_destroy(ref->line);
    free(ref);
}

/* Bytes of the keys of the KV pool, and as many of the values; SIZE_MAX where they overflow. */
static size_t cache_bytes(const struct backend_limits *limits)
{
    const struct attention_shape *shape = &limits->attention;
    size_t cache =
        memory_block_product((size_t)shape->layers * KV_PAGE_POSITIONS, (size_t)limits->kv_pages);
    cache = memory_block_product(cache, (size_t)shape->kv_heads * (size_t)shape->head_dim);
    return memory_block_product(cache, sizeof(float));
}

void ref_reserved_bytes(size_t *kv_pool, size_t *scratch, const struct backend_limits *limits,
                        enum dtype dtype, enum dtype weight_dtype)
{
    (void)dtype; /* values are rounded to it, but kept as float32 */
    size_t positions = (size_t)limits->max_positions, vocabulary = (size_t)limits->vocabulary;
    *kv_pool = memory_block_product(2, cache_bytes(limits));
    *scratch = positions * sizeof(double) + vocabulary * (2 * sizeof(double) + sizeof(int32_t)) +
               (dtype_has_scales(weight_dtype) ? (size_t)limits->weight_columns : 0);
}

size_t ref_weight_bytes(int64_t rows, int64_t columns, bool bias, enum dtype weight_dtype)
{
    bool small = dtype_has_scales(weight_dtype);
    size_t matrix = memory_block_product(memory_block_product((size_t)rows, (size_t)columns),
                                         small ? 1 : sizeof(float));
    return memory_block_sum(matrix, (size_t)rows * (size_t)(small + bias) * sizeof(float));
}

static int ref_reserve(struct backend *backend, const struct backend_limits *limits,
                       struct error *err)
{
    struct ref_backend *ref = self(backend);
    int status = backend_limits_check(limits, backend->weight_dtype, err);
    if (status != 0)
        return status;
    ref->limits = *limits;

    size_t cache = cache_bytes(limits);
    size_t positions = (size_t)limits->max_positions, vocabulary = (size_t)limits->vocabulary;
    if ((status = host_reserve(&ref->key_cache, &ref->host.kv_bytes, cache, "KV cache", err)) !=
            0 ||
        (status = host_reserve(&ref->value_cache, &ref->host.kv_bytes, cache, "KV cache", err)) !=
            0)
        return status;
    size_t *other = &ref->host.other_bytes;
    if ((status = host_reserve(&ref->scores, other, positions * 8, "attention scores", err)) != 0 ||
        (status = host_reserve(&ref->raw, other, vocabulary * 8, "logits", err)) != 0 ||
        (status = host_reserve(&ref->adjusted, other, vocabulary * 8, "logits", err)) != 0 ||
        (status = host_reserve(&ref->order, other, vocabulary * 4, "token order", err)) != 0)
        return status;
    if (dtype_has_scales(backend->weight_dtype))
        return host_reserve(&ref->line, other, (size_t)limits->weight_columns, "quantised input",
                            err);
    return 0;
}

static void ref_weight_destroy(struct backend *backend, struct weight *opaque)
{
    struct ref_weight *weight = (struct ref_weight *)opaque;
    if (weight == NULL)
        return;
    self(backend)->host.weight_bytes -=
        memory_block_size(weight->values) + memory_block_size(weight->small) +
        memory_block_size(weight->scales) + memory_block_size(weight->bias);
    memory_block_destroy(weight->values);
    memory_block_destroy(weight->small);
    memory_block_destroy(weight->scales);
    memory_block_destroy(weight->bias);
    free(weight);
}

static void fill_values(struct ref_weight *weight, const struct tensor_source *sources, int count,
                        enum dtype dtype)
{
    float *line = weight->values;
    for (int i = 0; i < count; i++) {
        for (int64_t row = 0; row < sources[i].rows; row++, line += weight->columns) {
            tensor_source_read(line, &sources[i], row, 0, weight->columns);
            for (int64_t column = 0; column < weight->columns && dtype == DTYPE_BFLOAT16; column++)
                line[column] = bfloat16_to_float(bfloat16_from_float(line[column]));
        }
    }
}

/* A source of the dtype keeps its bytes and scales. Other rows are read into `values` [columns]. */
static void fill_small(struct ref_weight *weight, const struct tensor_source *sources, int count,
                       float *values, enum dtype dtype)
{
    int64_t columns = weight->columns, at = 0;
    for (int i = 0; i < count; i++) {
        for (int64_t row = 0; row < sources[i].rows; row++, at++) {
            uint8_t *line = weight->small + at * columns;
            if (sources[i].dtype == dtype) {
                memcpy(line, (const uint8_t *)sources[i].data + row * columns, (size_t)columns);
                weight->scales[at] = sources[i].scales[row];
            } else {
                tensor_source_read(values, &sources[i], row, 0, columns);
                weight->scales[at] = ref_quantise(line, dtype, values, 0, columns, DTYPE_FLOAT32);
            }
        }
    }
}

static int create_small(struct ref_backend *ref, struct ref_weight *weight,
                        const struct tensor_source *sources, int count, struct error *err)
{
    size_t rows = (size_t)weight->rows, columns = (size_t)weight->columns;
    void *values = NULL;
    int status = host_reserve(&weight->small, &ref->host.weight_bytes,
                              memory_block_product(rows, columns), "weight", err);
    if (status == 0)
        status = host_reserve(&weight->scales, &ref->host.weight_bytes,
                              rows * sizeof *weight->scales, "weight", err);
    if (status == 0)
        status = memory_block_create(&values, columns * sizeof(float), "weight", err);
    if (status == 0)
        fill_small(weight, sources, count, values, ref->host.base.weight_dtype);
    memory_block_destroy(values);
    return status;
}

static int create_values(struct ref_backend *ref, struct ref_weight *weight,
                         const struct tensor_source *sources, int count, struct error *err)
{
    size_t elements = memory_block_product((size_t)weight->rows, (size_t)weight->columns);
    int status = host_reserve(&weight->values, &ref->host.weight_bytes,
                              memory_block_product(elements, 4), "weight", err);
    if (status == 0)
        fill_values(weight, sources, count, ref->host.base.dtype);
    return status;
}

static int ref_weight_create(struct backend *backend, struct weight **out,
                             const struct tensor_source *sources, int count, const float *bias,
                             struct error *err)
{
    struct ref_backend *ref = self(backend);
    int64_t rows, columns;
    *out = NULL;
    int status = tensor_source_check(&rows, &columns, sources, count, backend->weight_dtype, err);
    if (status != 0)
        return status;
    struct ref_weight *weight = calloc(1, sizeof *weight);
    if (weight == NULL)
        return error_set(err, ERROR_MEMORY, "cannot allocate a weight; free some memory");
    weight->rows = rows;
    weight->columns = columns;
    status = dtype_has_scales(backend->weight_dtype)
                 ? create_small(ref, weight, sources, count, err)
                 : create_values(ref, weight, sources, count, err);
    if (status == 0 && bias != NULL)
        status =
            host_reserve(&weight->bias, &ref->host.weight_bytes, (size_t)rows * 4, "bias", err);
    if (status != 0) {
        ref_weight_destroy(backend, (struct weight *)weight);
        return status;
    }
    if (bias != NULL)
        memcpy(weight->bias, bias, (size_t)rows * sizeof *bias);
    *out = (struct weight *)weight;
    return 0;
}

static bool ref_step_begin(struct backend *backend, const struct step_rows *rows)
{
    self(backend)->step = *rows;
    return true;
}

static const struct backend_ops REF_OPS = {
    .name = "ref",
    .description = host_description,
    .destroy = ref_destroy,
    .reserve = ref_reserve,
    .memory_create = host_memory_create,
    .memory_destroy = host_memory_destroy,
    .memory_write = host_memory_write,
    .memory_read = host_memory_read,
    .weight_create = ref_weight_create,
    .weight_destroy = ref_weight_destroy,
    .step_begin = ref_step_begin,
    .embed = ref_embed,
    .add_rmsnorm = ref_add_rmsnorm,
    .linear = ref_linear,
    .rope_store = ref_rope_store,
    .attention = ref_attention,
    .swiglu = ref_swiglu,
    .gather = ref_gather,
    .head = ref_head,
    .step_end = host_step_end,
    .memory_used = host_memory_used,
};

bool ref_computes(enum dtype dtype, enum dtype weight_dtype)
{
    return dtype_is_activation(dtype) && (weight_dtype == dtype || dtype_has_scales(weight_dtype));
}

int ref_backend_create(struct backend **out, const struct backend_options *options,
                       struct error *err)
{
    struct ref_backend *ref = calloc(1, sizeof *ref);
    if (ref == NULL)
        return error_set(err, ERROR_MEMORY, "cannot allocate the ref backend; free some memory");
    host_backend_init(&ref->host, &REF_OPS, options, "plain C, 1 thread");
    *out = &ref->host.base;
    return 0;
}

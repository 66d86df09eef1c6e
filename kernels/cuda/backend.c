/* The host's side of the CUDA backend: memory, the tables of a step, and the operations' table. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include "common/error.h"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/row_buckets.h"
#include "kernels/memory_block.h"
#include "kernels/tensor_source.h"

static const char *cuda_description(const struct backend *backend)
{
    return ((const struct cuda_backend *)backend)->description;
}

static void cuda_destroy(struct backend *backend)
{
    struct cuda_backend *cuda = cuda_self(backend);
    cuda_head_close(cuda);
    cuda_linear_close(cuda);
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

static int32_t padded_head_dim(const struct attention_shape *shape)
{
    return (shape->head_dim + CUDA_HEAD_DIM_STEP - 1) / CUDA_HEAD_DIM_STEP * CUDA_HEAD_DIM_STEP;
}

/* What reserve takes for given limits, in bytes of the device; SIZE_MAX where a size overflows. */
struct reserved_sizes {
    size_t pages; /* of K, and of V as many */
    size_t rope_table, tables, part_sums, part_norms;
};

static struct reserved_sizes reserved_sizes(const struct backend_limits *limits)
{
    const struct attention_shape *shape = &limits->attention;
    struct step_tables tables;
    size_t padded = (size_t)padded_head_dim(shape);
    size_t pages = memory_block_product((size_t)shape->layers * (size_t)shape->kv_heads,
                                        (size_t)limits->kv_pages);
    size_t parts =
        (size_t)work_list_room_for(limits, limits->max_rows).parts * (size_t)shape->heads;
    return (struct reserved_sizes){
        .pages = memory_block_product(pages, KV_PAGE_POSITIONS * padded * sizeof(uint16_t)),
        .rope_table = (size_t)limits->max_positions * (size_t)shape->rotary_dim * sizeof(float),
        .tables = step_tables_place(&tables, NULL, limits),
        .part_sums = memory_block_product(parts, padded * sizeof(float)),
        .part_norms = memory_block_product(parts, 2 * sizeof(float)),
    };
}

void cuda_reserved_bytes(size_t *kv_pool, size_t *scratch, const struct backend_limits *limits,
                         enum dtype dtype, enum dtype weight_dtype)
{
    struct reserved_sizes sizes = reserved_sizes(limits);
    (void)dtype; /* bfloat16 */
    *kv_pool = memory_block_product(2, sizes.pages);
    *scratch = memory_block_sum(sizes.rope_table + sizes.tables + cuda_linear_bytes(),
                                memory_block_sum(sizes.part_sums, sizes.part_norms));
    *scratch = memory_block_sum(*scratch, cuda_operand_bytes(limits, weight_dtype));
    *scratch = memory_block_sum(*scratch, cuda_head_bytes(limits));
}

static int reserve_memory(void *out, size_t *used, size_t size, const char *what, struct error *err)
{
    void *memory;
    int status = device_memory_create(&memory, size, what, err);
    if (status != 0)
        return status;
    *(void **)out = memory;
    *used += size;
    return 0;
}

/* The angles are rounded as the models' own code rounds them: every step in float32. */
static int fill_rope_table(struct cuda_backend *cuda, size_t size, struct error *err)
{
    const struct attention_shape *shape = &cuda->limits.attention;
    int64_t half = shape->rotary_dim / 2;
    void *block;
    int status = memory_block_create(&block, size, "RoPE table", err);
    if (status != 0)
        return status;
    float *table = block;
    for (int64_t i = 0; i < half; i++) {
        float exponent = (float)(2 * i) / (float)shape->rotary_dim;
        float inverse_frequency = 1.0f / powf((float)shape->rope_theta, exponent);
        for (int64_t position = 0; position < cuda->limits.max_positions; position++) {
            float angle = (float)position * inverse_frequency;
            table[2 * half * position + i] = (float)cos(angle);
            table[2 * half * position + half + i] = (float)sin(angle);
        }
    }
    device_upload(&cuda->queue, cuda->rope_table, table, size);
    memory_block_destroy(table);
    return 0;
}

static int reserve_tables(struct cuda_backend *cuda, const struct reserved_sizes *sizes,
                          struct error *err)
{
    size_t sequences = (size_t)cuda->limits.max_sequences;
    void *staging;
    int status =
        reserve_memory(&cuda->device_block, &cuda->other_bytes, sizes->tables, "row table", err);
    if (status == 0)
        status = device_staging_create(&staging, sizes->tables, "row table", err);
    if (status != 0)
        return status;
    cuda->staging_block = staging;
    step_tables_place(&cuda->tables, cuda->device_block, &cuda->limits);
    step_tables_place(&cuda->staging, cuda->staging_block, &cuda->limits);
    cuda->line_of_sequence = malloc(sequences * sizeof *cuda->line_of_sequence);
    if (cuda->line_of_sequence == NULL)
        return error_set(err, ERROR_MEMORY, "cannot allocate the row table; free some memory");
    for (size_t i = 0; i < sequences; i++)
        cuda->line_of_sequence[i] = -1;
    return 0;
}

static int check_head_dim(const struct cuda_backend *cuda, struct error *err)
{
    int32_t head_dim = cuda->limits.attention.head_dim;
    if (head_dim <= CUDA_HEAD_DIM_MAX)
        return 0;
    return error_set(err, ERROR_INVALID,
                     "head_dim is %d; device %s has kernels for up to %d: use device cpu",
                     (int)head_dim, cuda->facts.backend, CUDA_HEAD_DIM_MAX);
}

static int cuda_reserve(struct backend *backend, const struct backend_limits *limits,
                        struct error *err)
{
    struct cuda_backend *cuda = cuda_self(backend);
    int status = backend_limits_check(limits, backend->weight_dtype, err);
    if (status != 0)
        return status;
    cuda->limits = *limits;
    if ((status = check_head_dim(cuda, err)) != 0)
        return status;
    const struct reserved_sizes sizes = reserved_sizes(limits);
    size_t *kv = &cuda->kv_bytes, *other = &cuda->other_bytes;
    cuda->padded_head_dim = padded_head_dim(&limits->attention);
    cuda->other_bytes += cuda_linear_bytes();
    if ((status = reserve_memory(&cuda->keys, kv, sizes.pages, "KV cache", err)) != 0 ||
        (status = reserve_memory(&cuda->values, kv, sizes.pages, "KV cache", err)) != 0 ||
        (status = reserve_memory(&cuda->rope_table, other, sizes.rope_table, "RoPE table", err)) !=
            0 ||
        (status = reserve_memory(&cuda->part_sums, other, sizes.part_sums, "attention parts",
                                 err)) != 0 ||
        (status = reserve_memory(&cuda->part_norms, other, sizes.part_norms, "attention parts",
                                 err)) != 0 ||
        (status = reserve_tables(cuda, &sizes, err)) != 0 ||
        (status = fill_rope_table(cuda, sizes.rope_table, err)) != 0 ||
        (status = cuda_operand_reserve(cuda, err)) != 0)
        return status;
    return cuda_head_reserve(cuda, err);
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

static bool cuda_step_begin(struct backend *backend, const struct step_rows *rows)
{
    struct cuda_backend *cuda = cuda_self(backend);
    const struct backend_limits *limits = &cuda->limits;
    int32_t most =
        limits->max_rows > 2 * limits->max_head_rows ? limits->max_rows : 2 * limits->max_head_rows;
    cuda->step = *rows;
    cuda->operand.of = NULL; /* a replayed step leaves lines that nobody here knows of */
    cuda->row_bucket = row_bucket(rows->rows, limits->max_rows);
    cuda->gathered_bucket = row_bucket(rows->gathered, most);
    struct step_extent extent =
        step_tables_fill(&cuda->staging, rows, limits, cuda->line_of_sequence);
    device_enqueue_upload(&cuda->queue, cuda->device_block, cuda->staging_block, extent.tables);
    device_enqueue_upload(&cuda->queue, cuda->tables.items, cuda->staging.items, extent.items);
    return true;
}

static int cuda_step_end(struct backend *backend, struct error *err)
{
    struct cuda_backend *cuda = cuda_self(backend);
    int status = device_wait(&cuda->queue, err);
    if (status == 0)
        cuda_head_finish(cuda);
    return status;
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
    .step_begin = cuda_step_begin,
    .embed = cuda_embed,
    .add_rmsnorm = cuda_add_rmsnorm,
    .linear = cuda_linear,
    .rope_store = cuda_rope_store,
    .attention = cuda_attention,
    .swiglu = cuda_swiglu,
    .gather = cuda_gather,
    .head = cuda_head,
    .step_end = cuda_step_end,
    .memory_used = cuda_memory_used,
};

bool cuda_prefers_bfloat16(void)
{
    return true;
}

int cuda_dtypes_check(const struct device_facts *facts, enum dtype dtype, enum dtype weight_dtype,
                      struct error *err)
{
    if (dtype != DTYPE_BFLOAT16)
        return error_set(err, ERROR_INVALID,
                         "device %s computes in bfloat16, not in %s: set dtype to bfloat16, int8%s "
                         "or auto, or use device cpu",
                         facts->backend, dtype_name(dtype), facts->fp8 ? ", fp8" : "");
    if (weight_dtype == DTYPE_FP8 && !facts->fp8)
        return error_set(err, ERROR_INVALID,
                         "dtype \"fp8\": device %s, %s, has bfloat16 and int8; use one of them or "
                         "auto (fp8 needs compute capability 8.9)",
                         facts->backend, facts->name);
    return 0;
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
    cuda->ops = CUDA_OPS;
    cuda->ops.name = cuda->facts.backend;
    cuda->base.ops = &cuda->ops;
    cuda->base.dtype = options->dtype;
    cuda->base.weight_dtype = options->weight_dtype;
    cuda->deterministic = options->deterministic;
    status = cuda_dtypes_check(&cuda->facts, options->dtype, options->weight_dtype, err);
    if (status == 0)
        status = cuda_linear_open(cuda, err);
    if (status != 0) {
        cuda_destroy(&cuda->base);
        return status;
    }
    bool scaled = dtype_has_scales(options->weight_dtype);
    snprintf(cuda->description, sizeof cuda->description, "%s, %s%s%s, %s%s, %d multiprocessors",
             cuda->facts.backend, scaled ? dtype_name(options->weight_dtype) : "",
             scaled ? " weights, " : "", dtype_name(options->dtype), cuda->facts.name,
             options->deterministic ? ", deterministic" : "", cuda->facts.multiprocessors);
    *out = &cuda->base;
    return 0;
}

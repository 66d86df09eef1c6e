/* What the CUDA backend reserves once: KV pool, the tables of a step, scratch of attention. */
#include <stdlib.h>
#include "common/error.h"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/head.h"
#include "kernels/cuda/products.h"
#include "kernels/cuda/row_buckets.h"
#include "kernels/memory_block.h"
#include "kernels/rope.h"
#include "kernels/tensor_source.h"

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

static int fill_rope_table(struct cuda_backend *cuda, size_t size, struct error *err)
{
    const struct attention_shape *shape = &cuda->limits.attention;
    void *block;
    int status = memory_block_create(&block, size, "RoPE table", err);
    if (status != 0)
        return status;
    rope_table_fill(block, cuda->limits.max_positions, shape->rotary_dim, shape->rope_theta);
    device_upload(&cuda->queue, cuda->rope_table, block, size);
    memory_block_destroy(block);
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

int cuda_reserve(struct backend *backend, const struct backend_limits *limits, struct error *err)
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

void cuda_upload_tables(struct cuda_backend *cuda, const struct step_rows *rows)
{
    const struct backend_limits *limits = &cuda->limits;
    cuda->step = *rows;
    cuda->operand.of = NULL; /* a replayed step leaves lines that nobody here knows of */
    cuda->row_bucket = row_bucket(rows->rows, limits->max_rows);
    cuda->gathered_bucket = row_bucket(rows->gathered, backend_lines_max(limits));
    struct step_extent extent =
        step_tables_fill(&cuda->staging, rows, limits, cuda->line_of_sequence);
    cuda->parts = extent.parts > 0;
    device_enqueue_upload(&cuda->queue, cuda->device_block, cuda->staging_block, extent.tables);
    device_enqueue_upload(&cuda->queue, cuda->tables.items, cuda->staging.items, extent.items);
}

#include <stdio.h>
#include <stdlib.h>
#include "common/error.h"
#include "common/thread_pool.h"
#include "kernels/cpu/cpu.h"
#include "kernels/memory_block.h"
#include "kernels/tensor_source.h"

/* Logits of as many head rows as fit are judged together, so that the weight is read once. */
enum { HEAD_SCRATCH_BYTES = 16 << 20, HEAD_LINES_MIN = 3 /* of one row */ };

static void cpu_destroy(struct backend *backend)
{
    struct cpu_backend *cpu = cpu_self(backend);
    memory_block_destroy(cpu->keys);
    memory_block_destroy(cpu->values);
    memory_block_destroy(cpu->rope_table);
    memory_block_destroy(cpu->tiles);
    memory_block_destroy(cpu->in_lines);
    memory_block_destroy(cpu->out_lines);
    memory_block_destroy(cpu->quantised);
    memory_block_destroy(cpu->quantised_scales);
    memory_block_destroy(cpu->head_scratch);
    memory_block_destroy(cpu->slots);
    thread_pool_free(cpu->pool);
    free(cpu);
}

/* What reserve takes for given limits, in bytes; SIZE_MAX where a size overflows. */
struct reserved_sizes {
    size_t keys, values; /* the KV pool */
    size_t rope_table, tiles, lines, head_scratch, slots;
    size_t quantised, quantised_scales; /* 0 where weights are not int8 */
};

static size_t key_page_bytes(const struct attention_shape *shape, enum dtype dtype)
{
    return cpu_panel_bytes(shape->head_dim, dtype);
}

static int64_t value_stride(const struct attention_shape *shape)
{
    return ((int64_t)shape->head_dim + 15) / 16 * 16;
}

static size_t value_page_bytes(const struct attention_shape *shape, enum dtype dtype)
{
    return (size_t)(KV_PAGE_POSITIONS * value_stride(shape)) * dtype_size(dtype);
}

static size_t head_scratch_lines(const struct backend_limits *limits)
{
    size_t head_rows = (size_t)limits->max_head_rows;
    size_t lines = HEAD_SCRATCH_BYTES / ((size_t)limits->vocabulary * sizeof(float));
    if (lines > 2 * head_rows)
        lines = 2 * head_rows;
    return lines < HEAD_LINES_MIN ? HEAD_LINES_MIN : lines;
}

/* Whole cache lines, so that threads write lines of their own. */
static size_t quantised_stride(const struct backend_limits *limits)
{
    return ((size_t)limits->weight_columns + 63) / 64 * 64;
}

static struct reserved_sizes reserved_sizes(const struct backend_limits *limits, enum dtype dtype,
                                            enum dtype weight_dtype)
{
    const struct attention_shape *shape = &limits->attention;
    size_t rows = (size_t)limits->max_rows, head_rows = (size_t)limits->max_head_rows;
    size_t pages = memory_block_product((size_t)shape->layers * (size_t)shape->kv_heads,
                                        (size_t)limits->kv_pages);
    size_t lines = (size_t)backend_lines_max(limits);
    size_t quantised_lines = weight_dtype == DTYPE_INT8 ? lines : 0;
    return (struct reserved_sizes){
        .keys = memory_block_product(pages, key_page_bytes(shape, dtype)),
        .values = memory_block_product(pages, value_page_bytes(shape, dtype)),
        .rope_table = (size_t)limits->max_positions * (size_t)shape->rotary_dim * sizeof(float),
        .tiles = rows * sizeof(struct attention_tile),
        .lines = lines * sizeof(void *),
        .head_scratch = memory_block_product(head_scratch_lines(limits),
                                             (size_t)limits->vocabulary * sizeof(float)),
        .slots = head_rows * sizeof(struct head_slot),
        .quantised = memory_block_product(quantised_lines, quantised_stride(limits)),
        .quantised_scales = quantised_lines * sizeof(float),
    };
}

void cpu_reserved_bytes(size_t *kv_pool, size_t *scratch, const struct backend_limits *limits,
                        enum dtype dtype, enum dtype weight_dtype)
{
    struct reserved_sizes sizes = reserved_sizes(limits, dtype, weight_dtype);
    *kv_pool = memory_block_sum(sizes.keys, sizes.values);
    *scratch = memory_block_sum(sizes.head_scratch,
                                sizes.rope_table + sizes.tiles + 2 * sizes.lines + sizes.slots);
    *scratch =
        memory_block_sum(*scratch, memory_block_sum(sizes.quantised, sizes.quantised_scales));
}

size_t cpu_weight_bytes(int64_t rows, int64_t columns, bool bias, enum dtype weight_dtype)
{
    size_t panels = ((size_t)rows + PANEL_COLUMNS - 1) / PANEL_COLUMNS;
    size_t matrix = memory_block_product(panels, cpu_panel_bytes(columns, weight_dtype));
    return memory_block_sum(matrix, bias ? panels * PANEL_COLUMNS * sizeof(float) : 0);
}

static int reserve_pages(struct cpu_backend *cpu, const struct reserved_sizes *sizes,
                         struct error *err)
{
    const struct attention_shape *shape = &cpu->limits.attention;
    size_t *used = &cpu->host.kv_bytes;
    cpu->value_stride = value_stride(shape);
    cpu->key_page_bytes = key_page_bytes(shape, cpu->host.base.dtype);
    cpu->value_page_bytes = value_page_bytes(shape, cpu->host.base.dtype);
    int status = host_reserve(&cpu->keys, used, sizes->keys, "KV cache", err);
    return status != 0 ? status : host_reserve(&cpu->values, used, sizes->values, "KV cache", err);
}

static int reserve_tables(struct cpu_backend *cpu, const struct reserved_sizes *sizes,
                          struct error *err)
{
    size_t *used = &cpu->host.other_bytes;
    cpu->head_scratch_lines = (int64_t)head_scratch_lines(&cpu->limits);
    int status = host_reserve(&cpu->tiles, used, sizes->tiles, "row table", err);
    if (status == 0)
        status = host_reserve(&cpu->in_lines, used, sizes->lines, "row table", err);
    if (status == 0)
        status = host_reserve(&cpu->out_lines, used, sizes->lines, "row table", err);
    if (status == 0)
        status = host_reserve(&cpu->head_scratch, used, sizes->head_scratch, "logits", err);
    return status != 0 ? status : host_reserve(&cpu->slots, used, sizes->slots, "row table", err);
}

static int reserve_quantised(struct cpu_backend *cpu, const struct reserved_sizes *sizes,
                             struct error *err)
{
    static const char what[] = "quantised inputs";
    size_t *used = &cpu->host.other_bytes;
    if (cpu->host.base.weight_dtype != DTYPE_INT8)
        return 0;
    cpu->quantised_stride = (int64_t)quantised_stride(&cpu->limits);
    int status = host_reserve(&cpu->quantised, used, sizes->quantised, what, err);
    if (status != 0)
        return status;
    return host_reserve(&cpu->quantised_scales, used, sizes->quantised_scales, what, err);
}

static int cpu_reserve(struct backend *backend, const struct backend_limits *limits,
                       struct error *err)
{
    struct cpu_backend *cpu = cpu_self(backend);
    int status = backend_limits_check(limits, backend->weight_dtype, err);
    if (status != 0)
        return status;
    cpu->limits = *limits;
    const struct reserved_sizes sizes =
        reserved_sizes(limits, backend->dtype, backend->weight_dtype);
    status = reserve_pages(cpu, &sizes, err);
    if (status == 0)
        status = reserve_tables(cpu, &sizes, err);
    if (status == 0)
        status = reserve_quantised(cpu, &sizes, err);
    if (status == 0)
        status = cpu_rope_reserve(cpu, err);
    return status;
}

static bool cpu_step_begin(struct backend *backend, const struct step_rows *rows)
{
    struct cpu_backend *cpu = cpu_self(backend);
    cpu->step = *rows;
    cpu_attention_plan(cpu);
    return true;
}

struct range_job {
    void (*work)(void *context, int64_t begin, int64_t end);
    void *context;
    int64_t count, parts;
};

static void run_range(void *context, int64_t part)
{
    const struct range_job *job = context;
    job->work(job->context, part * job->count / job->parts, (part + 1) * job->count / job->parts);
}

void cpu_run_ranges(struct cpu_backend *cpu,
                    void (*work)(void *context, int64_t begin, int64_t end), void *context,
                    int64_t count, int64_t grain)
{
    int64_t most = 2 * (int64_t)thread_pool_threads(cpu->pool);
    struct range_job job = {work, context, count, count / grain < most ? count / grain : most};
    if (job.parts > 1)
        thread_pool_run(cpu->pool, run_range, &job, job.parts);
    else
        work(context, 0, count);
}

static const struct backend_ops CPU_OPS = {
    .name = "cpu",
    .description = host_description,
    .destroy = cpu_destroy,
    .reserve = cpu_reserve,
    .memory_create = host_memory_create,
    .memory_destroy = host_memory_destroy,
    .memory_write = host_memory_write,
    .memory_read = host_memory_read,
    .weight_create = cpu_weight_create,
    .weight_destroy = cpu_weight_destroy,
    .step_begin = cpu_step_begin,
    .embed = cpu_embed,
    .add_rmsnorm = cpu_add_rmsnorm,
    .linear = cpu_linear,
    .rope_store = cpu_rope_store,
    .attention = cpu_attention,
    .swiglu = cpu_swiglu,
    .gather = cpu_gather,
    .head = cpu_head,
    .step_end = host_step_end,
    .memory_used = host_memory_used,
};

bool cpu_computes(enum dtype dtype, enum dtype weight_dtype)
{
    return dtype_is_activation(dtype) && (weight_dtype == dtype || weight_dtype == DTYPE_INT8);
}

int cpu_backend_create(struct backend **out, const struct backend_options *options,
                       struct error *err)
{
    struct cpu_instructions instructions;
    if (!cpu_computes(options->dtype, options->weight_dtype))
        return error_set(
            err, ERROR_INVALID,
            "dtype \"%s\": device cpu has float32, bfloat16 and int8; use one of them or auto",
            dtype_name(options->weight_dtype));
    int status = cpu_instructions_choose(&instructions, options->instructions, options->dtype, err);
    if (status != 0)
        return status;
    struct cpu_backend *cpu = calloc(1, sizeof *cpu);
    if (cpu == NULL)
        return error_set(err, ERROR_MEMORY, "cannot allocate the cpu backend; free some memory");
    status = thread_pool_create(&cpu->pool, options->threads, err);
    if (status != 0) {
        free(cpu);
        return status;
    }
    cpu->instructions = instructions;
    int threads = thread_pool_threads(cpu->pool);
    char rest[48];
    snprintf(rest, sizeof rest, "%s, %d %s", instructions.name, threads,
             threads == 1 ? "thread" : "threads");
    host_backend_init(&cpu->host, &CPU_OPS, options, rest);
    *out = &cpu->host.base;
    return 0;
}

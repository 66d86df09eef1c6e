/* Packing of weights, and matrix products over panels: which thread does what. */
#include <assert.h>
#include <stdlib.h>
#include "common/error.h"
#include "common/thread_pool.h"
#include "kernels/cpu/cpu.h"
#include "kernels/memory_block.h"
#include "kernels/tensor_source.h"

enum {
    PACK_DEPTH = 64,         /* depth that is packed at once: 64 rows of it fit the L1 cache */
    SMALL_PRODUCT = 1 << 18, /* multiply-adds that are not worth waking a thread */
    PART_PRODUCT = 1 << 17,  /* and that one part should have at least */
};

size_t cpu_panel_bytes(int64_t depth, enum dtype dtype)
{
    if (dtype == DTYPE_INT8)
        return sizeof(struct int8_panel) +
               (size_t)(depth + INT8_GROUP - 1) / INT8_GROUP * INT8_GROUP * PANEL_COLUMNS;
    size_t rows = dtype == DTYPE_BFLOAT16 ? (size_t)(depth + 1) / 2 * 2 : (size_t)depth;
    return memory_block_product(rows * PANEL_COLUMNS, dtype_size(dtype));
}

struct pack_job {
    const struct cpu_weight *weight;
    const struct tensor_source *sources;
    const struct cpu_backend *cpu;
};

static void pack_int8_panel(void *context, int64_t part)
{
    const struct pack_job *job = context;
    const struct cpu_weight *weight = job->weight;
    void *panel = weight->panels + (size_t)part * weight->panel_bytes;
    int64_t first = part * PANEL_COLUMNS, left = weight->rows - first;
    cpu_int8_pack_panel(panel, &job->cpu->instructions, job->sources, first,
                        left < PANEL_COLUMNS ? left : PANEL_COLUMNS);
}

static void pack_panel(void *context, int64_t part)
{
    const struct pack_job *job = context;
    const struct cpu_weight *weight = job->weight;
    char *panel = weight->panels + (size_t)part * weight->panel_bytes;
    int64_t first = part * PANEL_COLUMNS;
    float values[PACK_DEPTH];

    for (int64_t depth = 0; depth < weight->columns; depth += PACK_DEPTH) {
        int64_t count = weight->columns - depth < PACK_DEPTH ? weight->columns - depth : PACK_DEPTH;
        for (int64_t column = 0; column < PANEL_COLUMNS && first + column < weight->rows;
             column++) {
            int64_t row = first + column;
            const struct tensor_source *source = tensor_source_find(job->sources, &row);
            tensor_source_read(values, source, row, depth, count);
            if (job->cpu->host.base.dtype == DTYPE_BFLOAT16) {
                for (int64_t k = 0; k < count; k++)
                    ((uint16_t *)panel)[(((depth + k) / 2) * PANEL_COLUMNS + column) * 2 + k % 2] =
                        bfloat16_from_float(values[k]);
            } else {
                for (int64_t k = 0; k < count; k++)
                    ((float *)panel)[(depth + k) * PANEL_COLUMNS + column] = values[k];
            }
        }
    }
}

int cpu_weight_create(struct backend *backend, struct weight **out,
                      const struct tensor_source *sources, int count, const float *bias,
                      struct error *err)
{
    struct cpu_backend *cpu = cpu_self(backend);
    int64_t rows, columns;
    *out = NULL;
    int status = tensor_source_check(&rows, &columns, sources, count, backend->weight_dtype, err);
    if (status != 0)
        return status;
    struct cpu_weight *weight = calloc(1, sizeof *weight);
    if (weight == NULL)
        return error_set(err, ERROR_MEMORY, "cannot allocate a weight; free some memory");
    int64_t panels = (rows + PANEL_COLUMNS - 1) / PANEL_COLUMNS;
    weight->rows = rows;
    weight->columns = columns;
    weight->panel_bytes = cpu_panel_bytes(columns, backend->weight_dtype);
    size_t *used = &cpu->host.weight_bytes;
    status = host_reserve(&weight->panels, used,
                          memory_block_product((size_t)panels, weight->panel_bytes), "weight", err);
    if (status == 0 && bias != NULL)
        status = host_reserve(&weight->bias, used, (size_t)panels * PANEL_COLUMNS * sizeof *bias,
                              "bias", err);
    if (status != 0) {
        cpu_weight_destroy(backend, (struct weight *)weight);
        return status;
    }
    if (bias != NULL)
        memcpy(weight->bias, bias, (size_t)rows * sizeof *bias);
    struct pack_job job = {weight, sources, cpu};
    thread_pool_run(cpu->pool, backend->weight_dtype == DTYPE_INT8 ? pack_int8_panel : pack_panel,
                    &job, panels);
    *out = (struct weight *)weight;
    return 0;
}

void cpu_weight_destroy(struct backend *backend, struct weight *opaque)
{
    struct cpu_weight *weight = (struct cpu_weight *)opaque;
    if (weight == NULL)
        return;
    cpu_self(backend)->host.weight_bytes -=
        memory_block_size(weight->panels) + memory_block_size(weight->bias);
    memory_block_destroy(weight->panels);
    memory_block_destroy(weight->bias);
    free(weight);
}

struct linear_job {
    struct cpu_backend *cpu;
    const struct cpu_weight *weight;
    int64_t lines;
    enum dtype out_dtype;
    int64_t panels_per_part, line_blocks;
};

/* The items of block `index` when `count` items are cut into `blocks` nearly equal blocks. */
static int64_t block_begin(int64_t count, int64_t blocks, int64_t index)
{
    return count / blocks * index + (index < count % blocks ? index : count % blocks);
}

/*
 * What is written behind the product comes into the cache while the product is computed: outputs of
 * many lines are larger than the L2 cache, and a store that misses it would stall.
 */
static void prefetch_outputs(const struct cpu_backend *cpu, int64_t line, int64_t rows,
                             size_t begin, size_t size)
{
    enum { CACHE_LINE = 64 };
    for (int64_t row = 0; row < rows; row++) {
        const char *out = (const char *)cpu->out_lines[line + row] + begin;
        for (size_t at = 0; at < size; at += CACHE_LINE)
            __builtin_prefetch(out + at, 1);
    }
}

static void multiply_tile(const struct linear_job *job, int64_t panel, int64_t line, int64_t rows)
{
    struct cpu_backend *cpu = job->cpu;
    const struct cpu_weight *weight = job->weight;
    union {
        float rounded[TILE_ROWS * PANEL_COLUMNS];
        int32_t exact[TILE_ROWS * PANEL_COLUMNS];
    } sums __attribute__((aligned(64)));
    int64_t column = panel * PANEL_COLUMNS;
    int64_t count = weight->rows - column < PANEL_COLUMNS ? weight->rows - column : PANEL_COLUMNS;
    const float *bias = weight->bias != NULL ? weight->bias + column : NULL;
    const void *weights = weight->panels + (size_t)panel * weight->panel_bytes;
    const struct cpu_elementwise *elementwise = job->out_dtype == cpu->host.base.dtype
                                                    ? cpu->instructions.elementwise
                                                    : cpu->instructions.elementwise_float32;
    size_t begin = (size_t)column * dtype_size(job->out_dtype);

    prefetch_outputs(cpu, line, rows, begin, (size_t)count * dtype_size(job->out_dtype));
    if (cpu->host.base.weight_dtype == DTYPE_INT8) {
        const struct int8_panel *quantised = weights;
        cpu_int8_multiply(sums.exact, cpu, line, rows, weight->columns, quantised);
        for (int64_t row = 0; row < rows; row++)
            elementwise->store_exact(
                (char *)cpu->out_lines[line + row] + begin, sums.exact + row * PANEL_COLUMNS,
                cpu->quantised_scales[line + row], quantised->scale, bias, count);
        return;
    }
    cpu->instructions.product(sums.rounded, cpu->in_lines + line, (int32_t)rows, weight->columns,
                              weights);
    for (int64_t row = 0; row < rows; row++)
        elementwise->store((char *)cpu->out_lines[line + row] + begin,
                           sums.rounded + row * PANEL_COLUMNS, bias, count);
}

/* A range of panels times a block of lines: the panel stays in the cache for all its tiles. */
static void multiply_part(void *context, int64_t part)
{
    const struct linear_job *job = context;
    int64_t panels = (job->weight->rows + PANEL_COLUMNS - 1) / PANEL_COLUMNS;
    int64_t first = part / job->line_blocks * job->panels_per_part;
    int64_t end = first + job->panels_per_part < panels ? first + job->panels_per_part : panels;
    int64_t begin = block_begin(job->lines, job->line_blocks, part % job->line_blocks);
    int64_t lines = block_begin(job->lines, job->line_blocks, part % job->line_blocks + 1) - begin;
    int64_t tiles = (lines + TILE_ROWS - 1) / TILE_ROWS;

    for (int64_t panel = first; panel < end; panel++) {
        for (int64_t tile = 0; tile < tiles; tile++) {
            int64_t from = block_begin(lines, tiles, tile);
            multiply_tile(job, panel, begin + from, block_begin(lines, tiles, tile + 1) - from);
        }
    }
}

void cpu_linear_lines(struct cpu_backend *cpu, const struct cpu_weight *weight, int64_t lines,
                      enum dtype out_dtype)
{
    int64_t panels = (weight->rows + PANEL_COLUMNS - 1) / PANEL_COLUMNS;
    int64_t panel_work = lines * weight->columns * PANEL_COLUMNS;
    int64_t threads = thread_pool_threads(cpu->pool);
    struct linear_job job = {cpu, weight, lines, out_dtype, panels, 1};
    if (lines <= 0)
        return;
    assert(cpu->host.base.weight_dtype != DTYPE_INT8 ||
           weight->columns <= cpu->limits.weight_columns);
    if (cpu->host.base.weight_dtype == DTYPE_INT8)
        cpu_int8_quantise_lines(cpu, lines, weight->columns);
    if (threads > 1 && panels * panel_work > SMALL_PRODUCT) {
        int64_t wanted = 4 * threads; /* parts, so that uneven ones balance */
        job.panels_per_part = PART_PRODUCT / panel_work + 1;
        if (job.panels_per_part > (panels + wanted - 1) / wanted)
            job.panels_per_part = (panels + wanted - 1) / wanted;
        if (panels < wanted && lines > 2 * TILE_ROWS)
            job.line_blocks = wanted / panels < lines / (2 * TILE_ROWS) ? wanted / panels
                                                                        : lines / (2 * TILE_ROWS);
    }
    int64_t parts = (panels + job.panels_per_part - 1) / job.panels_per_part * job.line_blocks;
    thread_pool_run(cpu->pool, multiply_part, &job, parts);
}

void cpu_linear(struct backend *backend, void *out, const void *in, const struct weight *opaque,
                int32_t lines)
{
    struct cpu_backend *cpu = cpu_self(backend);
    const struct cpu_weight *weight = (const struct cpu_weight *)opaque;
    size_t element = dtype_size(backend->dtype);
    assert(lines <= backend_lines_max(&cpu->limits));
    for (int64_t line = 0; line < lines; line++) {
        cpu->in_lines[line] = (const char *)in + (size_t)(line * weight->columns) * element;
        cpu->out_lines[line] = (char *)out + (size_t)(line * weight->rows) * element;
    }
    cpu_linear_lines(cpu, weight, lines, backend->dtype);
}

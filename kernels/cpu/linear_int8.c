/* Products with int8 weights: packing, quantised input lines, and back to float32. */
#include "common/thread_pool.h"
#include "kernels/cpu/cpu.h"
#include "kernels/quantise.h"
#include "kernels/tensor_source.h"

enum {
    PACK_DEPTH = 64,           /* depth that is packed at once: 64 rows of it fit the L1 cache */
    GRAIN_QUANTISED = 1 << 14, /* elements that take a few microseconds */
};

/* One row of a source; `inverse` is unused where the source is int8. */
struct packed_row {
    const struct tensor_source *source;
    int64_t row;
    float inverse;
};

/* The scale of a row, which is read once for it. */
static float choose_scale(struct packed_row *packed, const struct cpu_elementwise *elementwise)
{
    const struct tensor_source *source = packed->source;
    float values[PACK_DEPTH], largest = 0;
    if (source->dtype == DTYPE_INT8)
        return source->scales[packed->row];
    for (int64_t depth = 0; depth < source->columns && isfinite(largest); depth += PACK_DEPTH) {
        int64_t left = source->columns - depth, count = left < PACK_DEPTH ? left : PACK_DEPTH;
        tensor_source_read(values, source, packed->row, depth, count);
        float part = elementwise->largest(values, count);
        if (!(part <= largest))
            largest = part;
    }
    struct quantise_scale by = quantise_scale_in(DTYPE_INT8, largest);
    packed->inverse = by.inverse;
    return by.scale;
}

/* out [count <= PACK_DEPTH] = the row's int8 from column `depth` on */
static void read_row(int8_t *out, const struct packed_row *packed, int64_t depth, int64_t count,
                     const struct cpu_elementwise *elementwise)
{
    const struct tensor_source *source = packed->source;
    float values[PACK_DEPTH];
    uint8_t shifted[PACK_DEPTH];
    if (source->dtype == DTYPE_INT8) {
        memcpy(out, (const int8_t *)source->data + packed->row * source->columns + depth,
               (size_t)count);
        return;
    }
    tensor_source_read(values, source, packed->row, depth, count);
    elementwise->quantise(shifted, values, count, packed->inverse);
    for (int64_t k = 0; k < count; k++)
        out[k] = (int8_t)(shifted[k] - 128);
}

void cpu_int8_pack_panel(struct int8_panel *panel, const struct cpu_instructions *instructions,
                         const struct tensor_source *sources, int64_t first, int64_t count)
{
    const struct cpu_elementwise *elementwise = instructions->elementwise_float32;
    struct packed_row rows[PANEL_COLUMNS];
    int64_t totals[PANEL_COLUMNS] = {0}, depths = sources[0].columns;
    int8_t values[PACK_DEPTH];

    for (int64_t column = 0; column < count; column++) {
        rows[column] = (struct packed_row){NULL, first + column, 0};
        rows[column].source = tensor_source_find(sources, &rows[column].row);
        panel->scale[column] = choose_scale(&rows[column], elementwise);
    }
    for (int64_t depth = 0; depth < depths; depth += PACK_DEPTH) {
        int64_t deep = depths - depth < PACK_DEPTH ? depths - depth : PACK_DEPTH;
        int8_t *group = panel->weights + depth * PANEL_COLUMNS;
        for (int64_t column = 0; column < count; column++) {
            read_row(values, &rows[column], depth, deep, elementwise);
            for (int64_t k = 0; k < deep; k++) {
                group[(k / INT8_GROUP * PANEL_COLUMNS + column) * INT8_GROUP + k % INT8_GROUP] =
                    values[k];
                totals[column] += values[k];
            }
        }
    }
    for (int64_t column = 0; column < count; column++)
        panel->offset[column] = (int32_t)(uint32_t)(-128 * totals[column]);
}

struct quantise_job {
    struct cpu_backend *cpu;
    int64_t columns;
};

static void quantise_range(void *context, int64_t begin, int64_t end)
{
    const struct quantise_job *job = context;
    struct cpu_backend *cpu = job->cpu;
    const struct cpu_elementwise *elementwise = cpu->instructions.elementwise;
    for (int64_t line = begin; line < end; line++) {
        const void *in = cpu->in_lines[line];
        struct quantise_scale by =
            quantise_scale_in(DTYPE_INT8, elementwise->largest(in, job->columns));
        elementwise->quantise(cpu->quantised + line * cpu->quantised_stride, in, job->columns,
                              by.inverse);
        cpu->quantised_scales[line] = by.scale;
    }
}

void cpu_int8_quantise_lines(struct cpu_backend *cpu, int64_t lines, int64_t columns)
{
    struct quantise_job job = {cpu, columns};
    cpu_run_ranges(cpu, quantise_range, &job, lines, GRAIN_QUANTISED / columns + 1);
}

void cpu_int8_multiply(int32_t *sums, const struct cpu_backend *cpu, int64_t line, int64_t rows,
                       int64_t columns, const struct int8_panel *panel)
{
    const uint8_t *in[TILE_ROWS] = {NULL};
    for (int64_t row = 0; row < rows; row++)
        in[row] = cpu->quantised + (line + row) * cpu->quantised_stride;
    cpu->instructions.product_int8(sums, in, (int32_t)rows, (columns + INT8_GROUP - 1) / INT8_GROUP,
                                   panel->weights, panel->offset);
}

void cpu_int8_read_column(float *out, const struct int8_panel *panel, int64_t column,
                          int64_t columns)
{
    for (int64_t k = 0; k < columns; k++) {
        int64_t at = (k / INT8_GROUP * PANEL_COLUMNS + column) * INT8_GROUP + k % INT8_GROUP;
        out[k] = (float)panel->weights[at] * panel->scale[column];
    }
}

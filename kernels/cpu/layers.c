/* embed, add_rmsnorm, swiglu, gather: rows over threads. */
#include "kernels/cpu/cpu.h"

/* Elements of a range that take a few microseconds: below it a fork costs more than it gains. */
enum { GRAIN_ELEMENTS = 1 << 13, GRAIN_EXPONENTIALS = 1 << 12 };

static int64_t rows_of_grain(int64_t elements, int64_t columns)
{
    return elements / columns + 1;
}

struct embed_job {
    const struct cpu_backend *cpu;
    float *residual;
    const struct cpu_weight *table;
};

static void embed_range(void *context, int64_t begin, int64_t end)
{
    const struct embed_job *job = context;
    int64_t columns = job->table->columns;
    for (int64_t row = begin; row < end; row++) {
        int64_t token = job->cpu->step.token[row];
        const void *panel =
            job->table->panels + (size_t)(token / PANEL_COLUMNS) * job->table->panel_bytes;
        int64_t column = token % PANEL_COLUMNS;
        float *out = job->residual + row * columns;
        if (job->cpu->host.base.weight_dtype == DTYPE_INT8) {
            cpu_int8_read_column(out, panel, column, columns);
        } else if (job->cpu->host.base.dtype == DTYPE_BFLOAT16) {
            for (int64_t k = 0; k < columns; k++)
                out[k] = bfloat16_to_float(
                    ((const uint16_t *)panel)[(k / 2 * PANEL_COLUMNS + column) * 2 + k % 2]);
        } else {
            for (int64_t k = 0; k < columns; k++)
                out[k] = ((const float *)panel)[k * PANEL_COLUMNS + column];
        }
    }
}

void cpu_embed(struct backend *backend, float *residual, const struct weight *table)
{
    struct cpu_backend *cpu = cpu_self(backend);
    struct embed_job job = {cpu, residual, (const struct cpu_weight *)table};
    cpu_run_ranges(cpu, embed_range, &job, cpu->step.rows,
                   rows_of_grain(GRAIN_ELEMENTS, job.table->columns));
}

struct rmsnorm_job {
    const struct cpu_backend *cpu;
    char *out;
    float *residual;
    const char *delta;
    const float *scale;
    float epsilon;
    int64_t columns;
};

static void rmsnorm_range(void *context, int64_t begin, int64_t end)
{
    const struct rmsnorm_job *job = context;
    size_t line = (size_t)job->columns * dtype_size(job->cpu->host.base.dtype);
    for (int64_t row = begin; row < end; row++)
        job->cpu->instructions.elementwise->add_rmsnorm(
            job->out + (size_t)row * line, job->residual + row * job->columns,
            job->delta != NULL ? job->delta + (size_t)row * line : NULL, job->scale, job->epsilon,
            job->columns);
}

void cpu_add_rmsnorm(struct backend *backend, void *out, float *residual, const void *delta,
                     const float *scale, float epsilon, int32_t columns)
{
    struct cpu_backend *cpu = cpu_self(backend);
    struct rmsnorm_job job = {cpu, out, residual, delta, scale, epsilon, columns};
    cpu_run_ranges(cpu, rmsnorm_range, &job, cpu->step.rows,
                   rows_of_grain(GRAIN_ELEMENTS, columns));
}

struct swiglu_job {
    const struct cpu_backend *cpu;
    char *out;
    const char *gate_up;
    int64_t width;
};

static void swiglu_range(void *context, int64_t begin, int64_t end)
{
    const struct swiglu_job *job = context;
    size_t line = (size_t)job->width * dtype_size(job->cpu->host.base.dtype);
    for (int64_t row = begin; row < end; row++) {
        const char *gate = job->gate_up + 2 * (size_t)row * line;
        job->cpu->instructions.elementwise->swiglu(job->out + (size_t)row * line, gate, gate + line,
                                                   job->width);
    }
}

void cpu_swiglu(struct backend *backend, void *out, const void *gate_up, int32_t width)
{
    struct cpu_backend *cpu = cpu_self(backend);
    struct swiglu_job job = {cpu, out, gate_up, width};
    cpu_run_ranges(cpu, swiglu_range, &job, cpu->step.rows,
                   rows_of_grain(GRAIN_EXPONENTIALS, width));
}

void cpu_gather(struct backend *backend, void *out, const void *in, int32_t columns)
{
    const struct step_rows *step = &cpu_self(backend)->step;
    size_t line = (size_t)columns * dtype_size(backend->dtype);
    for (int32_t i = 0; i < step->gathered; i++)
        memcpy((char *)out + (size_t)i * line, (const char *)in + (size_t)step->gather[i] * line,
               line);
}

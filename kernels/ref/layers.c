#include <math.h>
#include "kernels/quantise.h"
#include "kernels/ref/ref.h"

void ref_embed(struct backend *backend, float *residual, const struct weight *table)
{
    const struct step_rows *step = &((struct ref_backend *)backend)->step;
    const struct ref_weight *weight = (const struct ref_weight *)table;
    for (int64_t row = 0; row < step->rows; row++) {
        int64_t token = step->token[row], columns = weight->columns;
        for (int64_t i = 0; i < columns; i++)
            residual[row * columns + i] =
                weight->small != NULL
                    ? quantise_value(backend->weight_dtype, weight->small[token * columns + i]) *
                          weight->scales[token]
                    : weight->values[token * columns + i];
    }
}

void ref_add_rmsnorm(struct backend *backend, void *out, float *residual, const void *delta,
                     const float *scale, float epsilon, int32_t columns)
{
    int32_t rows = ((struct ref_backend *)backend)->step.rows;
    for (int64_t row = 0; row < rows; row++) {
        float *line = residual + row * columns;
        double squares = 0;
        for (int64_t column = 0; column < columns; column++) {
            if (delta != NULL)
                line[column] += ref_load(delta, row * columns + column, backend->dtype);
            squares += (double)line[column] * line[column];
        }
        double rms = sqrt(squares / columns + epsilon);
        for (int64_t column = 0; column < columns; column++)
            ref_store(out, row * columns + column, line[column] / rms * scale[column],
                      backend->dtype);
    }
}

static void linear_small(struct ref_backend *ref, void *out, const void *in,
                         const struct ref_weight *weight, int32_t lines)
{
    for (int64_t line = 0; line < lines; line++) {
        float scale = ref_quantise(ref->line, ref->host.base.weight_dtype, in,
                                   line * weight->columns, weight->columns, ref->host.base.dtype);
        for (int64_t row = 0; row < weight->rows; row++)
            ref_store(out, line * weight->rows + row, ref_product_small(ref, weight, row, scale),
                      ref->host.base.dtype);
    }
}

void ref_linear(struct backend *backend, void *out, const void *in, const struct weight *opaque,
                int32_t lines)
{
    const struct ref_weight *weight = (const struct ref_weight *)opaque;
    if (weight->small != NULL) {
        linear_small((struct ref_backend *)backend, out, in, weight, lines);
        return;
    }
    for (int64_t line = 0; line < lines; line++) {
        for (int64_t row = 0; row < weight->rows; row++) {
            const float *values = weight->values + row * weight->columns;
            double sum = weight->bias != NULL ? weight->bias[row] : 0;
            for (int64_t column = 0; column < weight->columns; column++)
                sum += (double)values[column] *
                       ref_load(in, line * weight->columns + column, backend->dtype);
            ref_store(out, line * weight->rows + row, sum, backend->dtype);
        }
    }
}

void ref_swiglu(struct backend *backend, void *out, const void *gate_up, int32_t width)
{
    int32_t rows = ((struct ref_backend *)backend)->step.rows;
    for (int64_t row = 0; row < rows; row++) {
        for (int64_t column = 0; column < width; column++) {
            double gate = ref_load(gate_up, row * 2 * width + column, backend->dtype);
            double up = ref_load(gate_up, (row * 2 + 1) * width + column, backend->dtype);
            ref_store(out, row * width + column, gate / (1 + exp(-gate)) * up, backend->dtype);
        }
    }
}

void ref_gather(struct backend *backend, void *out, const void *in, int32_t columns)
{
    const struct step_rows *step = &((struct ref_backend *)backend)->step;
    size_t line_bytes = (size_t)columns * dtype_size(backend->dtype);
    for (int32_t line = 0; line < step->gathered; line++)
        memcpy((char *)out + (size_t)line * line_bytes,
               (const char *)in + (size_t)step->gather[line] * line_bytes, line_bytes);
}

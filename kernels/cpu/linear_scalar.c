#include "kernels/cpu/instructions.h"
#include "kernels/dtype.h"

void cpu_product_float32_scalar(float *sums, const void *const *in, int32_t rows, int64_t depth,
                                const void *panel)
{
    const float *weights = panel;
    memset(sums, 0, (size_t)rows * PANEL_COLUMNS * sizeof *sums);
    for (int32_t row = 0; row < rows; row++) {
        float *restrict line = sums + row * PANEL_COLUMNS;
        const float *values = in[row];
        for (int64_t k = 0; k < depth; k++) {
            for (int column = 0; column < PANEL_COLUMNS; column++)
                line[column] += values[k] * weights[k * PANEL_COLUMNS + column];
        }
    }
}

void cpu_product_bfloat16_scalar(float *sums, const void *const *in, int32_t rows, int64_t depth,
                                 const void *panel)
{
    memset(sums, 0, (size_t)rows * PANEL_COLUMNS * sizeof *sums);
    for (int32_t row = 0; row < rows; row++) {
        float *restrict line = sums + row * PANEL_COLUMNS;
        const uint16_t *values = in[row];
        for (int64_t k = 0; k < depth; k++) {
            const uint16_t *weights = (const uint16_t *)panel + k / 2 * 2 * PANEL_COLUMNS + k % 2;
            float value = bfloat16_to_float(values[k]);
            for (int column = 0; column < PANEL_COLUMNS; column++)
                line[column] += value * bfloat16_to_float(weights[2 * column]);
        }
    }
}

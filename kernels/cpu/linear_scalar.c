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

void cpu_product_int8_scalar(int32_t *sums, const uint8_t *const *in, int32_t rows, int64_t groups,
                             const int8_t *weights, const int32_t *offset)
{
    (void)offset; /* the inputs are brought back to q instead */
    memset(sums, 0, (size_t)rows * PANEL_COLUMNS * sizeof *sums);
    for (int32_t row = 0; row < rows; row++) {
        int32_t *restrict line = sums + row * PANEL_COLUMNS;
        const uint8_t *values = in[row];
        for (int64_t group = 0; group < groups; group++) {
            const int8_t *columns = weights + group * 4 * PANEL_COLUMNS;
            int a = values[4 * group] - 128, b = values[4 * group + 1] - 128;
            int c = values[4 * group + 2] - 128, d = values[4 * group + 3] - 128;
            for (int column = 0; column < PANEL_COLUMNS; column++)
                line[column] += a * columns[4 * column] + b * columns[4 * column + 1] +
                                c * columns[4 * column + 2] + d * columns[4 * column + 3];
        }
    }
}

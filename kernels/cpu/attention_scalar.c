#include "kernels/cpu/instructions.h"
#include "kernels/dtype.h"
#include "kernels/cpu/softmax_lanes.h"

void cpu_accumulate_float32_scalar(float *sums, int64_t stride, const float *correction,
                                   const void *weights, int32_t rows, int64_t count,
                                   const void *values)
{
    for (int32_t row = 0; row < rows; row++) {
        float *restrict line = sums + row * stride;
        for (int64_t i = 0; i < stride; i++)
            line[i] *= correction[row];
        for (int64_t position = 0; position < count; position++) {
            const float *value = (const float *)values + position * stride;
            float weight = ((const float *)weights)[row * PANEL_COLUMNS + position];
            for (int64_t i = 0; i < stride; i++)
                line[i] += weight * value[i];
        }
    }
}

void cpu_accumulate_bfloat16_scalar(float *sums, int64_t stride, const float *correction,
                                    const void *weights, int32_t rows, int64_t count,
                                    const void *values)
{
    for (int32_t row = 0; row < rows; row++) {
        float *restrict line = sums + row * stride;
        for (int64_t i = 0; i < stride; i++)
            line[i] *= correction[row];
        for (int64_t position = 0; position < count; position++) {
            const uint16_t *value =
                (const uint16_t *)values + position / 2 * 2 * stride + position % 2;
            float weight = ((const float *)weights)[row * PANEL_COLUMNS + position];
            for (int64_t i = 0; i < stride; i++)
                line[i] += weight * bfloat16_to_float(value[2 * i]);
        }
    }
}

void cpu_softmax_scalar(float *scores, int32_t rows, int64_t count, float scale,
                        struct softmax_state state, float *correction)
{
    softmax(scores, rows, count, scale, state, correction);
}

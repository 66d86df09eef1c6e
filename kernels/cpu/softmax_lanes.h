/*
 * Online softmax of the scores of a page, for the sets whose vectors are the compiler's: included
 * once by a file of each.
 */
#ifndef KERNELS_CPU_SOFTMAX_LANES_H
#define KERNELS_CPU_SOFTMAX_LANES_H

#include <math.h>
#include "kernels/cpu/instructions.h"
#include "kernels/cpu/lanes.h"

LANES_INLINE float softmax_row(float *scores, int64_t count, float scale, float *maximum,
                               float *sum)
{
    float_lanes total, correction = {0}, most = {0};

    for (int64_t i = count; i < PANEL_COLUMNS; i++)
        scores[i] = -INFINITY;
    most += -INFINITY;
    for (int32_t i = 0; i < PANEL_COLUMNS; i += LANES) {
        float_lanes value;
        lanes_load(&value, scores, i, DTYPE_FLOAT32);
        lanes_raise(&most, &value);
    }
    float largest = lanes_max(&most) * scale;
    largest = largest > *maximum ? largest : *maximum;
    /* Where all scores are -infinity so far, weights are 0, and not the NaN of inf - inf. */
    float base = largest == -INFINITY ? 0.0f : largest;
    correction += *maximum - base;
    lanes_exp(&correction);
    lanes_load(&total, sum, 0, DTYPE_FLOAT32);
    total *= correction;
    for (int32_t i = 0; i < PANEL_COLUMNS; i += LANES) {
        float_lanes value;
        lanes_load(&value, scores, i, DTYPE_FLOAT32);
        int_lanes weighs = value != -INFINITY;
        value = value * scale - base;
        lanes_exp(&value);
        lanes_keep_where(&value, &weighs, 0.0f);
        total += value;
        lanes_store(scores, i, &value, DTYPE_FLOAT32);
    }
    lanes_store(sum, 0, &total, DTYPE_FLOAT32);
    *maximum = largest;
    return correction[0];
}

/* As cpu_softmax says. */
LANES_INLINE void softmax(float *scores, int32_t rows, int64_t count, float scale,
                          struct softmax_state state, float *correction)
{
    for (int32_t row = 0; row < rows; row++)
        correction[row] = softmax_row(scores + row * PANEL_COLUMNS, count, scale,
                                      &state.maximum[row], state.sum[row]);
}

#endif

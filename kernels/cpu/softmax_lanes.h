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
    const int_lanes first = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    float_lanes values[PANEL_COLUMNS / LANES], total, correction = {0}, most = {0};

    most += *maximum;
    for (int32_t i = 0; i < PANEL_COLUMNS / LANES; i++) {
        int_lanes inside = first + i * LANES < (int32_t)count;
        lanes_load(&values[i], scores, i * LANES, DTYPE_FLOAT32);
        values[i] *= scale;
        lanes_keep_where(&values[i], &inside, -INFINITY);
        lanes_raise(&most, &values[i]);
    }
    /* Where all scores are -infinity so far, weights are 0, and not the NaN of inf - inf. */
    float largest = lanes_max(&most), base = largest == -INFINITY ? 0.0f : largest;
    correction += *maximum - base;
    lanes_exp(&correction);
    lanes_load(&total, sum, 0, DTYPE_FLOAT32);
    total *= correction;
    for (int32_t i = 0; i < PANEL_COLUMNS / LANES; i++) {
        int_lanes weighs = values[i] != -INFINITY;
        values[i] -= base;
        lanes_exp(&values[i]);
        lanes_keep_where(&values[i], &weighs, 0.0f);
        total += values[i];
        lanes_store(scores, i * LANES, &values[i], DTYPE_FLOAT32);
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

#include "kernels/rope.h"

void rope_table_fill(float *table, int32_t positions, int32_t rotary_dim, double theta)
{
    int32_t half = rotary_dim / 2;
    for (int32_t i = 0; i < half; i++) {
        float inverse_frequency = rope_inverse_frequency(i, rotary_dim, theta);
        for (int32_t position = 0; position < positions; position++) {
            float angle = rope_angle(position, inverse_frequency);
            float *line = table + (int64_t)position * rotary_dim;
            line[i] = (float)cos(angle);
            line[half + i] = (float)sin(angle);
        }
    }
}

/* The angles of rotary positions, rounded as the models' own code rounds them: every step in
 * float32.
 */
#ifndef KERNELS_ROPE_H
#define KERNELS_ROPE_H

#include <math.h>
#include <stdint.h>

/* Of pair i of rotary_dim / 2. */
static inline float rope_inverse_frequency(int32_t i, int32_t rotary_dim, double theta)
{
    return 1.0f / powf((float)theta, (float)(2 * i) / (float)rotary_dim);
}

static inline float rope_angle(int32_t position, float inverse_frequency)
{
    return (float)position * inverse_frequency;
}

/* table [positions, 2, rotary_dim / 2]: of each position the cosines, then the sines. */
void rope_table_fill(float *table, int32_t positions, int32_t rotary_dim, double theta);

#endif

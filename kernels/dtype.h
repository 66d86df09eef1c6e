/* Number formats of checkpoints, weights and activations. Pure functions. */
#ifndef KERNELS_DTYPE_H
#define KERNELS_DTYPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum dtype { DTYPE_FLOAT32, DTYPE_BFLOAT16, DTYPE_FLOAT16, DTYPE_INT8 };

size_t dtype_size(enum dtype dtype);      /* bytes of one element */
const char *dtype_name(enum dtype dtype); /* "float32", "bfloat16", "float16", "int8" */

static inline float bfloat16_to_float(uint16_t bits)
{
    uint32_t wide = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &wide, sizeof value);
    return value;
}

/* Round to nearest, ties to even; NaN stays NaN. */
static inline uint16_t bfloat16_from_float(float value)
{
    uint32_t wide;
    memcpy(&wide, &value, sizeof wide);
    if ((wide & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)((wide >> 16) | 0x40);
    return (uint16_t)((wide + 0x7fffu + ((wide >> 16) & 1)) >> 16);
}

float float16_to_float(uint16_t bits);

/*
 * What dtype "auto" computes in: that of a checkpoint's weights as far as the device has it in
 * hardware, else float32, which holds every value of the others. int8 is that of the weights; the
 * activations with it are bfloat16 or float32 by the same rule.
 */
void dtype_automatic(enum dtype *activations, enum dtype *weights, enum dtype checkpoint,
                     bool bfloat16_in_hardware);

#endif

/* Number formats of checkpoints, weights and activations. Pure functions. */
#ifndef KERNELS_DTYPE_H
#define KERNELS_DTYPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Small functions that kernels of a device use too; such a compiler is told here what they are. */
#ifndef KERNELS_FUNCTION
#define KERNELS_FUNCTION static inline
#endif

/* DTYPE_FP8 is e4m3: 4 bits of exponent, 3 of fraction, no infinities, 448 the largest. */
enum dtype { DTYPE_FLOAT32, DTYPE_BFLOAT16, DTYPE_FLOAT16, DTYPE_INT8, DTYPE_FP8 };
enum { DTYPE_COUNT = DTYPE_FP8 + 1 }; /* of its own: no switch has a case for it */

size_t dtype_size(enum dtype dtype);      /* bytes of one element */
const char *dtype_name(enum dtype dtype); /* "float32", "bfloat16", "float16", "int8", "fp8" */

/* What activations and KV can be. */
static inline bool dtype_is_activation(enum dtype dtype)
{
    return dtype == DTYPE_FLOAT32 || dtype == DTYPE_BFLOAT16;
}

/* One byte an element and a scale a row: how weights can be stored, never activations. */
static inline bool dtype_has_scales(enum dtype dtype)
{
    return dtype == DTYPE_INT8 || dtype == DTYPE_FP8;
}

KERNELS_FUNCTION float bfloat16_to_float(uint16_t bits)
{
    uint32_t wide = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &wide, sizeof value);
    return value;
}

/* Round to nearest, ties to even; NaN stays NaN. */
KERNELS_FUNCTION uint16_t bfloat16_from_float(float value)
{
    uint32_t wide;
    memcpy(&wide, &value, sizeof wide);
    if ((wide & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)((wide >> 16) | 0x40);
    return (uint16_t)((wide + 0x7fffu + ((wide >> 16) & 1)) >> 16);
}

float float16_to_float(uint16_t bits);

/* e4m3: the largest number, and the lowest that has all bits of the fraction. */
#define FP8_LARGEST         448.0f
#define FP8_SMALLEST_NORMAL 0x1p-6f

/* Round to nearest, ties to even; beyond 448 it is 448 with the sign; NaN is 0x7f. */
KERNELS_FUNCTION uint8_t fp8_from_float(float value)
{
    const float base = 0x1p14f; /* its neighbours are 2^-9 apart, as the numbers below 2^-6 are */
    float magnitude, shifted;
    uint32_t bits, sign, base_bits;
    memcpy(&bits, &value, sizeof bits);
    sign = bits >> 24 & 0x80;
    bits &= 0x7fffffffu;
    memcpy(&magnitude, &bits, sizeof magnitude);
    if (bits > 0x7f800000u)
        return 0x7f;
    if (magnitude >= FP8_LARGEST)
        return (uint8_t)(sign | 0x7e);
    if (magnitude < FP8_SMALLEST_NORMAL) {
        shifted = magnitude + base;
        memcpy(&bits, &shifted, sizeof bits);
        memcpy(&base_bits, &base, sizeof base_bits);
        return (uint8_t)(sign | (bits - base_bits));
    }
    /* The exponent's bias goes from 127 to 7; a carry of the fraction belongs to it. */
    bits += 0x7ffffu + (bits >> 20 & 1);
    return (uint8_t)(sign | ((bits >> 20) - (120u << 3)));
}

/* Exact. */
KERNELS_FUNCTION float fp8_to_float(uint8_t bits)
{
    uint32_t sign = (uint32_t)(bits & 0x80) << 24, magnitude = bits & 0x7f;
    uint32_t wide = magnitude == 0x7f ? 0x7fc00000u : (magnitude + (120u << 3)) << 20;
    float value;
    if (magnitude < 8) {
        value = (float)magnitude * 0x1p-9f;
        memcpy(&wide, &value, sizeof wide);
    }
    wide |= sign;
    memcpy(&value, &wide, sizeof value);
    return value;
}

/*
 * What dtype "auto" computes in: that of a checkpoint's weights as far as the device has it in
 * hardware, else float32, which holds every value of the others. int8 and fp8 are those of the
 * weights; the activations with them are bfloat16 or float32 by the same rule.
 */
void dtype_automatic(enum dtype *activations, enum dtype *weights, enum dtype checkpoint,
                     bool bfloat16_in_hardware);

#ifdef __cplusplus
}
#endif

#endif

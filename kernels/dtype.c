#include "kernels/dtype.h"

size_t dtype_size(enum dtype dtype)
{
    switch (dtype) {
    case DTYPE_FLOAT32:
        return 4;
    case DTYPE_BFLOAT16:
    case DTYPE_FLOAT16:
        return 2;
    case DTYPE_INT8:
    case DTYPE_FP8:
        return 1;
    }
    return 0;
}

const char *dtype_name(enum dtype dtype)
{
    switch (dtype) {
    case DTYPE_FLOAT32:
        return "float32";
    case DTYPE_BFLOAT16:
        return "bfloat16";
    case DTYPE_FLOAT16:
        return "float16";
    case DTYPE_INT8:
        return "int8";
    case DTYPE_FP8:
        return "fp8";
    }
    return "unknown";
}

float float16_to_float(uint16_t bits)
{
    uint32_t sign = (uint32_t)(bits & 0x8000u) << 16;
    uint32_t exponent = (bits >> 10) & 0x1fu;
    uint32_t fraction = bits & 0x3ffu;
    uint32_t wide;
    float value;

    if (exponent == 0) {
        /* Zero or subnormal: the fraction counts units of 2^-24, exact in float32. */
        value = (float)fraction * 0x1p-24f;
        return sign != 0 ? -value : value;
    }
    if (exponent == 0x1f)
        wide = sign | 0x7f800000u | (fraction << 13);
    else
        wide = sign | ((exponent + 127 - 15) << 23) | (fraction << 13);
    memcpy(&value, &wide, sizeof value);
    return value;
}

void dtype_automatic(enum dtype *activations, enum dtype *weights, enum dtype checkpoint,
                     bool bfloat16_in_hardware)
{
    bool half = checkpoint != DTYPE_FLOAT32 && bfloat16_in_hardware;
    *activations = half ? DTYPE_BFLOAT16 : DTYPE_FLOAT32;
    *weights = dtype_has_scales(checkpoint) ? checkpoint : *activations;
}

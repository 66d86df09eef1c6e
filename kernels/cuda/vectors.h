/*
 * Loads and stores of 8 elements at once, at addresses that are multiples of 16 bytes, and of one
 * element, under the same names. Device code.
 */
#ifndef KERNELS_CUDA_VECTORS_H
#define KERNELS_CUDA_VECTORS_H

#include "kernels/cuda/simt.h"

struct alignas(16) four_words {
    uint32_t x, y, z, w;
};

struct alignas(16) four_floats {
    float x, y, z, w;
};

SIMT_DEVICE void load_bfloat16(float (&out)[8], const uint16_t *from)
{
    const struct four_words words = *(const struct four_words *)from;
    out[0] = simt_bfloat16_low(words.x);
    out[1] = simt_bfloat16_high(words.x);
    out[2] = simt_bfloat16_low(words.y);
    out[3] = simt_bfloat16_high(words.y);
    out[4] = simt_bfloat16_low(words.z);
    out[5] = simt_bfloat16_high(words.z);
    out[6] = simt_bfloat16_low(words.w);
    out[7] = simt_bfloat16_high(words.w);
}

SIMT_DEVICE void load_bfloat16(float (&out)[1], const uint16_t *from)
{
    out[0] = simt_bfloat16(*from);
}

SIMT_DEVICE void store_bfloat16(uint16_t *to, const float (&values)[8])
{
    *(struct four_words *)to = {simt_pack(values[0], values[1]), simt_pack(values[2], values[3]),
                                simt_pack(values[4], values[5]), simt_pack(values[6], values[7])};
}

SIMT_DEVICE void store_bfloat16(uint16_t *to, const float (&values)[1])
{
    *to = simt_to_bfloat16(values[0]);
}

SIMT_DEVICE void load_floats(float (&out)[8], const float *from)
{
    const struct four_floats low = ((const struct four_floats *)from)[0];
    const struct four_floats high = ((const struct four_floats *)from)[1];
    out[0] = low.x;
    out[1] = low.y;
    out[2] = low.z;
    out[3] = low.w;
    out[4] = high.x;
    out[5] = high.y;
    out[6] = high.z;
    out[7] = high.w;
}

SIMT_DEVICE void load_floats(float (&out)[1], const float *from)
{
    out[0] = *from;
}

SIMT_DEVICE void store_floats(float *to, const float (&values)[8])
{
    ((struct four_floats *)to)[0] = {values[0], values[1], values[2], values[3]};
    ((struct four_floats *)to)[1] = {values[4], values[5], values[6], values[7]};
}

SIMT_DEVICE void store_floats(float *to, const float (&values)[1])
{
    *to = values[0];
}

/* Bit for bit. */
template <int WIDTH> SIMT_DEVICE void copy_bfloat16(uint16_t *to, const uint16_t *from)
{
    if (WIDTH == 8)
        *(struct four_words *)to = *(const struct four_words *)from;
    else
        *to = *from;
}

#endif

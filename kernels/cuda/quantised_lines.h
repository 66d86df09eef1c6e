/*
 * What kernels share that read or write int8 and fp8: kernels/quantise.h for the lines of a block.
 * Device code.
 */
#ifndef KERNELS_CUDA_QUANTISED_LINES_H
#define KERNELS_CUDA_QUANTISED_LINES_H

#include "kernels/cuda/cuda.h"
#include "kernels/cuda/products.h"
#include "kernels/cuda/vectors.h"
#include "kernels/quantise.h"

struct alignas(8) two_words {
    uint32_t x, y;
};

template <int WIDTH> SIMT_DEVICE void load_elements(float (&out)[WIDTH], const uint16_t *from)
{
    load_bfloat16(out, from);
}

template <int WIDTH> SIMT_DEVICE void load_elements(float (&out)[WIDTH], const float *from)
{
    load_floats(out, from);
}

/* Bytes as what they stand for, before their scale. */
template <enum dtype DTYPE> SIMT_DEVICE void load_bytes(float (&out)[8], const uint8_t *from)
{
    const struct two_words words = *(const struct two_words *)from;
    SIMT_UNROLL
    for (int i = 0; i < 4; i++) {
        out[i] = quantise_value(DTYPE, (uint8_t)(words.x >> (8 * i)));
        out[4 + i] = quantise_value(DTYPE, (uint8_t)(words.y >> (8 * i)));
    }
}

template <enum dtype DTYPE> SIMT_DEVICE void load_bytes(float (&out)[1], const uint8_t *from)
{
    out[0] = quantise_value(DTYPE, *from);
}

/* Two elements of a row whose inverse is not 0, in the low 16 bits. */
template <enum dtype DTYPE> SIMT_DEVICE uint32_t quantise_pair(float low, float high, float inverse)
{
    if (DTYPE == DTYPE_FP8)
        return simt_pack_fp8(low * inverse, high * inverse);
    return (uint32_t)quantise_element(DTYPE, high, inverse) << 8 |
           quantise_element(DTYPE, low, inverse);
}

template <enum dtype DTYPE>
SIMT_DEVICE void store_quantised(uint8_t *to, const float (&values)[8], float inverse)
{
    struct two_words words = {};
    if (inverse != 0) {
        words.x = quantise_pair<DTYPE>(values[0], values[1], inverse) |
                  quantise_pair<DTYPE>(values[2], values[3], inverse) << 16;
        words.y = quantise_pair<DTYPE>(values[4], values[5], inverse) |
                  quantise_pair<DTYPE>(values[6], values[7], inverse) << 16;
    }
    *(struct two_words *)to = words;
}

template <enum dtype DTYPE>
SIMT_DEVICE void store_quantised(uint8_t *to, const float (&values)[1], float inverse)
{
    *to = inverse == 0 ? 0 : (uint8_t)quantise_pair<DTYPE>(values[0], 0, inverse);
}

/* The larger of `largest` and the magnitudes, as bits: NaN above infinity above all numbers. */
template <int WIDTH>
SIMT_DEVICE uint32_t larger_bits(uint32_t largest, const float (&values)[WIDTH])
{
    SIMT_UNROLL
    for (int i = 0; i < WIDTH; i++) {
        uint32_t bits = simt_bits_of_float(values[i]) & 0x7fffffffu;
        largest = bits > largest ? bits : largest;
    }
    return largest;
}

/* The largest of all threads of the block; shared [THREADS / SIMT_WARP] is used for nothing else.
 */
template <int THREADS> SIMT_DEVICE uint32_t largest_of_block(uint32_t largest, uint32_t *shared)
{
    for (uint32_t lanes = SIMT_WARP / 2; lanes > 0; lanes /= 2) {
        uint32_t other = simt_shuffle_xor(SIMT_ALL, largest, lanes);
        largest = other > largest ? other : largest;
    }
    if (simt_lane() == 0)
        shared[simt_warp()] = largest;
    simt_barrier();
    for (int i = 0; i < THREADS / SIMT_WARP; i++)
        largest = shared[i] > largest ? shared[i] : largest;
    return largest;
}

/*
 * The second half of quantising a line, by a whole block: `largest` of the elements that each
 * thread has seen, which were those from THREADS * WIDTH * k + thread * WIDTH on. They are read
 * again, by the same thread.
 */
template <int WIDTH, enum dtype DTYPE, int THREADS, class ELEMENT>
SIMT_DEVICE void quantise_line(const struct quantised_lines &to, int64_t line, const ELEMENT *from,
                               int64_t columns, uint32_t largest, uint32_t *shared)
{
    largest = largest_of_block<THREADS>(largest, shared);
    const struct quantise_scale by = quantise_scale_in(DTYPE, simt_float_of_bits(largest));
    if (simt_thread() == 0)
        to.scales[line] = by.scale;
    uint8_t *bytes = to.bytes + line * to.stride;
    for (int64_t i = (int64_t)simt_thread() * WIDTH; i < to.stride; i += THREADS * WIDTH) {
        float values[WIDTH] = {};
        if (i < columns)
            load_elements<WIDTH>(values, from + i);
        store_quantised<DTYPE>(bytes + i, values, by.inverse);
    }
}

#endif

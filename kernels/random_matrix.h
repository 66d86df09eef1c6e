/*
 * Which numbers a random tensor_source holds, the same bits on the host and on a device. Element i,
 * counted row after row, takes 16 of the 128 bits that Philox (common/rng.h) gives for key `seed`
 * and counter (i / 8 low, high, RANDOM_MATRIX_COUNTER, 0): half i % 2, low first, of word
 * i % 8 / 2. As a signed number k that is spread / 2^15 * (k + 1/2), rounded to bfloat16. Plain C
 * that is C++ too; pure functions.
 */
#ifndef KERNELS_RANDOM_MATRIX_H
#define KERNELS_RANDOM_MATRIX_H

#include <stdint.h>

#include "kernels/dtype.h"

enum {
    RANDOM_MATRIX_GROUP = 8,      /* elements of one counter */
    RANDOM_MATRIX_COUNTER = 0x6d, /* keeps them apart from the numbers of common/rng.h */
};

KERNELS_FUNCTION float random_matrix_step(float spread)
{
    return spread * (1.0f / 32768);
}

/* Element `index` of a group, before it is rounded. Nothing here is rounded but the product. */
KERNELS_FUNCTION float random_matrix_number(const uint32_t words[4], uint32_t index, float step)
{
    int16_t k = (int16_t)(words[index / 2] >> (index % 2 * 16));
    return ((float)k + 0.5f) * step;
}

#endif

/*
 * How numbers become int8: the definition that every backend keeps bit for bit. Pure functions.
 *
 * A row of a weight, or an input line of a product, has one scale. With m the largest magnitude in
 * it, and every operation in float32, rounded to nearest:
 *
 *     scale = m / 127        inverse = 127 / m        q = x * inverse, rounded to an integer
 *
 * where the last rounding is to nearest, ties to even; |q| <= 127. A row without a magnitude of
 * QUANTISE_SMALLEST counts as zeros: scale and inverse are 0. A row that holds NaN or an infinity
 * has the scale NaN, whatever its q: every product with it is NaN.
 *
 * A product of a line and a row is sum * (line scale * row scale) (+ bias), where the sum of the
 * products of int8 is exact and each operation on it rounds to float32.
 */
#ifndef KERNELS_QUANTISE_H
#define KERNELS_QUANTISE_H

#include <math.h>
#include <stdint.h>

/* 127 / m is finite from here on, and no scale is subnormal. */
#define QUANTISE_SMALLEST 0x1p-100f

/* Columns of which every sum fits into int32, also with -128 in the weight: 2^17 * 127 * 128. */
enum { QUANTISE_COLUMNS_MAX = 1 << 17 };

struct quantise_scale {
    float scale, inverse;
};

/* largest: of the magnitudes; NaN or an infinity where the row holds one. */
static inline struct quantise_scale quantise_scale_of(float largest)
{
    if (!isfinite(largest))
        return (struct quantise_scale){NAN, 0};
    if (largest < QUANTISE_SMALLEST)
        return (struct quantise_scale){0, 0};
    return (struct quantise_scale){largest / 127.0f, 127.0f / largest};
}

#endif

/*
 * How numbers become int8 or fp8: the definition that every backend keeps bit for bit. Pure
 * functions, for kernels of a device too.
 *
 * A row of a weight, or an input line of a product, has one scale. With m the largest magnitude in
 * it, and every operation in float32, rounded to nearest:
 *
 *     int8    scale = m / 127    inverse = 127 / m    q = x * inverse, rounded to an integer
 *     fp8     scale = m / 448    inverse = 448 / m    q = x * inverse, rounded to e4m3
 *
 * where the last rounding is to nearest, ties to even; |q| <= 127, |q| <= 448. A row without a
 * magnitude of QUANTISE_SMALLEST counts as zeros: scale and inverse are 0. A row that holds NaN or
 * an infinity has the scale NaN, whatever its q: every product with it is NaN.
 *
 * A product of a line and a row is sum * (line scale * row scale) (+ bias), where each operation on
 * the sum rounds to float32. The sum of the products of int8 is exact, and so the whole product is
 * defined bit for bit. That of fp8, whose products are exact in float32, is added in any order and
 * at least in float32 (ref: in double); a device may multiply the scales into it in another order.
 */
#ifndef KERNELS_QUANTISE_H
#define KERNELS_QUANTISE_H

#include <math.h>
#include <stdint.h>

#include "kernels/dtype.h"

/* 448 / m is finite from here on, and no scale is subnormal. */
#define QUANTISE_SMALLEST 0x1p-100f

/* Columns of which every sum fits into int32, also with -128 in the weight: 2^17 * 127 * 128. */
enum { QUANTISE_COLUMNS_MAX = 1 << 17 };

struct quantise_scale {
    float scale, inverse;
};

/* dtype: DTYPE_INT8 or DTYPE_FP8. largest: of the magnitudes; NaN or an infinity where the row
 * holds one. */
KERNELS_FUNCTION struct quantise_scale quantise_scale_in(enum dtype dtype, float largest)
{
    const float end = dtype == DTYPE_FP8 ? FP8_LARGEST : 127.0f;
    struct quantise_scale by = {NAN, 0};
    if (!(largest <= 0x1.fffffep127f)) /* NaN, infinity */
        return by;
    by.scale = largest < QUANTISE_SMALLEST ? 0 : largest / end;
    by.inverse = largest < QUANTISE_SMALLEST ? 0 : end / largest;
    return by;
}

/* The byte of one element: int8_t or e4m3. inverse: of its row, 0 gives 0 whatever the element. */
KERNELS_FUNCTION uint8_t quantise_element(enum dtype dtype, float element, float inverse)
{
    if (inverse == 0)
        return 0;
    if (dtype == DTYPE_FP8)
        return fp8_from_float(element * inverse);
    return (uint8_t)(int8_t)rintf(element * inverse);
}

/* What a byte stands for, before its scale. */
KERNELS_FUNCTION float quantise_value(enum dtype dtype, uint8_t byte)
{
    return dtype == DTYPE_FP8 ? fp8_to_float(byte) : (float)(int8_t)byte;
}

#endif

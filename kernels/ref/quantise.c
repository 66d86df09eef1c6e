#include <math.h>
#include "kernels/quantise.h"
#include "kernels/ref/ref.h"

float ref_quantise(int8_t *out, const void *line, int64_t at, int64_t count, enum dtype dtype)
{
    float largest = 0;
    for (int64_t i = 0; i < count; i++) {
        float magnitude = fabsf(ref_load(line, at + i, dtype));
        if (!(magnitude <= largest) && !isnan(largest))
            largest = magnitude;
    }
    struct quantise_scale by = quantise_scale_of(largest);
    for (int64_t i = 0; i < count; i++)
        out[i] = by.inverse == 0 ? 0 : (int8_t)rintf(ref_load(line, at + i, dtype) * by.inverse);
    return by.scale;
}

float ref_product_int8(const struct ref_backend *ref, const struct ref_weight *weight, int64_t row,
                       float line_scale)
{
    const int8_t *values = weight->small + row * weight->columns;
    int32_t sum = 0;
    for (int64_t i = 0; i < weight->columns; i++)
        sum += ref->line[i] * values[i];
    float product = (float)sum * (line_scale * weight->scales[row]);
    return weight->bias != NULL ? product + weight->bias[row] : product;
}

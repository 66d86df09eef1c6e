#include "kernels/quantise.h"
#include "kernels/ref/ref.h"

float ref_quantise(uint8_t *out, enum dtype to, const void *line, int64_t at, int64_t count,
                   enum dtype dtype)
{
    float largest = 0;
    for (int64_t i = 0; i < count; i++) {
        float magnitude = fabsf(ref_load(line, at + i, dtype));
        if (!(magnitude <= largest) && !isnan(largest))
            largest = magnitude;
    }
    struct quantise_scale by = quantise_scale_in(to, largest);
    for (int64_t i = 0; i < count; i++)
        out[i] = quantise_element(to, ref_load(line, at + i, dtype), by.inverse);
    return by.scale;
}

static float sum_of_int8(const uint8_t *line, const uint8_t *values, int64_t count)
{
    int32_t sum = 0;
    for (int64_t i = 0; i < count; i++)
        sum += (int8_t)line[i] * (int8_t)values[i];
    return (float)sum;
}

/* Exact: products are multiples of 2^-18 below 2^18, and double holds 2^17 of them to their end. */
static float sum_of_fp8(const uint8_t *line, const uint8_t *values, int64_t count)
{
    double sum = 0;
    for (int64_t i = 0; i < count; i++)
        sum += (double)fp8_to_float(line[i]) * (double)fp8_to_float(values[i]);
    return (float)sum;
}

float ref_product_small(const struct ref_backend *ref, const struct ref_weight *weight, int64_t row,
                        float line_scale)
{
    const uint8_t *values = weight->small + row * weight->columns;
    float sum = ref->host.base.weight_dtype == DTYPE_FP8
                    ? sum_of_fp8(ref->line, values, weight->columns)
                    : sum_of_int8(ref->line, values, weight->columns);
    float product = sum * (line_scale * weight->scales[row]);
    return weight->bias != NULL ? product + weight->bias[row] : product;
}

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

/* Exact: products of int8 in integers, of fp8 in double, which holds 2^17 of them to their end. */
static float sum_of_products(const uint8_t *line, const uint8_t *values, int64_t count,
                             enum dtype dtype)
{
    int32_t whole = 0;
    double sum = 0;
    for (int64_t i = 0; i < count; i++) {
        if (dtype == DTYPE_INT8)
            whole += (int8_t)line[i] * (int8_t)values[i];
        else
            sum += (double)fp8_to_float(line[i]) * (double)fp8_to_float(values[i]);
    }
    return dtype == DTYPE_INT8 ? (float)whole : (float)sum;
}

float ref_product_small(const struct ref_backend *ref, const struct ref_weight *weight, int64_t row,
                        float line_scale)
{
    float sum = sum_of_products(ref->line, weight->small + row * weight->columns, weight->columns,
                                ref->base.weight_dtype);
    float product = sum * (line_scale * weight->scales[row]);
    return weight->bias != NULL ? product + weight->bias[row] : product;
}

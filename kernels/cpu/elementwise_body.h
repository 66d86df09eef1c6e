/*
 * The definitions behind struct cpu_elementwise. Included once by each elementwise_*.c, whose
 * compiler flags choose the instructions; everything here is static.
 */
#ifndef KERNELS_CPU_ELEMENTWISE_BODY_H
#define KERNELS_CPU_ELEMENTWISE_BODY_H

#include <math.h>
#include "kernels/cpu/instructions.h"
#include "kernels/cpu/lanes.h"

enum { HEAD_DIM_MAX = 256 };

LANES_INLINE void store_row(void *out, const float *sums, const float *bias, int64_t count,
                            enum dtype dtype)
{
    for (int64_t i = 0; i < count; i += LANES) {
        float_lanes value;
        lanes_load_some(&value, sums, i, count - i, DTYPE_FLOAT32);
        if (bias != NULL) {
            float_lanes added;
            lanes_load_some(&added, bias, i, count - i, DTYPE_FLOAT32);
            value += added;
        }
        lanes_store_some(out, i, &value, count - i, dtype);
    }
}

LANES_INLINE void store_exact_row(void *out, const int32_t *sums, float line_scale,
                                  const float *scales, const float *bias, int64_t count,
                                  enum dtype dtype)
{
    for (int64_t i = 0; i < count; i += LANES) {
        int_lanes exact; /* sums and scales are of whole panels */
        float_lanes value, scale;
        memcpy(&exact, sums + i, sizeof exact);
        lanes_load(&scale, scales, i, DTYPE_FLOAT32);
        value = __builtin_convertvector(exact, float_lanes) * (scale * line_scale);
        if (bias != NULL) {
            float_lanes added;
            lanes_load_some(&added, bias, i, count - i, DTYPE_FLOAT32);
            value += added;
        }
        lanes_store_some(out, i, &value, count - i, dtype);
    }
}

LANES_INLINE void store_scaled_row(void *out, const float *sums, float factor, int64_t count,
                                   enum dtype dtype)
{
    for (int64_t i = 0; i < count; i += LANES) {
        float_lanes value;
        lanes_load_some(&value, sums, i, count - i, DTYPE_FLOAT32);
        value *= factor;
        lanes_store_some(out, i, &value, count - i, dtype);
    }
}

LANES_INLINE void add_rmsnorm_row(void *out, float *residual, const void *delta, const float *scale,
                                  float epsilon, int64_t columns, enum dtype dtype)
{
    float_lanes squares = {0};
    for (int64_t i = 0; i < columns; i += LANES) {
        float_lanes value;
        lanes_load_some(&value, residual, i, columns - i, DTYPE_FLOAT32);
        if (delta != NULL) {
            float_lanes added;
            lanes_load_some(&added, delta, i, columns - i, dtype);
            value += added;
            lanes_store_some(residual, i, &value, columns - i, DTYPE_FLOAT32);
        }
        squares += value * value;
    }
    float factor = 1.0f / sqrtf(lanes_sum(&squares) / (float)columns + epsilon);
    for (int64_t i = 0; i < columns; i += LANES) {
        float_lanes value, weight;
        lanes_load_some(&value, residual, i, columns - i, DTYPE_FLOAT32);
        lanes_load_some(&weight, scale, i, columns - i, DTYPE_FLOAT32);
        value = value * factor * weight;
        lanes_store_some(out, i, &value, columns - i, dtype);
    }
}

LANES_INLINE void swiglu_row(void *out, const void *gate, const void *up, int64_t width,
                             enum dtype dtype)
{
    for (int64_t i = 0; i < width; i += LANES) {
        float_lanes value, factor;
        lanes_load_some(&value, gate, i, width - i, dtype);
        lanes_load_some(&factor, up, i, width - i, dtype);
        if (dtype == DTYPE_BFLOAT16)
            lanes_silu_half(&value);
        else
            lanes_silu(&value);
        value *= factor;
        lanes_store_some(out, i, &value, width - i, dtype);
    }
}

LANES_INLINE void rope_head(void *head, const float *scale, float epsilon, const float *cosines,
                            const float *sines, int64_t head_dim, int64_t rotary_dim,
                            enum dtype dtype)
{
    float values[HEAD_DIM_MAX], rotated[HEAD_DIM_MAX];
    int64_t half = rotary_dim / 2;

    for (int64_t i = 0; i < head_dim; i += LANES) {
        float_lanes value;
        lanes_load_some(&value, head, i, head_dim - i, dtype);
        lanes_store(values, i, &value, DTYPE_FLOAT32);
    }
    if (scale != NULL) {
        float_lanes squares = {0};
        for (int64_t i = 0; i < head_dim; i += LANES) {
            float_lanes value; /* lanes behind head_dim were loaded as 0 */
            lanes_load(&value, values, i, DTYPE_FLOAT32);
            squares += value * value;
        }
        float factor = 1.0f / sqrtf(lanes_sum(&squares) / (float)head_dim + epsilon);
        for (int64_t i = 0; i < head_dim; i++)
            values[i] = values[i] * factor * scale[i];
    }
    for (int64_t i = 0; i < half; i++) {
        rotated[i] = values[i] * cosines[i] - values[i + half] * sines[i];
        rotated[i + half] = values[i + half] * cosines[i] + values[i] * sines[i];
    }
    for (int64_t i = rotary_dim; i < head_dim; i++)
        rotated[i] = values[i];
    store_row(head, rotated, NULL, head_dim, dtype);
}

static float row_max(const float *row, int64_t count)
{
    float_lanes largest = {0}, other;
    largest += -INFINITY;
    other = largest;
    int64_t i = 0;
    for (; i + 2 * LANES <= count; i += 2 * LANES) {
        float_lanes first, second;
        lanes_load(&first, row, i, DTYPE_FLOAT32);
        lanes_load(&second, row, i + LANES, DTYPE_FLOAT32);
        lanes_raise(&largest, &first);
        lanes_raise(&other, &second);
    }
    lanes_raise(&largest, &other);
    float result = lanes_max(&largest);
    for (; i < count; i++)
        result = row[i] > result ? row[i] : result;
    return result;
}

/* t = max(t, -87), which it is for NaN too, and e = e^t; t <= 0 */
LANES_INLINE void exp_of_difference(float_lanes *e, float_lanes *t)
{
#if defined __AVX512F__
    __m512 raised = _mm512_max_ps((__m512)*t, _mm512_set1_ps(-87.0f));
    *t = (float_lanes)raised;
    *e = (float_lanes)power_of_two(_mm512_mul_ps(raised, _mm512_set1_ps(LOG2_E)), POWER_DEGREE_5);
#else
    int_lanes in_range = *t > -87.0f;
    lanes_keep_where(t, &in_range, -87.0f);
    *e = *t;
    lanes_exp(e);
#endif
}

static void row_exp_sums(double *sum, double *weighted, const float *row, int64_t count,
                         float maximum)
{
    /* Short float sums, long double ones: the error stays near 1e-7 for any vocabulary. */
    const int64_t chunk = 32 * LANES;
    *sum = 0;
    *weighted = 0;
    for (int64_t begin = 0; begin < count; begin += chunk) {
        int64_t end = begin + chunk < count ? begin + chunk : count;
        float_lanes part = {0}, part_weighted = {0};
        for (int64_t i = begin; i < end; i += LANES) {
            float_lanes t, e;
            if (end - i >= LANES) {
                lanes_load(&t, row, i, DTYPE_FLOAT32);
            } else {
                float tail[LANES];
                for (int64_t j = 0; j < LANES; j++)
                    tail[j] = i + j < end ? row[i + j] : -INFINITY;
                lanes_load(&t, tail, 0, DTYPE_FLOAT32);
            }
            t -= maximum;
            exp_of_difference(&e, &t);
            part += e;
            part_weighted += e * t;
        }
        *sum += (double)lanes_sum(&part);
        *weighted += (double)lanes_sum(&part_weighted);
    }
}

static int64_t find_greater(const float *row, int64_t begin, int64_t end, float threshold)
{
    int64_t i = begin;
    for (; i + LANES <= end; i += LANES) {
        uint32_t bits = lanes_greater(row + i, threshold);
        if (bits != 0)
            return i + __builtin_ctz(bits);
    }
    while (i < end && !(row[i] > threshold))
        i++;
    return i;
}

/*
 * Quantising is plain loops: compilers turn them into better code than lanes of integers. Compared
 * as integers, NaN and infinities are the largest magnitudes.
 */
static float largest_float32(const void *line, int64_t count)
{
    const float *values = line;
    int32_t most = 0;
    for (int64_t i = 0; i < count; i++) {
        int32_t magnitude;
        memcpy(&magnitude, values + i, sizeof magnitude);
        magnitude &= 0x7fffffff;
        most = magnitude > most ? magnitude : most;
    }
    float largest;
    memcpy(&largest, &most, sizeof largest);
    return largest;
}

static float largest_bfloat16(const void *line, int64_t count)
{
    const uint16_t *values = line;
    uint16_t most = 0;
    for (int64_t i = 0; i < count; i++) {
        uint16_t magnitude = values[i] & 0x7fff;
        most = magnitude > most ? magnitude : most;
    }
    return bfloat16_to_float(most);
}

LANES_INLINE void quantise_row(uint8_t *restrict out, const void *restrict line, int64_t count,
                               float inverse, enum dtype dtype)
{
    /* 1.5 * 2^23: adding it rounds to an integer, which is left in the low bits of the sum. */
    const float shift = 0x1.8p23f;
    for (int64_t i = 0; i < count; i++) {
        float value = dtype == DTYPE_BFLOAT16 ? bfloat16_to_float(((const uint16_t *)line)[i])
                                              : ((const float *)line)[i];
        value *= inverse;
        value += shift;
        uint32_t bits;
        memcpy(&bits, &value, sizeof bits);
        out[i] = (uint8_t)(bits + 128);
    }
    for (int64_t i = count; i % 4 != 0; i++)
        out[i] = 128;
}

static void store_float32(void *out, const float *sums, const float *bias, int64_t count)
{
    store_row(out, sums, bias, count, DTYPE_FLOAT32);
}

static void store_bfloat16(void *out, const float *sums, const float *bias, int64_t count)
{
    store_row(out, sums, bias, count, DTYPE_BFLOAT16);
}

static void store_exact_float32(void *out, const int32_t *sums, float line_scale,
                                const float *scales, const float *bias, int64_t count)
{
    store_exact_row(out, sums, line_scale, scales, bias, count, DTYPE_FLOAT32);
}

static void store_scaled_float32(void *out, const float *sums, float factor, int64_t count)
{
    store_scaled_row(out, sums, factor, count, DTYPE_FLOAT32);
}

static void add_rmsnorm_float32(void *out, float *residual, const void *delta, const float *scale,
                                float epsilon, int64_t columns)
{
    add_rmsnorm_row(out, residual, delta, scale, epsilon, columns, DTYPE_FLOAT32);
}

static void store_exact_bfloat16(void *out, const int32_t *sums, float line_scale,
                                 const float *scales, const float *bias, int64_t count)
{
    store_exact_row(out, sums, line_scale, scales, bias, count, DTYPE_BFLOAT16);
}

static void store_scaled_bfloat16(void *out, const float *sums, float factor, int64_t count)
{
    store_scaled_row(out, sums, factor, count, DTYPE_BFLOAT16);
}

static void add_rmsnorm_bfloat16(void *out, float *residual, const void *delta, const float *scale,
                                 float epsilon, int64_t columns)
{
    add_rmsnorm_row(out, residual, delta, scale, epsilon, columns, DTYPE_BFLOAT16);
}

static void swiglu_float32(void *out, const void *gate, const void *up, int64_t width)
{
    swiglu_row(out, gate, up, width, DTYPE_FLOAT32);
}

static void swiglu_bfloat16(void *out, const void *gate, const void *up, int64_t width)
{
    swiglu_row(out, gate, up, width, DTYPE_BFLOAT16);
}

static void rope_float32(void *head, const float *scale, float epsilon, const float *cosines,
                         const float *sines, int64_t head_dim, int64_t rotary_dim)
{
    rope_head(head, scale, epsilon, cosines, sines, head_dim, rotary_dim, DTYPE_FLOAT32);
}

static void rope_bfloat16(void *head, const float *scale, float epsilon, const float *cosines,
                          const float *sines, int64_t head_dim, int64_t rotary_dim)
{
    rope_head(head, scale, epsilon, cosines, sines, head_dim, rotary_dim, DTYPE_BFLOAT16);
}

static void quantise_float32(uint8_t *out, const void *line, int64_t count, float inverse)
{
    quantise_row(out, line, count, inverse, DTYPE_FLOAT32);
}

static void quantise_bfloat16(uint8_t *out, const void *line, int64_t count, float inverse)
{
    quantise_row(out, line, count, inverse, DTYPE_BFLOAT16);
}

/* The table that each including file defines under its own name. */
#define ELEMENTWISE_TABLE                                                                          \
    {                                                                                              \
        [DTYPE_FLOAT32] = {.store = store_float32,                                                 \
                           .store_scaled = store_scaled_float32,                                   \
                           .store_exact = store_exact_float32,                                     \
                           .add_rmsnorm = add_rmsnorm_float32,                                     \
                           .swiglu = swiglu_float32,                                               \
                           .rope = rope_float32,                                                   \
                           .largest = largest_float32,                                             \
                           .quantise = quantise_float32,                                           \
                           .row_max = row_max,                                                     \
                           .row_exp_sums = row_exp_sums,                                           \
                           .find_greater = find_greater},                                          \
        [DTYPE_BFLOAT16] = {                                                                       \
            .store = store_bfloat16,                                                               \
            .store_scaled = store_scaled_bfloat16,                                                 \
            .store_exact = store_exact_bfloat16,                                                   \
            .add_rmsnorm = add_rmsnorm_bfloat16,                                                   \
            .swiglu = swiglu_bfloat16,                                                             \
            .rope = rope_bfloat16,                                                                 \
            .largest = largest_bfloat16,                                                           \
            .quantise = quantise_bfloat16,                                                         \
            .row_max = row_max,                                                                    \
            .row_exp_sums = row_exp_sums,                                                          \
            .find_greater = find_greater                                                           \
        }                                                                                          \
    }

#endif

/*
 * What the head's kernels share: numbers as ordered integers, and the noise of sampling. Device
 * code.
 */
#ifndef KERNELS_CUDA_HEAD_DEVICE_H
#define KERNELS_CUDA_HEAD_DEVICE_H

#include <math.h>
#include <string.h>

#include "kernels/cuda/head_kernels.h"
#include "kernels/cuda/philox.h"
#include "kernels/cuda/vectors.h"

SIMT_DEVICE const void *head_table_at(const struct head_tables *tables, uint32_t offset)
{
    return (const char *)tables + offset;
}

SIMT_DEVICE const struct head_table_row *head_row_at(const struct head_tables *tables, int32_t row)
{
    return (const struct head_table_row *)head_table_at(tables, tables->rows_at) + row;
}

/* Behind the last token that may be chosen. */
SIMT_DEVICE int32_t head_candidate_end(const struct head_arguments &arguments)
{
    int32_t limit = arguments.tables->token_limit;
    return limit < arguments.vocabulary ? limit : arguments.vocabulary;
}

/* ---- order ----------------------------------------------------------------------------------- */

/* Rises with the value. Both zeros have the key of 0; value is no NaN. */
SIMT_DEVICE uint32_t head_key_of_logit(float value)
{
    uint32_t bits = simt_bits_of_float(value + 0.0f);
    return bits >> 31 != 0 ? ~bits : bits | 0x80000000u;
}

SIMT_DEVICE float head_logit_of_key(uint32_t key)
{
    return simt_float_of_bits(key >> 31 != 0 ? key & 0x7fffffffu : ~key);
}

static const uint32_t HEAD_KEY_OF_NOTHING = 0x007fffffu; /* of -infinity */

SIMT_DEVICE uint64_t head_key_of_score(double score)
{
    uint64_t bits;
    score += 0.0;
    memcpy(&bits, &score, sizeof bits);
    return bits >> 63 != 0 ? ~bits : bits | 1ull << 63;
}

SIMT_DEVICE double head_score(uint64_t key)
{
    uint64_t bits = key >> 63 != 0 ? key & ~(1ull << 63) : ~key;
    double score;
    memcpy(&score, &bits, sizeof score);
    return score;
}

SIMT_DEVICE float head_log_probability(float logit, double logsumexp)
{
    return logit == -INFINITY ? -INFINITY : (float)((double)logit - logsumexp);
}

/* ---- noise ----------------------------------------------------------------------------------- */

/* Above the largest noise that there is, -log(-log(1 - 2^-33)) = 22.87. */
static const float HEAD_NOISE_MAX = 23.0f;

/* common/rng.h for one row. */
struct head_noise {
    uint32_t key[2], position, round;
    float temperature, inverse;
};

SIMT_DEVICE struct head_noise head_noise_of(const struct head_row &row)
{
    return {{(uint32_t)row.seed, (uint32_t)(row.seed >> 32)},
            row.position,
            row.round,
            row.temperature,
            1.0f / row.temperature};
}

/* The words of tokens 4 group to 4 group + 3, of the stream RNG_GUMBEL, which is 0. */
SIMT_DEVICE void head_noise_words(uint32_t (&words)[4], const struct head_noise &noise,
                                  uint32_t group)
{
    const uint32_t counter[4] = {group, noise.position, noise.round, 0};
    philox(words, counter, noise.key);
}

/*
 * logit / T + noise in float32. With t = -log(u) the noise is -log(t), so that its error is the
 * relative one of t. Where u is near 1, t comes from v = 1 - u, which is exact.
 */
SIMT_DEVICE float head_near_score(const struct head_noise &noise, float logit, uint32_t word)
{
    const float ln_2 = 0.693147181f;
    bool is_high = word >> 31 != 0;
    float less = ((float)(is_high ? ~word : word) + 0.5f) * 0x1p-32f; /* the smaller of u, 1 - u */
    float t = -ln_2 * simt_log2(is_high ? 1.0f - less : less);
    if (is_high && less < 0x1p-8f)
        t = less + less * less * (0.5f + less * 0.333333333f);
    return logit * noise.inverse - ln_2 * simt_log2(t);
}

/*
 * Twice the error of two near scores around `largest`, and more: 1e-4 for the noise, and some
 * roundings of the quotient.
 */
SIMT_DEVICE float head_near_margin(float largest)
{
    return 1e-3f + 1e-6f * (fabsf(largest) + HEAD_NOISE_MAX);
}

/* The score that decides, as the reference has it. */
SIMT_DEVICE double head_exact_score(const struct head_noise &noise, float logit, uint32_t word)
{
    double uniform = ((double)word + 0.5) * 0x1p-32;
    return (double)logit / (double)noise.temperature - log(-log(uniform));
}

#endif

/*
 * What the head's kernels compute with one number at a time: the noise against common/rng.h, how
 * far the near scores may be from the exact ones, and the order of keys.
 */
#include <criterion/criterion.h>

#include "kernels/cuda/head_device.h"

extern "C" {
#include "common/rng.h"
}

static uint64_t random_state = 1;

static uint32_t random_word()
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 32);
}

static struct head_noise noise_at(float temperature)
{
    struct head_row row = {};
    row.seed = 0xfedcba9876543210u;
    row.position = 77;
    row.round = 5;
    row.temperature = temperature;
    return head_noise_of(row);
}

Test(head_noise, words_are_those_of_the_counter)
{
    for (uint32_t token = 0; token < 100; token++) {
        uint32_t words[4];
        head_noise_words(words, noise_at(1), token / 4);
        cr_assert_eq(words[token % 4], rng_word(0xfedcba9876543210u, 77, 5, RNG_GUMBEL, token));
    }
}

static void check_scores(const struct head_noise &noise, float logit, uint32_t word)
{
    double expected = (double)logit / (double)noise.temperature + rng_gumbel(word);
    double exact = head_exact_score(noise, logit, word);
    float near = head_near_score(noise, logit, word);
    cr_assert_eq(exact, expected, "word %08x", word);
    cr_assert_lt(rng_gumbel(word), (double)HEAD_NOISE_MAX);
    cr_assert_leq(fabs((double)near - exact), (double)head_near_margin(near) / 4,
                  "word %08x, logit %g / %g: %.9g for %.9g", word, (double)logit,
                  (double)noise.temperature, (double)near, exact);
}

/* A quarter of the margin, half of what is needed: the device's logarithm is less exact. */
Test(head_noise, near_scores_are_within_their_margin)
{
    static const float temperatures[] = {1, 0.01f, 1e-6f, 7.3f, 100};
    for (float temperature : temperatures) {
        const struct head_noise noise = noise_at(temperature);
        for (uint32_t i = 0; i < 40000; i++) {
            uint32_t word = random_word();
            float logit = (float)(int32_t)random_word() * 0x1p-26f;
            check_scores(noise, logit, word);
            /* The ends, where the noise is largest, and the places where the formula changes. */
            check_scores(noise, logit, word >> (i % 32));
            check_scores(noise, logit, ~(word >> (i % 32)));
            check_scores(noise, logit, 0x80000000u + (i % 2 == 0 ? i : ~i));
            check_scores(noise, logit, 0xff000000u + (i % 2 == 0 ? i : ~i));
        }
    }
}

Test(head_noise, keys_rise_with_the_value)
{
    static const float values[] = {-INFINITY, -3e38f, -2, -1e-45f, 0, 1e-45f, 2, 3e38f, INFINITY};
    cr_assert_eq(head_key_of_logit(-INFINITY), HEAD_KEY_OF_NOTHING);
    cr_assert_eq(head_key_of_logit(-0.0f), head_key_of_logit(0.0f));
    cr_assert_eq(head_key_of_score(-0.0), head_key_of_score(0.0));
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
        cr_assert_eq(head_logit_of_key(head_key_of_logit(values[i])), values[i]);
        cr_assert_eq(head_score(head_key_of_score(values[i])), (double)values[i]);
        if (i == 0)
            continue;
        cr_assert_gt(head_key_of_logit(values[i]), head_key_of_logit(values[i - 1]));
        cr_assert_gt(head_key_of_score(values[i]), head_key_of_score(values[i - 1]));
    }
}

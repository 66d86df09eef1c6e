#include <math.h>
#include <stdint.h>

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include "common/rng.h"

/* Known answers of the Random123 distribution. */
Test(rng, philox_gives_the_known_answers)
{
    static const struct {
        uint32_t counter[4], key[2], out[4];
    } cases[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint32_t out[4];
        rng_philox(out, cases[i].counter, cases[i].key);
        for (int word = 0; word < 4; word++) {
            cr_assert(eq(u32, out[word], cases[i].out[word]), "case %zu word %d", i, word);
        }
    }
}

Test(rng, sampling_gives_the_known_answers)
{
    static const struct {
        uint64_t seed;
        uint32_t position, round, stream, token, word;
        double uniform, gumbel;
    } cases[] = {
        {0, 0, 1, RNG_GUMBEL, 0, 0x844515e1, 0.51667916064616293, 0.415010759013007},
        {1, 9, 1, RNG_GUMBEL, 5, 0xfd2beabe, 0.98895136977080256, 4.49989890313058},
        {42, 100, 7, RNG_GUMBEL, 126335, 0xba080443, 0.72668482444714755, 1.1417418673389},
        {1099511627779, 31, 2, RNG_ORIGIN, 0, 0xa86c9b81, 0.65790721809025854, 0.870621233012506},
        {123456789, 5, 3, RNG_RANDOM_ORDER, 0, 0x809a4a03, 0.50235426507424563, 0.373313019596153},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint32_t word = rng_word(cases[i].seed, cases[i].position, cases[i].round, cases[i].stream,
                                 cases[i].token);
        cr_assert(eq(u32, word, cases[i].word), "case %zu", i);
        cr_assert(eq(dbl, rng_uniform(word), cases[i].uniform), "case %zu", i);
        cr_assert(epsilon_eq(dbl, rng_gumbel(word), cases[i].gumbel, 1e-13), "case %zu", i);
    }
}

Test(rng, extreme_words_stay_inside_the_open_interval)
{
    cr_assert(gt(dbl, rng_uniform(0), 0.0));
    cr_assert(lt(dbl, rng_uniform(UINT32_MAX), 1.0));
    cr_assert(isfinite(rng_gumbel(0)));
    cr_assert(isfinite(rng_gumbel(UINT32_MAX)));
}

Test(rng, seeds_differ_and_fit_a_json_number)
{
    uint64_t first = rng_random_seed(), second = rng_random_seed();
    cr_assert(ne(u64, first, second));
    for (int i = 0; i < 1000; i++) {
        cr_assert(lt(u64, rng_random_seed(), UINT64_C(1) << 53));
    }
}

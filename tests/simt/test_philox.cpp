/* kernels/cuda/philox.h against common/rng.h. */
#include <criterion/criterion.h>

#include "kernels/cuda/philox.h"

extern "C" {
#include "common/rng.h"
}

Test(philox, words_are_those_of_the_host)
{
    uint32_t counter[4] = {0, 0, 0, 0}, key[2] = {0, 0};
    for (int i = 0; i < 1000; i++) {
        uint32_t words[4], expected[4];
        philox(words, counter, key);
        rng_philox(expected, counter, key);
        cr_assert_arr_eq(words, expected, sizeof expected, "number %d", i);
        /* The next ones are any numbers, of all 32 bits. */
        for (int k = 0; k < 4; k++)
            counter[k] = expected[k];
        key[i % 2] ^= expected[i % 4];
    }
}

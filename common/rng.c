#include "common/rng.h"

#include <math.h>
#include <sys/random.h>
#include <unistd.h>

#include "common/clock.h"

/* The paper's constants: two multipliers, and Weyl steps (golden ratio, sqrt(3) - 1) for the key.
 */
enum { PHILOX_ROUNDS = 10 };
static const uint32_t PHILOX_MULTIPLIER[2] = {0xD2511F53u, 0xCD9E8D57u};
static const uint32_t PHILOX_KEY_STEP[2] = {0x9E3779B9u, 0xBB67AE85u};

void rng_philox(uint32_t out[4], const uint32_t counter[4], const uint32_t key[2])
{
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    uint32_t k0 = key[0], k1 = key[1];
    for (int i = 0; i < PHILOX_ROUNDS; i++) {
        uint64_t product0 = (uint64_t)PHILOX_MULTIPLIER[0] * c0;
        uint64_t product1 = (uint64_t)PHILOX_MULTIPLIER[1] * c2;
        c0 = (uint32_t)(product1 >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)product1;
        c2 = (uint32_t)(product0 >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)product0;
        k0 += PHILOX_KEY_STEP[0];
        k1 += PHILOX_KEY_STEP[1];
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

uint32_t rng_word(uint64_t seed, uint32_t position, uint32_t round, uint32_t stream, uint32_t token)
{
    const uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    const uint32_t counter[4] = {token >> 2, position, round, stream};
    uint32_t words[4];
    rng_philox(words, counter, key);
    return words[token & 3];
}

double rng_uniform(uint32_t word)
{
    return ((double)word + 0.5) * 0x1p-32;
}

double rng_gumbel(uint32_t word)
{
    return -log(-log(rng_uniform(word)));
}

uint64_t rng_random_seed(void)
{
    uint64_t seed;
    if (getrandom(&seed, sizeof seed, 0) != (ssize_t)sizeof seed) {
        /* A kernel without the call: a seed need not be secret, only different each time. */
        static const uint32_t key[2] = {0, 0};
        uint64_t wall = (uint64_t)clock_wall_us(), now = (uint64_t)clock_now_us();
        const uint32_t counter[4] = {(uint32_t)wall, (uint32_t)(wall >> 32), (uint32_t)now,
                                     (uint32_t)getpid()};
        uint32_t words[4];
        rng_philox(words, counter, key);
        seed = (uint64_t)words[1] << 32 | words[0];
    }
    return seed >> 11;
}

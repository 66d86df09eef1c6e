/*
 * Random numbers as a pure function of where they are used (Philox4x32-10 of Salmon et al.,
 * "Parallel random numbers: as easy as 1, 2, 3", SC 2011), so that a result does not depend on the
 * batch, the thread or the order. Any thread.
 */
#ifndef COMMON_RNG_H
#define COMMON_RNG_H

#include <stdint.h>

/* Which use a number serves: numbers of different streams are independent. */
enum rng_stream { RNG_GUMBEL = 0, RNG_ORIGIN = 1, RNG_RANDOM_ORDER = 2 };

void rng_philox(uint32_t out[4], const uint32_t counter[4], const uint32_t key[2]);

/*
 * The word for one token: word (token & 3) of Philox with key (seed low, seed high) and counter
 * (token >> 2, position, round, stream). position counts from the canvas start, round from 1.
 */
uint32_t rng_word(uint64_t seed, uint32_t position, uint32_t round, uint32_t stream,
                  uint32_t token);

double rng_uniform(uint32_t word); /* (word + 0.5) / 2^32, in (0, 1) */
double rng_gumbel(uint32_t word);  /* -log(-log(rng_uniform(word))) */

/* A seed from the system's random source, below 2^53: a client's JSON number holds it exactly. */
uint64_t rng_random_seed(void);

#endif

/*
 * An engine on the fake backend with a driven clock, for tests of whole schedules. Everything here
 * fails the running Criterion test instead of returning an error.
 */
#ifndef TESTS_UNIT_ENGINE_HARNESS_H
#define TESTS_UNIT_ENGINE_HARNESS_H

#include <stdbool.h>
#include <stdint.h>

#include "server/engine/engine.h"
#include "server/engine/engine_internal.h"
#include "tests/support/fake_backend.h"

struct harness {
    struct model *model;
    struct engine *engine;
    int64_t now_us;
    int64_t ticks;
};

/* xorshift64*: what is drawn is the same in every run. */
void random_begin(uint64_t seed); /* not 0 */
int32_t random_draw(int32_t min, int32_t max);

/* Room for `sequences` at once, each of up to 128 positions, and for `waiting` more. */
struct engine_options harness_options(int32_t sequences, int32_t waiting);

void harness_create(struct harness *harness, const struct engine_options *options);
void harness_create_with(struct harness *harness, const struct engine_options *options,
                         const struct fake_options *fake);
/* Also checks that the backend's contract was kept and that no page or slot is held. */
void harness_free(struct harness *harness);

/*
 * [FAKE_VOCABULARY] The text of a token: up to three of the letters a to d, sometimes none;
 * HARNESS_FREE_TOKEN alone is "z", so that no banned word of these letters can rule it out.
 */
enum { HARNESS_FREE_TOKEN = 2 };
const struct token_text *harness_token_text(void);

/* A request with a prompt of prompt_length tokens made from prompt_seed. */
struct request *harness_request(int32_t prompt_length, int32_t prompt_seed,
                                const struct decode_params *params);
/* `first`, then siblings of it with the seeds that follow its own. */
void harness_siblings(struct request **out, int32_t count, struct request *first);
void harness_submit(struct harness *harness, struct request *request);
void harness_submit_all(struct harness *harness, struct request *const *requests, int32_t count);
bool harness_tick(struct harness *harness);
void harness_run(struct harness *harness); /* until nothing is left */

const struct draft *harness_draft(const struct request *request);
/* Tokens, confidences, top entries, rounds and ending of two drafts. */
bool drafts_are_equal(const struct draft *a, const struct draft *b);

#endif

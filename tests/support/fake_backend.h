/*
 * A backend without a model in it: the statistics of a head row are a hash of what a real one could
 * know (the tokens stored in the sequence's KV pages, its position, and seed and round where it
 * samples). So a result that depends on batch mates, on stale pages or on another sequence's pages
 * shows as other tokens. It counts what breaks the numeric contract. Free of Criterion.
 */
#ifndef TESTS_SUPPORT_FAKE_BACKEND_H
#define TESTS_SUPPORT_FAKE_BACKEND_H

#include <stdint.h>

#include "server/model/model.h"

enum {
    FAKE_MASK_TOKEN = 0,
    FAKE_STOP_TOKEN = 1, /* the model's EOS; proposed about once in 16 rows unless banned */
    FAKE_VOCABULARY = 64,
};

struct fake_options {
    int32_t max_positions;
    int64_t lose_device_at; /* step from 1 whose end reports a lost device; 0: never */
    int32_t bad_position;   /* rows at this position get no token; 0: none */
};

/* NULL when out of memory; freed with model_free. */
struct model *fake_model_create(const struct fake_options *options);

/* How often the engine broke the contract: shared pages, rows out of range, wrong head rows. */
int64_t fake_model_violations(const struct model *model);
/* Rows of the largest step so far. */
int32_t fake_model_largest_step(const struct model *model);

#endif

/*
 * What a request that says nothing gets: configured key > generation_config.json > the family's
 * table; and the presets that reasoning_effort stands for. Pure functions, any thread.
 */
#ifndef SERVER_API_DEFAULTS_H
#define SERVER_API_DEFAULTS_H

#include <stddef.h>

#include "server/engine/decode.h"

struct api;

struct decode_params defaults_read(const struct api *api);

/* The words of reasoning_effort, from least to most work; NULL behind the last. */
extern const char *const defaults_efforts[];

/*
 * Sets what a word of defaults_efforts stands for. steps and max_tokens belong together: with
 * selection steps and steps 0 a round commits one token.
 */
void defaults_apply_effort(struct decode_params *params, const struct api *api, const char *effort);

#endif

/*
 * What a request does to the rows of logits before a token is chosen: penalties, biases, allowed
 * and banned tokens and words. They end in decode_params; arrays live in the arena.
 */
#ifndef SERVER_API_ADJUSTMENTS_H
#define SERVER_API_ADJUSTMENTS_H

#include <jansson.h>

#include "server/engine/decode.h"

struct api;
struct api_error;
struct arena;

/* Reads presence_penalty to allowed_token_ids of a body that fields_check has passed. */
int adjustments_read(struct decode_params *params, const struct api *api, const json_t *body,
                     struct arena *arena, struct api_error *err);

/*
 * Gives every array that params points to a copy in this arena: one that lives as long as the
 * engine may look at it. ERROR_MEMORY.
 */
int adjustments_copy(struct decode_params *params, const struct api *api, struct arena *arena);

#endif

/*
 * A request: one prompt, its parameters and its event stream, in an arena of its own. Reference
 * counted: the side that made it holds one reference, the engine one from submit until it is done.
 */
#ifndef SERVER_ENGINE_REQUEST_H
#define SERVER_ENGINE_REQUEST_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/arena.h"
#include "server/engine/decode.h"
#include "server/engine/stream.h"

struct error;

struct request {
    /* Set before submit, constant afterwards. */
    struct arena arena;
    int32_t *prompt; /* [prompt_length] */
    int32_t prompt_length;
    struct decode_params params; /* choice k runs with seed params.seed + k */
    int32_t choices;
    int64_t arrival_us;
    int64_t deadline_us; /* INT64_MAX: none */

    struct stream stream;
    atomic_bool cancelled; /* any thread; the engine frees the rows at its next tick */
    atomic_int references;

    struct request *next; /* engine: intake and queue */
    int32_t unfinished;   /* engine: choices still queued or running */
};

/* One reference. Copies the prompt (prompt_length >= 1; ids are checked by the caller). */
int request_create(struct request **out, const int32_t *prompt, int32_t prompt_length,
                   const struct decode_params *params, int32_t choices, int32_t mask_token,
                   struct error *err);
struct request *request_retain(struct request *request);
void request_release(struct request *request); /* NULL is fine; frees with the last one */
void request_cancel(struct request *request);

#endif

/*
 * The canvas of one sequence: prompt and answer positions, masked where undecided, and what is
 * known about the answer so far. Memory for the longest canvas is taken once; a canvas is filled
 * again for every sequence. Engine thread only.
 */
#ifndef SERVER_ENGINE_CANVAS_H
#define SERVER_ENGINE_CANVAS_H

#include <stdint.h>

#include "server/engine/decode.h"
#include "server/engine/stream.h"

struct error;

struct canvas {
    int32_t *tokens; /* [limit]; [prompt_length, length) is the answer */
    int32_t limit, prompt_length, length;
    int32_t mask_token;
    int32_t *top_token; /* [limit, HEAD_RAW_TOP_MAX] of which a draft uses the beginning */
    float *top_logprob;
    struct draft answer; /* answer.tokens points into tokens */
};

int canvas_create(struct canvas *canvas, int32_t limit, struct error *err);
void canvas_free(struct canvas *canvas);

/*
 * A fresh canvas: the prompt, then max_tokens masks. The sum must fit the limit. The draft keeps no
 * top entries until canvas_keep_tops.
 */
void canvas_begin(struct canvas *canvas, const int32_t *prompt, int32_t prompt_length,
                  int32_t max_tokens, int32_t mask_token);

/*
 * From now on the draft keeps top_count entries a position, at most HEAD_RAW_TOP_MAX. The canvas
 * touches no more of its memory for them than drafts have needed, which for most is none.
 */
void canvas_keep_tops(struct canvas *canvas, int32_t top_count);

/* Puts a token into a masked answer position (counted from the canvas start). */
void canvas_commit(struct canvas *canvas, int32_t position, int32_t token, float confidence,
                   float raw_logprob);

/* Keeps the first top_count entries, the most that the draft keeps, of a committed position. */
void canvas_set_tops(struct canvas *canvas, int32_t position, const int32_t *top_token,
                     const float *top_logprob);

/*
 * Moves answer.settled behind the committed prefix and answer.text_tokens behind the settled tokens
 * before the first stop id.
 */
void canvas_settle(struct canvas *canvas, const struct decode_params *params);

#endif

/*
 * What a request asks for, after defaults: request field > configured key > generation_config.json
 * > the family's table. Plain values; texts live in the arena that parameters_read was given.
 */
#ifndef SERVER_API_PARAMETERS_H
#define SERVER_API_PARAMETERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <jansson.h>

#include "server/api/answer_text.h"
#include "server/engine/decode.h"

struct api;
struct api_error;
struct arena;

enum { STOP_STRINGS_MAX = 16 };

#define DEFAULT_MASK_TEXT "\xe2\x96\x91" /* U+2591, for diffusing_mask */

struct api_parameters {
    int32_t choices; /* n */
    bool stream, include_usage, diffusing;
    bool return_token_ids, return_confidences;
    bool logprobs;         /* with decode.top_logprobs of the best tokens each */
    bool echo;             /* the prompt's text before the answer's */
    const char *mask_text; /* [mask_length] shown for a masked position */
    size_t mask_length;
    struct stop_string *stops; /* [stop_count] */
    size_t stop_count;
    /* max_tokens and, with selection steps, steps are set for a prompt by parameters_fit; the
     * negative prompt is its reader's. */
    struct decode_params decode;
    bool max_tokens_asked; /* by the request: too many are an error, not cut to what fits */
};

/* Reads a body that fields_check has passed. */
int parameters_read(struct api_parameters *out, const struct api *api, const json_t *body,
                    struct arena *arena, struct api_error *err);

/*
 * The longest answer that this server can give to a prompt and, with guidance, to its partner's
 * (-1: no guidance). 0: none.
 */
int32_t parameters_answer_limit(const struct api *api, int32_t prompt_length,
                                int32_t partner_prompt_length);

/*
 * The parameters of one prompt: a max_tokens that was not asked for is cut to what the server can
 * run. context_length_exceeded where prompt and answer do not fit the context; param is then
 * max_tokens, negative_prompt, or empty for the prompt.
 */
int parameters_fit(struct decode_params *out, const struct api_parameters *parameters,
                   const struct api *api, int32_t prompt_length, struct api_error *err);

#endif

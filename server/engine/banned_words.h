/*
 * Banned words: byte strings that the joined text of an answer must not contain. A word inside one
 * token is excluded once and for all (the token is not allowed); a word that is put together from
 * several tokens is refused where its last part would be committed. Pure functions.
 *
 * The joined text is what the committed tokens between two masks, stop ids or ends of the answer
 * add to the text: a stop id ends it, and the prompt is no part of it.
 */
#ifndef SERVER_ENGINE_BANNED_WORDS_H
#define SERVER_ENGINE_BANNED_WORDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "server/engine/canvas.h"
#include "server/engine/decode.h"

/* What a check needs beyond the canvas. */
struct word_check {
    const struct decode_params *params;
    const struct token_text *token_text; /* [size of the tokenizer] */
    char *scratch;                       /* [banned_words_scratch_size] */
};

/* Bytes of scratch for any check with these tokens. */
size_t banned_words_scratch_size(const struct token_text *token_text, int32_t token_count);

/* Clears the bits of all tokens below token_count that hold a banned word. Any thread. */
void banned_words_exclude_tokens(uint32_t *allowed, const struct decode_params *params,
                                 const struct token_text *token_text, int32_t token_count);

/* True when the token, put into a masked position, would complete a banned word with the tokens
 * committed around it. Never true of stop ids. */
bool banned_words_would_complete(const struct word_check *check, const struct canvas *canvas,
                                 int32_t position, int32_t token);

#endif

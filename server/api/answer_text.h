/*
 * From tokens to text: where an answer ends (stop ids, stop strings), what of it can no longer
 * change, and how a draft with masked positions looks. Pure functions over the caller's memory;
 * every one of them is linear in the canvas (times the stop strings).
 *
 * Bytes are kept raw and repaired to UTF-8 when written: a cut at `safe` never lies inside a
 * character, so pieces written one by one equal the whole.
 */
#ifndef SERVER_API_ANSWER_TEXT_H
#define SERVER_API_ANSWER_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buffer.h"

struct arena;
struct tokenizer;

/* A stop string with the fallback table of Knuth, Morris and Pratt. */
struct stop_string {
    const char *text; /* [length] length >= 1 */
    size_t length;
    size_t *fallback; /* [length] longest proper prefix of text that ends text[0..i] */
};

/* Copies the text into the arena. ERROR_MEMORY only. */
int stop_string_init(struct stop_string *out, const char *text, size_t length, struct arena *arena);

struct answer_rules {
    const struct tokenizer *tokenizer;
    int32_t mask_token;
    const int32_t *stop_tokens; /* [stop_token_count] */
    int32_t stop_token_count;
    const struct stop_string *stops; /* [stop_count] */
    size_t stop_count;
    const char *mask_text; /* [mask_length] well-formed UTF-8 */
    size_t mask_length;
};

bool answer_is_stop_token(const struct answer_rules *rules, int32_t id);

enum answer_end {
    ANSWER_OPEN,        /* later tokens may add to it */
    ANSWER_STOP_TOKEN,  /* cut before a stop id */
    ANSWER_STOP_STRING, /* cut before the stop string that is complete first */
    ANSWER_LENGTH,      /* the canvas is full */
    ANSWER_CANCELLED,   /* cut behind what was settled when the client ended it */
};

struct answer_text {
    struct buffer bytes; /* raw bytes of the tokens, special ones left out */
    size_t end;          /* the text is bytes[0 .. end) */
    size_t safe;         /* bytes[0 .. safe) stay whatever follows; = end unless ANSWER_OPEN */
    int32_t tokens;      /* tokens that the text is made of */
    enum answer_end ended;
};

/*
 * Reads the text of the leading `count` tokens, all of them settled. `otherwise` is how it ends
 * where neither stop id nor stop string ends it: ANSWER_OPEN, ANSWER_LENGTH or ANSWER_CANCELLED,
 * which ends it at `safe`. bytes.failed when out of memory. The caller frees text->bytes.
 */
void answer_text_read(struct answer_text *text, const struct answer_rules *rules,
                      const int32_t *tokens, int32_t count, enum answer_end otherwise);

/* Bytes that the token adds to the text: none for special ids. */
size_t answer_token_length(const struct answer_rules *rules, int32_t id);

/*
 * Appends a draft's text, repaired: up to the first stop id, mask_text once for every masked
 * position, and for every token with bytes of a character that a mask beside it leaves unfinished.
 * `scratch` is used and cleared.
 */
void answer_text_append_draft(struct buffer *out, const struct answer_rules *rules,
                              const int32_t *tokens, int32_t count, struct buffer *scratch);

/* Appends the text of one token, repaired; nothing for stop and special ids. */
void answer_text_append_token(struct buffer *out, const struct answer_rules *rules, int32_t id);

#endif

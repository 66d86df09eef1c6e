/*
 * Tokenizer: tokenizer.json of type BPE over the byte-level alphabet, ids equal to those of the
 * Hugging Face library. Anything it cannot carry out exactly is refused by name at load. Owned by
 * the caller; immutable after load, so any number of threads may encode and decode at once.
 */
#ifndef SERVER_MODEL_TOKENIZER_H
#define SERVER_MODEL_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buffer;
struct error;
struct token_list;
struct tokenizer;

/* Reads a tokenizer.json. ERROR_INVALID or ERROR_UNSUPPORTED: the line names file and key. */
int tokenizer_load(struct tokenizer **out, const char *path, struct error *err);
void tokenizer_free(struct tokenizer *tokenizer); /* NULL is fine */

enum tokenizer_flags {
    TOKENIZER_MATCH_ADDED = 1,  /* added tokens are recognised in the text */
    TOKENIZER_POST_PROCESS = 2, /* the post-processor adds its tokens (BOS) */
};

/*
 * Appends the ids of a text (well-formed UTF-8; may hold NUL). ERROR_INVALID for ill-formed UTF-8,
 * ERROR_LIMIT for a text over 1 GiB or one on which the pre-tokenizer's regex does not come to an
 * end, ERROR_MEMORY; the list is then as before. Time is linear in the text but for a pre-token's n
 * log n.
 */
int tokenizer_encode(const struct tokenizer *tokenizer, const char *text, size_t length,
                     unsigned flags, struct token_list *out, struct error *err);

/*
 * A lower bound of the ids that tokenizer_encode gives for a text of so many bytes, whatever it
 * says: to refuse what is far too long without encoding it. 0 where this tokenizer has none.
 */
size_t tokenizer_least_tokens(const struct tokenizer *tokenizer, size_t length, unsigned flags);

/* A stretch of a rendered chat: only trusted (template) text may become an added token. */
struct text_segment {
    size_t begin, end; /* bytes of the text */
    bool trusted;
};

/*
 * Encodes a text whose segments (ascending, gapless) are template or content: added tokens are
 * matched inside trusted segments only; what lies between two matches is one run of plain text,
 * across segment borders. No post-processor.
 */
int tokenizer_encode_segments(const struct tokenizer *tokenizer, const char *text, size_t length,
                              const struct text_segment *segments, size_t segment_count,
                              struct token_list *out, struct error *err);

/* Appends the raw bytes of the ids, invalid UTF-8 included; ids without a token give nothing. */
void tokenizer_append_bytes(const struct tokenizer *tokenizer, const int32_t *ids, size_t count,
                            bool skip_special, struct buffer *out);

/* Appends text: the bytes with every ill-formed maximal subpart replaced by U+FFFD. */
void tokenizer_decode(const struct tokenizer *tokenizer, const int32_t *ids, size_t count,
                      bool skip_special, struct buffer *out);

/* The bytes of one id (length 0 where the id has no token). The memory belongs to the tokenizer. */
const char *tokenizer_token_bytes(const struct tokenizer *tokenizer, int32_t id, size_t *length);

/* One past the largest id. */
int32_t tokenizer_size(const struct tokenizer *tokenizer);
bool tokenizer_has_id(const struct tokenizer *tokenizer, int32_t id);
bool tokenizer_is_special(const struct tokenizer *tokenizer, int32_t id);
/* The id of a token by its exact content (added tokens first), or -1. */
int32_t tokenizer_find(const struct tokenizer *tokenizer, const char *content);

#endif

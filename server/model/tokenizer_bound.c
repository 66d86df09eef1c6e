/* How few tokens a text can become. */
#include <stdint.h>

#include "server/model/tokenizer.h"
#include "server/model/tokenizer_internal.h"

/*
 * Bytes of a text that one byte of its normal form stands for, at most: U+1D400, four bytes, is an
 * A in NFKC; in NFC three Hangul letters of three bytes each make one of three.
 */
enum { NORMAL_FORM_SHRINKS = 4 };

/* Whether bytes of a text can leave no trace, or any number of them one. */
static bool loses_bytes(const struct tokenizer *tokenizer)
{
    for (int i = 0; i < tokenizer->split_count; i++) {
        if (!tokenizer->splits[i].keep_matches || !tokenizer->splits[i].keep_gaps) {
            return true;
        }
    }
    for (int byte = 0; byte < 256; byte++) {
        bool lost = tokenizer->unknown_id < 0 || tokenizer->fuse_unknown;
        if (tokenizer->byte_ids[byte] < 0 && lost) {
            return true;
        }
    }
    return false;
}

static size_t longest(const struct token_strings *strings, int32_t count)
{
    size_t most = 1;
    for (int32_t i = 0; i < count; i++) {
        size_t length = strings->begin[i + 1] - strings->begin[i];
        most = length > most ? length : most;
    }
    return most;
}

void tokenizer_measure(struct tokenizer *tokenizer)
{
    tokenizer->bytes_per_token = 0;
    if (loses_bytes(tokenizer)) {
        return;
    }
    size_t of_bytes = longest(&tokenizer->bytes, tokenizer->size);
    /* An added token stands for its content, whatever its bytes are. */
    size_t of_content =
        longest(&tokenizer->content, tokenizer->vocabulary_size + tokenizer->added_count);
    size_t most = of_bytes > of_content ? of_bytes : of_content;
    tokenizer->bytes_per_token =
        tokenizer->normal_form == NORMAL_FORM_NONE ? most : most * NORMAL_FORM_SHRINKS;
}

size_t tokenizer_least_tokens(const struct tokenizer *tokenizer, size_t length, unsigned flags)
{
    for (int32_t i = 0; (flags & TOKENIZER_MATCH_ADDED) && i < tokenizer->added_count; i++) {
        if (tokenizer->added[i].left_strip || tokenizer->added[i].right_strip) {
            return 0; /* it takes any amount of white space with it */
        }
    }
    size_t each = tokenizer->bytes_per_token;
    return each == 0 ? 0 : length / each + (length % each != 0);
}

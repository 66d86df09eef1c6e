/* Pre-tokenizing: normalised text to the pieces that BPE sees, one split after the other. */
#include "server/model/tokenizer_internal.h"

/* Matching steps per byte of text, and for any text; beyond them a pattern is called pathological.
 */
enum { MATCH_LIMIT_PER_BYTE = 64, MATCH_LIMIT_LEAST = 10000000, MATCH_HEAP_KIB = 1 << 18 };

static int add_piece(struct encoder *encoder, int step, const char *text, size_t length);

static int match_error(struct encoder *encoder, const struct split_step *split, int code)
{
    char reason[160] = "";
    pcre2_get_error_message(code, (PCRE2_UCHAR *)reason, sizeof reason);
    int result = code == PCRE2_ERROR_NOMEMORY ? ERROR_MEMORY : ERROR_LIMIT;
    return error_set(encoder->err, result,
                     "tokenizer: the pre-tokenizer regex \"%.100s\" gave up on this text: %s",
                     split->name, reason);
}

/* The next match at or after `from`: 1 and its ends, 0 for none, or an error. */
static int find_match(struct encoder *encoder, int step, const char *text, size_t length,
                      size_t from, size_t *begin, size_t *end)
{
    const struct split_step *split = &encoder->tokenizer->splits[step];
    pcre2_match_data *match = encoder->matches[step];
    int count = pcre2_match(split->code, (PCRE2_SPTR)text, length, from, PCRE2_NO_UTF_CHECK, match,
                            encoder->match_limits);
    if (count == PCRE2_ERROR_JIT_STACKLIMIT) {
        /* The interpreter keeps its states on the heap, as many as the limits allow. */
        count = pcre2_match(split->code, (PCRE2_SPTR)text, length, from,
                            PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, match, encoder->match_limits);
    }
    if (count == PCRE2_ERROR_NOMATCH) {
        return 0;
    }
    if (count < 0) {
        return match_error(encoder, split, count);
    }
    const PCRE2_SIZE *ends = pcre2_get_ovector_pointer(match);
    *begin = ends[0];
    *end = ends[1];
    return 1;
}

static size_t character_length(const char *text)
{
    uint8_t first = (uint8_t)*text;
    return first < 0x80 ? 1 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
}

/*
 * Walks over the matches as the reference does: an empty match cuts the text where it is, but not
 * right behind the match before it.
 */
static int split_piece(struct encoder *encoder, int step, const char *text, size_t length)
{
    const struct split_step *split = &encoder->tokenizer->splits[step];
    size_t from = 0;
    size_t covered = 0;
    bool matched = false;
    while (from <= length) {
        size_t begin = 0;
        size_t end = 0;
        int found = find_match(encoder, step, text, length, from, &begin, &end);
        if (found < 0) {
            return found;
        }
        if (found == 0) {
            break;
        }
        if (begin == end && matched && covered == end) {
            from = end < length ? end + character_length(text + end) : length + 1;
            continue;
        }
        int result = 0;
        if (split->keep_gaps && begin > covered) {
            result = add_piece(encoder, step + 1, text + covered, begin - covered);
        }
        if (result == 0 && split->keep_matches && end > begin) {
            result = add_piece(encoder, step + 1, text + begin, end - begin);
        }
        if (result != 0) {
            return result;
        }
        matched = true;
        covered = end;
        from = end;
    }
    if (split->keep_gaps && covered < length) {
        return add_piece(encoder, step + 1, text + covered, length - covered);
    }
    return 0;
}

/* A piece, never empty, that reaches split number `step`. */
static int add_piece(struct encoder *encoder, int step, const char *text, size_t length)
{
    const struct tokenizer *tokenizer = encoder->tokenizer;
    if (step == tokenizer->prefix_space_at && text[0] != ' ') {
        buffer_clear(&encoder->prefixed);
        buffer_append_char(&encoder->prefixed, ' ');
        buffer_append(&encoder->prefixed, text, length);
        if (encoder->prefixed.failed) {
            return error_set(encoder->err, ERROR_MEMORY, "tokenizer: no memory for a text");
        }
        text = encoder->prefixed.data;
        length = encoder->prefixed.length;
    }
    if (step == tokenizer->split_count) {
        return encoder_add_word(encoder, text, length);
    }
    return split_piece(encoder, step, text, length);
}

int encoder_add_text(struct encoder *encoder, const char *text, size_t length)
{
    if (length == 0) {
        return 0;
    }
    uint64_t limit = (uint64_t)length * MATCH_LIMIT_PER_BYTE;
    if (limit < MATCH_LIMIT_LEAST) {
        limit = MATCH_LIMIT_LEAST;
    }
    pcre2_set_match_limit(encoder->match_limits, limit < UINT32_MAX ? (uint32_t)limit : UINT32_MAX);
    pcre2_set_depth_limit(encoder->match_limits, MATCH_LIMIT_LEAST);
    pcre2_set_heap_limit(encoder->match_limits, MATCH_HEAP_KIB);
    return add_piece(encoder, 0, text, length);
}

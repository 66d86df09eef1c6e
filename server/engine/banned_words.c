#include "server/engine/banned_words.h"

#include <assert.h>
#include <string.h>

#include "server/engine/numbers.h"

size_t banned_words_scratch_size(const struct token_text *token_text, int32_t token_count)
{
    int32_t longest = 0;
    for (int32_t i = 0; i < token_count; i++) {
        if (token_text[i].length > longest)
            longest = token_text[i].length;
    }
    return (size_t)longest + 2 * BANNED_WORD_BYTES_MAX;
}

/* ---- words inside one token ------------------------------------------------------------------ */

static bool word_begins_at(const struct banned_word *word, const char *text, int32_t length)
{
    return word->length <= length && memcmp(text, word->bytes, (size_t)word->length) == 0;
}

/* first_byte[b]: some word begins with b. */
static bool holds_word(const struct token_text *text, const struct decode_params *params,
                       const bool *first_byte)
{
    for (int32_t at = 0; at < text->length; at++) {
        if (!first_byte[(unsigned char)text->bytes[at]])
            continue;
        for (int32_t i = 0; i < params->banned_word_count; i++) {
            if (word_begins_at(&params->banned_words[i], text->bytes + at, text->length - at))
                return true;
        }
    }
    return false;
}

void banned_words_exclude_tokens(uint32_t *allowed, const struct decode_params *params,
                                 const struct token_text *token_text, int32_t token_count)
{
    bool first_byte[256] = {false};
    for (int32_t i = 0; i < params->banned_word_count; i++)
        first_byte[(unsigned char)params->banned_words[i].bytes[0]] = true;
    for (int32_t i = 0; i < token_count; i++) {
        if (holds_word(&token_text[i], params, first_byte))
            allowed[i / 32] &= ~(UINT32_C(1) << (i % 32));
    }
}

/* ---- words put together from several tokens -------------------------------------------------- */

/* The text of a committed answer position; NULL where the joined text ends. */
static const struct token_text *text_at(const struct word_check *check, const struct canvas *canvas,
                                        int32_t position)
{
    if (position < canvas->prompt_length || position >= canvas->length)
        return NULL;
    int32_t token = canvas->tokens[position];
    if (token == canvas->mask_token || decode_is_stop_token(check->params, token))
        return NULL;
    return &check->token_text[token];
}

/* Writes up to `room` bytes of the text before a position so that they end at `end`. */
static int32_t copy_text_before(const struct word_check *check, const struct canvas *canvas,
                                int32_t position, char *end, int32_t room)
{
    const struct token_text *text;
    int32_t length = 0;
    while (length < room && (text = text_at(check, canvas, --position)) != NULL) {
        int32_t taken = min_int32(text->length, room - length);
        if (taken > 0)
            memcpy(end - length - taken, text->bytes + text->length - taken, (size_t)taken);
        length += taken;
    }
    return length;
}

static int32_t copy_text_behind(const struct word_check *check, const struct canvas *canvas,
                                int32_t position, char *begin, int32_t room)
{
    const struct token_text *text;
    int32_t length = 0;
    while (length < room && (text = text_at(check, canvas, ++position)) != NULL) {
        int32_t taken = min_int32(text->length, room - length);
        if (taken > 0)
            memcpy(begin + length, text->bytes, (size_t)taken);
        length += taken;
    }
    return length;
}

bool banned_words_would_complete(const struct word_check *check, const struct canvas *canvas,
                                 int32_t position, int32_t token)
{
    const struct decode_params *params = check->params;
    assert(check->token_text != NULL);
    if (decode_is_stop_token(params, token))
        return false;
    int32_t context = 0; /* bytes to either side that a word can reach */
    for (int32_t i = 0; i < params->banned_word_count; i++) {
        if (params->banned_words[i].length - 1 > context)
            context = params->banned_words[i].length - 1;
    }
    char *middle = check->scratch + BANNED_WORD_BYTES_MAX;
    const struct token_text *own = &check->token_text[token];
    int32_t before = copy_text_before(check, canvas, position, middle, context);
    if (own->length > 0)
        memcpy(middle, own->bytes, (size_t)own->length);
    int32_t behind = copy_text_behind(check, canvas, position, middle + own->length, context);
    for (int32_t i = 0; i < params->banned_word_count; i++) {
        const struct banned_word *word = &params->banned_words[i];
        int32_t left = min_int32(before, word->length - 1);
        int32_t right = min_int32(behind, word->length - 1);
        size_t length = (size_t)left + (size_t)own->length + (size_t)right;
        if (memmem(middle - left, length, word->bytes, (size_t)word->length) != NULL)
            return true;
    }
    return false;
}

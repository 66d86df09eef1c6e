#include "server/api/answer_text.h"

#include <stdlib.h>
#include <string.h>

#include "common/arena.h"
#include "common/error.h"
#include "common/utf8.h"
#include "server/api/api.h"
#include "server/model/tokenizer.h"

enum { CONTINUATION_BYTES_MAX = 3 };

int stop_string_init(struct stop_string *out, const char *text, size_t length, struct arena *arena)
{
    out->length = length;
    out->text = arena_copy(arena, text, length);
    out->fallback = arena_alloc(arena, length * sizeof *out->fallback);
    if (!out->text || !out->fallback) {
        return ERROR_MEMORY;
    }
    size_t matched = 0;
    for (size_t i = 1; i < length; i++) {
        while (matched > 0 && text[i] != text[matched]) {
            matched = out->fallback[matched - 1];
        }
        matched += text[i] == text[matched];
        out->fallback[i] = matched;
    }
    return 0;
}

/*
 * The end of the first occurrence in bytes[0 .. length), or 0 where there is none; *held is then
 * how many bytes at the end could begin one.
 */
static size_t stop_string_find(const struct stop_string *stop, const char *bytes, size_t length,
                               size_t *held)
{
    size_t matched = 0;
    for (size_t i = 0; i < length; i++) {
        while (matched > 0 && bytes[i] != stop->text[matched]) {
            matched = stop->fallback[matched - 1];
        }
        matched += bytes[i] == stop->text[matched];
        if (matched == stop->length) {
            return i + 1;
        }
    }
    *held = matched;
    return 0;
}

bool answer_is_stop_token(const struct answer_rules *rules, int32_t id)
{
    for (int32_t i = 0; i < rules->stop_token_count; i++) {
        if (rules->stop_tokens[i] == id) {
            return true;
        }
    }
    return false;
}

size_t answer_token_length(const struct answer_rules *rules, int32_t id)
{
    size_t length = 0;
    if (!tokenizer_is_special(rules->tokenizer, id)) {
        tokenizer_token_bytes(rules->tokenizer, id, &length);
    }
    return length;
}

struct token_text *api_token_texts(const struct tokenizer *tokenizer)
{
    int32_t count = tokenizer_size(tokenizer);
    struct token_text *texts = calloc((size_t)count + 1, sizeof *texts);
    for (int32_t id = 0; texts && id < count; id++) {
        size_t length;
        texts[id].bytes = tokenizer_token_bytes(tokenizer, id, &length);
        texts[id].length = tokenizer_is_special(tokenizer, id) ? 0 : (int32_t)length;
    }
    return texts;
}

/*
 * Cuts before the stop string that is complete first (of those the longest): what a reader of the
 * text byte by byte would see, so streams and answers agree. Sets `safe` where there is none.
 */
static void cut_at_stop_string(struct answer_text *text, const struct answer_rules *rules)
{
    size_t held_most = 0;
    size_t match_end = 0, match_begin = 0;
    for (size_t i = 0; i < rules->stop_count; i++) {
        size_t held = 0;
        size_t end =
            stop_string_find(&rules->stops[i], text->bytes.data, text->bytes.length, &held);
        size_t begin = end - (end ? rules->stops[i].length : 0);
        if (end && (!match_end || end < match_end || (end == match_end && begin < match_begin))) {
            match_end = end;
            match_begin = begin;
        }
        held_most = held > held_most ? held : held_most;
    }
    if (match_end) {
        text->ended = ANSWER_STOP_STRING;
        text->end = match_begin;
    }
    size_t tail = utf8_incomplete_tail(text->bytes.data, text->bytes.length);
    size_t held = tail > held_most ? tail : held_most;
    bool unfinished = text->ended == ANSWER_OPEN || text->ended == ANSWER_CANCELLED;
    text->safe = unfinished ? text->end - held : text->end;
}

/* How many tokens it takes for this many bytes. */
static int32_t count_tokens(const struct answer_rules *rules, const int32_t *tokens, size_t bytes)
{
    int32_t count = 0;
    for (size_t covered = 0; covered < bytes; count++) {
        covered += answer_token_length(rules, tokens[count]);
    }
    return count;
}

void answer_text_read(struct answer_text *text, const struct answer_rules *rules,
                      const int32_t *tokens, int32_t count, enum answer_end otherwise)
{
    buffer_clear(&text->bytes);
    text->ended = otherwise;
    int32_t used = 0;
    while (used < count && tokens[used] != rules->mask_token) {
        if (answer_is_stop_token(rules, tokens[used])) {
            text->ended = ANSWER_STOP_TOKEN;
            break;
        }
        used++;
    }
    tokenizer_append_bytes(rules->tokenizer, tokens, (size_t)used, true, &text->bytes);
    text->tokens = used;
    text->end = text->bytes.length;
    text->safe = text->end;
    if (text->end == 0) {
        return;
    }
    cut_at_stop_string(text, rules);
    if (text->ended == ANSWER_CANCELLED) {
        text->end = text->safe;
    }
    if (text->ended == ANSWER_STOP_STRING || text->ended == ANSWER_CANCELLED) {
        text->tokens = count_tokens(rules, tokens, text->end);
    }
}

static void append_masks(struct buffer *out, const struct answer_rules *rules, int32_t count)
{
    for (int32_t i = 0; i < count; i++) {
        buffer_append(out, rules->mask_text, rules->mask_length);
    }
}

/* How many of the tokens have bytes in [begin, end) of their joined bytes. */
static int32_t count_touching(const struct answer_rules *rules, const int32_t *tokens,
                              int32_t count, size_t begin, size_t end)
{
    int32_t touching = 0;
    size_t offset = 0;
    for (int32_t i = 0; i < count && offset < end; i++) {
        size_t length = answer_token_length(rules, tokens[i]);
        touching += length > 0 && offset + length > begin;
        offset += length;
    }
    return touching;
}

/* A run of tokens between masks, or between a mask and the text's begin or end. */
static void append_run(struct buffer *out, const struct answer_rules *rules, const int32_t *tokens,
                       int32_t count, bool mask_before, bool mask_behind, struct buffer *scratch)
{
    buffer_clear(scratch);
    tokenizer_append_bytes(rules->tokenizer, tokens, (size_t)count, true, scratch);
    const char *bytes = scratch->data;
    size_t length = scratch->length;
    if (scratch->failed || length == 0) {
        out->failed |= scratch->failed;
        return;
    }
    size_t lead = 0;
    while (mask_before && lead < length && lead < CONTINUATION_BYTES_MAX &&
           ((unsigned char)bytes[lead] & 0xC0) == 0x80) {
        lead++;
    }
    size_t tail = mask_behind ? utf8_incomplete_tail(bytes + lead, length - lead) : 0;
    append_masks(out, rules, lead ? count_touching(rules, tokens, count, 0, lead) : 0);
    utf8_append_repaired(out, bytes + lead, length - lead - tail);
    append_masks(out, rules,
                 tail ? count_touching(rules, tokens, count, length - tail, length) : 0);
}

void answer_text_append_draft(struct buffer *out, const struct answer_rules *rules,
                              const int32_t *tokens, int32_t count, struct buffer *scratch)
{
    int32_t run = 0; /* where the current run began */
    for (int32_t i = 0; i <= count; i++) {
        bool masked = i < count && tokens[i] == rules->mask_token;
        bool end = i == count || answer_is_stop_token(rules, tokens[i]);
        if (!masked && !end) {
            continue;
        }
        append_run(out, rules, tokens + run, i - run, run > 0, masked, scratch);
        if (end) {
            break;
        }
        append_masks(out, rules, 1);
        run = i + 1;
    }
    buffer_clear(scratch);
}

void answer_text_append_token(struct buffer *out, const struct answer_rules *rules, int32_t id)
{
    if (answer_is_stop_token(rules, id) || tokenizer_is_special(rules->tokenizer, id)) {
        return;
    }
    size_t length;
    const char *bytes = tokenizer_token_bytes(rules->tokenizer, id, &length);
    if (length > 0) {
        utf8_append_repaired(out, bytes, length);
    }
}

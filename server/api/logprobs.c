#include "server/api/logprobs.h"

#include <assert.h>
#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include "common/buffer.h"
#include "common/log.h"
#include "common/utf8.h"
#include "server/api/json_writer.h"
#include "server/api/reply.h"
#include "server/model/tokenizer.h"

/* What a probability too small for a float is written as. */
static const double LEAST_LOGPROB = -9999;

/* A range of tokens on its way into JSON. */
struct list {
    const struct reply *reply;
    const struct choice *choice;
    int32_t begin, end;
};

static int32_t token_at(const struct list *list, int32_t position)
{
    return position < 0 ? list->choice->prompt[list->choice->prompt_length + position]
                        : list->choice->draft.tokens[position];
}

static const char *bytes_at(const struct list *list, int32_t position, size_t *length)
{
    return tokenizer_token_bytes(list->reply->api->tokenizer, token_at(list, position), length);
}

/*
 * A token's text; of bytes that are no whole characters "bytes:\xe2\x96", so that none look alike,
 * and of NUL, which many readers of JSON refuse in a name.
 */
static void append_token(struct buffer *out, const char *bytes, size_t length)
{
    if (utf8_valid_length(bytes, length) == length && !memchr(bytes, '\0', length)) {
        log_append_json_string(out, bytes, length);
        return;
    }
    buffer_append_text(out, "\"bytes:");
    for (size_t i = 0; i < length; i++) {
        buffer_format(out, "\\\\x%02x", (unsigned)(unsigned char)bytes[i]);
    }
    buffer_append_char(out, '"');
}

static void append_logprob(struct buffer *out, double logprob)
{
    /* Rounding may leave a certain token a hair above 0. */
    json_write_number(out, isfinite(logprob) ? fmin(logprob, 0) : LEAST_LOGPROB, 6);
}

/* How many of the best tokens a position has: as many as were asked for, or the vocabulary. */
static int32_t top_count(const struct draft *draft, int32_t position)
{
    int32_t count = 0;
    while (count < draft->top_count &&
           draft->top_token[(size_t)position * (size_t)draft->top_count + (size_t)count] >= 0) {
        count++;
    }
    return count;
}

/* ---- chat ------------------------------------------------------------------------------------ */

/* "token":...,"logprob":...,"bytes":[...] */
static void append_entry(struct buffer *out, const struct tokenizer *tokenizer, int32_t id,
                         double logprob)
{
    size_t length;
    const char *bytes = tokenizer_token_bytes(tokenizer, id, &length);
    buffer_append_text(out, "\"token\":");
    append_token(out, bytes, length);
    buffer_append_text(out, ",\"logprob\":");
    append_logprob(out, logprob);
    buffer_append_text(out, ",\"bytes\":");
    json_write_bytes(out, bytes, length);
}

static void append_chat(struct buffer *out, const struct list *list)
{
    const struct draft *draft = &list->choice->draft;
    const struct tokenizer *tokenizer = list->reply->api->tokenizer;
    assert(list->begin >= 0); /* a chat echoes no prompt: fields.c has echo for completions alone */
    buffer_append_text(out, "{\"content\":[");
    for (int32_t position = list->begin; position < list->end; position++) {
        buffer_append_text(out, position > list->begin ? ",{" : "{");
        append_entry(out, tokenizer, draft->tokens[position], draft->raw_logprob[position]);
        buffer_append_text(out, ",\"top_logprobs\":[");
        size_t first = (size_t)position * (size_t)draft->top_count;
        for (int32_t i = 0; i < top_count(draft, position); i++) {
            buffer_append_text(out, i ? ",{" : "{");
            append_entry(out, tokenizer, draft->top_token[first + (size_t)i],
                         draft->top_logprob[first + (size_t)i]);
            buffer_append_char(out, '}');
        }
        buffer_append_text(out, "]}");
    }
    buffer_append_text(out, "],\"refusal\":null}");
}

/* ---- text completions ------------------------------------------------------------------------ */

/* Walks over a text, counting characters. */
struct ruler {
    const char *bytes; /* [length] */
    size_t length, offset;
    int64_t characters; /* that end at or before offset */
};

/* Moves on to a byte offset: in the middle of a character, to the character's begin. */
static int64_t characters_before(struct ruler *ruler, size_t offset)
{
    while (ruler->offset < offset && ruler->offset < ruler->length) {
        uint32_t code_point;
        int size =
            utf8_next(ruler->bytes + ruler->offset, ruler->length - ruler->offset, &code_point);
        size_t end = ruler->offset + (size_t)(size < 0 ? -size : size);
        if (end > offset) {
            break;
        }
        ruler->offset = end;
        ruler->characters++;
    }
    return ruler->characters;
}

/* Bytes of the echoed text that a token of the prompt stands for, `offset` being its begin. */
static size_t echoed_length(const struct list *list, int32_t position, size_t offset)
{
    size_t length;
    const char *bytes = bytes_at(list, position, &length);
    size_t left = list->choice->echo_length - offset;
    bool there = length <= left && memcmp(list->choice->echo + offset, bytes, length) == 0;
    /* The post-processor's tokens are not in the text that was sent. */
    if (!there && tokenizer_is_special(list->reply->api->tokenizer, token_at(list, position))) {
        return 0;
    }
    return length < left ? length : left; /* a normalizer may have changed it */
}

static void append_offset(struct buffer *out, const struct list *list, int32_t position,
                          int64_t offset)
{
    if (position >= list->begin) {
        buffer_append_text(out, position > list->begin ? "," : "");
        json_write_integer(out, offset);
    }
}

static void append_offsets(struct buffer *out, const struct list *list)
{
    const struct reply *reply = list->reply;
    const struct choice *choice = list->choice;
    struct ruler echo = {.bytes = choice->echo, .length = choice->echo_length};
    struct ruler text = {.bytes = reply->text.bytes.data, .length = reply->text.bytes.length};
    size_t offset = 0;
    for (int32_t i = -choice->prompt_length; choice->echo && i < 0 && i < list->end; i++) {
        append_offset(out, list, i, characters_before(&echo, offset));
        offset += echoed_length(list, i, offset);
    }
    text.characters = characters_before(&echo, choice->echo_length);
    offset = 0;
    for (int32_t i = 0; i < list->end; i++) {
        append_offset(out, list, i, characters_before(&text, offset));
        offset += answer_token_length(&reply->rules, choice->draft.tokens[i]);
    }
}

/* Whether entry `index` of the best tokens has the same bytes as one before it. */
static bool repeats(const struct tokenizer *tokenizer, const int32_t *tokens, int32_t index)
{
    size_t length, other_length;
    const char *bytes = tokenizer_token_bytes(tokenizer, tokens[index], &length);
    for (int32_t i = 0; i < index; i++) {
        const char *other = tokenizer_token_bytes(tokenizer, tokens[i], &other_length);
        if (length == other_length && (length == 0 || memcmp(bytes, other, length) == 0)) {
            return true;
        }
    }
    return false;
}

/* {"token":logprob,...}: one member each, whatever the tokens' texts. */
static void append_top(struct buffer *out, const struct list *list, int32_t position)
{
    const struct draft *draft = &list->choice->draft;
    const struct tokenizer *tokenizer = list->reply->api->tokenizer;
    if (position < 0) {
        buffer_append_text(out, "null");
        return;
    }
    const int32_t *tokens = draft->top_token + (size_t)position * (size_t)draft->top_count;
    const float *logprobs = draft->top_logprob + (size_t)position * (size_t)draft->top_count;
    buffer_append_char(out, '{');
    for (int32_t i = 0; i < top_count(draft, position); i++) {
        buffer_append_text(out, i ? "," : "");
        if (repeats(tokenizer, tokens, i)) {
            buffer_format(out, "\"token_id:%d\"", (int)tokens[i]);
        } else {
            size_t length;
            const char *bytes = tokenizer_token_bytes(tokenizer, tokens[i], &length);
            append_token(out, bytes, length);
        }
        buffer_append_char(out, ':');
        append_logprob(out, logprobs[i]);
    }
    buffer_append_char(out, '}');
}

static void append_text_form(struct buffer *out, const struct list *list)
{
    const struct draft *draft = &list->choice->draft;
    buffer_append_text(out, "{\"tokens\":[");
    for (int32_t i = list->begin; i < list->end; i++) {
        size_t length;
        const char *bytes = bytes_at(list, i, &length);
        buffer_append_text(out, i > list->begin ? "," : "");
        append_token(out, bytes, length);
    }
    buffer_append_text(out, "],\"token_logprobs\":[");
    for (int32_t i = list->begin; i < list->end; i++) {
        buffer_append_text(out, i > list->begin ? "," : "");
        if (i < 0) {
            buffer_append_text(out, "null");
        } else {
            append_logprob(out, draft->raw_logprob[i]);
        }
    }
    buffer_append_text(out, "],\"top_logprobs\":");
    buffer_append_text(out, draft->top_count > 0 ? "[" : "null");
    for (int32_t i = list->begin; draft->top_count > 0 && i < list->end; i++) {
        buffer_append_text(out, i > list->begin ? "," : "");
        append_top(out, list, i);
    }
    buffer_append_text(out, draft->top_count > 0 ? "]" : "");
    buffer_append_text(out, ",\"text_offset\":[");
    append_offsets(out, list);
    buffer_append_text(out, "]}");
}

int32_t logprobs_begin(const struct reply *reply, const struct choice *choice)
{
    return reply->parameters.echo ? -choice->prompt_length : 0;
}

void logprobs_append(struct buffer *out, const struct reply *reply, const struct choice *choice,
                     int32_t begin, int32_t end)
{
    struct list list = {reply, choice, begin, end};
    buffer_append_text(out, ",\"logprobs\":");
    if (!reply->parameters.logprobs) {
        buffer_append_text(out, "null");
    } else if (reply->endpoint == API_CHAT_COMPLETIONS) {
        append_chat(out, &list);
    } else {
        append_text_form(out, &list);
    }
}

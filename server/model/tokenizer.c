#include "server/model/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "common/utf8.h"
#include "server/model/tokenizer_internal.h"

/* Positions inside a text are int32_t in the BPE. */
enum { MAX_TEXT_BYTES = 1 << 30 };

void tokenizer_free(struct tokenizer *tokenizer)
{
    if (tokenizer == NULL) {
        return;
    }
    free(tokenizer->flags);
    free(tokenizer->content.text);
    free(tokenizer->content.begin);
    free(tokenizer->bytes.text);
    free(tokenizer->bytes.begin);
    free(tokenizer->by_content.slots);
    free(tokenizer->whole_by_bytes.slots);
    free(tokenizer->merges.slots);
    for (int i = 0; i < tokenizer->split_count; i++) {
        pcre2_code_free(tokenizer->splits[i].code);
        free(tokenizer->splits[i].name);
    }
    free(tokenizer->added);
    free(tokenizer->raw_added.nodes);
    free(tokenizer->normalized_added.nodes);
    pcre2_code_free(tokenizer->word_character);
    token_list_free(&tokenizer->prefix);
    token_list_free(&tokenizer->suffix);
    free(tokenizer);
}

int encoder_init(struct encoder *encoder, const struct tokenizer *tokenizer, struct token_list *out,
                 struct error *err)
{
    *encoder = (struct encoder){.tokenizer = tokenizer, .out = out, .err = err};
    encoder->match_limits = pcre2_match_context_create(NULL);
    bool complete = encoder->match_limits != NULL;
    for (int i = 0; i < tokenizer->split_count; i++) {
        encoder->matches[i] = pcre2_match_data_create(1, NULL);
        complete = complete && encoder->matches[i] != NULL;
    }
    if (tokenizer->word_character != NULL) {
        encoder->word_match = pcre2_match_data_create(1, NULL);
        complete = complete && encoder->word_match != NULL;
    }
    if (!complete) {
        encoder_free(encoder);
        return error_set(err, ERROR_MEMORY, "tokenizer: no memory to encode a text");
    }
    return 0;
}

void encoder_free(struct encoder *encoder)
{
    buffer_free(&encoder->run);
    buffer_free(&encoder->normalized);
    buffer_free(&encoder->stretch);
    buffer_free(&encoder->prefixed);
    free(encoder->code_points);
    free(encoder->symbols);
    free(encoder->heap);
    for (int i = 0; i < TOKENIZER_MAX_SPLITS; i++) {
        pcre2_match_data_free(encoder->matches[i]);
    }
    pcre2_match_data_free(encoder->word_match);
    pcre2_match_context_free(encoder->match_limits);
}

/* Encodes the plain text collected since the last added token. */
static int flush_run(struct encoder *encoder)
{
    const struct buffer *text = &encoder->run;
    if (encoder->tokenizer->normal_form != NORMAL_FORM_NONE) {
        buffer_clear(&encoder->normalized);
        int result = encoder_normalize(encoder, encoder->run.data, encoder->run.length,
                                       &encoder->normalized);
        if (result != 0) {
            return result;
        }
        text = &encoder->normalized;
    }
    if (encoder->run.failed || text->failed) {
        return error_set(encoder->err, ERROR_MEMORY, "tokenizer: no memory for a text");
    }
    int result = encoder_add_text(encoder, text->data, text->length);
    buffer_clear(&encoder->run);
    return result;
}

/*
 * Looks for the patterns of one trie in a trusted text. What lies between them is handed to
 * add_gap, or joins the run where that is NULL.
 */
static int add_matched(struct encoder *encoder, const struct added_trie *trie, const char *text,
                       size_t length,
                       int (*add_gap)(struct encoder *encoder, const char *text, size_t length))
{
    struct added_search search = {.trie = trie, .text = text, .length = length};
    struct added_match match;
    bool found = true;
    while (found) {
        found = added_search_next(encoder, &search, &match);
        const char *gap = text + match.gap_begin;
        size_t gap_length = match.gap_end - match.gap_begin;
        int result = 0;
        if (add_gap != NULL && gap_length > 0) {
            result = add_gap(encoder, gap, gap_length);
        } else {
            buffer_append(&encoder->run, gap, gap_length);
        }
        if (result == 0 && found) {
            result = flush_run(encoder);
        }
        if (result != 0) {
            return result;
        }
        if (found) {
            token_list_append(encoder->out, match.id);
        }
    }
    return 0;
}

/*
 * A stretch between two added tokens of the raw text: those with `normalized` are looked for in its
 * normal form. The gaps keep that form; as a part of a run it is the same to the normalizer.
 */
static int add_normalized_stretch(struct encoder *encoder, const char *text, size_t length)
{
    buffer_clear(&encoder->stretch);
    int result = encoder_normalize(encoder, text, length, &encoder->stretch);
    if (result != 0) {
        return result;
    }
    if (encoder->stretch.failed) {
        return error_set(encoder->err, ERROR_MEMORY, "tokenizer: no memory for a text");
    }
    return add_matched(encoder, &encoder->tokenizer->normalized_added, encoder->stretch.data,
                       encoder->stretch.length, NULL);
}

static int add_segment(struct encoder *encoder, const char *text, size_t length, bool trusted)
{
    const struct tokenizer *tokenizer = encoder->tokenizer;
    if (!trusted || length == 0) {
        buffer_append(&encoder->run, text, length);
        return 0;
    }
    bool any_normalized = tokenizer->normalized_added.count > 0;
    return add_matched(encoder, &tokenizer->raw_added, text, length,
                       any_normalized ? add_normalized_stretch : NULL);
}

static int check_text(const char *text, size_t length, struct error *err)
{
    if (length > MAX_TEXT_BYTES) {
        return error_set(err, ERROR_LIMIT, "the text has %zu bytes, more than the %d of one text",
                         length, MAX_TEXT_BYTES);
    }
    size_t valid = utf8_valid_length(text, length);
    if (valid != length) {
        return error_set(err, ERROR_INVALID, "the text is not UTF-8 at byte %zu", valid);
    }
    return 0;
}

int tokenizer_encode_segments(const struct tokenizer *tokenizer, const char *text, size_t length,
                              const struct text_segment *segments, size_t segment_count,
                              struct token_list *out, struct error *err)
{
    int result = check_text(text, length, err);
    if (result != 0) {
        return result;
    }
    size_t count_before = out->count;
    struct encoder encoder;
    result = encoder_init(&encoder, tokenizer, out, err);
    if (result != 0) {
        return result;
    }
    for (size_t i = 0; i < segment_count && result == 0; i++) {
        const struct text_segment *segment = &segments[i];
        result = add_segment(&encoder, text + segment->begin, segment->end - segment->begin,
                             segment->trusted);
    }
    if (result == 0) {
        result = flush_run(&encoder);
    }
    encoder_free(&encoder);
    if (result == 0 && out->failed) {
        result = error_set(err, ERROR_MEMORY, "tokenizer: no memory for the ids of a text");
    }
    if (result != 0) {
        out->count = count_before;
    }
    return result;
}

static void append_ids(struct token_list *out, const struct token_list *ids)
{
    for (size_t i = 0; i < ids->count; i++) {
        token_list_append(out, ids->ids[i]);
    }
}

int tokenizer_encode(const struct tokenizer *tokenizer, const char *text, size_t length,
                     unsigned flags, struct token_list *out, struct error *err)
{
    bool post_process = (flags & TOKENIZER_POST_PROCESS) != 0;
    size_t count_before = out->count;
    if (post_process) {
        append_ids(out, &tokenizer->prefix);
    }
    struct text_segment whole = {.end = length, .trusted = (flags & TOKENIZER_MATCH_ADDED) != 0};
    int result = tokenizer_encode_segments(tokenizer, text, length, &whole, 1, out, err);
    if (result == 0 && post_process) {
        append_ids(out, &tokenizer->suffix);
        if (out->failed) {
            result = error_set(err, ERROR_MEMORY, "tokenizer: no memory for the ids of a text");
        }
    }
    if (result != 0) {
        out->count = count_before;
    }
    return result;
}

const char *tokenizer_token_bytes(const struct tokenizer *tokenizer, int32_t id, size_t *length)
{
    if (id < 0 || id >= tokenizer->size) {
        *length = 0;
        return "";
    }
    const uint32_t *begin = &tokenizer->bytes.begin[id];
    *length = begin[1] - begin[0];
    return tokenizer->bytes.text + begin[0];
}

void tokenizer_append_bytes(const struct tokenizer *tokenizer, const int32_t *ids, size_t count,
                            bool skip_special, struct buffer *out)
{
    for (size_t i = 0; i < count; i++) {
        if (skip_special && tokenizer_is_special(tokenizer, ids[i])) {
            continue;
        }
        size_t length;
        const char *bytes = tokenizer_token_bytes(tokenizer, ids[i], &length);
        buffer_append(out, bytes, length);
    }
}

void tokenizer_decode(const struct tokenizer *tokenizer, const int32_t *ids, size_t count,
                      bool skip_special, struct buffer *out)
{
    struct buffer bytes = {0};
    tokenizer_append_bytes(tokenizer, ids, count, skip_special, &bytes);
    if (bytes.length > 0) {
        utf8_append_repaired(out, bytes.data, bytes.length);
    }
    out->failed = out->failed || bytes.failed;
    buffer_free(&bytes);
}

int32_t tokenizer_size(const struct tokenizer *tokenizer)
{
    return tokenizer->size;
}

static bool has_flag(const struct tokenizer *tokenizer, int32_t id, enum token_flags flag)
{
    return id >= 0 && id < tokenizer->size && (tokenizer->flags[id] & flag) != 0;
}

bool tokenizer_has_id(const struct tokenizer *tokenizer, int32_t id)
{
    return has_flag(tokenizer, id, TOKEN_PRESENT);
}

bool tokenizer_is_special(const struct tokenizer *tokenizer, int32_t id)
{
    return has_flag(tokenizer, id, TOKEN_SPECIAL);
}

int32_t tokenizer_find(const struct tokenizer *tokenizer, const char *content)
{
    int32_t number =
        token_index_find(&tokenizer->by_content, &tokenizer->content, content, strlen(content));
    return number < tokenizer->vocabulary_size
               ? number
               : tokenizer->added[number - tokenizer->vocabulary_size].id;
}

/* The tables made of the tokens of a tokenizer.json: bytes, merges, whole words, added tokens. */
#include "server/model/tokenizer_internal.h"

#include <string.h>

#include "common/json.h"
#include "common/utf8.h"

int32_t tokenizer_find_in_vocabulary(const struct tokenizer *tokenizer, const char *text,
                                     size_t length)
{
    int32_t number = token_index_find(&tokenizer->by_content, &tokenizer->content, text, length);
    return number < tokenizer->vocabulary_size ? number : -1;
}

static bool has_flag(const struct tokenizer *tokenizer, int32_t id, enum token_flags flag)
{
    return id >= 0 && (tokenizer->flags[id] & flag) != 0;
}

/* The tokens of single bytes, and the one that stands in where a byte has none. */
int token_reader_find_bytes(struct token_reader *reader)
{
    struct tokenizer *tokenizer = reader->tokenizer;
    bool missing = false;
    for (int byte = 0; byte < 256; byte++) {
        char symbol[4];
        int length = utf8_encode(symbol, byte_alphabet_code_point((uint8_t)byte));
        int32_t id = tokenizer_find_in_vocabulary(tokenizer, symbol, (size_t)length);
        if (has_flag(tokenizer, id, TOKEN_UNWRITABLE)) {
            return error_set(reader->err, ERROR_UNSUPPORTED,
                             "%s: added_tokens: special token \"%.*s\" is not supported: it is the "
                             "symbol of a byte, so that any text may hold it",
                             reader->path, length, symbol);
        }
        tokenizer->byte_ids[byte] = id;
        missing = missing || id < 0;
    }
    tokenizer->unknown_id = -1;
    const char *unknown = NULL;
    int result = json_get_string(reader->model, "unk_token", &unknown, reader->path, reader->err);
    if (result == 0 && missing && unknown != NULL) {
        tokenizer->unknown_id = tokenizer_find_in_vocabulary(tokenizer, unknown, strlen(unknown));
        if (tokenizer->unknown_id < 0) {
            result = error_set(reader->err, ERROR_INVALID,
                               "%s: model: unk_token \"%.64s\" is not in the vocabulary, and some "
                               "bytes need it",
                               reader->path, unknown);
        }
    }
    return result;
}

/* A merge as two texts: "a b" or ["a", "b"]. */
struct merge_pair {
    const char *left, *right;
    size_t left_length, right_length;
};

static bool read_merge_pair(const json_t *merge, struct merge_pair *pair)
{
    if (json_is_array(merge)) {
        const json_t *left = json_array_get(merge, 0);
        const json_t *right = json_array_get(merge, 1);
        *pair = (struct merge_pair){json_string_value(left), json_string_value(right),
                                    json_string_length(left), json_string_length(right)};
        return json_array_size(merge) == 2 && pair->left != NULL && pair->right != NULL;
    }
    if (!json_is_string(merge)) {
        return false;
    }
    const char *text = json_string_value(merge);
    size_t length = json_string_length(merge);
    const char *space = memchr(text, ' ', length);
    if (space == NULL) {
        return false;
    }
    size_t left_length = (size_t)(space - text);
    *pair = (struct merge_pair){text, space + 1, left_length, length - left_length - 1};
    return memchr(pair->right, ' ', pair->right_length) == NULL;
}

static int refuse_merge(const struct token_reader *reader, size_t index, const char *text,
                        size_t length)
{
    return error_set(
        reader->err, ERROR_INVALID,
        "%s: model.merges[%zu] needs the token \"%.*s\", which is not in the vocabulary",
        reader->path, index, length < 64 ? (int)length : 64, text);
}

static int read_merge(struct token_reader *reader, size_t index, struct buffer *joined)
{
    struct tokenizer *tokenizer = reader->tokenizer;
    struct merge_pair pair;
    if (!read_merge_pair(json_array_get(reader->merges, index), &pair)) {
        return error_set(reader->err, ERROR_INVALID,
                         "%s: model.merges[%zu] must be two tokens, as \"a b\" or [\"a\", \"b\"]",
                         reader->path, index);
    }
    buffer_clear(joined);
    buffer_append(joined, pair.left, pair.left_length);
    buffer_append(joined, pair.right, pair.right_length);
    if (joined->failed) {
        return token_reader_out_of_memory(reader);
    }
    const char *joined_text = joined->length > 0 ? joined->data : "";
    int32_t left = tokenizer_find_in_vocabulary(tokenizer, pair.left, pair.left_length);
    int32_t right = tokenizer_find_in_vocabulary(tokenizer, pair.right, pair.right_length);
    int32_t result = tokenizer_find_in_vocabulary(tokenizer, joined_text, joined->length);
    if (left < 0) {
        return refuse_merge(reader, index, pair.left, pair.left_length);
    }
    if (right < 0) {
        return refuse_merge(reader, index, pair.right, pair.right_length);
    }
    if (result < 0) {
        return refuse_merge(reader, index, joined_text, joined->length);
    }
    /* What a user writes never becomes a special token: those are matched, not merged. */
    if (!has_flag(tokenizer, result, TOKEN_UNWRITABLE)) {
        merge_table_put(&tokenizer->merges, left, right, (uint32_t)index, result);
    }
    return 0;
}

static bool is_merges_header(const json_t *merge)
{
    static const char header[] = "#version";
    return json_is_string(merge) &&
           strncmp(json_string_value(merge), header, sizeof header - 1) == 0;
}

int token_reader_read_merges(struct token_reader *reader)
{
    size_t count = json_array_size(reader->merges);
    if (count >= BPE_NO_RANK) {
        return error_set(reader->err, ERROR_UNSUPPORTED, "%s: model.merges is too long",
                         reader->path);
    }
    if (merge_table_init(&reader->tokenizer->merges, count) != 0) {
        return token_reader_out_of_memory(reader);
    }
    struct buffer joined = {0};
    int result = 0;
    for (size_t i = 0; result == 0 && i < count; i++) {
        if (!is_merges_header(json_array_get(reader->merges, i))) {
            result = read_merge(reader, i, &joined);
        }
    }
    buffer_free(&joined);
    return result;
}

/* Whether a text of the byte alphabet stands for these bytes. */
static bool spells(const char *text, size_t text_length, const char *bytes, size_t length)
{
    size_t at = 0;
    size_t count = 0;
    while (at < text_length && count < length) {
        uint32_t code_point;
        at += (size_t)utf8_next(text + at, text_length - at, &code_point);
        if (code_point != byte_alphabet_code_point((uint8_t)bytes[count])) {
            return false;
        }
        count++;
    }
    return at == text_length && count == length;
}

/*
 * Whether a pre-token of these bytes becomes this one token. Only where the bytes are those of the
 * vocabulary's own word: inside of the alphabet, and not hidden by an added token of the same id.
 */
static int encodes_to_itself(struct encoder *encoder, int32_t id, bool *out)
{
    const struct tokenizer *tokenizer = encoder->tokenizer;
    *out = false;
    if (has_flag(tokenizer, id, TOKEN_UNWRITABLE)) {
        return 0;
    }
    size_t length;
    const char *bytes = tokenizer_token_bytes(tokenizer, id, &length);
    const uint32_t *begin = &tokenizer->content.begin[id];
    if (length == 0 ||
        !spells(tokenizer->content.text + begin[0], begin[1] - begin[0], bytes, length)) {
        return 0;
    }
    if (tokenizer->ignore_merges) {
        *out = true;
        return 0;
    }
    encoder->out->count = 0;
    int result = encoder_add_word(encoder, bytes, length);
    *out = encoder->out->count == 1 && encoder->out->ids[0] == id;
    return result;
}

/* Fills whole_by_bytes. It is empty while its entries are worked out, so that the merges decide. */
int token_reader_index_whole_tokens(struct token_reader *reader)
{
    struct tokenizer *tokenizer = reader->tokenizer;
    struct token_index index = {0};
    struct token_list scratch = {0};
    struct encoder encoder;
    int result = encoder_init(&encoder, tokenizer, &scratch, reader->err);
    if (result != 0) {
        return result;
    }
    if (token_index_init(&index, (size_t)tokenizer->vocabulary_size) != 0) {
        result = token_reader_out_of_memory(reader);
    }
    for (int32_t id = 0; result == 0 && id < tokenizer->vocabulary_size; id++) {
        bool whole;
        result = encodes_to_itself(&encoder, id, &whole);
        if (result == 0 && whole) {
            token_index_insert(&index, &tokenizer->bytes, id);
        }
    }
    if (result == 0 && scratch.failed) {
        result = token_reader_out_of_memory(reader);
    }
    encoder_free(&encoder);
    token_list_free(&scratch);
    tokenizer->whole_by_bytes = index;
    return result;
}

static int add_pattern(struct token_reader *reader, struct encoder *encoder, int32_t token)
{
    struct tokenizer *tokenizer = reader->tokenizer;
    const struct added_token *added = &tokenizer->added[token];
    const uint32_t *begin = &tokenizer->content.begin[tokenizer->vocabulary_size + token];
    const char *text = tokenizer->content.text + begin[0];
    size_t length = begin[1] - begin[0];
    if (!added->normalized) {
        return added_trie_insert(&tokenizer->raw_added, text, length, token) != 0
                   ? token_reader_out_of_memory(reader)
                   : 0;
    }
    buffer_clear(&encoder->stretch);
    int result = encoder_normalize(encoder, text, length, &encoder->stretch);
    if (result == 0 && (encoder->stretch.failed ||
                        added_trie_insert(&tokenizer->normalized_added, encoder->stretch.data,
                                          encoder->stretch.length, token) != 0)) {
        result = token_reader_out_of_memory(reader);
    }
    return result;
}

/* Special tokens come first: where two patterns are the same after normalizing, the first wins. */
int token_reader_build_tries(struct token_reader *reader)
{
    struct tokenizer *tokenizer = reader->tokenizer;
    struct encoder encoder;
    int result = encoder_init(&encoder, tokenizer, NULL, reader->err);
    if (result != 0) {
        return result;
    }
    bool single_word = false;
    for (int pass = 0; pass < 2; pass++) {
        for (int32_t i = 0; result == 0 && i < tokenizer->added_count; i++) {
            single_word = single_word || tokenizer->added[i].single_word;
            if (tokenizer->added[i].special == (pass == 0)) {
                result = add_pattern(reader, &encoder, i);
            }
        }
    }
    encoder_free(&encoder);
    if (result == 0 && single_word &&
        tokenizer_compile_word_character(&tokenizer->word_character, reader->err) != 0) {
        result = error_prefix(reader->err, "%s: added_tokens: single_word", reader->path);
    }
    return result;
}

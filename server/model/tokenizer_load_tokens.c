/* Vocabulary and added tokens of a tokenizer.json, and their texts. */
#include "server/model/tokenizer_internal.h"

#include <stdlib.h>
#include <string.h>

#include "common/json.h"
#include "common/utf8.h"

/* How many ids without a token a vocabulary may have: its tables are as long as its largest id. */
enum { MAX_HOLES_PER_TOKEN = 3, MAX_HOLES_LEAST = 65536 };

int token_reader_out_of_memory(const struct token_reader *reader)
{
    return error_set(reader->err, ERROR_MEMORY, "%s: no memory to load it", reader->path);
}

static int read_id(const struct token_reader *reader, const json_t *value, const char *where,
                   const char *name, int32_t *out)
{
    if (!json_is_integer(value) || json_integer_value(value) < 0 ||
        json_integer_value(value) >= INT32_MAX) {
        return error_set(reader->err, ERROR_INVALID,
                         "%s: %s: the id of \"%.64s\" must be an integer from 0 to %d",
                         reader->path, where, name, INT32_MAX - 1);
    }
    *out = (int32_t)json_integer_value(value);
    return 0;
}

/* Checks the types of all ids and finds the largest. */
static int measure(struct token_reader *reader)
{
    int32_t largest = -1;
    for (void *at = json_object_iter((json_t *)reader->vocabulary); at != NULL;
         at = json_object_iter_next((json_t *)reader->vocabulary, at)) {
        int32_t id = 0;
        int result = read_id(reader, json_object_iter_value(at), "model.vocab",
                             json_object_iter_key(at), &id);
        if (result != 0) {
            return result;
        }
        largest = id > largest ? id : largest;
    }
    for (size_t i = 0; i < json_array_size(reader->added); i++) {
        const json_t *token = json_array_get(reader->added, i);
        const char *content = json_string_value(json_object_get(token, "content"));
        if (content == NULL) {
            return error_set(reader->err, ERROR_INVALID,
                             "%s: added_tokens[%zu] must be an object with a string content",
                             reader->path, i);
        }
        int32_t id = 0;
        int result = read_id(reader, json_object_get(token, "id"), "added_tokens", content, &id);
        if (result != 0) {
            return result;
        }
        largest = id > largest ? id : largest;
    }
    size_t count = json_object_size(reader->vocabulary) + json_array_size(reader->added);
    if (largest >= 0 && (size_t)largest > count * (1 + MAX_HOLES_PER_TOKEN) + MAX_HOLES_LEAST) {
        return error_set(reader->err, ERROR_UNSUPPORTED,
                         "%s: the largest id is %d with only %zu tokens: so many ids without a "
                         "token are not supported",
                         reader->path, largest, count);
    }
    reader->id_limit = largest + 1;
    return 0;
}

static int read_vocabulary(struct token_reader *reader)
{
    for (void *at = json_object_iter((json_t *)reader->vocabulary); at != NULL;
         at = json_object_iter_next((json_t *)reader->vocabulary, at)) {
        int32_t id = (int32_t)json_integer_value(json_object_iter_value(at));
        struct token_entry *entry = &reader->entries[id];
        if (entry->text != NULL) {
            return error_set(reader->err, ERROR_INVALID,
                             "%s: model.vocab: \"%.64s\" and \"%.64s\" share the id %d",
                             reader->path, entry->text, json_object_iter_key(at), id);
        }
        entry->text = json_object_iter_key(at);
        entry->length = json_object_iter_key_len(at);
        if (id >= reader->tokenizer->vocabulary_size) {
            reader->tokenizer->vocabulary_size = id + 1;
        }
    }
    return 0;
}

static int read_added_flags(const struct token_reader *reader, const json_t *token,
                            struct added_token *added)
{
    const struct {
        const char *key;
        bool *out;
    } flags[] = {
        {"special", &added->special},       {"lstrip", &added->left_strip},
        {"rstrip", &added->right_strip},    {"single_word", &added->single_word},
        {"normalized", &added->normalized},
    };
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
        int result = tokenizer_require_bool(token, flags[i].key, flags[i].out, reader->path,
                                            "added_tokens", reader->err);
        if (result != 0) {
            return result;
        }
    }
    return 0;
}

static int read_added_token(struct token_reader *reader, const json_t *token)
{
    struct tokenizer *tokenizer = reader->tokenizer;
    const json_t *content = json_object_get(token, "content");
    const char *text = json_string_value(content);
    size_t length = json_string_length(content);
    if (length == 0) {
        return 0; /* the reference passes over it */
    }
    struct added_token added = {.id = (int32_t)json_integer_value(json_object_get(token, "id"))};
    int result = read_added_flags(reader, token, &added);
    if (result != 0) {
        return result;
    }
    struct token_entry *entry = &reader->entries[added.id];
    bool same =
        entry->text == NULL || (entry->length == length && memcmp(entry->text, text, length) == 0);
    if (!same || entry->claimed) {
        return error_set(reader->err, ERROR_INVALID,
                         "%s: added_tokens: \"%.64s\" has the id %d, which another token has too",
                         reader->path, text, added.id);
    }
    entry->claimed = true;
    struct token_entry *own = &reader->entries[reader->id_limit + tokenizer->added_count];
    own->text = text;
    own->length = length;
    tokenizer->added[tokenizer->added_count++] = added;
    return 0;
}

static int read_added(struct token_reader *reader)
{
    size_t count = json_array_size(reader->added);
    reader->tokenizer->added = calloc(count + 1, sizeof *reader->tokenizer->added);
    if (reader->tokenizer->added == NULL) {
        return token_reader_out_of_memory(reader);
    }
    int result = 0;
    for (size_t i = 0; result == 0 && i < count; i++) {
        result = read_added_token(reader, json_array_get(reader->added, i));
    }
    return result;
}

/* The text of a number of tokenizer->content. */
static const struct token_entry *content_entry(const struct token_reader *reader, int32_t number)
{
    int32_t vocabulary_size = reader->tokenizer->vocabulary_size;
    return number < vocabulary_size ? &reader->entries[number]
                                    : &reader->entries[reader->id_limit + number - vocabulary_size];
}

static int pack_contents(struct token_reader *reader)
{
    struct tokenizer *tokenizer = reader->tokenizer;
    int32_t count = tokenizer->vocabulary_size + tokenizer->added_count;
    size_t total = 0;
    for (int32_t i = 0; i < count; i++) {
        total += content_entry(reader, i)->length;
    }
    struct token_strings *content = &tokenizer->content;
    content->text = malloc(total + 1);
    content->begin = malloc(((size_t)count + 1) * sizeof *content->begin);
    if (content->text == NULL || content->begin == NULL) {
        return token_reader_out_of_memory(reader);
    }
    uint32_t end = 0;
    for (int32_t i = 0; i < count; i++) {
        const struct token_entry *entry = content_entry(reader, i);
        content->begin[i] = end;
        if (entry->text != NULL) {
            memcpy(content->text + end, entry->text, entry->length);
            end += (uint32_t)entry->length;
        }
    }
    content->begin[count] = end;
    return 0;
}

/*
 * Gives an added token its id as the reference does: that of the vocabulary's word of the same
 * text, otherwise the next free number behind the vocabulary's count of words, whatever the file
 * says. (Where ids have holes that may be the id of a word; the word is then still encoded, but
 * decodes to the added token.)
 */
static int assign_id(struct token_reader *reader, int32_t index, int32_t *largest)
{
    struct tokenizer *tokenizer = reader->tokenizer;
    struct added_token *added = &tokenizer->added[index];
    int32_t number = tokenizer->vocabulary_size + index;
    int32_t other = token_index_insert(&tokenizer->by_content, &tokenizer->content, number);
    if (other >= 0 && other != added->id) {
        return error_set(reader->err, ERROR_INVALID,
                         "%s: added_tokens: \"%.64s\" is there twice, or has another id in "
                         "model.vocab",
                         reader->path, content_entry(reader, number)->text);
    }
    int32_t words = (int32_t)json_object_size(reader->vocabulary);
    if (other >= 0) {
        tokenizer->flags[other] |= added->special ? TOKEN_UNWRITABLE : 0;
    } else {
        added->id = *largest >= words ? *largest + 1 : words;
    }
    if (tokenizer->ignore_merges && other < 0 && added->id < tokenizer->vocabulary_size &&
        reader->entries[added->id].text != NULL) {
        return error_set(
            reader->err, ERROR_UNSUPPORTED,
            "%s: added_tokens: \"%.64s\" gets the id %d of another token, which is not "
            "supported with ignore_merges",
            reader->path, content_entry(reader, number)->text, added->id);
    }
    if (added->id > *largest) {
        *largest = added->id;
    }
    tokenizer->flags[added->id] |= TOKEN_PRESENT | (added->special ? TOKEN_SPECIAL : 0);
    return 0;
}

static int index_contents(struct token_reader *reader)
{
    struct tokenizer *tokenizer = reader->tokenizer;
    size_t count = (size_t)tokenizer->vocabulary_size + (size_t)tokenizer->added_count;
    if (token_index_init(&tokenizer->by_content, count) != 0) {
        return token_reader_out_of_memory(reader);
    }
    for (int32_t id = 0; id < tokenizer->vocabulary_size; id++) {
        if (reader->entries[id].text != NULL) {
            tokenizer->flags[id] = TOKEN_PRESENT;
            token_index_insert(&tokenizer->by_content, &tokenizer->content, id);
        }
    }
    int32_t largest = -1;
    int result = 0;
    for (int32_t i = 0; result == 0 && i < tokenizer->added_count; i++) {
        result = assign_id(reader, i, &largest);
    }
    tokenizer->size =
        largest >= tokenizer->vocabulary_size ? largest + 1 : tokenizer->vocabulary_size;
    return result;
}

/*
 * The bytes a token decodes to: through the byte alphabet, or its UTF-8 where any character is
 * outside of it. Returns the length, which is at most that of the text.
 */
static size_t decode_token(const char *text, size_t length, char *out)
{
    size_t written = 0;
    for (size_t at = 0; at < length;) {
        uint32_t code_point;
        at += (size_t)utf8_next(text + at, length - at, &code_point);
        int byte = byte_alphabet_byte(code_point);
        if (byte < 0) {
            memcpy(out, text, length);
            return length;
        }
        out[written++] = (char)byte;
    }
    return written;
}

/* Packs what each id decodes to; an added token comes before a word of the same id. */
static int pack_bytes(struct token_reader *reader)
{
    struct tokenizer *tokenizer = reader->tokenizer;
    size_t size = (size_t)tokenizer->size;
    const struct token_strings *content = &tokenizer->content;
    struct token_strings *bytes = &tokenizer->bytes;
    int32_t count = tokenizer->vocabulary_size + tokenizer->added_count;
    int32_t *numbers = malloc((size + 1) * sizeof *numbers);
    bytes->text = malloc(content->begin[count] + 1);
    bytes->begin = malloc((size + 1) * sizeof *bytes->begin);
    if (numbers == NULL || bytes->text == NULL || bytes->begin == NULL) {
        free(numbers);
        return token_reader_out_of_memory(reader);
    }
    for (int32_t id = 0; id < tokenizer->size; id++) {
        numbers[id] = id < tokenizer->vocabulary_size ? id : -1;
    }
    for (int32_t i = 0; i < tokenizer->added_count; i++) {
        numbers[tokenizer->added[i].id] = tokenizer->vocabulary_size + i;
    }
    uint32_t end = 0;
    for (size_t id = 0; id < size; id++) {
        bytes->begin[id] = end;
        if (numbers[id] >= 0) {
            const uint32_t *begin = &content->begin[numbers[id]];
            end += (uint32_t)decode_token(content->text + begin[0], begin[1] - begin[0],
                                          bytes->text + end);
        }
    }
    bytes->begin[size] = end;
    free(numbers);
    return 0;
}

static int find_lists(struct token_reader *reader, const json_t *root)
{
    reader->model = json_object_get(root, "model");
    reader->vocabulary = json_object_get(reader->model, "vocab");
    reader->merges = json_object_get(reader->model, "merges");
    reader->added = json_object_get(root, "added_tokens");
    const struct {
        const char *name;
        const json_t *value;
        bool matches;
        const char *expected;
    } lists[] = {
        {"model.vocab", reader->vocabulary, json_is_object(reader->vocabulary), "an object"},
        {"model.merges", reader->merges, json_is_array(reader->merges), "an array"},
        {"added_tokens", reader->added, reader->added == NULL || json_is_array(reader->added),
         "an array"},
    };
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) {
        if (!lists[i].matches) {
            return error_set(reader->err, ERROR_INVALID, "%s: %s must be %s, found %s",
                             reader->path, lists[i].name, lists[i].expected,
                             lists[i].value == NULL ? "nothing" : json_type_name(lists[i].value));
        }
    }
    return 0;
}

static int read_tokens(struct token_reader *reader)
{
    size_t count = (size_t)reader->id_limit + json_array_size(reader->added);
    reader->entries = calloc(count + 1, sizeof *reader->entries);
    reader->tokenizer->flags = calloc(count + 1, sizeof *reader->tokenizer->flags);
    if (reader->entries == NULL || reader->tokenizer->flags == NULL) {
        return token_reader_out_of_memory(reader);
    }
    int (*const steps[])(struct token_reader *) = {
        read_vocabulary,
        read_added,
        pack_contents,
        index_contents,
        pack_bytes,
        token_reader_find_bytes,
        token_reader_read_merges,
        token_reader_index_whole_tokens,
        token_reader_build_tries,
    };
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        int result = steps[i](reader);
        if (result != 0) {
            return result;
        }
    }
    return 0;
}

int tokenizer_load_tokens(struct tokenizer *tokenizer, const json_t *root, const char *path,
                          struct error *err)
{
    struct token_reader reader = {.tokenizer = tokenizer, .path = path, .err = err};
    int result = find_lists(&reader, root);
    if (result == 0) {
        result = measure(&reader);
    }
    if (result == 0) {
        result = read_tokens(&reader);
    }
    free(reader.entries);
    return result;
}

#include "tests/unit/model/tokenizer_fixture.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"

json_t *fixture_lines(const char *file)
{
    char path[256];
    snprintf(path, sizeof path, TOKENIZER_FIXTURES "%s", file);
    FILE *stream = fopen(path, "r");
    cr_assert(stream != NULL, "%s is missing: run tests/fixtures/unpack.sh build/fixtures", path);
    json_t *lines = json_array();
    char *line = NULL;
    size_t capacity = 0;
    ssize_t length;
    while ((length = getline(&line, &capacity, stream)) > 0) {
        json_t *object = json_loadb(line, (size_t)length, JSON_ALLOW_NUL, NULL);
        cr_assert(object != NULL, "%s: line %zu is not JSON", path, json_array_size(lines) + 1);
        json_array_append_new(lines, object);
    }
    free(line);
    fclose(stream);
    return lines;
}

struct tokenizer *fixture_tokenizer(const char *name)
{
    char path[256];
    snprintf(path, sizeof path, TOKENIZER_FIXTURES "%s.tokenizer.json", name);
    struct tokenizer *tokenizer = NULL;
    struct error err = {0};
    int result = tokenizer_load(&tokenizer, path, &err);
    cr_assert(result == 0 && tokenizer != NULL, "%s", err.message);
    return tokenizer;
}

struct token_list fixture_ids(const json_t *array)
{
    struct token_list list = {0};
    for (size_t i = 0; i < json_array_size(array); i++) {
        token_list_append(&list, (int32_t)json_integer_value(json_array_get(array, i)));
    }
    return list;
}

static void print_ids(const char *what, const struct token_list *ids)
{
    fprintf(stderr, "  %s (%zu ids):", what, ids->count);
    for (size_t i = 0; i < ids->count && i < 64; i++) {
        fprintf(stderr, " %d", (int)ids->ids[i]);
    }
    fprintf(stderr, "%s\n", ids->count > 64 ? " ..." : "");
}

bool fixture_ids_equal(const char *file, size_t line, const json_t *object, const char *key,
                       const struct token_list *found)
{
    struct token_list expected = fixture_ids(json_object_get(object, key));
    bool equal = expected.count == found->count;
    for (size_t i = 0; equal && i < expected.count; i++) {
        equal = expected.ids[i] == found->ids[i];
    }
    if (!equal) {
        fprintf(stderr, "%s:%zu: %s differ\n", file, line, key);
        print_ids("expected", &expected);
        print_ids("found", found);
    }
    token_list_free(&expected);
    return equal;
}

static void print_text(const char *what, const char *text, size_t length)
{
    json_t *value = json_stringn_nocheck(text, length);
    char *quoted = json_dumps(value, JSON_ENCODE_ANY | JSON_ENSURE_ASCII);
    fprintf(stderr, "  %s (%zu bytes): %.600s\n", what, length, quoted != NULL ? quoted : "?");
    free(quoted);
    json_decref(value);
}

bool fixture_text_equal(const char *file, size_t line, const json_t *object, const char *key,
                        const struct buffer *found)
{
    const json_t *value = json_object_get(object, key);
    const char *expected = json_string_value(value);
    size_t length = json_string_length(value);
    const char *text = found->data != NULL ? found->data : "";
    bool equal = expected != NULL && length == found->length && memcmp(expected, text, length) == 0;
    if (!equal) {
        fprintf(stderr, "%s:%zu: %s differs\n", file, line, key);
        print_text("expected", expected != NULL ? expected : "", length);
        print_text("found", text, found->length);
    }
    return equal;
}

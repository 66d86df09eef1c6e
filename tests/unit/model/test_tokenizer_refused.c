/* Files that must be refused by name, and odd ones that must load. */
#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <stdio.h>
#include <string.h>

#include "common/error.h"
#include "tests/unit/model/tokenizer_fixture.h"

enum { REFUSED_COUNT = 60 };

static size_t refused_lines[REFUSED_COUNT];

/* Whether the message holds one of the words between the bars. */
static bool names_one_of(const char *message, const char *words)
{
    while (*words != '\0') {
        size_t length = strcspn(words, "|");
        char word[64];
        snprintf(word, sizeof word, "%.*s", (int)length, words);
        if (strstr(message, word) != NULL) {
            return true;
        }
        words += length + (words[length] == '|');
    }
    return false;
}

static void expect_refused(const json_t *entry, const char *path)
{
    struct tokenizer *tokenizer = NULL;
    struct error err = {0};
    int result = tokenizer_load(&tokenizer, path, &err);
    const char *why = json_string_value(json_object_get(entry, "why"));
    cr_expect_lt(result, 0, "%s was loaded: %s", path, why);
    cr_expect_null(tokenizer);
    cr_expect_eq(error_exit_status(result), 2, "%s: %s", path, err.message);
    cr_expect_eq(strncmp(err.message, path, strlen(path)), 0, "not the file first: %s",
                 err.message);
    cr_expect_null(strchr(err.message, '\n'), "%s", err.message);
    const char *names = json_string_value(json_object_get(entry, "message_names"));
    cr_expect(names == NULL || names_one_of(err.message, names), "no %s in: %s", names,
              err.message);
    tokenizer_free(tokenizer);
}

static void expect_accepted(const json_t *entry, const char *path)
{
    struct tokenizer *tokenizer = NULL;
    struct error err = {0};
    int result = tokenizer_load(&tokenizer, path, &err);
    cr_assert_eq(result, 0, "%s", err.message);
    const json_t *cases = json_object_get(entry, "cases");
    for (size_t i = 0; i < json_array_size(cases); i++) {
        const json_t *object = json_array_get(cases, i);
        const json_t *text = json_object_get(object, "text");
        struct token_list ids = {0};
        result = tokenizer_encode(tokenizer, json_string_value(text), json_string_length(text),
                                  TOKENIZER_MATCH_ADDED, &ids, &err);
        cr_expect_eq(result, 0, "%s", err.message);
        cr_expect(fixture_ids_equal(path, i + 1, object, "ids", &ids));
        struct buffer decoded = {0};
        tokenizer_decode(tokenizer, ids.ids, ids.count, false, &decoded);
        cr_expect(fixture_text_equal(path, i + 1, object, "decoded", &decoded));
        buffer_free(&decoded);
        token_list_free(&ids);
    }
    tokenizer_free(tokenizer);
}

ParameterizedTestParameters(tokenizer_refused, file_is_refused_or_loads_as_listed)
{
    for (size_t i = 0; i < REFUSED_COUNT; i++) {
        refused_lines[i] = i;
    }
    return cr_make_param_array(size_t, refused_lines, REFUSED_COUNT);
}

ParameterizedTest(size_t *line, tokenizer_refused, file_is_refused_or_loads_as_listed)
{
    json_t *lines = fixture_lines("refused.jsonl");
    cr_assert_eq(json_array_size(lines), (size_t)REFUSED_COUNT);
    const json_t *entry = json_array_get(lines, *line);
    char path[256];
    snprintf(path, sizeof path, TOKENIZER_FIXTURES "%s",
             json_string_value(json_object_get(entry, "file")));
    if (strcmp(json_string_value(json_object_get(entry, "kind")), "refuse") == 0) {
        expect_refused(entry, path);
    } else {
        expect_accepted(entry, path);
    }
    json_decref(lines);
}

Test(tokenizer_refused, missing_file_is_named)
{
    struct tokenizer *tokenizer = NULL;
    struct error err = {0};
    cr_expect_lt(tokenizer_load(&tokenizer, "build/fixtures/absent/tokenizer.json", &err), 0);
    cr_expect_null(tokenizer);
    cr_expect_not_null(strstr(err.message, "build/fixtures/absent/tokenizer.json"));
}

/* Ids and texts against those of the Hugging Face library, line by line. */
#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <stdio.h>
#include <string.h>

#include "common/error.h"
#include "tests/unit/model/tokenizer_fixture.h"

struct golden_name {
    char name[32];
};

static struct golden_name golden_names[] = {
    {"llada_like"}, {"gpt2_form"}, {"smollm2_form"}, {"llama3_form"}, {"prefix_space"},
    {"nfc_seq"},    {"nfkc"},      {"added_flags"},  {"removed_gap"}, {"qwen3"},
};

enum { GOLDEN_COUNT = sizeof golden_names / sizeof *golden_names };

/* Encodes the text of a line and compares with one of its members. */
static bool encodes_to(const struct tokenizer *tokenizer, const char *file, size_t line,
                       const json_t *object, const char *key, unsigned flags)
{
    const json_t *text = json_object_get(object, "text");
    struct token_list ids = {0};
    struct error err = {0};
    int result = tokenizer_encode(tokenizer, json_string_value(text), json_string_length(text),
                                  flags, &ids, &err);
    if (result != 0) {
        fprintf(stderr, "%s:%zu: %s\n", file, line, err.message);
    }
    bool equal = result == 0 && fixture_ids_equal(file, line, object, key, &ids);
    cr_expect_leq(tokenizer_least_tokens(tokenizer, json_string_length(text), flags), ids.count,
                  "%s:%zu", file, line);
    token_list_free(&ids);
    return equal;
}

static bool decodes_to(const struct tokenizer *tokenizer, const char *file, size_t line,
                       const json_t *object, const char *key, bool skip_special)
{
    struct token_list ids = fixture_ids(json_object_get(object, "ids"));
    struct buffer text = {0};
    tokenizer_decode(tokenizer, ids.ids, ids.count, skip_special, &text);
    bool equal = fixture_text_equal(file, line, object, key, &text);
    buffer_free(&text);
    token_list_free(&ids);
    return equal;
}

static bool bytes_are(const struct tokenizer *tokenizer, const char *file, size_t line,
                      const json_t *object)
{
    struct token_list ids = fixture_ids(json_object_get(object, "ids"));
    struct buffer bytes = {0};
    struct buffer hex = {0};
    tokenizer_append_bytes(tokenizer, ids.ids, ids.count, false, &bytes);
    for (size_t i = 0; i < bytes.length; i++) {
        buffer_format(&hex, "%02x", (unsigned)(unsigned char)bytes.data[i]);
    }
    bool equal = fixture_text_equal(file, line, object, "bytes_hex", &hex);
    buffer_free(&hex);
    buffer_free(&bytes);
    token_list_free(&ids);
    return equal;
}

/* Calls check for every line of NAME.SUFFIX; the number of lines that differ. */
static size_t count_failures(const char *name, const char *suffix, size_t least_lines,
                             bool (*check)(const struct tokenizer *tokenizer, const char *file,
                                           size_t line, const json_t *object))
{
    char file[64];
    snprintf(file, sizeof file, "%s.%s", name, suffix);
    struct tokenizer *tokenizer = fixture_tokenizer(name);
    json_t *lines = fixture_lines(file);
    cr_assert(json_array_size(lines) >= least_lines, "%s has only %zu lines", file,
              json_array_size(lines));
    size_t failures = 0;
    for (size_t i = 0; i < json_array_size(lines); i++) {
        failures += !check(tokenizer, file, i + 1, json_array_get(lines, i));
    }
    json_decref(lines);
    tokenizer_free(tokenizer);
    return failures;
}

static bool check_ids(const struct tokenizer *tokenizer, const char *file, size_t line,
                      const json_t *object)
{
    return encodes_to(tokenizer, file, line, object, "ids", TOKENIZER_MATCH_ADDED);
}

static bool check_ids_special(const struct tokenizer *tokenizer, const char *file, size_t line,
                              const json_t *object)
{
    return encodes_to(tokenizer, file, line, object, "ids_special",
                      TOKENIZER_MATCH_ADDED | TOKENIZER_POST_PROCESS);
}

static bool check_decoded(const struct tokenizer *tokenizer, const char *file, size_t line,
                          const json_t *object)
{
    return decodes_to(tokenizer, file, line, object, "decoded", false) &&
           decodes_to(tokenizer, file, line, object, "decoded_skip", true);
}

static bool check_random_ids(const struct tokenizer *tokenizer, const char *file, size_t line,
                             const json_t *object)
{
    return decodes_to(tokenizer, file, line, object, "decoded", false) &&
           bytes_are(tokenizer, file, line, object);
}

ParameterizedTestParameters(tokenizer_golden, texts_encode_to_the_reference_ids)
{
    return cr_make_param_array(struct golden_name, golden_names, GOLDEN_COUNT);
}

ParameterizedTest(struct golden_name *golden, tokenizer_golden, texts_encode_to_the_reference_ids)
{
    cr_expect_eq(count_failures(golden->name, "cases.jsonl", 40, check_ids), 0, "%s", golden->name);
}

ParameterizedTestParameters(tokenizer_golden, post_processor_adds_the_reference_ids)
{
    return cr_make_param_array(struct golden_name, golden_names, GOLDEN_COUNT);
}

ParameterizedTest(struct golden_name *golden, tokenizer_golden,
                  post_processor_adds_the_reference_ids)
{
    cr_expect_eq(count_failures(golden->name, "cases.jsonl", 40, check_ids_special), 0, "%s",
                 golden->name);
}

ParameterizedTestParameters(tokenizer_golden, ids_decode_to_the_reference_text)
{
    return cr_make_param_array(struct golden_name, golden_names, GOLDEN_COUNT);
}

ParameterizedTest(struct golden_name *golden, tokenizer_golden, ids_decode_to_the_reference_text)
{
    cr_expect_eq(count_failures(golden->name, "cases.jsonl", 40, check_decoded), 0, "%s",
                 golden->name);
}

ParameterizedTestParameters(tokenizer_golden, random_ids_decode_to_the_reference_bytes)
{
    return cr_make_param_array(struct golden_name, golden_names, GOLDEN_COUNT);
}

ParameterizedTest(struct golden_name *golden, tokenizer_golden,
                  random_ids_decode_to_the_reference_bytes)
{
    cr_expect_eq(count_failures(golden->name, "decode.jsonl", 40, check_random_ids), 0, "%s",
                 golden->name);
}

/* The list of the golden data and the names above are the same tokenizers. */
Test(tokenizer_golden, every_listed_tokenizer_loads_with_its_size)
{
    json_t *list = fixture_lines("tokenizers.jsonl");
    size_t with_cases = 0;
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *entry = json_array_get(list, i);
        const char *file = json_string_value(json_object_get(entry, "file"));
        char name[32] = "";
        snprintf(name, sizeof name, "%.*s", (int)strcspn(file, "."), file);
        struct tokenizer *tokenizer = fixture_tokenizer(name);
        cr_expect_eq(tokenizer_size(tokenizer),
                     (int32_t)json_integer_value(json_object_get(entry, "vocab")), "%s", file);
        tokenizer_free(tokenizer);
        with_cases += json_object_get(entry, "cases") != NULL;
    }
    cr_expect_eq(with_cases, (size_t)GOLDEN_COUNT);
    json_decref(list);
}

/* What newer Unicode tables change is reported, never failed: the libraries' versions decide. */
Test(tokenizer_golden, texts_beyond_the_reference_unicode_version_still_encode)
{
    struct tokenizer *tokenizer = fixture_tokenizer("qwen3");
    json_t *lines = fixture_lines("unicode_version.cases.jsonl");
    for (size_t i = 0; i < json_array_size(lines); i++) {
        const json_t *object = json_array_get(lines, i);
        const json_t *text = json_object_get(object, "text");
        struct token_list ids = {0};
        struct error err = {0};
        int result = tokenizer_encode(tokenizer, json_string_value(text), json_string_length(text),
                                      TOKENIZER_MATCH_ADDED, &ids, &err);
        cr_expect_eq(result, 0, "line %zu: %s", i + 1, err.message);
        if (!fixture_ids_equal("unicode_version.cases.jsonl", i + 1, object, "ids", &ids)) {
            fprintf(stderr, "  expected to differ from Unicode %s on: %s\n",
                    json_string_value(json_object_get(object, "since")),
                    json_string_value(json_object_get(object, "why")));
        }
        token_list_free(&ids);
    }
    json_decref(lines);
    tokenizer_free(tokenizer);
}

/* Texts that become few tokens for their bytes: long tokens, and characters that shrink. */
Test(tokenizer_golden, no_text_has_fewer_tokens_than_the_bound)
{
    static const char *const units[] = {
        " ",
        "\n",
        "=",
        "-",
        "a",
        " the",
        "\xf0\x9d\x90\x80",                     /* U+1D400 */
        "\xe1\x84\x80\xe1\x85\xa1\xe1\x86\xa8", /* three Hangul letters, one in NFC */
        "\xe2\x84\xab",
        "A\xcc\x8a",
    };
    enum { REPEATS = 3000 };
    for (size_t i = 0; i < GOLDEN_COUNT; i++) {
        struct tokenizer *tokenizer = fixture_tokenizer(golden_names[i].name);
        for (size_t k = 0; k < sizeof units / sizeof units[0]; k++) {
            struct buffer text = {0};
            for (int repeat = 0; repeat < REPEATS; repeat++) {
                buffer_append_text(&text, units[k]);
            }
            for (unsigned flags = 0; flags <= TOKENIZER_MATCH_ADDED; flags++) {
                struct token_list ids = {0};
                struct error err = {0};
                cr_assert_eq(tokenizer_encode(tokenizer, text.data, text.length, flags, &ids, &err),
                             0);
                cr_expect_leq(tokenizer_least_tokens(tokenizer, text.length, flags), ids.count,
                              "%s: \"%s\"", golden_names[i].name, units[k]);
                token_list_free(&ids);
            }
            buffer_free(&text);
        }
        tokenizer_free(tokenizer);
    }
}

Test(tokenizer_golden, the_bound_is_of_use_where_there_is_one)
{
    struct tokenizer *tokenizer = fixture_tokenizer("qwen3");
    cr_expect_gt(tokenizer_least_tokens(tokenizer, 1 << 20, 0), 500);
    cr_expect_eq(tokenizer_least_tokens(tokenizer, 0, 0), 0);
    cr_expect_eq(tokenizer_least_tokens(tokenizer, 1, 0), 1);
    tokenizer_free(tokenizer);
    tokenizer = fixture_tokenizer("removed_gap");
    cr_expect_eq(tokenizer_least_tokens(tokenizer, 1 << 20, 0), 0, "it drops what it likes");
    tokenizer_free(tokenizer);
}

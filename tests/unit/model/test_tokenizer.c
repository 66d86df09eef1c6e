/* What the golden files do not show: borders of segments, damaged input, refusals of regexes. */
#include <criterion/criterion.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "server/model/tokenizer_internal.h"
#include "tests/unit/model/temporary_directory.h"
#include "tests/unit/model/tokenizer_fixture.h"

/* ---- tokenizers made here: 256 byte symbols with their byte as id, and what a test adds ---- */

static json_t *minimal_tokenizer(void)
{
    json_t *vocabulary = json_object();
    for (int byte = 0; byte < 256; byte++) {
        uint32_t code_point = byte_alphabet_code_point((uint8_t)byte);
        char symbol[3] = {(char)code_point};
        if (code_point >= 0x80) {
            symbol[0] = (char)(0xc0 | code_point >> 6);
            symbol[1] = (char)(0x80 | (code_point & 0x3f));
        }
        json_object_set_new(vocabulary, symbol, json_integer(byte));
    }
    return json_pack("{s:[], s:n, s:{s:s, s:b}, s:n, s:{s:s}, s:{s:s, s:o, s:[]}}", "added_tokens",
                     "normalizer", "pre_tokenizer", "type", "ByteLevel", "add_prefix_space", 0,
                     "post_processor", "decoder", "type", "ByteLevel", "model", "type", "BPE",
                     "vocab", vocabulary, "merges");
}

static void add_word(json_t *root, const char *word, int id)
{
    json_object_set_new(json_object_get(json_object_get(root, "model"), "vocab"), word,
                        json_integer(id));
}

static void add_merge(json_t *root, const char *merge)
{
    json_array_append_new(json_object_get(json_object_get(root, "model"), "merges"),
                          json_string(merge));
}

static void add_special(json_t *root, const char *content, int id)
{
    json_array_append_new(json_object_get(root, "added_tokens"),
                          json_pack("{s:i, s:s, s:b, s:b, s:b, s:b, s:b}", "id", id, "content",
                                    content, "special", 1, "lstrip", 0, "rstrip", 0, "single_word",
                                    0, "normalized", 0));
}

/* Split by a regex, then ByteLevel without its own. */
static void set_split(json_t *root, const char *regex)
{
    json_object_set_new(root, "pre_tokenizer",
                        json_pack("{s:s, s:[{s:s, s:{s:s}, s:s, s:b}, {s:s, s:b, s:b}]}", "type",
                                  "Sequence", "pretokenizers", "type", "Split", "pattern", "Regex",
                                  regex, "behavior", "Isolated", "invert", 0, "type", "ByteLevel",
                                  "add_prefix_space", 0, "use_regex", 0));
}

/* Writes and loads it; takes the JSON over. */
static int load(struct tokenizer **out, json_t *root, struct error *err)
{
    struct temporary_directory directory = temporary_directory_create();
    char *text = json_dumps(root, JSON_COMPACT);
    temporary_write_text(&directory, "tokenizer.json", text);
    int result = tokenizer_load(out, temporary_path(&directory, "tokenizer.json"), err);
    temporary_directory_remove(&directory);
    free(text);
    json_decref(root);
    return result;
}

static struct tokenizer *must_load(json_t *root)
{
    struct tokenizer *tokenizer = NULL;
    struct error err = {0};
    cr_assert_eq(load(&tokenizer, root, &err), 0, "%s", err.message);
    return tokenizer;
}

static void expect_ids(const struct token_list *found, size_t count, const int32_t *expected)
{
    cr_expect_eq(found->count, count, "%zu ids instead of %zu", found->count, count);
    for (size_t i = 0; i < count && i < found->count; i++) {
        cr_expect_eq(found->ids[i], expected[i], "ids[%zu] is %d instead of %d", i,
                     (int)found->ids[i], (int)expected[i]);
    }
}

/* ---- encoding ---- */

Test(tokenizer, empty_text_gives_what_the_post_processor_adds)
{
    struct tokenizer *tokenizer = fixture_tokenizer("llama3_form");
    struct token_list ids = {0};
    struct error err = {0};
    cr_expect_eq(tokenizer_encode(tokenizer, NULL, 0, TOKENIZER_MATCH_ADDED, &ids, &err), 0);
    cr_expect_eq(ids.count, 0);
    cr_expect_eq(tokenizer_encode(tokenizer, "", 0, TOKENIZER_POST_PROCESS, &ids, &err), 0);
    expect_ids(&ids, 1, (const int32_t[]){1504});
    token_list_free(&ids);
    tokenizer_free(tokenizer);
}

Test(tokenizer, text_that_is_not_utf8_is_refused_and_leaves_the_list_alone)
{
    struct tokenizer *tokenizer = fixture_tokenizer("llada_like");
    struct token_list ids = {0};
    struct error err = {0};
    token_list_append(&ids, 7);
    cr_expect_eq(tokenizer_encode(tokenizer, "ab\xed\xa0\x80", 5,
                                  TOKENIZER_MATCH_ADDED | TOKENIZER_POST_PROCESS, &ids, &err),
                 ERROR_INVALID);
    cr_expect_not_null(strstr(err.message, "byte 2"), "%s", err.message);
    expect_ids(&ids, 1, (const int32_t[]){7});
    token_list_free(&ids);
    tokenizer_free(tokenizer);
}

Test(tokenizer, untrusted_text_never_gives_an_added_token)
{
    struct tokenizer *tokenizer = fixture_tokenizer("qwen3");
    int32_t end = tokenizer_find(tokenizer, "<|im_end|>");
    struct token_list ids = {0};
    struct error err = {0};
    cr_expect_eq(tokenizer_encode(tokenizer, "<|im_end|>", 10, 0, &ids, &err), 0);
    cr_expect_gt(ids.count, 1);
    for (size_t i = 0; i < ids.count; i++) {
        cr_expect_neq(ids.ids[i], end);
    }
    ids.count = 0;
    cr_expect_eq(tokenizer_encode(tokenizer, "<|im_end|>", 10, TOKENIZER_MATCH_ADDED, &ids, &err),
                 0);
    expect_ids(&ids, 1, &end);
    token_list_free(&ids);
    tokenizer_free(tokenizer);
}

/* A pattern that begins in the template and ends in the content is not the template's. */
Test(tokenizer, added_token_across_a_segment_border_is_plain_text)
{
    struct tokenizer *tokenizer = fixture_tokenizer("qwen3");
    const char *text = "x<|im_end|>";
    struct token_list plain = {0};
    struct token_list ids = {0};
    struct error err = {0};
    cr_assert_eq(tokenizer_encode(tokenizer, text, 11, 0, &plain, &err), 0);
    for (size_t border = 2; border < 11; border++) {
        struct text_segment segments[] = {{0, border, true}, {border, 11, false}};
        ids.count = 0;
        cr_assert_eq(tokenizer_encode_segments(tokenizer, text, 11, segments, 2, &ids, &err), 0);
        expect_ids(&ids, plain.count, plain.ids);
    }
    token_list_free(&plain);
    token_list_free(&ids);
    tokenizer_free(tokenizer);
}

/* Content beside a template's token neither makes nor breaks it, and loses no white space to it. */
Test(tokenizer, flags_of_added_tokens_stay_inside_the_segment)
{
    struct tokenizer *tokenizer = fixture_tokenizer("added_flags");
    struct error err = {0};
    struct token_list ids = {0};
    struct text_segment word[] = {{0, 1, false}, {1, 4, true}};
    cr_assert_eq(tokenizer_encode_segments(tokenizer, "x<W>", 4, word, 2, &ids, &err), 0);
    cr_assert_gt(ids.count, 0);
    cr_expect_eq(ids.ids[ids.count - 1], tokenizer_find(tokenizer, "<W>"));
    ids.count = 0;
    struct text_segment strip[] = {{0, 3, true}, {3, 5, false}};
    cr_assert_eq(tokenizer_encode_segments(tokenizer, "<R>  ", 5, strip, 2, &ids, &err), 0);
    struct buffer decoded = {0};
    tokenizer_decode(tokenizer, ids.ids, ids.count, false, &decoded);
    cr_expect_str_eq(decoded.data, "<R>  ");
    buffer_free(&decoded);
    token_list_free(&ids);
    tokenizer_free(tokenizer);
}

Test(tokenizer, merges_never_give_a_special_token)
{
    json_t *root = minimal_tokenizer();
    add_word(root, "ab", 256);
    add_word(root, "abc", 257);
    add_merge(root, "a b");
    add_merge(root, "ab c");
    add_special(root, "abc", 257);
    struct tokenizer *tokenizer = must_load(json_copy(root));
    struct token_list ids = {0};
    struct error err = {0};
    cr_assert_eq(tokenizer_encode(tokenizer, "abc", 3, 0, &ids, &err), 0);
    expect_ids(&ids, 2, (const int32_t[]){256, 'c'});
    tokenizer_free(tokenizer);
    json_object_set_new(json_object_get(root, "model"), "ignore_merges", json_true());
    tokenizer = must_load(root);
    ids.count = 0;
    cr_assert_eq(tokenizer_encode(tokenizer, "abc", 3, 0, &ids, &err), 0);
    expect_ids(&ids, 2, (const int32_t[]){256, 'c'});
    ids.count = 0;
    cr_assert_eq(tokenizer_encode(tokenizer, "abc", 3, TOKENIZER_MATCH_ADDED, &ids, &err), 0);
    expect_ids(&ids, 1, (const int32_t[]){257});
    token_list_free(&ids);
    tokenizer_free(tokenizer);
}

Test(tokenizer, missing_bytes_give_the_unknown_token_fused_or_not)
{
    for (int fuse = 0; fuse < 2; fuse++) {
        json_t *root = minimal_tokenizer();
        json_t *model = json_object_get(root, "model");
        json_object_del(json_object_get(model, "vocab"), "z");
        add_word(root, "<unk>", 'z');
        json_object_set_new(model, "unk_token", json_string("<unk>"));
        json_object_set_new(model, "fuse_unk", json_boolean(fuse));
        struct tokenizer *tokenizer = must_load(root);
        struct token_list ids = {0};
        struct error err = {0};
        cr_assert_eq(tokenizer_encode(tokenizer, "azzb", 4, 0, &ids, &err), 0);
        expect_ids(&ids, fuse ? 3 : 4,
                   fuse ? (const int32_t[]){'a', 'z', 'b'} : (const int32_t[]){'a', 'z', 'z', 'b'});
        token_list_free(&ids);
        tokenizer_free(tokenizer);
    }
}

/* Sorting marks by class in quadratic time would take minutes here. */
Test(tokenizer, a_megabyte_of_combining_marks_is_normalized_in_time, .timeout = 60)
{
    struct tokenizer *tokenizer = fixture_tokenizer("nfc_seq");
    struct buffer text = {0};
    buffer_append_char(&text, 'q');
    for (int i = 0; i < 250000; i++) {
        buffer_append_text(&text, "\xcc\x81\xcc\xa3"); /* class 230, then 220 */
    }
    struct token_list ids = {0};
    struct error err = {0};
    cr_assert_eq(tokenizer_encode(tokenizer, text.data, text.length, 0, &ids, &err), 0);
    struct buffer decoded = {0};
    tokenizer_decode(tokenizer, ids.ids, ids.count, false, &decoded);
    cr_expect_eq(decoded.length, text.length);
    cr_expect_eq(memcmp(decoded.data, "q\xcc\xa3\xcc\xa3", 5), 0, "marks are not sorted");
    buffer_free(&decoded);
    buffer_free(&text);
    token_list_free(&ids);
    tokenizer_free(tokenizer);
}

/* ---- single ids ---- */

Test(tokenizer, ids_outside_of_the_vocabulary_have_no_token)
{
    struct tokenizer *tokenizer = fixture_tokenizer("qwen3");
    const int32_t absent[] = {-1, INT32_MIN, INT32_MAX, tokenizer_size(tokenizer)};
    for (size_t i = 0; i < sizeof absent / sizeof *absent; i++) {
        size_t length = 1;
        tokenizer_token_bytes(tokenizer, absent[i], &length);
        cr_expect_eq(length, 0);
        cr_expect_not(tokenizer_has_id(tokenizer, absent[i]));
        cr_expect_not(tokenizer_is_special(tokenizer, absent[i]));
    }
    cr_expect(tokenizer_has_id(tokenizer, tokenizer_size(tokenizer) - 1));
    cr_expect_eq(tokenizer_find(tokenizer, "<|endoftext|>"), 151643);
    cr_expect_eq(tokenizer_find(tokenizer, "<tool_call>"), 151657);
    cr_expect_eq(tokenizer_find(tokenizer, "no such token"), -1);
    cr_expect(tokenizer_is_special(tokenizer, 151643));
    cr_expect_not(tokenizer_is_special(tokenizer, 151657));
    size_t length = 0;
    const char *bytes =
        tokenizer_token_bytes(tokenizer, tokenizer_find(tokenizer, "\xc4\xa0the"), &length);
    cr_expect_eq(length, 4);
    cr_expect_eq(memcmp(bytes, " the", 4), 0);
    tokenizer_free(tokenizer);
}

/* ---- regexes ---- */

Test(tokenizer_regex, what_pcre2_reads_differently_is_refused_by_name)
{
    const struct {
        const char *regex, *named;
    } cases[] = {
        {"\\w+", "\\w"},
        {"a\\b", "\\b"},
        {"^a", "anchor"},
        {"a$", "anchor"},
        {"\\h", "\\h"},
        {"[a[bc]]", "class inside"},
        {"[a&&b]", "intersection"},
        {"(?i)a", "group"},
        {"(?m:a)", "group"},
        {"a{,3}", "{"},
        {"a{2}+", "{"},
        {"a{2,3}?", "{"},
        {"(?i:ss)", "folds"},
        {"(?i:\xc3\xa9)", "ASCII"},
        {"\\R", "\\R"},
        {"\\x41", "code point"},
        {"\\u41", "code point"},
        {"\\pL", "property"},
        {"\\p{Nonesuch}", "regex"},
        {"[a", "class"},
        {"(a", "regex"},
        {"a)", "regex"},
        {"\\", "escape"},
        {"(*FAIL)", "group"},
        {"[]a]", "empty class"},
        {"(?<n>a)\\k<n>", "group"},
        {"\\1", "\\1"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        pcre2_code *code = NULL;
        struct error err = {0};
        int result = tokenizer_compile_regex(&code, cases[i].regex, strlen(cases[i].regex), &err);
        cr_expect_lt(result, 0, "%s was compiled", cases[i].regex);
        cr_expect_null(code);
        cr_expect_not_null(strstr(err.message, cases[i].named), "%s: %s", cases[i].regex,
                           err.message);
    }
}

/* Whether the whole text is one match. */
static bool matches(const char *regex, const char *text)
{
    pcre2_code *code = NULL;
    struct error err = {0};
    cr_assert_eq(tokenizer_compile_regex(&code, regex, strlen(regex), &err), 0, "%s", err.message);
    pcre2_match_data *match = pcre2_match_data_create(1, NULL);
    int count = pcre2_match(code, (PCRE2_SPTR)text, strlen(text), 0,
                            PCRE2_ANCHORED | PCRE2_ENDANCHORED, match, NULL);
    pcre2_match_data_free(match);
    pcre2_code_free(code);
    return count > 0;
}

Test(tokenizer_regex, white_space_is_the_unicode_property)
{
    cr_expect(matches("\\s+", " \t\n\v\f\r\xc2\x85\xc2\xa0\xe1\x9a\x80\xe2\x80\xa8\xe3\x80\x80"));
    cr_expect_not(matches("\\s", "\xe1\xa0\x8e")); /* U+180E */
    cr_expect(matches("\\S", "\xe1\xa0\x8e"));
    cr_expect(matches("[^\\s]", "\xe1\xa0\x8e"));
    cr_expect_not(matches("[^\\S\\n]", "\n"));
    cr_expect(matches("[^\\S\\n]", " "));
    cr_expect(matches("[^\\S\\n]", "\xe2\x80\x8a"));
    cr_expect_not(matches("\\s", "\x1f"));
    cr_expect_not(matches("\\s", "\xe2\x80\x8b"));
    cr_expect(matches("[\\S]", "\x1f"));
    cr_expect_not(matches("[\\S]", "\xe2\x80\xaf"));
}

Test(tokenizer_regex, escapes_and_properties_mean_what_ruby_means)
{
    cr_expect(matches("\\v", "\v"));
    cr_expect_not(matches("\\v", "\n"));
    cr_expect(matches("\\d", "\xd9\xa3")); /* an Arabic digit */
    cr_expect(matches("\\u4e00[\\x{4e00}-\\u9fff]", "\xe4\xb8\x80\xe4\xb8\xad"));
    cr_expect(matches("\\p{Han}", "\xe4\xb8\xad"));
    cr_expect_not(matches("\\p{Han}", "\xe3\x80\x81")); /* U+3001: only its extensions have Han */
    cr_expect(matches("\\p{^Lu}", "a"));
    cr_expect_not(matches(".", "\n"));
    cr_expect(matches(".", "\r"));
    cr_expect(matches("(?i:'s)", "'\xc5\xbf"));
    cr_expect(matches("[\\]\\-\\[]+", "-[]"));
}

/* The published patterns of the model families and their neighbours. */
Test(tokenizer_regex, published_patterns_compile)
{
    static const char *const patterns[] = {
        "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| "
        "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
        "'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}| "
        "?[^\\s\\p{L}\\p{N}]++[\\r\\n]*|\\s*[\\r\\n]|\\s+(?!\\S)|\\s+",
        "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+"
        "(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|"
        "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
        "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?"
        "[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
        "[\xe4\xb8\x80-\xe9\xbe\xa5\xe3\x81\x80-\xe3\x82\x9f\xe3\x82\xa0-\xe3\x83\xbf]+",
    };
    for (size_t i = 0; i < sizeof patterns / sizeof *patterns; i++) {
        pcre2_code *code = NULL;
        struct error err = {0};
        cr_expect_eq(tokenizer_compile_regex(&code, patterns[i], strlen(patterns[i]), &err), 0,
                     "%zu: %s", i, err.message);
        pcre2_code_free(code);
    }
}

Test(tokenizer_regex, pathological_pattern_ends_with_an_error, .timeout = 60)
{
    json_t *root = minimal_tokenizer();
    set_split(root, "(?:a+)+b|(?:(?:a|a)*)*c");
    struct tokenizer *tokenizer = must_load(root);
    char text[64];
    memset(text, 'a', sizeof text);
    struct token_list ids = {0};
    struct error err = {0};
    cr_expect_eq(tokenizer_encode(tokenizer, text, sizeof text, 0, &ids, &err), ERROR_LIMIT);
    cr_expect_not_null(strstr(err.message, "(?:a+)+b"), "%s", err.message);
    cr_expect_eq(ids.count, 0);
    token_list_free(&ids);
    tokenizer_free(tokenizer);
}

Test(tokenizer_regex, empty_matches_cut_the_text_without_looping)
{
    json_t *root = minimal_tokenizer();
    set_split(root, "x*");
    add_word(root, "ab", 256);
    add_merge(root, "a b");
    struct tokenizer *tokenizer = must_load(root);
    struct token_list ids = {0};
    struct error err = {0};
    cr_assert_eq(tokenizer_encode(tokenizer, "abxxab", 6, 0, &ids, &err), 0);
    expect_ids(&ids, 6, (const int32_t[]){'a', 'b', 'x', 'x', 'a', 'b'});
    token_list_free(&ids);
    tokenizer_free(tokenizer);
}

/* ---- loading ---- */

Test(tokenizer_load, steps_behind_byte_level_are_refused)
{
    json_t *root = minimal_tokenizer();
    json_object_set_new(root, "pre_tokenizer",
                        json_pack("{s:s, s:[{s:s, s:b}, {s:s, s:b}]}", "type", "Sequence",
                                  "pretokenizers", "type", "ByteLevel", "add_prefix_space", 0,
                                  "type", "Digits", "individual_digits", 1));
    struct tokenizer *tokenizer = NULL;
    struct error err = {0};
    cr_expect_eq(load(&tokenizer, root, &err), ERROR_UNSUPPORTED);
    cr_expect_not_null(strstr(err.message, "Digits"), "%s", err.message);
}

Test(tokenizer_load, post_processor_must_name_tokens_of_the_file)
{
    json_t *root = minimal_tokenizer();
    json_object_set_new(
        root, "post_processor",
        json_pack("{s:s, s:[{s:{s:s, s:i}}, {s:{s:s, s:i}}], s:{s:{s:s, s:[i], s:[s]}}}", "type",
                  "TemplateProcessing", "single", "SpecialToken", "id", "<bos>", "type_id", 0,
                  "Sequence", "id", "A", "type_id", 0, "special_tokens", "<bos>", "id", "<bos>",
                  "ids", 999, "tokens", "<bos>"));
    struct tokenizer *tokenizer = NULL;
    struct error err = {0};
    cr_expect_eq(load(&tokenizer, root, &err), ERROR_INVALID);
    cr_expect_not_null(strstr(err.message, "<bos>"), "%s", err.message);
}

Test(tokenizer_load, a_special_token_that_is_a_byte_is_refused)
{
    json_t *root = minimal_tokenizer();
    add_special(root, "!", '!');
    struct tokenizer *tokenizer = NULL;
    struct error err = {0};
    cr_expect_eq(load(&tokenizer, root, &err), ERROR_UNSUPPORTED);
    cr_expect_not_null(strstr(err.message, "\"!\""), "%s", err.message);
}

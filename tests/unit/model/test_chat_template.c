/* Chat templates against Jinja's rendering, and what of it may become a special token. */
#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "server/model/chat_template.h"
#include "tests/unit/model/temporary_directory.h"
#include "tests/unit/model/tokenizer_fixture.h"

struct family_name {
    char name[32];
};

static struct family_name family_names[] = {
    {"llada"},         {"llada_gen"},    {"chatml_plain"}, {"chatml_default_system"},
    {"chatml_qwen25"}, {"chatml_dream"}, {"chatml_qwen3"}, {"llada2"},
};

enum { FAMILY_COUNT = sizeof family_names / sizeof *family_names, MAX_MESSAGES = 16 };

static const char *member_text(const json_t *object, const char *key)
{
    return json_string_value(json_object_get(object, key));
}

static size_t read_messages(const json_t *array, struct chat_message *messages)
{
    static const char *const roles[] = {"system", "user", "assistant"};
    size_t count = json_array_size(array);
    cr_assert_leq(count, (size_t)MAX_MESSAGES);
    for (size_t i = 0; i < count; i++) {
        const json_t *message = json_array_get(array, i);
        const json_t *content = json_object_get(message, "content");
        messages[i] = (struct chat_message){.content = json_string_value(content),
                                            .length = json_string_length(content)};
        while (strcmp(roles[messages[i].role], member_text(message, "role")) != 0) {
            messages[i].role++;
            cr_assert_leq(messages[i].role, CHAT_ASSISTANT);
        }
    }
    return count;
}

static bool segments_equal(size_t line, const json_t *object, const struct buffer *text,
                           const struct text_segment_list *segments)
{
    const json_t *expected = json_object_get(object, "content_segments");
    bool equal = segments->count == json_array_size(expected);
    size_t at = 0;
    for (size_t i = 0; equal && i < segments->count; i++) {
        const struct text_segment *found = &segments->items[i];
        const json_t *pair = json_array_get(expected, i);
        const json_t *part = json_array_get(pair, 1);
        bool trusted = strcmp(json_string_value(json_array_get(pair, 0)), "template") == 0;
        size_t length = json_string_length(part);
        equal = found->trusted == trusted && found->begin == at && found->end == at + length &&
                found->end <= text->length &&
                memcmp(text->data + at, json_string_value(part), length) == 0;
        at += length;
    }
    if (!equal) {
        fprintf(stderr, "chat_templates.jsonl:%zu: segments differ; expected:\n", line);
        json_dumpf(expected, stderr, JSON_ENSURE_ASCII);
        fprintf(stderr, "\n  found:");
        for (size_t i = 0; i < segments->count; i++) {
            fprintf(stderr, " %s[%zu,%zu)", segments->items[i].trusted ? "template" : "content",
                    segments->items[i].begin, segments->items[i].end);
        }
        fprintf(stderr, "\n");
    }
    return equal;
}

struct rendered {
    struct buffer text;
    struct text_segment_list segments;
};

static struct rendered render(const json_t *object, size_t line)
{
    struct rendered rendered = {0};
    struct chat_template *chat_template =
        chat_template_recognise(member_text(object, "template"), member_text(object, "bos_token"));
    cr_assert_not_null(chat_template, "line %zu: template not recognised", line);
    cr_expect_str_eq(chat_template_family(chat_template), member_text(object, "family"));
    struct chat_message messages[MAX_MESSAGES];
    size_t count = read_messages(json_object_get(object, "messages"), messages);
    struct error err = {0};
    int result =
        chat_template_render(chat_template, messages, count,
                             json_is_true(json_object_get(object, "add_generation_prompt")),
                             &rendered.text, &rendered.segments, &err);
    cr_assert_eq(result, 0, "line %zu: %s", line, err.message);
    chat_template_free(chat_template);
    return rendered;
}

static void rendered_free(struct rendered *rendered)
{
    buffer_free(&rendered->text);
    text_segment_list_free(&rendered->segments);
}

/* Calls check for every line of a family. */
static void for_each_line(const char *family,
                          void (*check)(const json_t *object, size_t line, void *context),
                          void *context)
{
    json_t *lines = fixture_lines("chat_templates.jsonl");
    size_t count = 0;
    for (size_t i = 0; i < json_array_size(lines); i++) {
        const json_t *object = json_array_get(lines, i);
        if (strcmp(member_text(object, "family"), family) == 0) {
            check(object, i + 1, context);
            count++;
        }
    }
    cr_expect_eq(count, (size_t)32, "%s: %zu lines", family, count);
    json_decref(lines);
}

static void check_rendering(const json_t *object, size_t line, void *context)
{
    (void)context;
    struct rendered rendered = render(object, line);
    cr_expect(fixture_text_equal("chat_templates.jsonl", line, object, "rendered", &rendered.text));
    cr_expect(segments_equal(line, object, &rendered.text, &rendered.segments));
    rendered_free(&rendered);
}

ParameterizedTestParameters(chat_template, renders_as_jinja_does)
{
    return cr_make_param_array(struct family_name, family_names, FAMILY_COUNT);
}

ParameterizedTest(struct family_name *family, chat_template, renders_as_jinja_does)
{
    for_each_line(family->name, check_rendering, NULL);
}

static void check_ids(const json_t *object, size_t line, void *context)
{
    const struct tokenizer *tokenizer = context;
    struct rendered rendered = render(object, line);
    struct token_list ids = {0};
    struct error err = {0};
    int result =
        tokenizer_encode_segments(tokenizer, rendered.text.data, rendered.text.length,
                                  rendered.segments.items, rendered.segments.count, &ids, &err);
    cr_expect_eq(result, 0, "%s", err.message);
    cr_expect(fixture_ids_equal("chat_templates.jsonl", line, object, "ids_safe", &ids));
    ids.count = 0;
    result = tokenizer_encode(tokenizer, rendered.text.data, rendered.text.length,
                              TOKENIZER_MATCH_ADDED, &ids, &err);
    cr_expect_eq(result, 0, "%s", err.message);
    cr_expect(fixture_ids_equal("chat_templates.jsonl", line, object, "ids_trusted", &ids));
    token_list_free(&ids);
    rendered_free(&rendered);
}

ParameterizedTestParameters(chat_template, content_never_becomes_an_added_token)
{
    return cr_make_param_array(struct family_name, family_names, FAMILY_COUNT);
}

ParameterizedTest(struct family_name *family, chat_template, content_never_becomes_an_added_token)
{
    bool qwen = strncmp(family->name, "chatml", 6) == 0;
    bool llada2 = strcmp(family->name, "llada2") == 0;
    struct tokenizer *tokenizer = fixture_tokenizer(qwen     ? "qwen3"
                                                    : llada2 ? "llada_moe_like"
                                                             : "llada_like");
    for_each_line(family->name, check_ids, tokenizer);
    tokenizer_free(tokenizer);
}

/* The template text of a family, from the golden data; the caller frees it. */
static char *template_of(const char *family)
{
    json_t *lines = fixture_lines("chat_templates.jsonl");
    char *text = NULL;
    for (size_t i = 0; text == NULL && i < json_array_size(lines); i++) {
        const json_t *object = json_array_get(lines, i);
        if (strcmp(member_text(object, "family"), family) == 0) {
            text = strdup(member_text(object, "template"));
        }
    }
    json_decref(lines);
    cr_assert_not_null(text);
    return text;
}

Test(chat_template, recognises_a_text_but_for_white_space_at_its_end)
{
    char *text = template_of("chatml_qwen3");
    char *longer = NULL;
    cr_assert_gt(asprintf(&longer, "%s\n", text), 0);
    struct chat_template *chat_template = chat_template_recognise(longer, NULL);
    cr_assert_not_null(chat_template);
    cr_expect_str_eq(chat_template_family(chat_template), "chatml_qwen3");
    cr_expect_str_eq(chat_template_end_of_turn(chat_template), "<|im_end|>");
    chat_template_free(chat_template);
    longer[100] ^= 1;
    cr_expect_null(chat_template_recognise(longer, NULL));
    cr_expect_null(chat_template_recognise("", NULL));
    free(longer);
    free(text);
}

Test(chat_template, llada_without_a_bos_token_refuses_to_render)
{
    char *text = template_of("llada_gen");
    struct chat_template *chat_template = chat_template_recognise(text, NULL);
    struct rendered rendered = {0};
    struct error err = {0};
    struct chat_message message = {.role = CHAT_USER, .content = "x", .length = 1};
    cr_expect_eq(chat_template_render(chat_template, &message, 1, true, &rendered.text,
                                      &rendered.segments, &err),
                 ERROR_INVALID);
    cr_expect_not_null(strstr(err.message, "bos_token"));
    cr_expect_eq(chat_template_render(chat_template, NULL, 0, true, &rendered.text,
                                      &rendered.segments, &err),
                 ERROR_INVALID);
    rendered_free(&rendered);
    chat_template_free(chat_template);
    free(text);
}

/* ---- directories ---- */

/* Writes a config with these values, which are taken over. */
static void write_config(const struct temporary_directory *directory, json_t *template_value,
                         json_t *bos)
{
    json_t *config = json_object();
    json_object_set_new(config, "chat_template", template_value);
    json_object_set_new(config, "bos_token", bos);
    char *text = json_dumps(config, 0);
    temporary_write_text(directory, "tokenizer_config.json", text);
    free(text);
    json_decref(config);
}

/* Loads a directory and compares the family; NULL for none. Then removes the directory. */
static void expect_family(const struct temporary_directory *directory, const char *family,
                          const char *reason_word)
{
    struct chat_template *chat_template = NULL;
    const char *reason = NULL;
    struct error err = {0};
    cr_assert_eq(chat_template_load(&chat_template, &reason, directory->path, &err), 0, "%s",
                 err.message);
    if (family != NULL) {
        cr_assert_not_null(chat_template);
        cr_expect_str_eq(chat_template_family(chat_template), family);
        cr_expect_null(reason);
    } else {
        cr_expect_null(chat_template);
        cr_assert_not_null(reason);
        cr_expect_not_null(strstr(reason, reason_word), "%s", reason);
    }
    chat_template_free(chat_template);
    temporary_directory_remove(directory);
}

Test(chat_template, loads_a_string_and_a_bos_object_from_the_config)
{
    struct temporary_directory directory = temporary_directory_create();
    char *text = template_of("llada");
    write_config(&directory, json_string(text), json_pack("{s:s}", "content", "<bos>"));
    struct chat_template *chat_template = NULL;
    const char *reason = NULL;
    struct error err = {0};
    cr_assert_eq(chat_template_load(&chat_template, &reason, directory.path, &err), 0, "%s",
                 err.message);
    cr_assert_not_null(chat_template);
    struct rendered rendered = {0};
    struct chat_message message = {.role = CHAT_USER, .content = " x ", .length = 3};
    cr_assert_eq(chat_template_render(chat_template, &message, 1, false, &rendered.text,
                                      &rendered.segments, &err),
                 0);
    cr_expect_str_eq(rendered.text.data,
                     "<bos><|start_header_id|>user<|end_header_id|>\n\nx<|eot_id|>"
                     "<|start_header_id|>assistant<|end_header_id|>\n\n");
    rendered_free(&rendered);
    chat_template_free(chat_template);
    free(text);
    temporary_directory_remove(&directory);
}

Test(chat_template, loads_the_default_of_a_list)
{
    struct temporary_directory directory = temporary_directory_create();
    char *text = template_of("chatml_qwen25");
    write_config(&directory,
                 json_pack("[{s:s,s:s},{s:s,s:s}]", "name", "tool_use", "template", "x", "name",
                           "default", "template", text),
                 json_null());
    free(text);
    expect_family(&directory, "chatml_qwen25", NULL);
}

Test(chat_template, jinja_file_wins_over_the_config)
{
    struct temporary_directory directory = temporary_directory_create();
    char *text = template_of("llada2");
    write_config(&directory, json_string("something else"), json_string("<bos>"));
    temporary_write_text(&directory, "chat_template.jinja", text);
    free(text);
    expect_family(&directory, "llada2", NULL);
}

Test(chat_template, jinja_file_alone_is_enough)
{
    struct temporary_directory directory = temporary_directory_create();
    char *text = template_of("chatml_dream");
    temporary_write_text(&directory, "chat_template.jinja", text);
    free(text);
    expect_family(&directory, "chatml_dream", NULL);
}

Test(chat_template, no_template_is_no_error)
{
    struct temporary_directory directory = temporary_directory_create();
    expect_family(&directory, NULL, "no chat template");
    directory = temporary_directory_create();
    write_config(&directory, json_null(), json_null());
    expect_family(&directory, NULL, "no chat template");
}

Test(chat_template, unknown_template_is_no_error)
{
    struct temporary_directory directory = temporary_directory_create();
    write_config(&directory, json_string("{{ messages }}"), json_null());
    expect_family(&directory, NULL, "known");
}

Test(chat_template, broken_config_is_an_error_that_names_the_file)
{
    struct temporary_directory directory = temporary_directory_create();
    temporary_write_text(&directory, "tokenizer_config.json", "{");
    struct chat_template *chat_template = NULL;
    const char *reason = NULL;
    struct error err = {0};
    cr_expect_eq(chat_template_load(&chat_template, &reason, directory.path, &err), ERROR_INVALID);
    cr_expect_null(chat_template);
    cr_expect_not_null(strstr(err.message, "tokenizer_config.json"));
    temporary_directory_remove(&directory);
}

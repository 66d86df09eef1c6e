/*
 * Normalizer, pre-tokenizer, post-processor and decoder of a tokenizer.json. Every type and option
 * that is not carried out exactly is refused by its name.
 */
#include "server/model/tokenizer_internal.h"

#include <stdlib.h>
#include <string.h>

#include "common/json.h"

enum { MAX_NESTING = 8 };

int tokenizer_require_bool(const json_t *object, const char *key, bool *out, const char *path,
                           const char *where, struct error *err)
{
    const json_t *value = json_object_get(object, key);
    if (!json_is_boolean(value)) {
        return error_set(err, ERROR_INVALID, "%s: %s: %s must be true or false, found %s", path,
                         where, key, value == NULL ? "nothing" : json_type_name(value));
    }
    *out = json_is_true(value);
    return 0;
}

/* The type of a step, an object with a string "type". */
static int step_type(const json_t *step, const char *where, const char **type, const char *path,
                     struct error *err)
{
    *type = json_string_value(json_object_get(step, "type"));
    if (*type == NULL) {
        return error_set(err, ERROR_INVALID, "%s: %s must be an object with a type, found %s", path,
                         where, json_is_object(step) ? "none in it" : json_type_name(step));
    }
    return 0;
}

static int refuse_type(const char *where, const char *type, const char *supported, const char *path,
                       struct error *err)
{
    return error_set(err, ERROR_UNSUPPORTED,
                     "%s: %s type \"%.64s\" is not supported; supported: %s", path, where, type,
                     supported);
}

/* The list inside a Sequence. */
static int sequence_items(const json_t *step, const char *key, const char *where, int depth,
                          const json_t **items, const char *path, struct error *err)
{
    *items = json_object_get(step, key);
    if (!json_is_array(*items)) {
        return error_set(err, ERROR_INVALID, "%s: %s: a Sequence needs an array %s", path, where,
                         key);
    }
    if (depth >= MAX_NESTING) {
        return error_set(err, ERROR_UNSUPPORTED,
                         "%s: %s: a Sequence inside more than %d others is not supported", path,
                         where, MAX_NESTING);
    }
    return 0;
}

static int load_normalizer(struct tokenizer *tokenizer, const json_t *step, int depth,
                           const char *path, struct error *err)
{
    const char *type;
    int result = step_type(step, "normalizer", &type, path, err);
    if (result != 0) {
        return result;
    }
    if (strcmp(type, "Sequence") == 0) {
        const json_t *items;
        result = sequence_items(step, "normalizers", "normalizer", depth, &items, path, err);
        for (size_t i = 0; result == 0 && i < json_array_size(items); i++) {
            result = load_normalizer(tokenizer, json_array_get(items, i), depth + 1, path, err);
        }
        return result;
    }
    if (strcmp(type, "NFKC") == 0) {
        tokenizer->normal_form = NORMAL_FORM_NFKC;
        return 0;
    }
    if (strcmp(type, "NFC") != 0) {
        return refuse_type("normalizer", type, "NFC, NFKC, Sequence", path, err);
    }
    /* NFC before or after NFKC changes nothing. */
    if (tokenizer->normal_form == NORMAL_FORM_NONE) {
        tokenizer->normal_form = NORMAL_FORM_NFC;
    }
    return 0;
}

int tokenizer_load_normalizer(struct tokenizer *tokenizer, const json_t *step, const char *path,
                              struct error *err)
{
    if (step == NULL || json_is_null(step)) {
        return 0;
    }
    return load_normalizer(tokenizer, step, 0, path, err);
}

/* Adds a split that tokenizer_compile_* has compiled, or passes on why it could not. */
static int add_split(struct tokenizer *tokenizer, pcre2_code *code, const char *name,
                     size_t name_length, bool keep_matches, bool keep_gaps, const char *path,
                     struct error *err)
{
    char *copy = strndup(name, name_length);
    if (copy == NULL || tokenizer->split_count == TOKENIZER_MAX_SPLITS) {
        bool too_many = copy != NULL;
        free(copy);
        pcre2_code_free(code);
        return too_many ? error_set(err, ERROR_UNSUPPORTED,
                                    "%s: pre_tokenizer: more than %d splits are not supported",
                                    path, TOKENIZER_MAX_SPLITS)
                        : error_set(err, ERROR_MEMORY, "%s: no memory to load it", path);
    }
    tokenizer->splits[tokenizer->split_count++] = (struct split_step){
        .code = code, .keep_matches = keep_matches, .keep_gaps = keep_gaps, .name = copy};
    return 0;
}

static int add_fixed_split(struct tokenizer *tokenizer, const char *pattern, const char *path,
                           struct error *err)
{
    pcre2_code *code;
    int result = tokenizer_compile_regex(&code, pattern, strlen(pattern), err);
    if (result != 0) {
        return error_prefix(err, "%s: pre_tokenizer", path);
    }
    return add_split(tokenizer, code, pattern, strlen(pattern), true, true, path, err);
}

static int load_split(struct tokenizer *tokenizer, const json_t *step, const char *path,
                      struct error *err)
{
    bool invert = false;
    int result = tokenizer_require_bool(step, "invert", &invert, path, "pre_tokenizer Split", err);
    if (result != 0) {
        return result;
    }
    const char *behavior = json_string_value(json_object_get(step, "behavior"));
    if (behavior == NULL) {
        return error_set(err, ERROR_INVALID, "%s: pre_tokenizer Split: behavior must be a string",
                         path);
    }
    bool isolated = strcmp(behavior, "Isolated") == 0;
    if (!isolated && strcmp(behavior, "Removed") != 0) {
        return error_set(err, ERROR_UNSUPPORTED,
                         "%s: pre_tokenizer Split: behavior \"%.64s\" is not supported; supported: "
                         "Isolated, Removed",
                         path, behavior);
    }
    const json_t *pattern = json_object_get(step, "pattern");
    const json_t *regex = json_object_get(pattern, "Regex");
    const json_t *literal = json_object_get(pattern, "String");
    const json_t *text = regex != NULL ? regex : literal;
    if (!json_is_string(text) || json_object_size(pattern) != 1) {
        return error_set(err, ERROR_INVALID,
                         "%s: pre_tokenizer Split: pattern must be {\"Regex\": ...} or "
                         "{\"String\": ...}",
                         path);
    }
    const char *name = json_string_value(text);
    size_t length = json_string_length(text);
    pcre2_code *code;
    result = regex != NULL ? tokenizer_compile_regex(&code, name, length, err)
                           : tokenizer_compile_literal(&code, name, length, err);
    if (result != 0) {
        return error_prefix(err, "%s: pre_tokenizer Split", path);
    }
    return add_split(tokenizer, code, name, length, isolated || invert, isolated || !invert, path,
                     err);
}

static int load_digits(struct tokenizer *tokenizer, const json_t *step, const char *path,
                       struct error *err)
{
    bool individual = false;
    int result = tokenizer_require_bool(step, "individual_digits", &individual, path,
                                        "pre_tokenizer Digits", err);
    if (result != 0) {
        return result;
    }
    return add_fixed_split(tokenizer, individual ? "\\p{N}" : "\\p{N}+", path, err);
}

static int load_byte_level(struct tokenizer *tokenizer, const json_t *step, const char *path,
                           struct error *err)
{
    bool add_prefix_space = false;
    bool use_regex = true;
    const char *where = "pre_tokenizer ByteLevel";
    int result =
        tokenizer_require_bool(step, "add_prefix_space", &add_prefix_space, path, where, err);
    if (result == 0 && json_object_get(step, "use_regex") != NULL) {
        result = tokenizer_require_bool(step, "use_regex", &use_regex, path, where, err);
    }
    if (result != 0) {
        return result;
    }
    if (add_prefix_space) {
        tokenizer->prefix_space_at = tokenizer->split_count;
    }
    if (!use_regex) {
        return 0;
    }
    return add_fixed_split(tokenizer,
                           "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|"
                           "\\s+(?!\\S)|\\s+",
                           path, err);
}

/* `*byte_level`: a ByteLevel was read; what follows it would see its alphabet instead of text. */
static int load_pre_tokenizer(struct tokenizer *tokenizer, const json_t *step, int depth,
                              bool *byte_level, const char *path, struct error *err)
{
    const char *type;
    int result = step_type(step, "pre_tokenizer", &type, path, err);
    if (result != 0) {
        return result;
    }
    if (strcmp(type, "Sequence") == 0) {
        const json_t *items;
        result = sequence_items(step, "pretokenizers", "pre_tokenizer", depth, &items, path, err);
        for (size_t i = 0; result == 0 && i < json_array_size(items); i++) {
            result = load_pre_tokenizer(tokenizer, json_array_get(items, i), depth + 1, byte_level,
                                        path, err);
        }
        return result;
    }
    bool split = strcmp(type, "Split") == 0;
    bool digits = strcmp(type, "Digits") == 0;
    if (!split && !digits && strcmp(type, "ByteLevel") != 0) {
        return refuse_type("pre_tokenizer", type, "Split, Digits, ByteLevel, Sequence", path, err);
    }
    if (*byte_level) {
        return error_set(
            err, ERROR_UNSUPPORTED,
            "%s: pre_tokenizer: a %s behind ByteLevel is not supported: ByteLevel must "
            "be the last",
            path, type);
    }
    if (split) {
        return load_split(tokenizer, step, path, err);
    }
    if (digits) {
        return load_digits(tokenizer, step, path, err);
    }
    *byte_level = true;
    return load_byte_level(tokenizer, step, path, err);
}

int tokenizer_load_pre_tokenizer(struct tokenizer *tokenizer, const json_t *step, const char *path,
                                 struct error *err)
{
    tokenizer->prefix_space_at = -1;
    bool byte_level = false;
    if (step != NULL && !json_is_null(step)) {
        int result = load_pre_tokenizer(tokenizer, step, 0, &byte_level, path, err);
        if (result != 0) {
            return result;
        }
    }
    if (!byte_level) {
        return error_set(
            err, ERROR_UNSUPPORTED,
            "%s: pre_tokenizer: only byte-level tokenizers are supported, and there is "
            "no ByteLevel in it",
            path);
    }
    return 0;
}

/* The ids of one special token of a TemplateProcessing. */
static int append_special(const struct tokenizer *tokenizer, const json_t *template_step,
                          const char *name, struct token_list *out, const char *path,
                          struct error *err)
{
    const json_t *specials = json_object_get(template_step, "special_tokens");
    const json_t *ids = json_object_get(json_object_get(specials, name), "ids");
    if (!json_is_array(ids)) {
        return error_set(err, ERROR_INVALID,
                         "%s: post_processor: special_tokens has no ids for \"%.64s\"", path, name);
    }
    for (size_t i = 0; i < json_array_size(ids); i++) {
        const json_t *id = json_array_get(ids, i);
        json_int_t value = json_is_integer(id) ? json_integer_value(id) : -1;
        if (value < 0 || value >= tokenizer->size || !tokenizer_has_id(tokenizer, (int32_t)value)) {
            return error_set(err, ERROR_INVALID,
                             "%s: post_processor: special token \"%.64s\" must have ids of tokens "
                             "of this file",
                             path, name);
        }
        token_list_append(out, (int32_t)value);
    }
    return 0;
}

/* Puts the ids of a template outside of those that earlier processors gave. */
static int wrap(struct tokenizer *tokenizer, struct token_list *before, struct token_list *after,
                const char *path, struct error *err)
{
    for (size_t i = 0; i < tokenizer->prefix.count; i++) {
        token_list_append(before, tokenizer->prefix.ids[i]);
    }
    for (size_t i = 0; i < after->count; i++) {
        token_list_append(&tokenizer->suffix, after->ids[i]);
    }
    if (before->failed || after->failed || tokenizer->suffix.failed) {
        return error_set(err, ERROR_MEMORY, "%s: no memory to load it", path);
    }
    struct token_list old = tokenizer->prefix;
    tokenizer->prefix = *before;
    *before = old;
    return 0;
}

/* "single": special tokens around exactly one Sequence A. */
static int load_template(struct tokenizer *tokenizer, const json_t *step, const char *path,
                         struct error *err)
{
    struct token_list sides[2] = {{0}, {0}};
    const json_t *pieces = json_object_get(step, "single");
    int sequences = 0;
    int result = 0;
    for (size_t i = 0; result == 0 && i < json_array_size(pieces); i++) {
        const json_t *piece = json_array_get(pieces, i);
        const char *sequence =
            json_string_value(json_object_get(json_object_get(piece, "Sequence"), "id"));
        const char *special =
            json_string_value(json_object_get(json_object_get(piece, "SpecialToken"), "id"));
        if (sequence != NULL && strcmp(sequence, "A") == 0 && sequences == 0) {
            sequences = 1;
        } else if (sequence == NULL && special != NULL) {
            result = append_special(tokenizer, step, special, &sides[sequences], path, err);
        } else {
            sequences = 2;
            break;
        }
    }
    if (result == 0 && sequences != 1) {
        result = error_set(err, ERROR_UNSUPPORTED,
                           "%s: post_processor TemplateProcessing: single must be special tokens "
                           "around one Sequence A",
                           path);
    }
    if (result == 0) {
        result = wrap(tokenizer, &sides[0], &sides[1], path, err);
    }
    token_list_free(&sides[0]);
    token_list_free(&sides[1]);
    return result;
}

static int load_post_processor(struct tokenizer *tokenizer, const json_t *step, int depth,
                               const char *path, struct error *err)
{
    const char *type;
    int result = step_type(step, "post_processor", &type, path, err);
    if (result != 0) {
        return result;
    }
    if (strcmp(type, "Sequence") == 0) {
        const json_t *items;
        result = sequence_items(step, "processors", "post_processor", depth, &items, path, err);
        for (size_t i = 0; result == 0 && i < json_array_size(items); i++) {
            result = load_post_processor(tokenizer, json_array_get(items, i), depth + 1, path, err);
        }
        return result;
    }
    if (strcmp(type, "TemplateProcessing") == 0) {
        return load_template(tokenizer, step, path, err);
    }
    /* ByteLevel moves offsets only, which nobody asks for here. */
    if (strcmp(type, "ByteLevel") != 0) {
        return refuse_type("post_processor", type, "TemplateProcessing, ByteLevel, Sequence", path,
                           err);
    }
    return 0;
}

int tokenizer_load_post_processor(struct tokenizer *tokenizer, const json_t *step, const char *path,
                                  struct error *err)
{
    if (step == NULL || json_is_null(step)) {
        return 0;
    }
    return load_post_processor(tokenizer, step, 0, path, err);
}

int tokenizer_load_decoder(const json_t *step, const char *path, struct error *err)
{
    if (step == NULL || json_is_null(step)) {
        return error_set(err, ERROR_UNSUPPORTED,
                         "%s: decoder is missing: only ByteLevel is supported", path);
    }
    const char *type;
    int result = step_type(step, "decoder", &type, path, err);
    if (result == 0 && strcmp(type, "ByteLevel") != 0) {
        result = refuse_type("decoder", type, "ByteLevel", path, err);
    }
    return result;
}

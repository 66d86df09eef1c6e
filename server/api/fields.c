#include "server/api/fields.h"

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "common/buffer.h"
#include "common/json.h"
#include "server/api/api_error.h"
#include "server/api/json_writer.h"
#include "server/api/nested_fields.h"
#include "server/model/config.h"

#define BOTH     FIELD_BOTH
#define CHAT     FIELD_CHAT
#define TEXT     FIELD_COMPLETIONS
#define TOKENIZE FIELD_TOKENIZE
#define BOOLEAN  FIELD_BOOLEAN
#define INTEGER  FIELD_INTEGER
#define NUMBER   FIELD_NUMBER
#define STRING   FIELD_STRING
#define ARRAY    FIELD_ARRAY
#define OBJECT   FIELD_OBJECT
#define SAMPLING FIELD_SAMPLING

/* clang-format off */
static const struct field table[] = {
    /* Standard */
    {"model", BOTH | TOKENIZE | FIELD_DETOKENIZE, STRING, .built = true},
    {"messages", CHAT | TOKENIZE, ARRAY, .min = 1, .max = INT32_MAX, .built = true},
    {"prompt", TEXT, STRING | ARRAY, .built = true},
    {"max_tokens", BOTH, INTEGER, .min = 1, .max = INT32_MAX, .built = true, .kind = SAMPLING},
    {"max_completion_tokens", BOTH, INTEGER, .min = 1, .max = INT32_MAX, .built = true},
    {"gen_length", BOTH, INTEGER, .min = 1, .max = INT32_MAX, .built = true},
    {"n", BOTH, INTEGER, .min = 1, .max = 128, .built = true},
    {"temperature", BOTH, NUMBER, .min = 0, .max = 100, .built = true, .kind = SAMPLING},
    {"top_p", BOTH, NUMBER, .min = 0, .max = 1, .above_min = true, .built = true, .kind = SAMPLING},
    {"top_k", BOTH, INTEGER, .min = -1, .max = INT32_MAX, .built = true, .kind = SAMPLING},
    {"min_p", BOTH, NUMBER, .min = 0, .max = 1, .built = true, .kind = SAMPLING},
    {"seed", BOTH, INTEGER, .built = true, .kind = SAMPLING},
    {"stop", BOTH, STRING | ARRAY, .built = true, .kind = SAMPLING},
    {"stream", BOTH, BOOLEAN, .built = true},
    {"stream_options", BOTH, OBJECT, .built = true},
    {"logprobs", CHAT, BOOLEAN, .built = true, .kind = SAMPLING},
    {"logprobs", TEXT, INTEGER, .min = 0, .max = 20, .built = true},
    {"top_logprobs", CHAT, INTEGER, .min = 0, .max = 20, .built = true, .kind = SAMPLING},
    {"top_logprobs", TEXT, INTEGER, .min = 0, .max = 20, .neutral = "[0]"},
    {"echo", TEXT, BOOLEAN, .built = true},
    {"suffix", BOTH, STRING, .neutral = "[\"\"]"},
    {"logit_bias", BOTH, OBJECT, .built = true, .kind = SAMPLING},
    {"presence_penalty", BOTH, NUMBER, .min = -2, .max = 2, .built = true, .kind = SAMPLING},
    {"frequency_penalty", BOTH, NUMBER, .min = -2, .max = 2, .built = true, .kind = SAMPLING},
    {"repetition_penalty", BOTH, NUMBER, .min = 0.01, .max = 100, .built = true, .kind = SAMPLING},
    {"response_format", BOTH, OBJECT, .built = true},
    {"tools", BOTH, ARRAY, .neutral = "[[]]"},
    {"tool_choice", BOTH, STRING | OBJECT, .neutral = "[\"none\",\"auto\"]"},
    {"prediction", BOTH, OBJECT, .built = false},
    {"user", BOTH, STRING, .built = true},
    {"metadata", BOTH, OBJECT, .built = true},
    /* Without effect; best_of has to be n */
    {"best_of", BOTH, INTEGER, .min = 1, .max = 128, .built = true},
    {"store", BOTH, BOOLEAN, .built = true},
    {"service_tier", BOTH, STRING, .built = true},
    {"parallel_tool_calls", BOTH, BOOLEAN, .built = true},
    /* Diffusion */
    {"diffusing", BOTH, BOOLEAN, .built = true},
    {"diffusing_mask", BOTH, STRING, .min = 0, .max = 64, .built = true},
    {"max_refinement_steps", BOTH, INTEGER, .min = 1, .max = INT32_MAX},
    {"steps", BOTH, INTEGER, .min = 1, .max = INT32_MAX, .built = true},
    {"num_denoising_steps", BOTH, INTEGER, .min = 1, .max = INT32_MAX, .built = true},
    {"timeout", BOTH, NUMBER, .min = 0, .max = 1e9, .above_min = true},
    {"confidence_threshold", BOTH, NUMBER, .min = 0, .max = 1, .neutral = "[0]"},
    {"max_polish_rounds", BOTH, INTEGER, .min = 0, .max = INT32_MAX, .neutral = "[0]"},
    {"selection", BOTH, STRING,
     .words = generation_selections, .built_words = " steps threshold factor random "},
    {"threshold", BOTH, NUMBER, .min = 0, .max = 1, .built = true},
    {"factor", BOTH, NUMBER, .min = 0, .max = 1e6, .built = true},
    {"eps", BOTH, NUMBER, .min = 0, .max = 1},
    {"entropy_bound", BOTH, NUMBER, .min = 0, .max = 1e6},
    {"block_length", BOTH, INTEGER, .min = 1, .max = INT32_MAX, .built = true},
    {"cache", BOTH, STRING, .words = generation_caches,
     .built_words = " none prefix dual "},
    {"vicinity", BOTH, INTEGER, .min = 0, .max = INT32_MAX, .neutral = "[0]"},
    {"refresh_interval", BOTH, INTEGER, .min = 0, .max = INT32_MAX, .built = true},
    {"sub_block_length", BOTH, INTEGER, .min = 1, .max = INT32_MAX},
    {"num_to_transfer", BOTH, INTEGER, .min = 1, .max = INT32_MAX, .neutral = "[1]"},
    {"minimal_topk", BOTH, INTEGER, .min = 1, .max = INT32_MAX, .neutral = "[1]"},
    {"revision", BOTH, STRING, .words = " none remask edit verify ", .built_words = " none "},
    {"remask_threshold", BOTH, NUMBER, .min = 0, .max = 1, .neutral = "[0]"},
    {"remask_check", BOTH, BOOLEAN, .neutral = "[false]"},
    {"editing_threshold", BOTH, NUMBER, .min = 0, .max = 1, .neutral = "[1]"},
    {"max_post_steps", BOTH, INTEGER, .min = 0, .max = INT32_MAX, .neutral = "[0]"},
    {"cfg_scale", BOTH, NUMBER, .min = 0, .max = 1000, .built = true},
    {"negative_prompt", BOTH, STRING, .built = true},
    {"eos_early_stop", BOTH, BOOLEAN, .built = true},
    {"ignore_eos", BOTH, BOOLEAN, .built = true},
    {"logits_eos_inf", BOTH, BOOLEAN, .built = true},
    {"confidence_eos_eot_inf", BOTH, BOOLEAN, .built = true},
    {"fixed", BOTH, ARRAY, .neutral = "[[]]"},
    {"regex", BOTH, STRING, .built = false},
    {"choice", BOTH, ARRAY, .neutral = "[[]]"},
    {"bad_words", BOTH, ARRAY, .built = true},
    {"allowed_token_ids", BOTH, ARRAY, .min = 1, .max = INT32_MAX, .built = true},
    {"draft", BOTH, STRING, .neutral = "[\"\"]"},
    {"reasoning_effort", BOTH, STRING, .words = " instant low medium high ", .built = true},
    {"realtime", BOTH, BOOLEAN, .built = true},
    {"return_token_ids", BOTH, BOOLEAN, .built = true},
    {"return_confidences", BOTH, BOOLEAN, .built = true},
    {"remasking", BOTH, STRING, .words = " low_confidence random ", .built = true},
    /* /tokenize and /detokenize */
    {"prompt", TOKENIZE, STRING, .built = true},
    {"content", TOKENIZE, STRING, .built = true},
    {"add_special_tokens", TOKENIZE, BOOLEAN, .built = true},
    {"tokens", FIELD_DETOKENIZE, ARRAY, .built = true},
};
/* clang-format on */

const struct field *fields_table(size_t *count)
{
    *count = sizeof table / sizeof table[0];
    return table;
}

static bool integral(const json_t *value)
{
    return json_is_integer(value) ||
           (json_is_real(value) && json_real_value(value) == floor(json_real_value(value)) &&
            fabs(json_real_value(value)) < 9007199254740992.0);
}

static bool has_type(const struct field *field, const json_t *value)
{
    return ((field->types & FIELD_BOOLEAN) && json_is_boolean(value)) ||
           ((field->types & FIELD_INTEGER) && integral(value)) ||
           ((field->types & FIELD_NUMBER) && json_is_number(value)) ||
           ((field->types & FIELD_STRING) && json_is_string(value)) ||
           ((field->types & FIELD_ARRAY) && json_is_array(value)) ||
           ((field->types & FIELD_OBJECT) && json_is_object(value));
}

static bool in_range(const struct field *field, const json_t *value)
{
    if (field->min == 0 && field->max == 0) {
        return true;
    }
    double measure = json_is_string(value)  ? (double)json_string_length(value)
                     : json_is_array(value) ? (double)json_array_size(value)
                                            : json_number_value(value);
    /* Numbers are computed with as floats: one that becomes 0 there is 0. */
    return (field->above_min ? (float)measure > (float)field->min : measure >= field->min) &&
           measure <= field->max;
}

bool fields_is_word(const char *words, const char *text, size_t length)
{
    char word[64];
    if (length == 0 || length > sizeof word - 3 || memchr(text, '\0', length) ||
        memchr(text, ' ', length)) {
        return false;
    }
    snprintf(word, sizeof word, " %s ", text);
    return strstr(words, word) != NULL;
}

static bool is_word(const char *words, const json_t *value)
{
    return fields_is_word(words, json_string_value(value), json_string_length(value));
}

/* "one of a, b, c" into out. */
static void append_words(struct buffer *out, const char *words)
{
    buffer_append_text(out, "one of ");
    for (const char *c = words + 1; c[0]; c++) {
        if (*c != ' ') {
            buffer_append_char(out, *c);
        } else if (c[1]) {
            buffer_append_text(out, ", ");
        }
    }
}

static void append_types(struct buffer *out, unsigned types)
{
    static const struct {
        unsigned type;
        const char *name;
    } names[] = {{FIELD_BOOLEAN, "true or false"}, {FIELD_INTEGER, "an integer"},
                 {FIELD_NUMBER, "a number"},       {FIELD_STRING, "a string"},
                 {FIELD_ARRAY, "an array"},        {FIELD_OBJECT, "an object"}};
    bool first = true;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (types & names[i].type) {
            buffer_append_text(out, first ? "" : " or ");
            buffer_append_text(out, names[i].name);
            first = false;
        }
    }
}

/* "an integer from 1 to 128", "one of none, dual", "a string of at most 64 bytes". */
static void append_expected(struct buffer *out, const struct field *field)
{
    if (field->words) {
        append_words(out, field->words);
        return;
    }
    append_types(out, field->types);
    if (field->min == 0 && field->max == 0) {
        return;
    }
    if (field->types & FIELD_STRING) {
        buffer_format(out, " of at most %.0f bytes", field->max);
    } else if (field->types & FIELD_ARRAY) {
        buffer_format(out, " of at least %.0f element", field->min);
    } else {
        buffer_append_text(out, field->above_min ? " above " : " from ");
        json_write_number(out, field->min, 6);
        buffer_append_text(out, field->above_min ? " and at most " : " to ");
        json_write_number(out, field->max, 6);
    }
}

static int refuse_value(const struct field *field, const json_t *value, struct api_error *err)
{
    struct buffer expected = {0};
    append_expected(&expected, field);
    int code = expected.failed ? api_error_out_of_memory(err)
                               : api_error_value(err, field->name, value, expected.data);
    buffer_free(&expected);
    return code;
}

static bool is_neutral(const struct field *field, const json_t *value)
{
    json_t *neutral = field->neutral ? json_loads(field->neutral, 0, NULL) : NULL;
    bool found = false;
    for (size_t i = 0; !found && i < json_array_size(neutral); i++) {
        const json_t *candidate = json_array_get(neutral, i);
        found = json_is_number(candidate) ? json_number_value(candidate) == json_number_value(value)
                                          : json_equal(candidate, value);
    }
    json_decref(neutral);
    return found;
}

static int check_field(const struct field *field, const json_t *value, struct api_error *err)
{
    if (!has_type(field, value) || (field->words && !is_word(field->words, value)) ||
        !in_range(field, value)) {
        return refuse_value(field, value, err);
    }
    bool built = field->built_words ? is_word(field->built_words, value) : field->built;
    if (!built && !is_neutral(field, value)) {
        return api_error_unsupported(err, field->name, value);
    }
    return 0;
}

static const struct field *find(const char *name, enum api_endpoint endpoint)
{
    static const unsigned bits[] = {[API_COMPLETIONS] = FIELD_COMPLETIONS,
                                    [API_CHAT_COMPLETIONS] = FIELD_CHAT,
                                    [API_TOKENIZE] = FIELD_TOKENIZE,
                                    [API_DETOKENIZE] = FIELD_DETOKENIZE};
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        if ((table[i].endpoints & bits[endpoint]) && strcmp(table[i].name, name) == 0) {
            return &table[i];
        }
    }
    return NULL;
}

int fields_check(json_t *body, enum api_endpoint endpoint, bool strict, struct api_error *err)
{
    const char *name;
    void *next;
    json_t *value;
    json_object_foreach_safe(body, next, name, value)
    {
        const struct field *field = find(name, endpoint);
        if (!field && strict && !json_is_null(value)) {
            return api_error_refuse(err, "unsupported_parameter", name,
                                    "%.100s is not a field of this endpoint; leave it out", name);
        }
        if (!field || json_is_null(value)) {
            json_object_del(body, name);
            continue;
        }
        int code = check_field(field, value, err);
        if (code) {
            return code;
        }
    }
    return strict ? nested_fields_check(body, err) : 0;
}

const json_t *fields_get(const json_t *body, const char *name)
{
    const json_t *value = json_object_get(body, name);
    return json_is_null(value) ? NULL : value;
}

int64_t fields_integer(const json_t *body, const char *name, int64_t absent)
{
    const json_t *value = fields_get(body, name);
    return !value                   ? absent
           : json_is_integer(value) ? json_integer_value(value)
                                    : (int64_t)json_real_value(value);
}

double fields_number(const json_t *body, const char *name, double absent)
{
    const json_t *value = fields_get(body, name);
    return value ? json_number_value(value) : absent;
}

bool fields_boolean(const json_t *body, const char *name, bool absent)
{
    const json_t *value = fields_get(body, name);
    return value ? json_is_true(value) : absent;
}

const char *fields_string(const json_t *body, const char *name, const char *absent)
{
    const json_t *value = fields_get(body, name);
    return value ? json_string_value(value) : absent;
}

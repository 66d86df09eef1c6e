#include "server/api/adjustments.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/arena.h"
#include "common/error.h"
#include "server/api/api.h"
#include "server/api/api_error.h"
#include "server/api/fields.h"
#include "server/api/prompts.h"

enum { BIAS_MOST = 100 };

/* The id that a key like "50256" writes; -1 for anything else. */
static int64_t parse_id(const char *key)
{
    size_t length = strlen(key);
    bool number = length > 0 && length <= 10 && strspn(key, "0123456789") == length;
    return number && (length == 1 || key[0] != '0') ? strtoll(key, NULL, 10) : -1;
}

static int read_bias(struct token_bias *out, const struct api *api, const char *key,
                     const json_t *value, struct api_error *err)
{
    int64_t id = parse_id(key);
    if (id < 0) {
        return api_error_refuse(err, "invalid_value", "logit_bias",
                                "logit_bias has the key \"%.64s\"; keys must be token ids such as "
                                "\"42\"",
                                key);
    }
    int code = prompts_check_id(api, id, "logit_bias", err);
    if (code) {
        return code;
    }
    double bias = json_number_value(value);
    if (!json_is_number(value) || bias < -BIAS_MOST || bias > BIAS_MOST) {
        char expected[96];
        snprintf(expected, sizeof expected, "a number from -%d to %d (token %" PRId64 ")",
                 BIAS_MOST, BIAS_MOST, id);
        return api_error_value(err, "logit_bias", value, expected);
    }
    *out = (struct token_bias){(int32_t)id, (float)bias};
    return 0;
}

static int read_biases(struct decode_params *params, const struct api *api, const json_t *object,
                       struct arena *arena, struct api_error *err)
{
    size_t count = json_object_size(object);
    if (count > DECODE_BIASES_MAX) {
        return api_error_refuse(err, "invalid_value", "logit_bias",
                                "logit_bias has %zu tokens; it may have at most %d", count,
                                DECODE_BIASES_MAX);
    }
    struct token_bias *biases = arena_alloc(arena, count * sizeof *biases);
    if (!biases) {
        return api_error_out_of_memory(err);
    }
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)object, key, value)
    {
        int code = read_bias(&biases[params->bias_count], api, key, value, err);
        if (code) {
            return code;
        }
        params->bias_count++;
    }
    params->biases = biases;
    return 0;
}

static int read_allowed(struct decode_params *params, const struct api *api, const json_t *array,
                        struct arena *arena, struct api_error *err)
{
    if (!array) {
        return 0;
    }
    uint32_t *allowed =
        arena_alloc(arena, decode_allowed_words(api->config.embedding_rows) * sizeof *allowed);
    if (!allowed) {
        return api_error_out_of_memory(err);
    }
    for (size_t i = 0; i < json_array_size(array); i++) {
        int32_t id;
        int code = prompts_read_id(&id, api, array, i, "allowed_token_ids", err);
        if (code) {
            return code;
        }
        allowed[id / 32] |= (uint32_t)1 << (id % 32);
    }
    params->allowed = allowed;
    return 0;
}

static int read_banned_words(struct decode_params *params, const json_t *array, struct arena *arena,
                             struct api_error *err)
{
    size_t count = json_array_size(array);
    if (count > DECODE_BANNED_WORDS_MAX) {
        return api_error_refuse(err, "invalid_value", "bad_words",
                                "bad_words has %zu strings; it may have at most %d", count,
                                DECODE_BANNED_WORDS_MAX);
    }
    struct banned_word *words = arena_alloc(arena, count * sizeof *words);
    for (size_t i = 0; words && i < count; i++) {
        const json_t *item = json_array_get(array, i);
        size_t length = json_string_length(item);
        if (length == 0 || length > BANNED_WORD_BYTES_MAX) { /* also of what is no string */
            char param[48], expected[64];
            snprintf(param, sizeof param, "bad_words[%zu]", i);
            snprintf(expected, sizeof expected, "a string of 1 to %d bytes", BANNED_WORD_BYTES_MAX);
            return api_error_value(err, param, item, expected);
        }
        words[i].length = (int32_t)length;
        words[i].bytes = arena_copy(arena, json_string_value(item), length);
        if (!words[i].bytes) {
            words = NULL;
        }
    }
    params->banned_words = words;
    params->banned_word_count = (int32_t)count;
    return words ? 0 : api_error_out_of_memory(err);
}

int adjustments_read(struct decode_params *params, const struct api *api, const json_t *body,
                     struct arena *arena, struct api_error *err)
{
    params->presence_penalty =
        (float)fields_number(body, "presence_penalty", params->presence_penalty);
    params->frequency_penalty =
        (float)fields_number(body, "frequency_penalty", params->frequency_penalty);
    params->repetition_penalty =
        (float)fields_number(body, "repetition_penalty", params->repetition_penalty);
    params->logits_eos_inf = fields_boolean(body, "logits_eos_inf", params->logits_eos_inf);
    params->confidence_eos_eot_inf =
        fields_boolean(body, "confidence_eos_eot_inf", params->confidence_eos_eot_inf);
    int code = read_biases(params, api, fields_get(body, "logit_bias"), arena, err);
    if (!code) {
        code = read_allowed(params, api, fields_get(body, "allowed_token_ids"), arena, err);
    }
    return code ? code : read_banned_words(params, fields_get(body, "bad_words"), arena, err);
}

/* Points *array to a copy; NULL stays NULL. ERROR_MEMORY. */
static int copy_array(const void **array, size_t size, struct arena *arena)
{
    if (*array) {
        *array = arena_copy(arena, *array, size);
        return *array ? 0 : ERROR_MEMORY;
    }
    return 0;
}

static int copy_words(struct decode_params *params, struct arena *arena)
{
    size_t count = (size_t)params->banned_word_count;
    struct banned_word *words = arena_alloc(arena, count * sizeof *words);
    for (size_t i = 0; words && i < count; i++) {
        words[i] = params->banned_words[i];
        words[i].bytes = arena_copy(arena, words[i].bytes, (size_t)words[i].length);
        if (!words[i].bytes) {
            return ERROR_MEMORY;
        }
    }
    params->banned_words = words;
    return words ? 0 : ERROR_MEMORY;
}

int adjustments_copy(struct decode_params *params, const struct api *api, struct arena *arena)
{
    const void *biases = params->biases, *allowed = params->allowed;
    const void *negative = params->negative_prompt;
    if (copy_array(&biases, (size_t)params->bias_count * sizeof *params->biases, arena) ||
        copy_array(&allowed,
                   decode_allowed_words(api->config.embedding_rows) * sizeof *params->allowed,
                   arena) ||
        copy_array(&negative,
                   (size_t)params->negative_prompt_length * sizeof *params->negative_prompt,
                   arena) ||
        copy_words(params, arena)) {
        return ERROR_MEMORY;
    }
    params->biases = biases;
    params->allowed = allowed;
    params->negative_prompt = negative;
    return 0;
}

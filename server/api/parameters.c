#include "server/api/parameters.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "common/arena.h"
#include "common/rng.h"
#include "server/api/adjustments.h"
#include "server/api/api.h"
#include "server/api/api_error.h"
#include "server/api/defaults.h"
#include "server/api/fields.h"

/*
 * One value under several names: *out is left alone where none is there, and two names with
 * different values are refused.
 */
static int read_aliased(int32_t *out, bool *asked, const json_t *body, const char *const *names,
                        struct api_error *err)
{
    const char *seen = NULL;
    int64_t value = 0;
    for (; *names; names++) {
        if (!fields_get(body, *names)) {
            continue;
        }
        int64_t given = fields_integer(body, *names, 0);
        if (seen && given != value) {
            return api_error_refuse(err, "invalid_value", *names,
                                    "%s is %" PRId64 " but %s, the same parameter, is %" PRId64
                                    "; send one of them",
                                    *names, given, seen, value);
        }
        seen = *names;
        value = given;
    }
    if (seen) {
        *out = (int32_t)value;
    }
    *asked = seen != NULL;
    return 0;
}

static int read_selection(struct decode_params *params, const json_t *body, struct api_error *err)
{
    const char *selection = fields_string(body, "selection", NULL);
    const char *remasking = fields_string(body, "remasking", NULL);
    const char *translated = !remasking                         ? NULL
                             : strcmp(remasking, "random") == 0 ? "random"
                                                                : "steps";
    if (selection && translated && strcmp(selection, translated) != 0) {
        return api_error_refuse(err, "invalid_value", "remasking",
                                "remasking %s means selection %s, but selection is %s; send one "
                                "of them",
                                remasking, translated, selection);
    }
    if (selection || translated) {
        selection_from_name(selection ? selection : translated, &params->selection);
    }
    return 0;
}

static int read_decode(struct api_parameters *out, const struct api *api, const json_t *body,
                       struct api_error *err)
{
    static const char *const length_names[] = {"max_tokens", "max_completion_tokens", "gen_length",
                                               NULL};
    static const char *const steps_names[] = {"steps", "num_denoising_steps", NULL};
    struct decode_params *params = &out->decode;
    *params = defaults_read(api);
    const char *realtime = fields_boolean(body, "realtime", false) ? "instant" : NULL;
    const char *effort = fields_string(body, "reasoning_effort", realtime);
    if (effort) {
        defaults_apply_effort(params, api, effort); /* explicit fields go before it */
    }
    bool steps_asked;
    int code = read_aliased(&params->max_tokens, &out->max_tokens_asked, body, length_names, err);
    if (!code) {
        code = read_aliased(&params->steps, &steps_asked, body, steps_names, err);
    }
    if (!code) {
        code = read_selection(params, body, err);
    }
    if (code) {
        return code;
    }
    params->block_length = (int32_t)fields_integer(body, "block_length", params->block_length);
    params->threshold = (float)fields_number(body, "threshold", params->threshold);
    params->factor = (float)fields_number(body, "factor", params->factor);
    params->refresh_interval =
        (int32_t)fields_integer(body, "refresh_interval", params->refresh_interval);
    params->temperature = (float)fields_number(body, "temperature", params->temperature);
    params->top_p = (float)fields_number(body, "top_p", params->top_p);
    params->min_p = (float)fields_number(body, "min_p", params->min_p);
    int64_t top_k = fields_integer(body, "top_k", params->top_k);
    params->top_k = top_k < 0 ? 0 : (int32_t)top_k; /* -1 is another way to say off */
    params->cfg_scale = (float)fields_number(body, "cfg_scale", params->cfg_scale);
    params->eos_early_stop = fields_boolean(body, "eos_early_stop", params->eos_early_stop);
    params->ignore_eos = fields_boolean(body, "ignore_eos", params->ignore_eos);
    cache_mode_from_name(fields_string(body, "cache", cache_mode_name(params->cache)),
                         &params->cache);
    params->seed =
        fields_get(body, "seed") ? (uint64_t)fields_integer(body, "seed", 0) : rng_random_seed();
    return 0;
}

static int read_stops(struct api_parameters *out, const json_t *stop, struct arena *arena,
                      struct api_error *err)
{
    bool single = json_is_string(stop);
    size_t count = single ? 1 : json_array_size(stop);
    if (count > STOP_STRINGS_MAX) {
        return api_error_value(err, "stop", stop, "a string or an array of at most 16 strings");
    }
    out->stops = arena_alloc(arena, count * sizeof *out->stops);
    if (!out->stops) {
        return api_error_out_of_memory(err);
    }
    for (size_t i = 0; i < count; i++) {
        const json_t *item = single ? stop : json_array_get(stop, i);
        if (json_string_length(item) == 0) { /* also of anything that is no string */
            char param[32];
            snprintf(param, sizeof param, single ? "stop" : "stop[%zu]", i);
            return api_error_value(err, param, item, "a string of at least one byte");
        }
        if (stop_string_init(&out->stops[i], json_string_value(item), json_string_length(item),
                             arena)) {
            return api_error_out_of_memory(err);
        }
    }
    out->stop_count = count;
    return 0;
}

static int read_stream_options(struct api_parameters *out, const json_t *body,
                               struct api_error *err)
{
    const json_t *include = fields_get(fields_get(body, "stream_options"), "include_usage");
    if (include && !json_is_boolean(include)) {
        return api_error_value(err, "stream_options.include_usage", include, "true or false");
    }
    out->include_usage = json_is_true(include);
    return 0;
}

/* logprobs is a number of best tokens (completions), or a switch beside top_logprobs (chat). */
static int read_logprobs(struct api_parameters *out, const json_t *body, struct api_error *err)
{
    const json_t *logprobs = fields_get(body, "logprobs");
    const json_t *top = fields_get(body, "top_logprobs");
    out->logprobs = json_is_boolean(logprobs) ? json_is_true(logprobs) : logprobs != NULL;
    if (top && json_number_value(top) > 0 && !out->logprobs) {
        return api_error_value(err, "top_logprobs", top, "0 or absent unless logprobs is true");
    }
    if (out->logprobs) {
        const char *name = json_is_boolean(logprobs) ? "top_logprobs" : "logprobs";
        out->decode.top_logprobs = (int32_t)fields_integer(body, name, 0);
    }
    return 0;
}

static int check_response_format(const json_t *body, struct api_error *err)
{
    const json_t *format = fields_get(body, "response_format");
    const char *type = json_string_value(json_object_get(format, "type"));
    if (!format || (type && strcmp(type, "text") == 0)) {
        return 0;
    }
    if (type && (strcmp(type, "json_object") == 0 || strcmp(type, "json_schema") == 0)) {
        return api_error_unsupported(err, "response_format", format);
    }
    return api_error_value(err, "response_format", format,
                           "an object whose type is text, json_object or json_schema");
}

int parameters_read(struct api_parameters *out, const struct api *api, const json_t *body,
                    struct arena *arena, struct api_error *err)
{
    memset(out, 0, sizeof *out);
    out->choices = (int32_t)fields_integer(body, "n", 1);
    const json_t *best_of = fields_get(body, "best_of");
    if (best_of && fields_integer(body, "best_of", 1) != out->choices) {
        return api_error_unsupported(err, "best_of", best_of);
    }
    out->stream = fields_boolean(body, "stream", false);
    out->diffusing = fields_boolean(body, "diffusing", false);
    out->return_token_ids = fields_boolean(body, "return_token_ids", false);
    out->return_confidences = fields_boolean(body, "return_confidences", false);
    out->echo = fields_boolean(body, "echo", false);
    const json_t *mask = fields_get(body, "diffusing_mask");
    out->mask_length = mask ? json_string_length(mask) : strlen(DEFAULT_MASK_TEXT);
    out->mask_text =
        arena_copy(arena, mask ? json_string_value(mask) : DEFAULT_MASK_TEXT, out->mask_length);
    if (!out->mask_text) {
        return api_error_out_of_memory(err);
    }
    int code = read_stream_options(out, body, err);
    if (!code) {
        code = read_stops(out, fields_get(body, "stop"), arena, err);
    }
    if (!code) {
        code = check_response_format(body, err);
    }
    if (!code) {
        code = read_decode(out, api, body, err);
    }
    if (!code) {
        code = read_logprobs(out, body, err);
    }
    return code ? code : adjustments_read(&out->decode, api, body, arena, err);
}

int32_t parameters_answer_limit(const struct api *api, int32_t prompt_length,
                                int32_t partner_prompt_length)
{
    if (api->engine) {
        return engine_answer_limit(api->engine, prompt_length, partner_prompt_length);
    }
    int32_t longest = prompt_length > partner_prompt_length ? prompt_length : partner_prompt_length;
    return longest < api->config.max_positions ? api->config.max_positions - longest : 0;
}

/* Of the prompt, or of the negative prompt, which takes its place in guidance. */
static int check_length(const struct api_parameters *parameters, const struct api *api,
                        int32_t prompt_length, struct api_error *err)
{
    const struct decode_params *params = &parameters->decode;
    int32_t context = api->config.max_positions;
    bool negative = params->negative_prompt_length > prompt_length;
    const char *longest = negative ? "negative_prompt" : "the prompt";
    int32_t length = negative ? params->negative_prompt_length : prompt_length;
    if (length >= context) {
        return api_error_refuse(err, "context_length_exceeded", negative ? longest : NULL,
                                "%s has %" PRId32 " tokens, but the context holds %" PRId32
                                ", answer included; shorten it",
                                longest, length, context);
    }
    if (parameters->max_tokens_asked && params->max_tokens > context - length) {
        return api_error_refuse(
            err, "context_length_exceeded", "max_tokens",
            "%s has %" PRId32 " tokens and max_tokens is %" PRId32 ", together %" PRId64
            ", but the context holds %" PRId32 "; shorten it or lower max_tokens",
            longest, length, params->max_tokens, (int64_t)length + params->max_tokens, context);
    }
    return 0;
}

int parameters_fit(struct decode_params *out, const struct api_parameters *parameters,
                   const struct api *api, int32_t prompt_length, struct api_error *err)
{
    int code = check_length(parameters, api, prompt_length, err);
    if (code) {
        return code;
    }
    *out = parameters->decode;
    if (!parameters->max_tokens_asked) {
        int32_t partner = out->negative_prompt ? out->negative_prompt_length
                          : out->cfg_scale > 0 ? prompt_length
                                               : -1;
        int32_t most = parameters_answer_limit(api, prompt_length, partner);
        if (out->max_tokens > most) {
            out->max_tokens = most > 0 ? most : 1; /* the engine says what is too small */
        }
    }
    bool counted = out->selection == SELECTION_STEPS || out->selection == SELECTION_RANDOM;
    if (counted && out->steps == 0) {
        out->steps = out->max_tokens; /* one token a round */
    }
    return 0;
}

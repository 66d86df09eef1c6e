/* Bodies of GET /version and GET /props. */
#include <string.h>

#include "common/buffer.h"
#include "server/api/api.h"
#include "server/api/defaults.h"
#include "server/api/json_writer.h"
#include "server/api/parameters.h"
#include "server/model/config.h"

/* "name":value, with a comma before all but an object's first member. */
static void begin_member(struct buffer *out, const char *name)
{
    if (out->length > 0 && out->data[out->length - 1] != '{') {
        buffer_append_char(out, ',');
    }
    json_write_text(out, name);
    buffer_append_char(out, ':');
}

static void append_text(struct buffer *out, const char *name, const char *value)
{
    begin_member(out, name);
    if (value) {
        json_write_text(out, value);
    } else {
        buffer_append_text(out, "null");
    }
}

static void append_integer(struct buffer *out, const char *name, int64_t value)
{
    begin_member(out, name);
    json_write_integer(out, value);
}

static void append_number(struct buffer *out, const char *name, double value)
{
    begin_member(out, name);
    json_write_number(out, value, 6);
}

static void append_bool(struct buffer *out, const char *name, bool value)
{
    begin_member(out, name);
    json_write_bool(out, value);
}

static void begin_object(struct buffer *out, const char *name)
{
    begin_member(out, name);
    buffer_append_char(out, '{');
}

static void append_model(struct buffer *out, const struct api *api)
{
    const struct model_config *config = &api->config;
    begin_object(out, "model");
    append_text(out, "name", api->model_name);
    append_text(out, "family", model_family_name(config->family));
    append_text(out, "type", config->model_type);
    append_integer(out, "context_length", config->max_positions);
    append_integer(out, "vocabulary", config->vocabulary);
    append_integer(out, "layers", config->layers);
    append_integer(out, "width", config->width);
    append_integer(out, "heads", config->heads);
    append_integer(out, "kv_heads", config->kv_heads);
    append_integer(out, "mask_token", config->mask_token);
    append_text(out, "chat_template",
                api->chat_template ? chat_template_family(api->chat_template) : NULL);
    buffer_append_char(out, '}');
}

static void append_limits(struct buffer *out, const struct api *api)
{
    struct engine_counters counters = engine_counters_read(api->engine);
    begin_object(out, "limits");
    append_integer(out, "context_length", api->config.max_positions);
    append_integer(out, "canvas", parameters_answer_limit(api, 0, -1));
    append_integer(out, "guided_canvas", parameters_answer_limit(api, 0, 0));
    append_integer(out, "max_choices", api->max_choices);
    append_integer(out, "max_sequences", counters.max_sequences);
    append_integer(out, "queue_limit", counters.queue_limit);
    append_integer(out, "kv_cache_tokens", (int64_t)counters.kv_pages_total * KV_PAGE_POSITIONS);
    append_integer(out, "max_body_bytes", api->max_body_bytes);
    append_integer(out, "stop_strings", STOP_STRINGS_MAX);
    append_integer(out, "logit_bias_tokens", DECODE_BIASES_MAX);
    append_integer(out, "bad_words", DECODE_BANNED_WORDS_MAX);
    append_integer(out, "bad_word_bytes", BANNED_WORD_BYTES_MAX);
    append_integer(out, "top_logprobs", HEAD_RAW_TOP_MAX);
    append_bool(out, "strict", api->strict);
    buffer_append_char(out, '}');
}

/* 0 is null: no budget, or one token a round where the selection counts. */
static void append_steps(struct buffer *out, int32_t steps)
{
    begin_member(out, "steps");
    if (steps > 0) {
        json_write_integer(out, steps);
    } else {
        buffer_append_text(out, "null");
    }
}

/* As the shortest prompt gets them. */
static struct decode_params defaults_fitted(const struct api *api)
{
    struct decode_params params = defaults_read(api);
    int32_t most = parameters_answer_limit(api, 1, params.cfg_scale > 0 ? 1 : -1);
    params.max_tokens = params.max_tokens < most ? params.max_tokens : most;
    return params;
}

static void append_defaults(struct buffer *out, const struct api *api)
{
    struct decode_params params = defaults_fitted(api);
    begin_object(out, "defaults");
    append_integer(out, "max_tokens", params.max_tokens);
    append_text(out, "selection", selection_name(params.selection));
    append_number(out, "threshold", params.threshold);
    append_number(out, "factor", params.factor);
    append_steps(out, params.steps);
    append_integer(out, "block_length", params.block_length);
    append_text(out, "cache", cache_mode_name(params.cache));
    append_integer(out, "refresh_interval", params.refresh_interval);
    append_number(out, "temperature", params.temperature);
    append_integer(out, "top_k", params.top_k);
    append_number(out, "top_p", params.top_p);
    append_number(out, "min_p", params.min_p);
    append_number(out, "cfg_scale", params.cfg_scale);
    append_number(out, "presence_penalty", params.presence_penalty);
    append_number(out, "frequency_penalty", params.frequency_penalty);
    append_number(out, "repetition_penalty", params.repetition_penalty);
    append_bool(out, "eos_early_stop", params.eos_early_stop);
    append_bool(out, "ignore_eos", params.ignore_eos);
    append_bool(out, "logits_eos_inf", params.logits_eos_inf);
    append_bool(out, "confidence_eos_eot_inf", params.confidence_eos_eot_inf);
    append_text(out, "diffusing_mask", DEFAULT_MASK_TEXT);
    begin_member(out, "stop_token_ids");
    json_write_tokens(out, params.stop_tokens, params.stop_token_count);
    buffer_append_char(out, '}');
}

/* A preset as the fields that a client would send for the same. */
static void append_preset(struct buffer *out, const struct api *api, const char *effort)
{
    struct decode_params params = defaults_fitted(api);
    defaults_apply_effort(&params, api, effort);
    begin_object(out, effort);
    append_text(out, "selection", selection_name(params.selection));
    if (params.selection == SELECTION_THRESHOLD) {
        append_number(out, "threshold", params.threshold);
    }
    /* A preset sets aside the server's own steps. */
    append_steps(out, params.selection == SELECTION_STEPS ? params.max_tokens : 0);
    append_text(out, "cache", cache_mode_name(params.cache));
    append_integer(out, "block_length", params.block_length);
    buffer_append_char(out, '}');
}

void api_version_body(const struct api *api, struct buffer *out)
{
    buffer_append_text(out, "{\"version\":");
    json_write_text(out, api->version);
    buffer_append_char(out, '}');
}

void api_props_body(const struct api *api, struct buffer *out)
{
    buffer_append_char(out, '{');
    begin_object(out, "build");
    append_text(out, "version", api->version);
    append_text(out, "system_fingerprint", api->system_fingerprint);
    buffer_append_char(out, '}');
    append_model(out, api);
    begin_object(out, "device");
    append_text(out, "name", api->device);
    append_text(out, "description", api->device_description);
    append_text(out, "dtype", api->dtype);
    buffer_append_char(out, '}');
    append_limits(out, api);
    append_defaults(out, api);
    begin_object(out, "presets");
    for (const char *const *effort = defaults_efforts; *effort; effort++) {
        append_preset(out, api, *effort);
    }
    buffer_append_text(out, "}}");
}

#include "server/api/defaults.h"

#include <math.h>
#include <string.h>

#include "server/api/api.h"

/* By family, DECODING section 3. */
static const struct family_defaults {
    int32_t max_tokens, block_length;
    enum selection selection;
    float threshold;
    enum cache_mode cache;
} family_table[] = {
    [MODEL_LLADA] = {256, 32, SELECTION_THRESHOLD, 0.9f, CACHE_DUAL},
};

const char *const defaults_efforts[] = {"instant", "low", "medium", "high", NULL};

/* The first of the two that says something. */
static int32_t first_integer(int32_t configured, int32_t generation, int32_t otherwise)
{
    return configured >= 0 ? configured : generation >= 0 ? generation : otherwise;
}

static float first_number(double configured, double generation, float otherwise)
{
    /* A comparison with NAN is false. */
    return configured >= 0 ? (float)configured : generation >= 0 ? (float)generation : otherwise;
}

static bool said_or(int32_t generation, bool otherwise)
{
    return generation >= 0 ? generation != 0 : otherwise;
}

/* A default that this build lacks counts as not said. */
static enum selection default_selection(const struct api *api, enum selection otherwise)
{
    enum selection selection = otherwise;
    const char *configured = api->settings.selection;
    if (!(configured && selection_from_name(configured, &selection))) {
        selection_from_name(api->generation.selection, &selection);
    }
    return selection;
}

/* A default that this build lacks falls back to the exact form, no cache. */
static enum cache_mode default_cache(const struct api *api, enum cache_mode otherwise)
{
    const char *name = api->settings.cache        ? api->settings.cache
                       : api->generation.cache[0] ? api->generation.cache
                                                  : NULL;
    if (!name) {
        return otherwise;
    }
    enum cache_mode cache;
    return cache_mode_from_name(name, &cache) ? cache : CACHE_NONE;
}

static void add_stop_token(struct decode_params *params, int32_t id)
{
    for (int32_t i = 0; i < params->stop_token_count; i++) {
        if (params->stop_tokens[i] == id) {
            return;
        }
    }
    if (id >= 0 && params->stop_token_count < DECODE_STOP_TOKENS_MAX) {
        params->stop_tokens[params->stop_token_count++] = id;
    }
}

static void set_stop_tokens(struct decode_params *params, const struct api *api)
{
    params->stop_token_count = 0;
    if (api->chat_template) {
        add_stop_token(
            params, tokenizer_find(api->tokenizer, chat_template_end_of_turn(api->chat_template)));
    }
    for (int32_t i = 0; i < api->config.stop_token_count; i++) {
        add_stop_token(params, api->config.stop_tokens[i]);
    }
}

struct decode_params defaults_read(const struct api *api)
{
    const struct family_defaults *family = &family_table[api->config.family];
    const struct api_decode_defaults *configured = &api->settings;
    const struct generation_defaults *generation = &api->generation;
    int32_t max_tokens =
        first_integer(configured->max_tokens, generation->max_tokens, family->max_tokens);
    int32_t block_length =
        first_integer(configured->block_length, generation->block_length, family->block_length);
    struct decode_params params =
        decode_params_neutral(max_tokens < 1 ? 1 : max_tokens, block_length < 1 ? 1 : block_length);
    params.selection = default_selection(api, family->selection);
    params.threshold =
        first_number(configured->threshold, generation->threshold, family->threshold);
    params.factor = first_number(NAN, generation->factor, 1);
    params.cache = default_cache(api, family->cache);
    params.steps = first_integer(configured->steps, generation->steps, 0);
    params.temperature = first_number(configured->temperature, generation->temperature, 0);
    params.top_k = first_integer(configured->top_k, generation->top_k, 0);
    params.top_p = first_number(configured->top_p, generation->top_p, 1);
    params.min_p = first_number(NAN, generation->min_p, 0);
    params.cfg_scale = first_number(NAN, generation->cfg_scale, 0);
    params.presence_penalty = first_number(NAN, generation->presence_penalty, 0);
    params.frequency_penalty = first_number(NAN, generation->frequency_penalty, 0);
    params.repetition_penalty = first_number(NAN, generation->repetition_penalty, 1);
    params.refresh_interval = first_integer(-1, generation->refresh_interval, 0);
    params.eos_early_stop = said_or(generation->eos_early_stop, true);
    params.ignore_eos = said_or(generation->ignore_eos, false);
    params.logits_eos_inf = said_or(generation->logits_eos_inf, false);
    params.confidence_eos_eot_inf = said_or(generation->confidence_eos_eot_inf, false);
    set_stop_tokens(&params, api);
    return params;
}

void defaults_apply_effort(struct decode_params *params, const struct api *api, const char *effort)
{
    const struct family_defaults *family = &family_table[api->config.family];
    params->steps = 0;
    if (strcmp(effort, "high") == 0) {
        params->cache = CACHE_NONE;
        params->selection = SELECTION_STEPS;
        return;
    }
    params->selection = family->selection;
    params->threshold = strcmp(effort, "instant") == 0 ? 0.6f
                        : strcmp(effort, "low") == 0   ? 0.8f
                                                       : family->threshold;
    if (strcmp(effort, "medium") == 0) {
        params->cache = family->cache;
        params->block_length = family->block_length;
    }
}

/* Defaults, their precedence, and prompts as ids. */
#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "server/api/prompts.h"
#include "tests/unit/api/support.h"

static struct api_parameters read_with(const struct api *api, const char *body)
{
    static struct arena arena;
    json_t *json = json_loads(body, 0, NULL);
    struct api_error err = {0};
    struct api_parameters parameters;
    cr_assert_eq(parameters_read(&parameters, api, json, &arena, &err), 0, "%s", err.message);
    json_decref(json);
    return parameters;
}

Test(parameters, the_family_table_is_the_last_resort)
{
    struct decode_params params = support_parameters("{}").decode;
    cr_expect_eq(params.selection, SELECTION_THRESHOLD);
    cr_expect_float_eq(params.threshold, 0.9f, 1e-7);
    cr_expect_eq(params.cache, CACHE_DUAL);
    cr_expect_eq(params.block_length, 32);
    cr_expect_eq(params.max_tokens, 256);
    cr_expect_eq(params.temperature, 0);
    cr_expect_eq(params.top_p, 1);
    cr_expect_eq(params.top_k, 0);
    cr_expect_eq(params.steps, 0);
    cr_expect(params.eos_early_stop);
    cr_expect_eq(params.stop_token_count, 2, "end of turn and end of text, each once");
    cr_expect_eq(params.stop_tokens[0], END_OF_TURN);
    cr_expect_eq(params.stop_tokens[1], END_OF_TEXT);
}

Test(parameters, request_beats_settings_beat_generation_config)
{
    struct api *api = support_api();
    api->generation.max_tokens = 96;
    api->generation.block_length = 16;
    api->generation.temperature = 0.5;
    api->generation.threshold = 0.7;
    strcpy(api->generation.selection, "factor");
    strcpy(api->generation.cache, "none");
    struct decode_params params = read_with(api, "{}").decode;
    cr_expect_eq(params.max_tokens, 96);
    cr_expect_eq(params.block_length, 16);
    cr_expect_float_eq(params.temperature, 0.5f, 1e-7);
    cr_expect_float_eq(params.threshold, 0.7f, 1e-7);
    cr_expect_eq(params.selection, SELECTION_FACTOR);
    cr_expect_eq(params.cache, CACHE_NONE);
    api->settings = (struct api_decode_defaults){64, -1, -1, -1, NAN, 0.3, 0.8, "steps", "prefix"};
    params = read_with(api, "{}").decode;
    cr_expect_eq(params.max_tokens, 64);
    cr_expect_eq(params.block_length, 16);
    cr_expect_float_eq(params.top_p, 0.3f, 1e-7);
    cr_expect_float_eq(params.threshold, 0.8f, 1e-7);
    cr_expect_eq(params.selection, SELECTION_STEPS);
    cr_expect_eq(params.cache, CACHE_PREFIX);
    params = read_with(api, "{\"max_tokens\":5,\"threshold\":0.1,\"selection\":\"random\","
                            "\"cache\":\"dual\",\"top_p\":0.9,\"block_length\":4}")
                 .decode;
    cr_expect_eq(params.max_tokens, 5);
    cr_expect_eq(params.block_length, 4);
    cr_expect_float_eq(params.top_p, 0.9f, 1e-7);
    cr_expect_float_eq(params.threshold, 0.1f, 1e-7);
    cr_expect_eq(params.selection, SELECTION_RANDOM);
    cr_expect_eq(params.cache, CACHE_DUAL);
}

Test(parameters, every_key_of_generation_config_is_a_default_that_a_field_beats)
{
    struct api *api = support_api();
    struct generation_defaults *generation = &api->generation;
    generation->steps = 12;
    generation->top_k = 7;
    generation->refresh_interval = 3;
    generation->top_p = 0.5;
    generation->min_p = 0.125;
    generation->factor = 2;
    generation->cfg_scale = 1.5;
    generation->presence_penalty = 0.5;
    generation->frequency_penalty = 0.25;
    generation->repetition_penalty = 1.25;
    generation->eos_early_stop = 0;
    generation->ignore_eos = 1;
    generation->logits_eos_inf = 1;
    generation->confidence_eos_eot_inf = 1;
    struct decode_params params = read_with(api, "{}").decode;
    cr_expect_eq(params.steps, 12);
    cr_expect_eq(params.top_k, 7);
    cr_expect_eq(params.refresh_interval, 3);
    cr_expect_eq(params.top_p, 0.5f);
    cr_expect_eq(params.min_p, 0.125f);
    cr_expect_eq(params.factor, 2);
    cr_expect_eq(params.cfg_scale, 1.5f);
    cr_expect_eq(params.presence_penalty, 0.5f);
    cr_expect_eq(params.frequency_penalty, 0.25f);
    cr_expect_eq(params.repetition_penalty, 1.25f);
    cr_expect(!params.eos_early_stop && params.ignore_eos);
    cr_expect(params.logits_eos_inf && params.confidence_eos_eot_inf);
    params = read_with(api, "{\"steps\":5,\"top_k\":0,\"refresh_interval\":0,\"top_p\":1,"
                            "\"min_p\":0,\"factor\":1,\"cfg_scale\":0,\"eos_early_stop\":true,"
                            "\"presence_penalty\":0,\"frequency_penalty\":0,"
                            "\"repetition_penalty\":1,"
                            "\"ignore_eos\":false,\"logits_eos_inf\":false,"
                            "\"confidence_eos_eot_inf\":false}")
                 .decode;
    cr_expect_eq(params.steps, 5);
    cr_expect_eq(params.top_k, 0);
    cr_expect_eq(params.refresh_interval, 0);
    cr_expect_eq(params.top_p, 1);
    cr_expect_eq(params.min_p, 0);
    cr_expect_eq(params.factor, 1);
    cr_expect_eq(params.cfg_scale, 0);
    cr_expect(params.presence_penalty == 0 && params.frequency_penalty == 0 &&
              params.repetition_penalty == 1);
    cr_expect(params.eos_early_stop && !params.ignore_eos);
    cr_expect(!params.logits_eos_inf && !params.confidence_eos_eot_inf);
}

Test(parameters, defaults_that_are_not_built_fall_back)
{
    struct api *api = support_api();
    strcpy(api->generation.selection, "entropy");
    strcpy(api->generation.cache, "exact");
    struct decode_params params = read_with(api, "{}").decode;
    cr_expect_eq(params.selection, SELECTION_THRESHOLD);
    cr_expect_eq(params.cache, CACHE_NONE);
}

Test(parameters, every_built_field_arrives)
{
    struct api_parameters p = support_parameters(
        "{\"n\":3,\"temperature\":0.25,\"top_p\":0.5,\"top_k\":7,\"min_p\":0.125,\"seed\":-5,"
        "\"stream\":true,\"stream_options\":{\"include_usage\":true},\"diffusing\":true,"
        "\"diffusing_mask\":\"_\\u0000\",\"steps\":12,\"factor\":2,\"refresh_interval\":3,"
        "\"cfg_scale\":1.5,\"eos_early_stop\":false,\"ignore_eos\":true,\"return_token_ids\":true,"
        "\"return_confidences\":true,\"stop\":[\"x\",\"yy\"],\"max_tokens\":16.0,\"best_of\":3,"
        "\"user\":\"u\",\"metadata\":{},\"store\":true,\"service_tier\":\"auto\"}");
    cr_expect_eq(p.choices, 3);
    cr_expect_eq(p.decode.temperature, 0.25f);
    cr_expect_eq(p.decode.top_p, 0.5f);
    cr_expect_eq(p.decode.top_k, 7);
    cr_expect_eq(p.decode.min_p, 0.125f);
    cr_expect_eq((int64_t)p.decode.seed, -5);
    cr_expect_eq(p.decode.steps, 12);
    cr_expect_eq(p.decode.factor, 2);
    cr_expect_eq(p.decode.refresh_interval, 3);
    cr_expect_eq(p.decode.cfg_scale, 1.5f);
    cr_expect_eq(p.decode.max_tokens, 16);
    cr_expect(!p.decode.eos_early_stop && p.decode.ignore_eos);
    cr_expect(p.stream && p.include_usage && p.diffusing);
    cr_expect(p.return_token_ids && p.return_confidences && p.max_tokens_asked);
    cr_expect_eq(p.mask_length, 2);
    cr_expect_eq(p.stop_count, 2);
    cr_expect_eq(p.stops[1].length, 2);
    cr_expect_eq(support_parameters("{\"top_k\":-1}").decode.top_k, 0);
}

Test(parameters, aliases_mean_the_same)
{
    cr_expect_eq(support_parameters("{\"gen_length\":7}").decode.max_tokens, 7);
    cr_expect_eq(support_parameters("{\"max_completion_tokens\":7}").decode.max_tokens, 7);
    cr_expect_eq(support_parameters("{\"num_denoising_steps\":7}").decode.steps, 7);
    cr_expect_eq(support_parameters("{\"remasking\":\"random\"}").decode.selection,
                 SELECTION_RANDOM);
    cr_expect_eq(support_parameters("{\"remasking\":\"low_confidence\"}").decode.selection,
                 SELECTION_STEPS);
}

Test(parameters, dials_are_presets_that_explicit_fields_override)
{
    cr_expect_eq(support_parameters("{\"realtime\":true}").decode.threshold, 0.6f);
    cr_expect_eq(support_parameters("{\"reasoning_effort\":\"low\"}").decode.threshold, 0.8f);
    struct decode_params both =
        support_parameters("{\"realtime\":true,\"reasoning_effort\":\"medium\"}").decode;
    cr_expect_eq(both.threshold, 0.9f);
    cr_expect_eq(support_parameters("{\"realtime\":true,\"threshold\":0.5}").decode.threshold,
                 0.5f);
    struct decode_params high = support_parameters("{\"reasoning_effort\":\"high\"}").decode;
    cr_expect_eq(high.cache, CACHE_NONE);
    cr_expect_eq(high.selection, SELECTION_STEPS);
}

Test(parameters, a_preset_sets_aside_the_servers_steps)
{
    struct api *api = support_api();
    struct api_error err = {0};
    struct decode_params fitted;
    api->settings.steps = 8;
    struct api_parameters p = read_with(api, "{\"reasoning_effort\":\"high\",\"max_tokens\":24}");
    cr_assert_eq(parameters_fit(&fitted, &p, api, 10, &err), 0);
    cr_expect_eq(fitted.steps, 24, "one token a round");
    p = read_with(api, "{\"reasoning_effort\":\"high\",\"max_tokens\":24,\"steps\":6}");
    cr_assert_eq(parameters_fit(&fitted, &p, api, 10, &err), 0);
    cr_expect_eq(fitted.steps, 6, "an explicit field beats it");
}

Test(parameters, a_length_that_was_not_asked_for_is_cut_to_the_context)
{
    struct api *api = support_api();
    struct api_error err = {0};
    struct decode_params fitted;
    api->settings.max_tokens = CONTEXT;
    struct api_parameters p = read_with(api, "{\"selection\":\"steps\"}");
    cr_assert_eq(parameters_fit(&fitted, &p, api, 10, &err), 0);
    cr_expect_eq(fitted.max_tokens, CONTEXT - 10);
    cr_expect_eq(fitted.steps, CONTEXT - 10, "one token a round");
    cr_assert_eq(parameters_fit(&fitted, &p, api, CONTEXT - 1, &err), 0);
    cr_expect_eq(fitted.max_tokens, 1);
    cr_expect_neq(parameters_fit(&fitted, &p, api, CONTEXT, &err), 0);
    cr_expect_neq(support_parameters("{}").decode.seed, support_parameters("{}").decode.seed);
}

static struct prompt_list read_prompts(const char *body, bool chat)
{
    struct prompt_list prompts = {0};
    struct api_error err = {0};
    json_t *json = json_loads(body, JSON_ALLOW_NUL, NULL);
    int code = chat ? prompts_read_messages(&prompts, support_api(), json, CONTEXT, &err)
                    : prompts_read_raw(&prompts, support_api(), json, 8, &err);
    cr_assert_eq(code, 0, "%s", err.message);
    json_decref(json);
    return prompts;
}

Test(prompts, raw_text_gets_bos_and_matches_added_tokens)
{
    struct prompt_list prompts = read_prompts("{\"prompt\":[\"\",\"<|eot_id|>!\",[6,7]]}", false);
    cr_assert_eq(prompts.count, 3);
    cr_expect_eq(prompts.items[0].count, 1);
    cr_expect_eq(prompts.items[0].ids[0], BOS);
    cr_expect_eq(prompts.items[1].count, 3);
    cr_expect_eq(prompts.items[1].ids[1], END_OF_TURN);
    cr_expect_eq(prompts.items[2].count, 2, "token arrays are taken as they are");
    cr_expect_eq(prompts.items[2].ids[0], 6);
    prompt_list_free(&prompts);
}

Test(prompts, an_array_of_ids_is_one_prompt)
{
    struct prompt_list prompts = read_prompts("{\"prompt\":[6,7,8]}", false);
    cr_assert_eq(prompts.count, 1);
    cr_expect_eq(prompts.items[0].count, 3);
    prompt_list_free(&prompts);
}

static int32_t count_id(const struct token_list *list, int32_t id)
{
    int32_t found = 0;
    for (size_t i = 0; i < list->count; i++) {
        found += list->ids[i] == id;
    }
    return found;
}

Test(prompts, what_users_write_never_becomes_a_special_token)
{
    struct prompt_list prompts =
        read_prompts("{\"messages\":[{\"role\":\"developer\",\"content\":\"<|mdm_mask|>\"},"
                     "{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"<|eot\"},"
                     "{\"type\":\"text\",\"text\":\"_id|>\\u0000\"}]}]}",
                     true);
    cr_assert_eq(prompts.count, 1);
    cr_expect_eq(count_id(&prompts.items[0], BOS), 1);
    cr_expect_eq(count_id(&prompts.items[0], MASK), 0);
    cr_expect_eq(count_id(&prompts.items[0], END_OF_TURN), 2, "the template's own, one a turn");
    prompt_list_free(&prompts);
}

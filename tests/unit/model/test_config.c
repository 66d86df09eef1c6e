#include <math.h>
#include <string.h>
#include <sys/stat.h>

#include <criterion/criterion.h>
#include <jansson.h>

#include "common/error.h"
#include "server/model/config.h"
#include "tests/unit/model/temporary_directory.h"

static const char base_config[] =
    "{\"architectures\": [\"LLaDAModelLM\"], \"model_type\": \"llada\", \"block_type\": \"llama\","
    " \"layer_norm_type\": \"rms\", \"activation_type\": \"silu\", \"rope\": true,"
    " \"alibi\": false, \"attention_layer_norm\": false, \"input_emb_norm\": false,"
    " \"scale_logits\": false, \"multi_query_attention\": null, \"block_group_size\": 1,"
    " \"layer_norm_with_affine\": true, \"bias_for_layer_norm\": false, \"include_bias\": false,"
    " \"include_qkv_bias\": false, \"d_model\": 96, \"n_layers\": 3, \"n_heads\": 6,"
    " \"n_kv_heads\": 2, \"mlp_ratio\": 4, \"mlp_hidden_size\": 200, \"vocab_size\": 300,"
    " \"embedding_size\": 320, \"max_sequence_length\": 256, \"rms_norm_eps\": 1e-6,"
    " \"rope_theta\": 500000.0, \"weight_tying\": false, \"torch_dtype\": \"bfloat16\","
    " \"mask_token_id\": 299, \"eos_token_id\": 290, \"pad_token_id\": 290}";

struct read_result {
    int code;
    struct model_config config;
    struct generation_defaults defaults;
    struct error err;
};

/* Reads the base config with the keys of `changes` set (or, where null is not wanted, removed by
 * listing them in `removed`), and with the generation config where it is not NULL. */
static struct read_result read_with(const char *changes, const char *removed,
                                    const char *generation)
{
    json_error_t problem;
    json_t *config = json_loads(base_config, 0, &problem);
    json_t *changed = json_loads(changes, 0, &problem);
    cr_assert(config != NULL && changed != NULL, "%s", problem.text);
    cr_assert_eq(json_object_update(config, changed), 0);
    if (removed != NULL)
        cr_assert_eq(json_object_del(config, removed), 0);

    struct temporary_directory directory = temporary_directory_create();
    cr_assert_eq(json_dump_file(config, temporary_path(&directory, "config.json"), 0), 0);
    if (generation != NULL)
        temporary_write_text(&directory, "generation_config.json", generation);
    struct read_result result = {0};
    result.code = model_config_read(&result.config, &result.defaults, directory.path, &result.err);
    temporary_directory_remove(&directory);
    json_decref(config);
    json_decref(changed);
    return result;
}

static struct model_config read_config(const char *changes)
{
    struct read_result result = read_with(changes, NULL, NULL);
    cr_assert_eq(result.code, 0, "%s", result.err.message);
    return result.config;
}

static void expect_refused(const char *changes, int code, const char *key, const char *detail)
{
    struct read_result result = read_with(changes, NULL, NULL);
    cr_expect_eq(result.code, code, "%s: code %d, %s", changes, result.code, result.err.message);
    cr_expect(strstr(result.err.message, key) != NULL && strstr(result.err.message, detail) != NULL,
              "%s: message lacks \"%s\" or \"%s\": %s", changes, key, detail, result.err.message);
    cr_expect(strstr(result.err.message, "config.json") != NULL, "%s", result.err.message);
}

Test(config, reads_every_switch)
{
    struct model_config config = read_config("{}");
    cr_expect_eq(config.family, MODEL_LLADA);
    cr_expect_str_eq(config.model_type, "llada");
    cr_expect_str_eq(model_family_name(config.family), "LLaDA");
    cr_expect_eq(config.attention, ATTENTION_FULL);
    cr_expect_eq(config.layers, 3);
    cr_expect_eq(config.width, 96);
    cr_expect_eq(config.heads, 6);
    cr_expect_eq(config.kv_heads, 2);
    cr_expect_eq(config.head_dim, 16);
    cr_expect_eq(config.rotary_dim, 16);
    cr_expect_eq(config.ffn_width, 200);
    cr_expect_eq(config.vocabulary, 300);
    cr_expect_eq(config.embedding_rows, 320);
    cr_expect_eq(config.max_positions, 256);
    cr_expect_float_eq(config.rope_theta, 500000.0, 0.0);
    cr_expect_float_eq(config.norm_epsilon, 1e-6F, 1e-12);
    cr_expect(!config.qkv_bias && !config.linear_bias && !config.qk_norm && !config.tied_head &&
              !config.shifted_logits);
    cr_expect_eq(config.mask_token, 299);
    cr_expect_eq(config.bos_token, -1);
    cr_expect_eq(config.stop_token_count, 1);
    cr_expect_eq(config.stop_tokens[0], 290);
}

Test(config, null_keys_take_what_they_stand_for)
{
    struct model_config config = read_config("{\"n_kv_heads\": null, \"mlp_hidden_size\": null,"
                                             " \"embedding_size\": null, \"eos_token_id\": null}");
    cr_expect_eq(config.kv_heads, 6);
    cr_expect_eq(config.ffn_width, 4 * 96);
    cr_expect_eq(config.embedding_rows, 300);
    cr_expect_eq(config.stop_token_count, 0);
}

Test(config, one_key_and_value_head_for_all)
{
    struct model_config config =
        read_config("{\"n_kv_heads\": null, \"multi_query_attention\": true}");
    cr_expect_eq(config.kv_heads, 1);
    expect_refused("{\"multi_query_attention\": true}", ERROR_INVALID, "n_kv_heads", "2");
}

Test(config, include_bias_is_a_bias_everywhere)
{
    struct model_config config = read_config("{\"include_bias\": true}");
    cr_expect(config.linear_bias && config.qkv_bias);
    config = read_config("{\"include_qkv_bias\": true}");
    cr_expect(!config.linear_bias && config.qkv_bias);
    /* A null switch of the norms follows the linear layers. */
    expect_refused("{\"include_bias\": true, \"bias_for_layer_norm\": null}", ERROR_UNSUPPORTED,
                   "bias_for_layer_norm", "false");
    read_config("{\"bias_for_layer_norm\": null}");
}

Test(config, refuses_by_name_what_it_does_not_compute)
{
    static const char *const cases[][3] = {
        {"{\"alibi\": true}", "\"alibi\"", "true"},
        {"{\"rope\": false}", "\"rope\"", "false"},
        {"{\"block_type\": \"sequential\"}", "\"block_type\"", "sequential"},
        {"{\"layer_norm_type\": \"default\"}", "\"layer_norm_type\"", "rms"},
        {"{\"layer_norm_type\": \"gemma_rms\"}", "\"layer_norm_type\"", "gemma_rms"},
        {"{\"activation_type\": \"gelu\"}", "\"activation_type\"", "silu"},
        {"{\"attention_layer_norm\": true}", "\"attention_layer_norm\"", "true"},
        {"{\"input_emb_norm\": true}", "\"input_emb_norm\"", "true"},
        {"{\"scale_logits\": true}", "\"scale_logits\"", "true"},
        {"{\"layer_norm_with_affine\": false}", "\"layer_norm_with_affine\"", "false"},
        {"{\"bias_for_layer_norm\": true}", "\"bias_for_layer_norm\"", "true"},
        {"{\"block_group_size\": 2}", "\"block_group_size\"", "1"},
        {"{\"clip_qkv\": 8.0}", "\"clip_qkv\"", "null"},
        {"{\"rope_scaling\": {\"type\": \"linear\"}}", "\"rope_scaling\"", "null"},
        {"{\"quantization_config\": {}}", "\"quantization_config\"", "null"},
        {"{\"model_type\": \"sdar\"}", "\"model_type\"", "\"sdar\""},
        {"{\"model_type\": null}", "\"model_type\"", "absent"},
        {"{\"architectures\": [\"LLaDAMoEModelLM\"]}", "LLaDAMoEModelLM", "LLaDAModelLM"},
        {"{\"num_experts\": 64}", "LLaDAMoEModelLM", "mixture"},
        {"{\"n_heads\": 32, \"n_kv_heads\": 32}", "n_heads", "even"},    /* 96 / 32 = 3 */
        {"{\"d_model\": 4096, \"n_heads\": 8}", "n_heads", "up to 256"}, /* 512 */
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        expect_refused(cases[i][0], ERROR_UNSUPPORTED, cases[i][1], cases[i][2]);
}

Test(config, an_absent_switch_has_the_published_default)
{
    static const char *const keys[] = {"rope", "block_type", "layer_norm_type", "activation_type"};
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        struct read_result result = read_with("{}", keys[i], NULL);
        cr_expect_eq(result.code, ERROR_UNSUPPORTED, "%s", keys[i]);
        cr_expect(strstr(result.err.message, keys[i]) != NULL &&
                      strstr(result.err.message, "absent") != NULL,
                  "%s", result.err.message);
    }
    struct read_result result = read_with("{}", "weight_tying", NULL);
    cr_expect(result.code == 0 && result.config.tied_head);
}

Test(config, names_key_and_range_of_a_bad_value)
{
    static const char *const cases[][2] = {
        {"{\"n_heads\": 7}", "n_heads"},
        {"{\"n_heads\": 0}", "n_heads"},
        {"{\"n_heads\": \"6\"}", "n_heads"},
        {"{\"n_kv_heads\": 4}", "n_kv_heads"},
        {"{\"n_kv_heads\": 12}", "n_kv_heads"},
        {"{\"d_model\": -96}", "d_model"},
        {"{\"d_model\": 4000000000}", "d_model"},
        {"{\"d_model\": 9223372036854775807}", "d_model"},
        {"{\"d_model\": 96.5}", "d_model"},
        {"{\"d_model\": null}", "d_model"},
        {"{\"n_layers\": 0}", "n_layers"},
        {"{\"n_layers\": 2147483647}", "n_layers"},
        {"{\"mlp_hidden_size\": 0}", "mlp_hidden_size"},
        {"{\"mlp_hidden_size\": null, \"mlp_ratio\": 1000000}", "mlp_ratio"},
        {"{\"vocab_size\": 0}", "vocab_size"},
        {"{\"vocab_size\": null}", "vocab_size"},
        {"{\"embedding_size\": 299}", "embedding_size"},
        {"{\"max_sequence_length\": 0}", "max_sequence_length"},
        {"{\"max_sequence_length\": null}", "max_sequence_length"},
        {"{\"rope_theta\": 0}", "rope_theta"},
        {"{\"rope_theta\": -10000.0}", "rope_theta"},
        {"{\"rms_norm_eps\": 0}", "rms_norm_eps"},
        {"{\"rms_norm_eps\": \"small\"}", "rms_norm_eps"},
        {"{\"mask_token_id\": 320}", "mask_token_id"},
        {"{\"mask_token_id\": -1}", "mask_token_id"},
        {"{\"mask_token_id\": null}", "mask_token_id"},
        {"{\"eos_token_id\": 320}", "eos_token_id"},
        {"{\"eos_token_id\": [1, -2]}", "eos_token_id"},
        {"{\"eos_token_id\": \"</s>\"}", "eos_token_id"},
        {"{\"eos_token_id\": 299}", "eos_token_id"},
        {"{\"bos_token_id\": 320}", "bos_token_id"},
        {"{\"alibi\": 0}", "alibi"},
        {"{\"weight_tying\": \"no\"}", "weight_tying"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        expect_refused(cases[i][0], ERROR_INVALID, cases[i][1], cases[i][1]);
}

Test(config, mask_token_of_the_hub_only_where_the_vocabulary_reaches_it)
{
    struct read_result result =
        read_with("{\"vocab_size\": 126464, \"embedding_size\": 126464}", "mask_token_id", NULL);
    cr_assert_eq(result.code, 0, "%s", result.err.message);
    cr_expect_eq(result.config.mask_token, 126336);
}

Test(config, stop_tokens_of_both_files_are_joined)
{
    struct read_result result =
        read_with("{\"eos_token_id\": [290, 5]}", NULL, "{\"eos_token_id\": [5, 7, 290]}");
    cr_assert_eq(result.code, 0, "%s", result.err.message);
    cr_assert_eq(result.config.stop_token_count, 3);
    cr_expect_eq(result.config.stop_tokens[0], 290);
    cr_expect_eq(result.config.stop_tokens[1], 5);
    cr_expect_eq(result.config.stop_tokens[2], 7);
    result = read_with("{\"eos_token_id\": [0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15]}", NULL,
                       "{\"eos_token_id\": 16}");
    cr_expect_eq(result.code, ERROR_INVALID);
    cr_expect_not_null(strstr(result.err.message, "generation_config.json"));
}

Test(config, generation_config_gives_defaults)
{
    struct read_result result = read_with(
        "{}", NULL,
        "{\"max_new_tokens\": 96, \"block_length\": 32, \"steps\": 48, \"top_k\": 40,"
        " \"temperature\": 0.7, \"top_p\": 0.9, \"threshold\": 0.8, \"selection\": \"factor\","
        " \"cache\": \"prefix\", \"transformers_version\": \"4.46.3\", \"min_p\": 0.25,"
        " \"factor\": 2, \"cfg_scale\": 1.5, \"refresh_interval\": 3, \"eos_early_stop\": false,"
        " \"presence_penalty\": 0.5, \"frequency_penalty\": -0.25, \"repetition_penalty\": 1.25,"
        " \"ignore_eos\": true, \"logits_eos_inf\": true, \"confidence_eos_eot_inf\": false}");
    cr_assert_eq(result.code, 0, "%s", result.err.message);
    const struct generation_defaults *defaults = &result.defaults;
    cr_expect_eq(defaults->max_tokens, 96);
    cr_expect_eq(defaults->block_length, 32);
    cr_expect_eq(defaults->steps, 48);
    cr_expect_eq(defaults->top_k, 40);
    cr_expect_float_eq(defaults->temperature, 0.7, 1e-15);
    cr_expect_float_eq(defaults->top_p, 0.9, 1e-15);
    cr_expect_float_eq(defaults->threshold, 0.8, 1e-15);
    cr_expect_str_eq(defaults->selection, "factor");
    cr_expect_str_eq(defaults->cache, "prefix");
    cr_expect_eq(defaults->min_p, 0.25);
    cr_expect_eq(defaults->factor, 2);
    cr_expect_eq(defaults->cfg_scale, 1.5);
    cr_expect_eq(defaults->presence_penalty, 0.5);
    cr_expect_eq(defaults->frequency_penalty, -0.25);
    cr_expect_eq(defaults->repetition_penalty, 1.25);
    cr_expect_eq(defaults->refresh_interval, 3);
    cr_expect_eq(defaults->eos_early_stop, 0);
    cr_expect_eq(defaults->ignore_eos, 1);
    cr_expect_eq(defaults->logits_eos_inf, 1);
    cr_expect_eq(defaults->confidence_eos_eot_inf, 0);
}

Test(config, without_generation_config_nothing_is_said)
{
    struct read_result result = read_with("{}", NULL, NULL);
    const struct generation_defaults *defaults = &result.defaults;
    cr_expect(defaults->max_tokens < 0 && defaults->block_length < 0 && defaults->steps < 0 &&
              defaults->top_k < 0 && defaults->refresh_interval < 0);
    cr_expect(isnan(defaults->min_p) && isnan(defaults->factor) && isnan(defaults->cfg_scale));
    cr_expect(isnan(defaults->presence_penalty) && isnan(defaults->frequency_penalty) &&
              isnan(defaults->repetition_penalty));
    cr_expect(defaults->eos_early_stop < 0 && defaults->ignore_eos < 0 &&
              defaults->logits_eos_inf < 0 && defaults->confidence_eos_eot_inf < 0);
    cr_expect(isnan(defaults->temperature) && isnan(defaults->top_p) && isnan(defaults->threshold));
    cr_expect_str_empty(defaults->selection);
    cr_expect_str_empty(defaults->cache);
}

Test(config, do_sample_false_means_temperature_zero)
{
    struct read_result result =
        read_with("{}", NULL, "{\"do_sample\": false, \"temperature\": 0.6}");
    cr_expect_float_eq(result.defaults.temperature, 0.0, 0.0);
    result = read_with("{}", NULL, "{\"do_sample\": true, \"temperature\": 0.6}");
    cr_expect_float_eq(result.defaults.temperature, 0.6, 1e-15);
}

Test(config, bad_generation_config_is_named)
{
    static const char *const cases[][2] = {
        {"{\"max_new_tokens\": 0}", "max_new_tokens"},
        {"{\"block_length\": -1}", "block_length"},
        {"{\"temperature\": -0.5}", "temperature"},
        {"{\"top_p\": 1.5}", "top_p"},
        {"{\"threshold\": \"high\"}", "threshold"},
        {"{\"selection\": \"nonesuch\"}", "selection"},
        {"{\"selection\": \"\"}", "selection"},
        {"{\"selection\": \"steps threshold\"}", "selection"},
        {"{\"selection\": 3}", "selection"},
        {"{\"cache\": \"double\"}", "none prefix dual"},
        {"{\"cfg_scale\": -1}", "cfg_scale"},
        {"{\"factor\": []}", "factor"},
        {"{\"min_p\": 2}", "min_p"},
        {"{\"presence_penalty\": 3}", "presence_penalty"},
        {"{\"frequency_penalty\": -3}", "frequency_penalty"},
        {"{\"repetition_penalty\": 0}", "repetition_penalty"},
        {"{\"refresh_interval\": 0.5}", "refresh_interval"},
        {"{\"ignore_eos\": 1}", "ignore_eos"},
        {"{\"selection\": \"a name that is longer than any of them\"}", "selection"},
        {"{\"eos_token_id\": 4096}", "eos_token_id"},
        {"[]", "an array"},
        {"{", "line"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct read_result result = read_with("{}", NULL, cases[i][0]);
        cr_expect_eq(result.code, ERROR_INVALID, "%s", cases[i][0]);
        cr_expect(strstr(result.err.message, "generation_config.json") != NULL &&
                      strstr(result.err.message, cases[i][1]) != NULL,
                  "%s", result.err.message);
    }
}

Test(config, a_file_that_is_none_is_named)
{
    struct temporary_directory directory = temporary_directory_create();
    struct model_config config;
    struct generation_defaults defaults;
    struct error err = {0};
    cr_expect_eq(model_config_read(&config, &defaults, directory.path, &err), ERROR_INVALID);
    cr_expect_not_null(strstr(err.message, "config.json"));

    static const char *const contents[] = {"", "[1]", "not json", "{\"model_type\": \"llada\"",
                                           "{\"model_type\": 7}"};
    for (size_t i = 0; i < sizeof contents / sizeof contents[0]; i++) {
        temporary_write_text(&directory, "config.json", contents[i]);
        int code = model_config_read(&config, &defaults, directory.path, &err);
        cr_expect_eq(code, ERROR_INVALID, "%s", contents[i]);
        cr_expect_not_null(strstr(err.message, "config.json"));
    }
    cr_expect_eq(remove(temporary_path(&directory, "config.json")), 0);
    cr_expect_eq(mkdir(temporary_path(&directory, "config.json"), 0700), 0);
    cr_expect_eq(model_config_read(&config, &defaults, directory.path, &err), ERROR_INVALID);
    cr_expect_not_null(strstr(err.message, "directory"));
    cr_expect_eq(model_config_read(&config, &defaults, "/nonexistent", &err), ERROR_INVALID);
    temporary_directory_remove(&directory);
}

Test(config, reads_the_published_checkpoints)
{
    static const char *const directories[] = {
        "build/fixtures/llada/plain", "build/fixtures/llada/grouped", "build/fixtures/llada/tied",
        "build/fixtures/llada/int8", "models/tiny"};
    for (size_t i = 0; i < sizeof directories / sizeof directories[0]; i++) {
        struct model_config config;
        struct generation_defaults defaults;
        struct error err = {0};
        int code = model_config_read(&config, &defaults, directories[i], &err);
        cr_expect_eq(code, 0, "%s", err.message);
    }
}

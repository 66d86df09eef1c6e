#include "server/model/config.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include <jansson.h>

#include "common/error.h"
#include "common/json.h"
#include "server/model/files.h"

enum {
    CONFIG_BYTES_MAX = 1 << 24,
    /* Bounds far above any model of these families; they keep every product of sizes in 64 bits. */
    WIDTH_MAX = 1 << 17,
    FFN_WIDTH_MAX = 1 << 20,
    LAYERS_MAX = 1024,
    TOKENS_MAX = 1 << 24,
    POSITIONS_MAX = 1 << 24,
    HEAD_DIM_MAX = 256,
    LLADA_MASK_TOKEN = 126336, /* of LLaDA-8B, whose config.json may leave it out */
};

/* One file being read: the first failure writes the message and sticks. */
struct reader {
    json_t *root;
    const char *path;
    int code;
    struct error *err;
};

static void fail_code(struct reader *reader, int code)
{
    if (reader->code == 0)
        reader->code = code;
}

static int32_t get_int(struct reader *reader, const char *key, int64_t min, int64_t max,
                       int32_t absent)
{
    int64_t value = absent;
    if (reader->code == 0)
        fail_code(reader,
                  json_get_int(reader->root, key, min, max, &value, reader->path, reader->err));
    return (int32_t)value;
}

static int32_t get_required_int(struct reader *reader, const char *key, int64_t min, int64_t max)
{
    if (reader->code == 0 && (json_object_get(reader->root, key) == NULL ||
                              json_is_null(json_object_get(reader->root, key))))
        fail_code(reader,
                  error_set(reader->err, ERROR_INVALID,
                            "%s: \"%s\" is missing; it must be an integer from %lld to %lld",
                            reader->path, key, (long long)min, (long long)max));
    return get_int(reader, key, min, max, (int32_t)min);
}

static double get_double(struct reader *reader, const char *key, double min, double max,
                         double absent)
{
    double value = absent;
    if (reader->code == 0)
        fail_code(reader,
                  json_get_double(reader->root, key, min, max, &value, reader->path, reader->err));
    return value;
}

static bool get_bool(struct reader *reader, const char *key, bool absent)
{
    bool value = absent;
    if (reader->code == 0)
        fail_code(reader, json_get_bool(reader->root, key, &value, reader->path, reader->err));
    return value;
}

/* Points into the JSON tree, or to `absent`. */
static const char *get_string(struct reader *reader, const char *key, const char *absent)
{
    const char *value = absent;
    if (reader->code == 0)
        fail_code(reader, json_get_string(reader->root, key, &value, reader->path, reader->err));
    return value;
}

static bool is_present(const struct reader *reader, const char *key)
{
    const json_t *value = json_object_get(reader->root, key);
    return value != NULL && !json_is_null(value);
}

/* ---- switches this build has only one side of ------------------------------------------------ */

/* `absent` is the default of the published LLaDA configuration class. */
static const struct {
    const char *key;
    bool absent, supported;
} fixed_switches[] = {
    {"rope", false, true},
    {"alibi", false, false},
    {"attention_layer_norm", false, false},
    {"input_emb_norm", false, false},
    {"scale_logits", false, false},
    {"layer_norm_with_affine", true, true},
};

static const struct {
    const char *key, *absent, *supported;
} fixed_names[] = {
    {"block_type", "sequential", "llama"},
    {"layer_norm_type", "default", "rms"},
    {"activation_type", "swiglu", "silu"},
};

static const char *const absent_only[] = {"clip_qkv", "rope_scaling", "quantization_config"};

static void refuse(struct reader *reader, const char *key, const char *value, const char *supported)
{
    if (reader->code != 0)
        return;
    fail_code(reader,
              error_set(reader->err, ERROR_UNSUPPORTED,
                        "%s: \"%s\" is %s%s, and this build supports %s only", reader->path, key,
                        value, is_present(reader, key) ? "" : " (where the key is absent)",
                        supported));
}

static void check_fixed_switches(struct reader *reader)
{
    for (size_t i = 0; i < sizeof fixed_switches / sizeof fixed_switches[0]; i++) {
        bool value = get_bool(reader, fixed_switches[i].key, fixed_switches[i].absent);
        if (value != fixed_switches[i].supported)
            refuse(reader, fixed_switches[i].key, value ? "true" : "false",
                   value ? "false" : "true");
    }
    for (size_t i = 0; i < sizeof fixed_names / sizeof fixed_names[0]; i++) {
        char quoted[64];
        const char *value = get_string(reader, fixed_names[i].key, fixed_names[i].absent);
        snprintf(quoted, sizeof quoted, "\"%.48s\"", value);
        if (strcmp(value, fixed_names[i].supported) != 0)
            refuse(reader, fixed_names[i].key, quoted, fixed_names[i].supported);
    }
    for (size_t i = 0; i < sizeof absent_only / sizeof absent_only[0]; i++)
        if (is_present(reader, absent_only[i]))
            refuse(reader, absent_only[i], "set", "null");
    if (get_int(reader, "block_group_size", 1, INT32_MAX, 1) != 1)
        refuse(reader, "block_group_size", "over 1", "1");
    /* Where the norm's switch is null, the published code takes that of the linear layers. */
    if (get_bool(reader, "bias_for_layer_norm", get_bool(reader, "include_bias", false)))
        refuse(reader, "bias_for_layer_norm", "true", "false");
}

/* ---- token ids ------------------------------------------------------------------------------- */

static void add_stop_token(struct reader *reader, struct model_config *config, const json_t *value)
{
    if (reader->code != 0)
        return;
    if (!json_is_integer(value)) {
        fail_code(reader, error_set(reader->err, ERROR_INVALID,
                                    "%s: \"eos_token_id\" holds %s; it must be a token id or a "
                                    "list of them",
                                    reader->path, json_type_name(value)));
        return;
    }
    json_int_t id = json_integer_value(value);
    if (id < 0 || id >= config->embedding_rows) {
        fail_code(reader, error_set(reader->err, ERROR_INVALID,
                                    "%s: \"eos_token_id\" holds %lld; ids are from 0 to %d",
                                    reader->path, (long long)id, config->embedding_rows - 1));
        return;
    }
    if (id == config->mask_token) {
        fail_code(reader, error_set(reader->err, ERROR_INVALID,
                                    "%s: \"eos_token_id\" holds %lld, which is the mask token",
                                    reader->path, (long long)id));
        return;
    }
    for (int32_t i = 0; i < config->stop_token_count; i++)
        if (config->stop_tokens[i] == id)
            return;
    if (config->stop_token_count == MODEL_STOP_TOKENS_MAX) {
        fail_code(reader, error_set(reader->err, ERROR_INVALID,
                                    "%s: \"eos_token_id\" gives more than %d different ids",
                                    reader->path, MODEL_STOP_TOKENS_MAX));
        return;
    }
    config->stop_tokens[config->stop_token_count++] = (int32_t)id;
}

/* An id or a list of ids, added to those of the file read before. */
static void read_stop_tokens(struct reader *reader, struct model_config *config)
{
    const json_t *value = json_object_get(reader->root, "eos_token_id");
    if (!is_present(reader, "eos_token_id"))
        return;
    if (!json_is_array(value)) {
        add_stop_token(reader, config, value);
        return;
    }
    size_t index;
    json_t *entry;
    json_array_foreach(value, index, entry) add_stop_token(reader, config, entry);
}

static void read_tokens(struct reader *reader, struct model_config *config)
{
    int32_t id_max = config->embedding_rows - 1;
    if (is_present(reader, "mask_token_id") || id_max < LLADA_MASK_TOKEN)
        config->mask_token = get_required_int(reader, "mask_token_id", 0, id_max);
    else
        config->mask_token = LLADA_MASK_TOKEN;
    config->bos_token = get_int(reader, "bos_token_id", 0, id_max, -1);
    read_stop_tokens(reader, config);
}

/* ---- LLaDA ----------------------------------------------------------------------------------- */

static void check_divides(struct reader *reader, const char *key, int32_t value,
                          const char *divisor_key, int32_t divisor)
{
    if (reader->code == 0 && value % divisor != 0)
        fail_code(reader, error_set(reader->err, ERROR_INVALID,
                                    "%s: \"%s\" is %d, which is no multiple of \"%s\" %d",
                                    reader->path, key, value, divisor_key, divisor));
}

/* Head counts as the published code derives them from three keys. */
static void read_heads(struct reader *reader, struct model_config *config)
{
    config->heads = get_required_int(reader, "n_heads", 1, config->width);
    check_divides(reader, "d_model", config->width, "n_heads", config->heads);
    config->head_dim = config->width / config->heads;
    config->rotary_dim = config->head_dim;
    if (reader->code == 0 && (config->head_dim > HEAD_DIM_MAX || config->head_dim % 2 != 0))
        fail_code(reader, error_set(reader->err, ERROR_UNSUPPORTED,
                                    "%s: d_model / n_heads is %d / %d = %d; this build supports "
                                    "even head sizes up to %d",
                                    reader->path, config->width, config->heads, config->head_dim,
                                    HEAD_DIM_MAX));

    bool one_head = get_bool(reader, "multi_query_attention", false);
    config->kv_heads =
        get_int(reader, "n_kv_heads", 1, config->heads, one_head ? 1 : config->heads);
    if (reader->code == 0 && is_present(reader, "multi_query_attention") &&
        config->kv_heads != (one_head ? 1 : config->heads))
        fail_code(reader, error_set(reader->err, ERROR_INVALID,
                                    "%s: \"n_kv_heads\" %d contradicts \"multi_query_attention\" "
                                    "%s; leave one of them null",
                                    reader->path, config->kv_heads, one_head ? "true" : "false"));
    check_divides(reader, "n_heads", config->heads, "n_kv_heads", config->kv_heads);
}

static void read_llada(struct reader *reader, struct model_config *config)
{
    check_fixed_switches(reader);
    config->family = MODEL_LLADA;
    config->attention = ATTENTION_FULL;
    config->layers = get_required_int(reader, "n_layers", 1, LAYERS_MAX);
    config->width = get_required_int(reader, "d_model", 1, WIDTH_MAX);
    read_heads(reader, config);
    int64_t wide = (int64_t)get_int(reader, "mlp_ratio", 1, FFN_WIDTH_MAX, 4) * config->width;
    config->ffn_width = get_int(reader, "mlp_hidden_size", 1, FFN_WIDTH_MAX,
                                (int32_t)(wide <= FFN_WIDTH_MAX ? wide : FFN_WIDTH_MAX));
    if (reader->code == 0 && !is_present(reader, "mlp_hidden_size") && wide > FFN_WIDTH_MAX)
        fail_code(reader, error_set(reader->err, ERROR_INVALID,
                                    "%s: \"mlp_ratio\" times \"d_model\" is %lld; at most %d is "
                                    "supported",
                                    reader->path, (long long)wide, FFN_WIDTH_MAX));
    config->vocabulary = get_required_int(reader, "vocab_size", 1, TOKENS_MAX);
    config->embedding_rows =
        get_int(reader, "embedding_size", config->vocabulary, TOKENS_MAX, config->vocabulary);
    config->max_positions = get_required_int(reader, "max_sequence_length", 1, POSITIONS_MAX);
    config->rope_theta = get_double(reader, "rope_theta", 1.0, 1e15, 10000.0);
    config->norm_epsilon = (float)get_double(reader, "rms_norm_eps", 1e-12, 1.0, 1e-5);
    config->linear_bias = get_bool(reader, "include_bias", false);
    config->qkv_bias = get_bool(reader, "include_qkv_bias", false) || config->linear_bias;
    config->tied_head = get_bool(reader, "weight_tying", true);
    read_tokens(reader, config);
}

static void check_family(struct reader *reader, struct model_config *config)
{
    const char *type = get_string(reader, "model_type", "");
    snprintf(config->model_type, sizeof config->model_type, "%s", type);
    if (reader->code == 0 && strcmp(type, "llada") != 0)
        fail_code(reader,
                  error_set(reader->err, ERROR_UNSUPPORTED,
                            "%s: \"model_type\" is %s%.64s%s, and this build supports "
                            "\"llada\" only",
                            reader->path, *type ? "\"" : "absent", type, *type ? "\"" : ""));
    /* LLaDA-MoE has the same model_type. */
    const json_t *architectures = json_object_get(reader->root, "architectures");
    const char *architecture = json_string_value(json_array_get(architectures, 0));
    bool experts = is_present(reader, "num_experts");
    if (reader->code == 0 &&
        (experts || (architecture != NULL && strcmp(architecture, "LLaDAMoEModelLM") == 0)))
        fail_code(reader, error_set(reader->err, ERROR_UNSUPPORTED,
                                    "%s: the architecture is LLaDAMoEModelLM (mixture of experts), "
                                    "and this build supports LLaDAModelLM only",
                                    reader->path));
}

/* ---- the two files --------------------------------------------------------------------------- */

static void open_reader(struct reader *reader, const char *path, struct error *err)
{
    *reader = (struct reader){.path = path, .err = err};
    reader->code = model_file_check(path, err);
    if (reader->code != 0)
        return;
    struct error unread = {0};
    reader->root = json_read_file(path, CONFIG_BYTES_MAX, &unread);
    if (reader->root == NULL)
        reader->code = error_set(err, unread.code, "%s", unread.message);
    else if (!json_is_object(reader->root))
        reader->code = error_set(err, ERROR_INVALID, "%s: the file holds %s, not an object", path,
                                 json_type_name(reader->root));
}

const char generation_selections[] = " steps threshold threshold_floor factor maskgit_plus margin "
                                     "entropy origin sequential entropy_bound random ";
const char generation_caches[] = " none prefix dual vicinity exact ";

/* A name that is one of these words, or "" where the key is absent. */
static void read_word(struct reader *reader, const char *key, const char *words, char *out,
                      size_t size)
{
    out[0] = '\0';
    if (!is_present(reader, key))
        return;
    const char *name = get_string(reader, key, "");
    char word[64];
    snprintf(word, sizeof word, " %.48s ", name);
    bool known = name[0] != '\0' && strchr(name, ' ') == NULL && strlen(name) < size &&
                 strstr(words, word) != NULL;
    if (reader->code == 0 && !known)
        fail_code(reader, error_set(reader->err, ERROR_INVALID,
                                    "%s: \"%s\" is \"%.48s\"; it must be one of: %.*s",
                                    reader->path, key, name, (int)strlen(words) - 2, words + 1));
    if (reader->code == 0)
        snprintf(out, size, "%s", name);
}

/* 0 or 1, or -1 where the key is absent. */
static int32_t read_switch(struct reader *reader, const char *key)
{
    return is_present(reader, key) ? get_bool(reader, key, false) : -1;
}

static void read_generation_defaults(struct reader *reader, struct generation_defaults *defaults)
{
    defaults->max_tokens = get_int(reader, "max_new_tokens", 1, INT32_MAX, -1);
    defaults->block_length = get_int(reader, "block_length", 1, INT32_MAX, -1);
    defaults->steps = get_int(reader, "steps", 1, INT32_MAX, -1);
    defaults->top_k = get_int(reader, "top_k", 0, INT32_MAX, -1);
    defaults->refresh_interval = get_int(reader, "refresh_interval", 0, INT32_MAX, -1);
    defaults->temperature = get_double(reader, "temperature", 0.0, 1000.0, NAN);
    defaults->top_p = get_double(reader, "top_p", 0.0, 1.0, NAN);
    defaults->min_p = get_double(reader, "min_p", 0.0, 1.0, NAN);
    defaults->threshold = get_double(reader, "threshold", 0.0, 1.0, NAN);
    defaults->factor = get_double(reader, "factor", 0.0, 1e6, NAN);
    defaults->cfg_scale = get_double(reader, "cfg_scale", 0.0, 1000.0, NAN);
    defaults->presence_penalty = get_double(reader, "presence_penalty", -2.0, 2.0, NAN);
    defaults->frequency_penalty = get_double(reader, "frequency_penalty", -2.0, 2.0, NAN);
    defaults->repetition_penalty = get_double(reader, "repetition_penalty", 0.01, 100.0, NAN);
    defaults->eos_early_stop = read_switch(reader, "eos_early_stop");
    defaults->ignore_eos = read_switch(reader, "ignore_eos");
    defaults->logits_eos_inf = read_switch(reader, "logits_eos_inf");
    defaults->confidence_eos_eot_inf = read_switch(reader, "confidence_eos_eot_inf");
    read_word(reader, "selection", generation_selections, defaults->selection,
              sizeof defaults->selection);
    read_word(reader, "cache", generation_caches, defaults->cache, sizeof defaults->cache);
    /* The file's temperature counts only where it samples. */
    if (!get_bool(reader, "do_sample", true))
        defaults->temperature = 0.0;
}

const struct generation_defaults generation_defaults_none = {
    .max_tokens = -1,
    .block_length = -1,
    .steps = -1,
    .top_k = -1,
    .refresh_interval = -1,
    .temperature = NAN,
    .top_p = NAN,
    .min_p = NAN,
    .threshold = NAN,
    .factor = NAN,
    .cfg_scale = NAN,
    .presence_penalty = NAN,
    .frequency_penalty = NAN,
    .repetition_penalty = NAN,
    .eos_early_stop = -1,
    .ignore_eos = -1,
    .logits_eos_inf = -1,
    .confidence_eos_eot_inf = -1,
};

int model_config_read(struct model_config *config, struct generation_defaults *defaults,
                      const char *directory, struct error *err)
{
    char path[PATH_MAX];
    memset(config, 0, sizeof *config);
    *defaults = generation_defaults_none;

    int code = model_file_path(path, directory, "config.json", err);
    if (code != 0)
        return code;
    struct reader reader;
    open_reader(&reader, path, err);
    check_family(&reader, config);
    if (reader.code == 0)
        read_llada(&reader, config);
    json_decref(reader.root);
    if (reader.code != 0)
        return reader.code;

    code = model_file_path(path, directory, "generation_config.json", err);
    if (code != 0 || !model_file_exists(path))
        return code;
    open_reader(&reader, path, err);
    if (reader.code == 0)
        read_generation_defaults(&reader, defaults);
    if (reader.code == 0)
        read_stop_tokens(&reader, config);
    json_decref(reader.root);
    return reader.code;
}

const char *model_family_name(enum model_family family)
{
    switch (family) {
    case MODEL_LLADA:
        return "LLaDA";
    }
    return "unknown";
}

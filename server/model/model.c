#include "server/model/model.h"

#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "server/model/safetensors.h"
#include "server/model/weights.h"

/* ---- loading --------------------------------------------------------------------------------- */

/* The dtype that most elements of supported tensors have. */
static enum dtype most_common_dtype(const struct checkpoint *checkpoint)
{
    double elements[DTYPE_COUNT] = {0};
    for (size_t i = 0; i < checkpoint_tensor_count(checkpoint); i++) {
        const struct tensor *tensor = checkpoint_tensor(checkpoint, i);
        if (tensor->supported)
            elements[tensor->dtype] += (double)tensor_elements(tensor);
    }
    enum dtype best = DTYPE_FLOAT32;
    for (int dtype = 0; dtype < DTYPE_COUNT; dtype++)
        if (elements[dtype] > elements[best])
            best = (enum dtype)dtype;
    return best;
}

int model_checkpoint_dtype(enum dtype *out, const char *directory, struct error *err)
{
    struct checkpoint *checkpoint;
    int code = checkpoint_open(&checkpoint, directory, err);
    if (code != 0)
        return code;
    *out = most_common_dtype(checkpoint);
    checkpoint_close(checkpoint);
    return 0;
}

static int load(struct model *model, const char *directory, struct error *err)
{
    struct checkpoint *checkpoint;
    int code = model_config_read(&model->config, &model->defaults, directory, err);
    if (code == 0)
        code = checkpoint_open(&checkpoint, directory, err);
    if (code != 0)
        return code;
    struct error cause = {0};
    code = weights_load(&model->weights, &model->parameters, &model->config, checkpoint,
                        model->backend, &cause);
    if (code != 0)
        error_set(err, code, "%s: %s", directory, cause.message);
    checkpoint_close(checkpoint);
    return code;
}

int model_load(struct model **out, const char *directory, struct backend *backend,
               struct error *err)
{
    *out = NULL;
    struct model *model = calloc(1, sizeof *model);
    if (model == NULL) {
        backend_destroy(backend);
        return error_set(err, ERROR_MEMORY, "%s: no memory left to load it", directory);
    }
    model->backend = backend;
    int code = load(model, directory, err);
    if (code != 0)
        model_free(model);
    else
        *out = model;
    return code;
}

int model_create_random(struct model **out, const struct model_config *config, uint64_t seed,
                        struct backend *backend, struct error *err)
{
    *out = NULL;
    struct model *model = calloc(1, sizeof *model);
    if (model == NULL) {
        backend_destroy(backend);
        return error_set(err, ERROR_MEMORY, "no memory left for a random model");
    }
    model->backend = backend;
    model->config = *config;
    model->defaults = generation_defaults_none;
    int code =
        weights_randomise(&model->weights, &model->parameters, &model->config, seed, backend, err);
    if (code != 0)
        model_free(model);
    else
        *out = model;
    return code;
}

/* ---- reserving ------------------------------------------------------------------------------- */

enum { ACTIVATIONS = sizeof(struct model_activations) / sizeof(void *) };

/* Bytes of every activation in the order of struct model_activations. */
static void activation_sizes(size_t sizes[ACTIVATIONS], const struct model_config *config,
                             enum dtype dtype, int32_t max_rows, int32_t max_head_rows)
{
    size_t rows = (size_t)max_rows, head_rows = 2 * (size_t)max_head_rows;
    size_t width = (size_t)config->width, ffn = (size_t)config->ffn_width;
    size_t heads = (size_t)config->heads, kv_heads = (size_t)config->kv_heads;
    size_t head_dim = (size_t)config->head_dim, element = dtype_size(dtype);
    const size_t all[ACTIVATIONS] = {
        rows * width * sizeof(float),                       /* residual */
        rows * width * element,                             /* normed */
        rows * (heads + 2 * kv_heads) * head_dim * element, /* qkv */
        rows * heads * head_dim * element,                  /* attended */
        rows * width * element,                             /* delta */
        rows * 2 * ffn * element,                           /* gate_up */
        rows * ffn * element,                               /* ffn */
        head_rows * width * element,                        /* gathered */
    };
    memcpy(sizes, all, sizeof all);
}

static size_t activation_total(const struct model_config *config, enum dtype dtype,
                               int32_t max_rows, int32_t max_head_rows)
{
    size_t sizes[ACTIVATIONS], total = 0;
    activation_sizes(sizes, config, dtype, max_rows, max_head_rows);
    for (int i = 0; i < ACTIVATIONS; i++)
        total += sizes[i];
    return total;
}

static struct attention_shape attention_shape(const struct model_config *config)
{
    return (struct attention_shape){
        .layers = config->layers,
        .heads = config->heads,
        .kv_heads = config->kv_heads,
        .head_dim = config->head_dim,
        .rotary_dim = config->rotary_dim,
        .rope_theta = config->rope_theta,
        .qk_norm_epsilon = config->norm_epsilon,
    };
}

static int32_t most_entries(int64_t entries)
{
    return entries < INT32_MAX ? (int32_t)entries : INT32_MAX;
}

static struct backend_limits limits_of(const struct model_config *config, int32_t max_rows,
                                       int32_t max_head_rows, int32_t max_sequences,
                                       int32_t kv_pages)
{
    int32_t attended = config->heads * config->head_dim;
    int32_t widest = config->width > config->ffn_width ? config->width : config->ffn_width;
    /* Sequences of one step have a head row each; of different tokens no more than positions. */
    int64_t judged = max_sequences < max_head_rows ? max_sequences : max_head_rows;
    int64_t positions = judged * config->max_positions;
    int64_t cached = (int64_t)kv_pages * KV_PAGE_POSITIONS;
    return (struct backend_limits){
        .attention = attention_shape(config),
        .max_rows = max_rows,
        .max_head_rows = max_head_rows,
        .max_positions = config->max_positions,
        .max_sequences = max_sequences,
        .kv_pages = kv_pages,
        .vocabulary = config->embedding_rows,
        .max_counts = most_entries(positions < cached ? positions : cached),
        .max_biases = most_entries(judged * MODEL_BIASES_MAX),
        .max_allowed = (int32_t)judged,
        .weight_columns = widest > attended ? widest : attended,
    };
}

static int create_activations(struct model *model, struct error *err)
{
    struct model_activations *a = &model->activations;
    size_t sizes[ACTIVATIONS];
    void *memory[ACTIVATIONS] = {NULL};
    activation_sizes(sizes, &model->config, model->backend->dtype, model->limits.max_rows,
                     model->limits.max_head_rows);
    int code = 0;
    for (int i = 0; i < ACTIVATIONS && code == 0; i++)
        code = model->backend->ops->memory_create(model->backend, &memory[i], sizes[i], err);
    *a = (struct model_activations){
        .residual = memory[0],
        .normed = memory[1],
        .qkv = memory[2],
        .attended = memory[3],
        .delta = memory[4],
        .gate_up = memory[5],
        .ffn = memory[6],
        .gathered = memory[7],
    };
    return code;
}

int model_reserve(struct model *model, int32_t max_rows, int32_t max_head_rows,
                  int32_t max_sequences, int32_t kv_pages, struct error *err)
{
    if (max_head_rows > max_rows)
        return error_set(err, ERROR_INVALID,
                         "%d head rows are more than the %d rows of a step; lower one or raise "
                         "the other",
                         max_head_rows, max_rows);
    model->limits = limits_of(&model->config, max_rows, max_head_rows, max_sequences, kv_pages);
    int code = model->backend->ops->reserve(model->backend, &model->limits, err);
    return code != 0 ? code : create_activations(model, err);
}

void model_free(struct model *model)
{
    if (model == NULL)
        return;
    struct backend *backend = model->backend;
    const struct model_activations *a = &model->activations;
    void *memory[ACTIVATIONS] = {a->residual, a->normed,  a->qkv, a->attended,
                                 a->delta,    a->gate_up, a->ffn, a->gathered};
    for (int i = 0; i < ACTIVATIONS; i++)
        if (memory[i] != NULL)
            backend->ops->memory_destroy(backend, memory[i]);
    weights_free(&model->weights, &model->config, backend);
    backend_destroy(backend);
    free(model);
}

/* ---- results --------------------------------------------------------------------------------- */

int head_result_create(struct head_result *result, int32_t max_head_rows, struct error *err)
{
    size_t rows = max_head_rows > 0 ? (size_t)max_head_rows : 1;
    *result = (struct head_result){
        .row = calloc(rows, sizeof *result->row),
        .top_token = calloc(rows * HEAD_TOP_MAX, sizeof *result->top_token),
        .top_logprob = calloc(rows * HEAD_TOP_MAX, sizeof *result->top_logprob),
        .raw_top_token = calloc(rows * HEAD_RAW_TOP_MAX, sizeof *result->raw_top_token),
        .raw_top_logprob = calloc(rows * HEAD_RAW_TOP_MAX, sizeof *result->raw_top_logprob),
    };
    if (result->row != NULL && result->top_token != NULL && result->top_logprob != NULL &&
        result->raw_top_token != NULL && result->raw_top_logprob != NULL)
        return 0;
    head_result_free(result);
    return error_set(err, ERROR_MEMORY, "no memory left for the results of %d head rows",
                     max_head_rows);
}

void head_result_free(struct head_result *result)
{
    free(result->row);
    free(result->top_token);
    free(result->top_logprob);
    free(result->raw_top_token);
    free(result->raw_top_logprob);
    *result = (struct head_result){0};
}

/* ---- memory ---------------------------------------------------------------------------------- */

static size_t norm_bytes(const struct model_config *config)
{
    return (2 * (size_t)config->layers + 1) * (size_t)config->width * sizeof(float);
}

struct model_memory model_memory_used(const struct model *model)
{
    struct model_memory memory = {.norms = norm_bytes(&model->config)};
    size_t other;
    model->backend->ops->memory_used(model->backend, &memory.weights, &memory.kv_pool, &other);
    memory.activations = other - memory.norms;
    return memory;
}

/* Of one layer, and of what lies outside the layers, as weights.c packs them. */
static size_t weight_total(const struct model_config *config, const char *device,
                           enum dtype weight_dtype)
{
    int64_t width = config->width, ffn = config->ffn_width;
    int64_t q_rows = (int64_t)config->heads * config->head_dim;
    int64_t qkv_rows = q_rows + 2 * (int64_t)config->kv_heads * config->head_dim;
    bool bias = config->linear_bias;
    size_t layer = backend_weight_bytes(device, qkv_rows, width, config->qkv_bias, weight_dtype) +
                   backend_weight_bytes(device, width, q_rows, bias, weight_dtype) +
                   backend_weight_bytes(device, 2 * ffn, width, bias, weight_dtype) +
                   backend_weight_bytes(device, width, ffn, bias, weight_dtype);
    size_t embedding =
        backend_weight_bytes(device, config->embedding_rows, width, false, weight_dtype);
    size_t head = config->tied_head ? 0
                                    : backend_weight_bytes(device, config->embedding_rows, width,
                                                           bias, weight_dtype);
    return (size_t)config->layers * layer + embedding + head;
}

double model_memory_total(const struct model_memory *memory)
{
    return (double)memory->weights + (double)memory->norms + (double)memory->kv_pool +
           (double)memory->activations;
}

struct model_memory model_memory_estimate(const struct model_config *config, const char *device,
                                          enum dtype dtype, enum dtype weight_dtype,
                                          int32_t max_rows, int32_t max_head_rows,
                                          int32_t max_sequences, int32_t kv_pages)
{
    const struct backend_limits limits =
        limits_of(config, max_rows, max_head_rows, max_sequences, kv_pages);
    struct model_memory memory = {.norms = norm_bytes(config)};
    size_t scratch;
    backend_reserved_bytes(&memory.kv_pool, &scratch, device, &limits, dtype, weight_dtype);
    memory.weights = weight_total(config, device, weight_dtype);
    memory.activations = activation_total(config, dtype, max_rows, max_head_rows) + scratch;
    return memory;
}

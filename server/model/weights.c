#include "server/model/weights_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "kernels/backend.h"
#include "kernels/tensor_source.h"
#include "server/model/model.h"
#include "server/model/safetensors.h"

enum { NAME_BYTES = 160 };

/* What a family calls its tensors; matrices end in .weight and, with a bias, .bias. */
struct tensor_names {
    const char *embedding, *final_norm, *head;
    const char *layer; /* printf format of the prefix of a layer's tensors */
    const char *attention_norm, *q, *k, *v, *attention_out;
    const char *ffn_norm, *gate, *up, *ffn_out;
};

static const struct tensor_names llada_names = {
    .embedding = "model.transformer.wte",
    .final_norm = "model.transformer.ln_f",
    .head = "model.transformer.ff_out",
    .layer = "model.transformer.blocks.%d.",
    .attention_norm = "attn_norm",
    .q = "q_proj",
    .k = "k_proj",
    .v = "v_proj",
    .attention_out = "attn_out",
    .ffn_norm = "ff_norm",
    .gate = "ff_proj",
    .up = "up_proj",
    .ffn_out = "ff_out",
};

/* Tensors that published code stores beside the weights though it computes them anew. */
static const char *const harmless_endings[] = {".rotary_emb.inv_freq"};

/* ---- finding and checking -------------------------------------------------------------------- */

static bool has_shape(const struct tensor *tensor, int64_t rows, int64_t columns)
{
    if (columns == 0)
        return tensor->dimensions == 1 && tensor->shape[0] == rows;
    return tensor->dimensions == 2 && tensor->shape[0] == rows && tensor->shape[1] == columns;
}

/* The tensor BASE + ENDING of shape [rows], or [rows, columns] where columns is not 0. */
static int find_tensor(const struct tensor **out, struct loader *loader, const char *base,
                       const char *ending, int64_t rows, int64_t columns)
{
    char name[NAME_BYTES], expected[64], found[128];
    snprintf(name, sizeof name, "%s%s", base, ending);
    snprintf(expected, sizeof expected, columns == 0 ? "[%lld]" : "[%lld, %lld]", (long long)rows,
             (long long)columns);
    const struct tensor *tensor = checkpoint_find(loader->checkpoint, name);
    if (tensor == NULL)
        return error_set(loader->err, ERROR_INVALID,
                         "tensor \"%s\" is missing; config.json asks for it in shape %s", name,
                         expected);
    if (!has_shape(tensor, rows, columns))
        return error_set(loader->err, ERROR_INVALID,
                         "%s: tensor \"%s\" has shape %s; config.json asks for %s", tensor->file,
                         name, tensor_shape_text(tensor, found, sizeof found), expected);
    if (!tensor->supported)
        return error_set(loader->err, ERROR_UNSUPPORTED,
                         "%s: tensor \"%s\" is %s; this build computes with F32, BF16, F16 and I8",
                         tensor->file, name, tensor->dtype_name);
    loader->used[tensor - checkpoint_tensor(loader->checkpoint, 0)] = true;
    *out = tensor;
    return 0;
}

/* Norms, biases and scales: numbers of a type of their own, never int8. */
static int find_vector(const struct tensor **out, struct loader *loader, const char *base,
                       const char *ending, int64_t rows, int64_t columns)
{
    int code = find_tensor(out, loader, base, ending, rows, columns);
    if (code == 0 && (*out)->dtype == DTYPE_INT8)
        return error_set(loader->err, ERROR_UNSUPPORTED,
                         "%s: tensor \"%s\" is I8; norms, biases and scales must be F32, BF16 or "
                         "F16",
                         (*out)->file, (*out)->name);
    return code;
}

static int check_unexpected(const struct loader *loader)
{
    size_t count = checkpoint_tensor_count(loader->checkpoint);
    for (size_t i = 0; i < count; i++) {
        const struct tensor *tensor = checkpoint_tensor(loader->checkpoint, i);
        bool harmless = loader->used[i];
        for (size_t k = 0; k < sizeof harmless_endings / sizeof harmless_endings[0]; k++) {
            size_t length = strlen(tensor->name), tail = strlen(harmless_endings[k]);
            harmless = harmless || (length > tail &&
                                    strcmp(tensor->name + length - tail, harmless_endings[k]) == 0);
        }
        if (harmless)
            continue;
        char shape[128];
        /* Leaving out a bias, a layer or a head of its own would change every answer in silence. */
        return error_set(loader->err, ERROR_INVALID,
                         "%s: tensor \"%s\" %s is unexpected: a model as config.json describes it "
                         "has none of that name; config.json and weights do not belong together",
                         tensor->file, tensor->name,
                         tensor_shape_text(tensor, shape, sizeof shape));
    }
    return 0;
}

/* ---- reading --------------------------------------------------------------------------------- */

/*
 * The tensor's data where it lies, or, where the file has put it at an odd address, a copy; *copy
 * is NULL or to be freed.
 */
static int aligned_data(const void **data, void **copy, const struct loader *loader,
                        const struct tensor *tensor)
{
    *copy = NULL;
    *data = tensor->data;
    if ((uintptr_t)tensor->data % dtype_size(tensor->dtype) == 0)
        return 0;
    *copy = malloc(tensor->size);
    if (*copy == NULL)
        return error_set(loader->err, ERROR_MEMORY, "%s: no memory left to copy tensor \"%s\"",
                         tensor->file, tensor->name);
    *data = memcpy(*copy, tensor->data, tensor->size);
    return 0;
}

/* A vector as float32. */
static int read_floats(float *out, const struct loader *loader, const struct tensor *tensor)
{
    void *copy;
    struct tensor_source source = {
        .dtype = tensor->dtype, .rows = 1, .columns = tensor_elements(tensor)};
    int code = aligned_data(&source.data, &copy, loader, tensor);
    if (code == 0)
        tensor_source_read(out, &source, 0, 0, source.columns);
    free(copy);
    checkpoint_drop_pages(loader->checkpoint, tensor);
    return code;
}

static int load_norm(struct loader *loader, float **out, const char *prefix, const char *name,
                     int64_t count)
{
    char base[NAME_BYTES];
    snprintf(base, sizeof base, "%s%s", prefix, name);
    const struct tensor *tensor = NULL;
    int code = find_vector(&tensor, loader, base, ".weight", count, 0);
    loader->parameters += (size_t)count;
    if (code != 0 || loader->backend == NULL)
        return code;

    float *values = malloc((size_t)count * sizeof *values);
    if (values == NULL)
        return error_set(loader->err, ERROR_MEMORY, "no memory left for tensor \"%s.weight\"",
                         base);
    code = read_floats(values, loader, tensor);
    if (code == 0)
        code = weights_create_vector(loader, out, values, count);
    free(values);
    return code;
}

/* What packing one weight holds while it reads: sources in the mapping, or copies of odd ones. */
struct packing {
    struct tensor_source sources[PARTS_MAX];
    const struct tensor *matrices[PARTS_MAX];
    const struct tensor *scales[PARTS_MAX]; /* NULL where the matrix is not int8 */
    const struct tensor *biases[PARTS_MAX]; /* NULL without */
    void *copies[PARTS_MAX];
    float *scale_values[PARTS_MAX];
    float *bias; /* [sum of rows] or NULL */
    int64_t rows;
};

static int find_parts(struct packing *packing, struct loader *loader, const char *prefix,
                      const struct part *parts, int count, int64_t columns, bool bias)
{
    int code = 0;
    for (int i = 0; i < count && code == 0; i++) {
        char base[NAME_BYTES];
        int64_t rows = parts[i].rows;
        snprintf(base, sizeof base, "%s%s", prefix, parts[i].name);
        code = find_tensor(&packing->matrices[i], loader, base, ".weight", rows, columns);
        if (code == 0 && packing->matrices[i]->dtype == DTYPE_INT8)
            code = find_vector(&packing->scales[i], loader, base, ".weight_scale", rows, 1);
        if (code == 0 && bias)
            code = find_vector(&packing->biases[i], loader, base, ".bias", rows, 0);
        packing->rows += rows;
        loader->parameters += (size_t)(rows * columns + (bias ? rows : 0));
    }
    return code;
}

static int read_part(struct packing *packing, int i, int64_t row, const struct loader *loader)
{
    const struct tensor *matrix = packing->matrices[i];
    struct tensor_source *source = &packing->sources[i];
    *source = (struct tensor_source){
        .dtype = matrix->dtype, .rows = matrix->shape[0], .columns = matrix->shape[1]};
    int code = aligned_data(&source->data, &packing->copies[i], loader, matrix);
    if (code == 0 && packing->scales[i] != NULL) {
        packing->scale_values[i] = malloc((size_t)source->rows * sizeof(float));
        if (packing->scale_values[i] == NULL)
            return error_set(loader->err, ERROR_MEMORY, "no memory left for tensor \"%s\"",
                             packing->scales[i]->name);
        source->scales = packing->scale_values[i];
        code = read_floats(packing->scale_values[i], loader, packing->scales[i]);
    }
    if (code == 0 && packing->biases[i] != NULL)
        code = read_floats(packing->bias + row, loader, packing->biases[i]);
    return code;
}

static int pack(struct packing *packing, struct loader *loader, struct weight **out, int count)
{
    if (packing->biases[0] != NULL) {
        packing->bias = malloc((size_t)packing->rows * sizeof(float));
        if (packing->bias == NULL)
            return error_set(loader->err, ERROR_MEMORY, "no memory left for tensor \"%s\"",
                             packing->biases[0]->name);
    }
    int64_t row = 0;
    for (int i = 0; i < count; i++) {
        int code = read_part(packing, i, row, loader);
        if (code != 0)
            return code;
        row += packing->sources[i].rows;
    }
    return loader->backend->ops->weight_create(loader->backend, out, packing->sources, count,
                                               packing->bias, loader->err);
}

static int load_weight(struct loader *loader, struct weight **out, const char *prefix,
                       const struct part *parts, int count, int64_t columns, bool bias)
{
    struct packing packing = {0};
    int code = find_parts(&packing, loader, prefix, parts, count, columns, bias);
    if (code != 0 || loader->backend == NULL)
        return code;
    code = pack(&packing, loader, out, count);
    for (int i = 0; i < count; i++) {
        load_progress_add(&loader->progress, packing.matrices[i]->size);
        checkpoint_drop_pages(loader->checkpoint, packing.matrices[i]);
        free(packing.copies[i]);
        free(packing.scale_values[i]);
    }
    free(packing.bias);
    return code;
}

static const struct weight_source CHECKPOINT = {load_norm, load_weight};

/* ---- the walk -------------------------------------------------------------------------------- */

int weights_create_vector(struct loader *loader, float **out, const float *values, int64_t count)
{
    const struct backend_ops *ops = loader->backend->ops;
    size_t size = (size_t)count * sizeof *values;
    void *memory = NULL;
    int code = ops->memory_create(loader->backend, &memory, size, loader->err);
    if (code == 0)
        ops->memory_write(loader->backend, memory, values, size);
    *out = memory;
    return code;
}

static int load_layer(struct loader *loader, struct layer_weights *layer,
                      const struct tensor_names *names, int32_t index)
{
    const struct weight_source *source = loader->source;
    const struct model_config *config = loader->config;
    int64_t width = config->width, ffn = config->ffn_width;
    int64_t q_rows = (int64_t)config->heads * config->head_dim;
    int64_t kv_rows = (int64_t)config->kv_heads * config->head_dim;
    char prefix[64];
    snprintf(prefix, sizeof prefix, names->layer, (int)index);

    int code = source->norm(loader, &layer->attention_norm, prefix, names->attention_norm, width);
    if (code == 0)
        code = source->weight(
            loader, &layer->qkv, prefix,
            (struct part[]){{names->q, q_rows}, {names->k, kv_rows}, {names->v, kv_rows}}, 3, width,
            config->qkv_bias);
    if (code == 0)
        code = source->weight(loader, &layer->attention_out, prefix,
                              (struct part[]){{names->attention_out, width}}, 1, q_rows,
                              config->linear_bias);
    if (code == 0)
        code = source->norm(loader, &layer->ffn_norm, prefix, names->ffn_norm, width);
    if (code == 0)
        code = source->weight(loader, &layer->gate_up, prefix,
                              (struct part[]){{names->gate, ffn}, {names->up, ffn}}, 2, width,
                              config->linear_bias);
    if (code == 0)
        code =
            source->weight(loader, &layer->ffn_out, prefix,
                           (struct part[]){{names->ffn_out, width}}, 1, ffn, config->linear_bias);
    return code;
}

int weights_walk(struct loader *loader, struct model_weights *weights, struct layer_weights *layers)
{
    const struct weight_source *source = loader->source;
    const struct model_config *config = loader->config;
    const struct tensor_names *names = &llada_names;
    struct layer_weights checked = {0};

    int code = source->weight(loader, &weights->embedding, "",
                              (struct part[]){{names->embedding, config->embedding_rows}}, 1,
                              config->width, false);
    for (int32_t i = 0; i < config->layers && code == 0; i++)
        code = load_layer(loader, layers == NULL ? &checked : &layers[i], names, i);
    if (code == 0)
        code = source->norm(loader, &weights->final_norm, "", names->final_norm, config->width);
    if (code == 0 && !config->tied_head)
        code = source->weight(loader, &weights->head, "",
                              (struct part[]){{names->head, config->embedding_rows}}, 1,
                              config->width, config->linear_bias);
    if (config->tied_head)
        weights->head = weights->embedding;
    return code;
}

int model_check_tensors(const struct model_config *config, const struct checkpoint *checkpoint,
                        size_t *parameters, struct error *err)
{
    struct model_weights none = {0};
    struct loader loader = {
        .source = &CHECKPOINT, .config = config, .checkpoint = checkpoint, .err = err};
    loader.used = calloc(checkpoint_tensor_count(checkpoint) + 1, sizeof *loader.used);
    if (loader.used == NULL)
        return error_set(err, ERROR_MEMORY, "no memory left to check the tensors");
    int code = weights_walk(&loader, &none, NULL);
    if (code == 0)
        code = check_unexpected(&loader);
    free(loader.used);
    *parameters = loader.parameters;
    return code;
}

static int walk_with_progress(struct loader *loader, struct model_weights *weights)
{
    size_t total = 0;
    for (size_t i = 0; i < checkpoint_tensor_count(loader->checkpoint); i++)
        total += checkpoint_tensor(loader->checkpoint, i)->size;
    load_progress_begin(&loader->progress, total);
    int code = weights_walk(loader, weights, weights->layers);
    load_progress_end(&loader->progress);
    return code;
}

int weights_load(struct model_weights *weights, size_t *parameters,
                 const struct model_config *config, const struct checkpoint *checkpoint,
                 struct backend *backend, struct error *err)
{
    *weights = (struct model_weights){0};
    int code = model_check_tensors(config, checkpoint, parameters, err);
    if (code != 0)
        return code;
    struct loader loader = {.source = &CHECKPOINT,
                            .config = config,
                            .checkpoint = checkpoint,
                            .backend = backend,
                            .err = err};
    loader.used = calloc(checkpoint_tensor_count(checkpoint) + 1, sizeof *loader.used);
    weights->layers = calloc((size_t)config->layers, sizeof *weights->layers);
    if (loader.used == NULL || weights->layers == NULL)
        code = error_set(err, ERROR_MEMORY, "no memory left for the list of weights");
    else
        code = walk_with_progress(&loader, weights);
    free(loader.used);
    if (code != 0)
        weights_free(weights, config, backend);
    return code;
}

void weights_free(struct model_weights *weights, const struct model_config *config,
                  struct backend *backend)
{
    const struct backend_ops *ops = backend->ops;
    for (int32_t i = 0; weights->layers != NULL && i < config->layers; i++) {
        struct layer_weights *layer = &weights->layers[i];
        struct weight *matrices[] = {layer->qkv, layer->attention_out, layer->gate_up,
                                     layer->ffn_out};
        float *norms[] = {layer->attention_norm, layer->q_norm, layer->k_norm, layer->ffn_norm};
        for (size_t k = 0; k < sizeof matrices / sizeof matrices[0]; k++)
            ops->weight_destroy(backend, matrices[k]);
        for (size_t k = 0; k < sizeof norms / sizeof norms[0]; k++)
            if (norms[k] != NULL)
                ops->memory_destroy(backend, norms[k]);
    }
    if (weights->final_norm != NULL)
        ops->memory_destroy(backend, weights->final_norm);
    if (weights->head != weights->embedding)
        ops->weight_destroy(backend, weights->head);
    ops->weight_destroy(backend, weights->embedding);
    free(weights->layers);
    *weights = (struct model_weights){0};
}

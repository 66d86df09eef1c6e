/* Weights of random numbers, which need no checkpoint. */
#include <stdlib.h>

#include "common/error.h"
#include "kernels/backend.h"
#include "kernels/tensor_source.h"
#include "server/model/model.h"
#include "server/model/weights_internal.h"

static int random_norm(struct loader *loader, float **out, const char *prefix, const char *name,
                       int64_t count)
{
    float *ones = malloc((size_t)count * sizeof *ones);
    (void)prefix;
    (void)name;
    if (ones == NULL)
        return error_set(loader->err, ERROR_MEMORY, "no memory left for a norm of ones");
    for (int64_t i = 0; i < count; i++)
        ones[i] = 1;
    loader->parameters += (size_t)count;
    int code = weights_create_vector(loader, out, ones, count);
    free(ones);
    return code;
}

/* sqrt(3) standard deviations: so far do numbers lie that are evenly spread. */
static const float RANDOM_SPREAD = 0.02F * 1.7320508F;

static int random_weight(struct loader *loader, struct weight **out, const char *prefix,
                         const struct part *parts, int count, int64_t columns, bool biased)
{
    (void)prefix;
    struct tensor_source sources[PARTS_MAX];
    float *bias = NULL;
    int64_t rows = 0;
    for (int i = 0; i < count; i++) {
        sources[i] = (struct tensor_source){.dtype = DTYPE_BFLOAT16,
                                            .rows = parts[i].rows,
                                            .columns = columns,
                                            .seed = loader->seed++,
                                            .spread = RANDOM_SPREAD};
        rows += parts[i].rows;
    }
    loader->parameters += (size_t)(rows * columns + (biased ? rows : 0));
    if (biased) {
        const struct tensor_source source = {.dtype = DTYPE_BFLOAT16,
                                             .rows = 1,
                                             .columns = rows,
                                             .seed = loader->seed++,
                                             .spread = RANDOM_SPREAD};
        bias = malloc((size_t)rows * sizeof *bias);
        if (bias == NULL)
            return error_set(loader->err, ERROR_MEMORY, "no memory left for a random bias");
        tensor_source_read(bias, &source, 0, 0, rows);
    }
    int code = loader->backend->ops->weight_create(loader->backend, out, sources, count, bias,
                                                   loader->err);
    free(bias);
    return code;
}

static const struct weight_source RANDOM = {random_norm, random_weight};

int weights_randomise(struct model_weights *weights, size_t *parameters,
                      const struct model_config *config, uint64_t seed, struct backend *backend,
                      struct error *err)
{
    struct loader loader = {
        .source = &RANDOM, .config = config, .backend = backend, .seed = seed, .err = err};
    int code = 0;
    *weights = (struct model_weights){0};
    weights->layers = calloc((size_t)config->layers, sizeof *weights->layers);
    if (weights->layers == NULL)
        code = error_set(err, ERROR_MEMORY, "no memory left for the list of weights");
    else
        code = weights_walk(&loader, weights, weights->layers);
    *parameters = loader.parameters;
    if (code != 0)
        weights_free(weights, config, backend);
    return code;
}

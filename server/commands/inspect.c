#include "server/commands/commands.h"

#include <stdio.h>
#include <string.h>

#include "common/error.h"
#include "server/commands/runtime.h"
#include "server/engine/engine.h"
#include "server/model/chat_template.h"
#include "server/model/config.h"
#include "server/model/files.h"
#include "server/model/model.h"
#include "server/model/safetensors.h"
#include "server/model/tokenizer.h"

static void print_config(const struct model_config *config)
{
    printf("family         %s (model_type %s)\n", model_family_name(config->family),
           config->model_type);
    printf("layers         %d of width %d, %d heads of %d (%d for keys and values), FFN %d\n",
           config->layers, config->width, config->heads, config->head_dim, config->kv_heads,
           config->ffn_width);
    printf("vocabulary     %d ids (%d rows), mask %d, stop", config->vocabulary,
           config->embedding_rows, config->mask_token);
    for (int32_t i = 0; i < config->stop_token_count; i++)
        printf(" %d", config->stop_tokens[i]);
    printf("\ncontext        %d positions, RoPE theta %g\n", config->max_positions,
           config->rope_theta);
    printf("head           %s%s\n", config->tied_head ? "the embedding" : "of its own",
           config->qkv_bias ? "; q, k, v have biases" : "");
}

static void print_tensors(const struct checkpoint *checkpoint)
{
    size_t bytes = 0;
    int64_t parameters = 0;

    printf("\n%-60s %-5s %-18s %10s\n", "tensor", "dtype", "shape", "MB");
    for (size_t i = 0; i < checkpoint_tensor_count(checkpoint); i++) {
        const struct tensor *tensor = checkpoint_tensor(checkpoint, i);
        char shape[120] = "";
        int64_t elements = 1;
        for (int d = 0; d < tensor->dimensions; d++) {
            size_t used = strlen(shape);
            snprintf(shape + used, sizeof shape - used, "%s%lld", d > 0 ? " x " : "",
                     (long long)tensor->shape[d]);
            elements *= tensor->shape[d];
        }
        printf("%-60s %-5s %-18s %10.3f\n", tensor->name, tensor->dtype_name, shape,
               (double)tensor->size / 1e6);
        bytes += tensor->size;
        parameters += elements;
    }
    printf("%zu tensors, %.1f M numbers, %.1f MB\n", checkpoint_tensor_count(checkpoint),
           (double)parameters / 1e6, (double)bytes / 1e6);
}

/* What serving takes: the weights in each dtype, one full canvas of K and V, activations. */
static void print_memory(const struct model_config *config)
{
    const char *device = backend_best_name("auto"); /* looked up once */
    const struct engine_options canvas = {.max_sequences = 1,
                                          .max_rows_per_tick = config->max_positions,
                                          .kv_cache_tokens = config->max_positions};

    printf("\nmemory needed    weights  KV of one full canvas  activations for its rows\n");
    for (int i = 0; i < DTYPE_COUNT; i++) {
        enum dtype of_weights = (enum dtype)i, dtype = of_weights, weights;
        if (dtype_has_scales(dtype))
            backend_automatic_dtype(&dtype, &weights, device, of_weights);
        if (!backend_computes(device, dtype, of_weights))
            continue;
        struct model_memory needed =
            engine_memory_estimate(&canvas, config, device, dtype, of_weights);
        printf("  %-9s %10.1f MB %19.1f MB %22.1f MB\n", dtype_name(of_weights),
               (double)(needed.weights + needed.norms) * 1e-6, (double)needed.kv_pool * 1e-6,
               (double)needed.activations * 1e-6);
    }
}

/* Whether the rest of what serving needs is there; a missing tokenizer is only a warning. */
static int check_texts(const char *directory, struct error *err)
{
    char path[PATH_MAX];
    struct tokenizer *tokenizer = NULL;
    struct chat_template *chat_template = NULL;
    const char *reason;
    int code = model_file_path(path, directory, "tokenizer.json", err);

    if (code == 0 && !model_file_exists(path))
        fprintf(stderr, "denoised: warning: %s is missing; serve and generate need it\n", path);
    else if (code == 0)
        code = tokenizer_load(&tokenizer, path, err);
    if (code == 0)
        code = chat_template_load(&chat_template, &reason, directory, err);
    chat_template_free(chat_template);
    tokenizer_free(tokenizer);
    return code;
}

/* Shows what is there, then says whether it can be served. */
static int inspect(const char *directory, const struct model_config *config,
                   const struct checkpoint *checkpoint, struct error *err)
{
    size_t parameters;
    struct error cause = {0};
    int code = model_check_tensors(config, checkpoint, &parameters, &cause);

    printf("%s\n", directory);
    print_config(config);
    if (code == 0)
        printf("parameters     %.1f M\n", (double)parameters / 1e6);
    print_tensors(checkpoint);
    print_memory(config);
    fflush(stdout); /* messages come after the listing, also where both go to one file */
    return code != 0 ? error_set(err, code, "%s: %s", directory, cause.message)
                     : check_texts(directory, err);
}

int command_inspect(struct settings *settings)
{
    char directory[PATH_MAX];
    struct model_config config;
    struct generation_defaults defaults;
    struct checkpoint *checkpoint = NULL;
    struct error err = {0};

    if (settings->positional_count == 1)
        settings->model = settings->positional[0];
    int code = runtime_find_model(directory, settings, &err);
    if (code == 0)
        code = model_config_read(&config, &defaults, directory, &err);
    if (code == 0)
        code = checkpoint_open(&checkpoint, directory, &err);
    if (code == 0)
        code = inspect(directory, &config, checkpoint, &err);
    checkpoint_close(checkpoint);
    return code == 0 ? 0 : runtime_complain(&err);
}

#include "server/commands/runtime.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/log.h"
#include "server/engine/kv_pages.h"

enum { WARM_UP_LEAST_US = 1000000, KV_TOKENS_MAX = INT32_MAX / 2 };

static bool has_config(const char *directory)
{
    char path[PATH_MAX + 128];
    struct stat status;

    snprintf(path, sizeof path, "%s/config.json", directory);
    return stat(path, &status) == 0;
}

int runtime_find_model(char out[PATH_MAX], const struct settings *settings, struct error *err)
{
    /* The build tree's root, an installation's share folder, the current folder. */
    static const char *const places[] = {"../../models/tiny", "../share/denoised/models/tiny",
                                         "models/tiny"};
    char program[PATH_MAX];

    if (settings->model != NULL) {
        struct stat status;
        if (stat(settings->model, &status) != 0 || !S_ISDIR(status.st_mode))
            return error_set(err, ERROR_INVALID,
                             "model \"%s\": there is no such directory; name one that holds "
                             "config.json, *.safetensors and tokenizer.json",
                             settings->model);
        if (realpath(settings->model, out) == NULL)
            return error_set(err, ERROR_IO, "model \"%s\": the path cannot be resolved",
                             settings->model);
        return 0;
    }
    ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
    if (length > 0) {
        program[length] = '\0';
        *strrchr(program, '/') = '\0';
        for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
            char place[PATH_MAX + 64];
            snprintf(place, sizeof place, "%s/%s", program, places[i]);
            if (has_config(place) && realpath(place, out) != NULL)
                return 0;
        }
    }
    if (has_config("models/tiny") && realpath("models/tiny", out) != NULL)
        return 0;
    return error_set(err, ERROR_INVALID,
                     "models/tiny was not found beside the program; name a model with --model DIR");
}

int runtime_choose_dtype(struct backend_options *options, const struct settings *settings,
                         const char *directory, struct error *err)
{
    enum dtype named;
    int code = 0;

    if (strcmp(settings->dtype, "float32") == 0 || strcmp(settings->dtype, "bfloat16") == 0) {
        named = settings->dtype[0] == 'f' ? DTYPE_FLOAT32 : DTYPE_BFLOAT16;
        options->dtype = options->weight_dtype = named;
        return 0;
    }
    if (strcmp(settings->dtype, "auto") == 0) {
        code = model_checkpoint_dtype(&named, directory, err);
        if (code == 0)
            backend_automatic_dtype(&options->dtype, &options->weight_dtype, settings->device,
                                    named);
        return code;
    }
    named = strcmp(settings->dtype, "fp8") == 0 ? DTYPE_FP8 : DTYPE_INT8;
    dtype_automatic(&options->dtype, &options->weight_dtype, named,
                    backend_prefers_bfloat16(settings->device));
    return 0;
}

/* `device`: what the name of the settings stands for. */
static int device_find(const char *device, const char *name, struct error *err)
{
    struct error passed_over = {0};

    if (backend_passed_over(name, &passed_over) != 0)
        log_line(LOG_WARNING, passed_over.message, "\"computes_on\":\"%s\"", device);
    return backend_check(device, err);
}

/* What is reserved at start, and the memory that takes. */
struct memory_plan {
    const char *device; /* never "auto" */
    struct backend_memory memory;
    struct engine_options engine; /* the limits among them */
    struct model_memory needed;
    int64_t warm_up_us; /* as long as loading took: a large model has more to gain */
};

static struct model_memory memory_needed(const struct memory_plan *plan,
                                         const struct model_config *config,
                                         const struct backend_options *options)
{
    return engine_memory_estimate(&plan->engine, config, plan->device, options->dtype,
                                  options->weight_dtype);
}

/*
 * By default every sequence may have a full canvas: as far as that leaves most of the host's memory
 * free, or as a device's own has room behind weights and activations.
 */
static int64_t kv_tokens_choose(const struct memory_plan *plan, const struct model_config *config,
                                const struct backend_options *options)
{
    struct memory_plan full = *plan;
    int64_t context = config->max_positions, wanted = context * plan->engine.max_sequences;

    full.engine.kv_cache_tokens = wanted < KV_TOKENS_MAX ? wanted : KV_TOKENS_MAX;
    struct model_memory taken = memory_needed(&full, config, options);
    int64_t page = (int64_t)taken.kv_pool / kv_pages_needed(full.engine.kv_cache_tokens);
    int64_t left = plan->memory.available - (int64_t)taken.weights;
    int64_t others = (int64_t)taken.norms + (int64_t)taken.activations;
    int64_t share = plan->memory.total > 0 ? left - others : left / 4;
    int64_t fit = share / (page > 0 ? page : 1) * KV_PAGE_POSITIONS;
    wanted = wanted < fit ? wanted : fit;
    return wanted > context ? wanted : context;
}

/* "activations 18.6 MB: lower max_rows_per_tick; KV pool ...", the largest first. */
static void memory_describe(char *out, size_t size, const struct model_memory *needed)
{
    struct {
        const char *name, *advice;
        size_t bytes;
    } uses[] = {
        {"KV pool", "lower kv_cache_tokens", needed->kv_pool},
        {"activations", "lower max_rows_per_tick", needed->activations},
        {"weights", "take a smaller model or dtype", needed->weights},
    };
    enum { USES = sizeof uses / sizeof *uses };

    out[0] = '\0';
    for (int shown = 0; shown < USES; shown++) {
        int largest = 0;
        for (int i = 1; i < USES; i++)
            if (uses[largest].name == NULL ||
                (uses[i].name != NULL && uses[i].bytes > uses[largest].bytes))
                largest = i;
        size_t used = strlen(out);
        snprintf(out + used, size - used, "%s%s %.1f MB: %s", shown > 0 ? "; " : "",
                 uses[largest].name, (double)uses[largest].bytes / 1e6, uses[largest].advice);
        uses[largest].name = NULL;
    }
}

/*
 * Before anything is loaded: too much would not fail but end the process when it is touched. The
 * settings' device is not "auto".
 */
static int memory_plan(struct memory_plan *plan, const struct settings *settings,
                       const char *directory, const struct backend_options *options,
                       struct error *err)
{
    struct model_config config;
    struct generation_defaults defaults;
    char uses[300];
    int code = model_config_read(&config, &defaults, directory, err);

    if (code != 0)
        return code;
    plan->device = settings->device;
    plan->memory = backend_memory_read(plan->device);
    plan->engine = (struct engine_options){
        .max_sequences = (int32_t)settings->max_sequences,
        .max_rows_per_tick = (int32_t)settings->max_rows_per_tick,
        .queue_limit = (int32_t)settings->queue_limit,
        .kv_cache_tokens = settings->kv_cache_tokens,
    };
    /* A guided canvas takes two rows a position; a sequence's block usually 32. */
    if (settings->max_rows_per_tick < 0) {
        int64_t blocks = settings->max_sequences * 32, context = config.max_positions;
        plan->engine.max_rows_per_tick = (int32_t)(2 * context > blocks ? 2 * context : blocks);
    }
    if (settings->kv_cache_tokens < 0)
        plan->engine.kv_cache_tokens = kv_tokens_choose(plan, &config, options);
    if (plan->engine.kv_cache_tokens > KV_TOKENS_MAX)
        plan->engine.kv_cache_tokens = KV_TOKENS_MAX;
    plan->needed = memory_needed(plan, &config, options);
    double total = model_memory_total(&plan->needed);
    if (total <= (double)plan->memory.available)
        return 0;
    memory_describe(uses, sizeof uses, &plan->needed);
    return error_set(err, ERROR_INVALID, "%.1f MB do not fit into the available %.1f MB%s%s: %s",
                     total / 1e6, (double)plan->memory.available / 1e6,
                     plan->memory.total > 0 ? " of device " : "",
                     plan->memory.total > 0 ? plan->device : "", uses);
}

static int engine_make(struct runtime *runtime, const struct memory_plan *plan, struct error *err)
{
    struct engine_options options = plan->engine;

    options.token_limit = tokenizer_size(runtime->tokenizer);
    options.token_text = runtime->token_texts;
    int code = engine_create(&runtime->engine, runtime->model, &options, err);

    if (code == 0)
        code = model_warm_up(runtime->model, plan->warm_up_us, err);
    if (code == ERROR_MEMORY) {
        struct error cause = *err;
        char uses[300];
        memory_describe(uses, sizeof uses, &plan->needed);
        error_set(err, code, "%s; the table of memory: %s", cause.message, uses);
    }
    return code;
}

static void api_fill(struct runtime *runtime, const struct settings *settings,
                     const char *template_reason)
{
    struct api *api = &runtime->api;

    api->engine = runtime->engine;
    api->tokenizer = runtime->tokenizer;
    api->chat_template = runtime->chat_template;
    api->chat_template_reason = template_reason;
    api->config = runtime->model->config;
    api->generation = runtime->model->defaults;
    api->settings = (struct api_decode_defaults){
        .max_tokens = (int32_t)settings->max_tokens,
        .block_length = (int32_t)settings->block_length,
        .steps = (int32_t)settings->steps,
        .top_k = (int32_t)settings->top_k,
        .temperature = settings->temperature,
        .top_p = settings->top_p,
        .threshold = settings->threshold,
        .selection = settings->selection,
        .cache = settings->cache,
    };
    api->model_name = runtime->model_name;
    api->system_fingerprint = runtime->fingerprint;
    api->version = DENOISED_VERSION;
    api->device = runtime->model->backend->ops->name;
    api->device_description = runtime->model->backend->ops->description(runtime->model->backend);
    api->memory = model_memory_used(runtime->model);
    api->dtype = dtype_name(runtime->model->backend->weight_dtype);
    api->max_body_bytes = settings->max_body_bytes;
    api->created = clock_wall_us() / 1000000;
    api->max_choices = settings->max_choices > 0 ? (int32_t)settings->max_choices : 1;
    api->strict = settings->strict;
}

int runtime_start(struct runtime *runtime, const struct settings *settings, struct error *err)
{
    struct settings named = *settings; /* whose device is not "auto": that is looked up once */
    struct backend_options options = {
        .threads = settings->threads < 0 ? 0 : (int)settings->threads,
        .deterministic = settings->deterministic,
        .instructions = settings->instructions,
    };
    struct memory_plan plan = {0};
    struct backend *backend = NULL;
    const char *template_reason = NULL;
    char path[PATH_MAX + 32];
    int code;

    memset(runtime, 0, sizeof *runtime);
    named.device = backend_best_name(settings->device);
    code = runtime_find_model(runtime->model_directory, settings, err);
    if (code == 0)
        code = runtime_choose_dtype(&options, &named, runtime->model_directory, err);
    if (code == 0)
        code = device_find(named.device, settings->device, err);
    if (code == 0)
        code = memory_plan(&plan, &named, runtime->model_directory, &options, err);
    if (code == 0)
        code = backend_create(&backend, plan.device, &options, err);
    int64_t started_us = clock_now_us();
    if (code == 0)
        code = model_load(&runtime->model, runtime->model_directory, backend, err);
    plan.warm_up_us = clock_now_us() - started_us;
    if (plan.warm_up_us < WARM_UP_LEAST_US)
        plan.warm_up_us = WARM_UP_LEAST_US;
    snprintf(path, sizeof path, "%s/tokenizer.json", runtime->model_directory);
    if (code == 0)
        code = tokenizer_load(&runtime->tokenizer, path, err);
    if (code == 0)
        code = chat_template_load(&runtime->chat_template, &template_reason,
                                  runtime->model_directory, err);
    if (code == 0) {
        runtime->token_texts = api_token_texts(runtime->tokenizer);
        runtime->api.calls = call_registry_create();
        if (runtime->token_texts == NULL || runtime->api.calls == NULL)
            code = error_set(err, ERROR_MEMORY, "out of memory for the tables of the API");
    }
    if (code == 0)
        code = engine_make(runtime, &plan, err);
    if (code != 0) {
        runtime_stop(runtime);
        return code;
    }
    const char *slash = strrchr(runtime->model_directory, '/');
    snprintf(runtime->model_name, sizeof runtime->model_name, "%s",
             settings->model_name != NULL ? settings->model_name : slash + 1);
    snprintf(runtime->fingerprint, sizeof runtime->fingerprint, "denoised-%.60s-%.120s",
             DENOISED_VERSION, runtime->model_name);
    api_fill(runtime, settings, template_reason);
    return 0;
}

void runtime_stop(struct runtime *runtime)
{
    engine_free(runtime->engine);
    call_registry_free(runtime->api.calls);
    free(runtime->token_texts);
    model_free(runtime->model);
    chat_template_free(runtime->chat_template);
    tokenizer_free(runtime->tokenizer);
    memset(runtime, 0, sizeof *runtime);
}

void runtime_print_memory(const struct runtime *runtime, FILE *out)
{
    struct model_memory used = model_memory_used(runtime->model);
    struct engine_counters counters = engine_counters_read(runtime->engine);
    struct backend *backend = runtime->model->backend;
    const double mb = 1e6;

    fprintf(out, "model    %s: %.1f M parameters, context %d, %s on %s\n", runtime->model_name,
            (double)runtime->model->parameters / 1e6, runtime->model->config.max_positions,
            dtype_name(backend->weight_dtype), backend->ops->description(backend));
    fprintf(out, "memory   weights %.1f MB, KV pool %.1f MB (%d positions), activations %.1f MB\n",
            (double)(used.weights + used.norms) / mb, (double)used.kv_pool / mb,
            counters.kv_pages_total * KV_PAGE_POSITIONS, (double)used.activations / mb);
    struct backend_memory memory = backend_memory_read(backend->ops->name);
    if (memory.total > 0)
        fprintf(out, "device   %.1f MB of its %.1f MB can still be taken\n",
                (double)memory.available / mb, (double)memory.total / mb);
}

int runtime_complain(const struct error *err)
{
    fprintf(stderr, "denoised: %s\n", err->message);
    return error_exit_status(err->code);
}

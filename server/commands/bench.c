/* denoised bench: what this program costs and how fast it is, on this machine. */
#include "server/commands/bench.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/rng.h"
#include "server/commands/bench_kernels.h"
#include "server/commands/bench_rounds.h"
#include "server/commands/child_server.h"
#include "server/commands/commands.h"
#include "server/commands/runtime.h"
#include "server/commands/temporary_model.h"
#include "server/model/random_checkpoint.h"

void bench_print(const char *name, double value, const char *unit, const char *target)
{
    printf("%-52s %10.2f %-8s %s\n", name, value, unit, target);
    fflush(stdout);
}

static void bench_binary(void)
{
    struct stat status;

    if (stat("/proc/self/exe", &status) == 0)
        bench_print("binary", (double)status.st_size / 1e6, "MB", "(target < 2)");
}

/* Plain English: sentences in random order, so that no cache holds the whole text. */
static void english_text(struct buffer *text, size_t size)
{
    static const char *const sentences[] = {
        "The morning train was late again, and nobody on the platform seemed surprised. ",
        "She had read the letter three times before she noticed the second page. ",
        "Two of the windows were broken, but the roof still kept out most of the rain. ",
        "If you follow the river for about four miles, you will reach the old mill. ",
        "\"I never said that,\" he answered, \"and I would not have said it to you.\" ",
        "The committee met on Tuesday, discussed the budget for an hour, and went home.\n",
        "Copper conducts electricity better than iron does, though it costs far more. ",
        "Their youngest daughter wanted to become a pilot, a painter, or possibly both. ",
        "In 1931 the harbour handled 48,000 tons of timber, most of it from the north. ",
        "Nothing grows under these trees except moss and a few pale mushrooms.\n\n",
        "You don't need a large kitchen to cook well; you need a sharp knife and time. ",
        "The experiment was repeated with fresh samples, and the result did not change. ",
    };
    uint32_t place = 0;

    while (text->length < size && !text->failed) {
        uint32_t word = rng_word(1, place++, 1, RNG_ORIGIN, 0);
        buffer_append_text(text, sentences[word % (sizeof sentences / sizeof *sentences)]);
    }
}

static int bench_tokenizer(const struct runtime *runtime, struct error *err)
{
    struct buffer text = {0};
    double best = 0;
    int code = 0;

    english_text(&text, 4000000);
    for (int run = 0; run < 3 && code == 0; run++) {
        struct token_list ids = {0};
        int64_t begin = clock_now_us();
        code = tokenizer_encode(runtime->tokenizer, text.data, text.length, 0, &ids, err);
        double rate = (double)text.length / (double)(clock_now_us() - begin);
        best = rate > best ? rate : best;
        token_list_free(&ids);
    }
    if (code == 0)
        bench_print("tokenizer, plain English, one thread", best, "MB/s", "(target >= 10)");
    buffer_free(&text);
    return code;
}

struct batch_figures {
    double tokens_per_second;
    double round_ms; /* median over the ticks with the most rows */
    double rows;     /* of those ticks */
    double overhead; /* share of the ticks' time outside the forward pass */
};

static int bench_submit(const struct runtime *runtime, uint64_t seed, struct request **out,
                        struct error *err)
{
    struct decode_params params = decode_params_neutral(BENCH_TOKENS, 32);
    struct token_list prompt = {0};

    params.selection = SELECTION_STEPS;
    params.steps = params.max_tokens / 2;
    params.cache = CACHE_DUAL;
    params.ignore_eos = true; /* every position is text */
    params.seed = seed;
    int code = tokenizer_encode(runtime->tokenizer, "Once upon a time", 16, TOKENIZER_POST_PROCESS,
                                &prompt, err);
    if (code == 0)
        code = request_create(out, prompt.ids, (int32_t)prompt.count, &params,
                              runtime->model->config.mask_token, err);
    if (code == 0)
        code = engine_submit(runtime->engine, *out, err);
    token_list_free(&prompt);
    return code;
}

/* Decodes `count` (at most BENCH_BATCH) sequences together, tick by tick. */
static int bench_batch(const struct runtime *runtime, int count, struct batch_figures *figures,
                       struct error *err)
{
    enum { TICKS = 1 << 14 };
    static double milliseconds[TICKS];
    struct request *requests[BENCH_BATCH] = {0};
    struct engine_counters before = engine_counters_read(runtime->engine);
    double most_rows = 0;
    int code = 0, ticks = 0;

    for (int i = 0; i < count && code == 0; i++)
        code = bench_submit(runtime, (uint64_t)i, &requests[i], err);
    int64_t begin = clock_now_us();
    struct engine_counters last = before;
    for (bool busy = code == 0; busy;) {
        int64_t tick_begin = clock_now_us();
        busy = engine_tick(runtime->engine, tick_begin);
        int64_t tick_end = clock_now_us();
        struct engine_counters now = engine_counters_read(runtime->engine);
        double rows = (double)(now.rows - last.rows);
        /* A block's first round recomputes whole canvases; the others have 32 rows a sequence. */
        if (rows == 32.0 * count && ticks < TICKS) {
            milliseconds[ticks++] = (double)(tick_end - tick_begin) * 1e-3;
            most_rows = rows;
        }
        last = now;
    }
    double seconds = (double)(clock_now_us() - begin) * 1e-6;
    for (int i = 0; i < count; i++)
        request_release(requests[i]);
    if (code != 0)
        return code;
    *figures = (struct batch_figures){
        .tokens_per_second = (double)(last.committed_tokens - before.committed_tokens) / seconds,
        .round_ms = ticks > 0 ? bench_median(milliseconds, ticks) : 0,
        .rows = most_rows,
        .overhead = 1 - (double)(last.forward_us - before.forward_us) /
                            (double)(last.tick_us - before.tick_us),
    };
    return 0;
}

static int bench_batches(const struct runtime *runtime, struct error *err)
{
    struct batch_figures one, many;
    char target[80];

    int code = bench_batch(runtime, 1, &one, err); /* warm-up */
    if (code == 0)
        code = bench_batch(runtime, 1, &one, err);
    if (code == 0)
        code = bench_batch(runtime, BENCH_BATCH, &many, err);
    if (code != 0)
        return code;
    bench_print("one sequence, 2 tokens a round", one.tokens_per_second, "tokens/s", "");
    snprintf(target, sizeof target, "(target >= %.1f)", one.tokens_per_second);
    bench_print("32 sequences, 2 tokens a round", many.tokens_per_second, "tokens/s", target);
    snprintf(target, sizeof target, "(median, %.0f rows)", one.rows);
    bench_print("a round of one", one.round_ms, "ms", target);
    snprintf(target, sizeof target, "(median, %.0f rows; target <= %.2f)", many.rows,
             1.1 * many.rows / one.rows * one.round_ms);
    bench_print("a round of 32", many.round_ms, "ms", target);
    bench_print("scheduling, share of the ticks of 32", 100 * many.overhead, "%", "");
    return 0;
}

/* Start to the first answer and resident memory of a server process with this model. */
static int bench_process(const char *directory, const char *what, const char *const *flags,
                         struct error *err)
{
    struct child_server child;
    struct buffer response = {0};
    char name[120];
    int code = child_server_start(&child, directory, flags, err);

    if (code != 0)
        return code;
    code =
        child_server_post(&child, "/v1/completions",
                          "{\"prompt\": \"Once upon a time\", \"max_tokens\": 32}", &response, err);
    double seconds = (double)(clock_now_us() - child.started_us) * 1e-6;
    for (int i = 0; i < 3 && code == 0; i++)
        code =
            child_server_post(&child, "/v1/completions",
                              "{\"prompt\": \"Once upon a time\", \"n\": 16, \"max_tokens\": 64, "
                              "\"steps\": 4, \"temperature\": 1}",
                              &response, err);
    double resident, peak;
    child_server_memory_mb(&child, &resident, &peak);
    child_server_stop(&child);
    buffer_free(&response);
    if (code != 0)
        return code;
    double table = child.weights_mb + child.kv_mb + child.activations_mb;
    snprintf(name, sizeof name, "%s: start to the end of the first answer", what);
    bench_print(name, seconds, "s", "(target < 1 with models/tiny)");
    snprintf(name, sizeof name, "%s: resident after warm-up", what);
    char target[80];
    snprintf(target, sizeof target, "(target <= %.1f = 1.3 x %.1f + 24)", 1.3 * table + 24, table);
    bench_print(name, resident, "MB", target);
    snprintf(name, sizeof name, "%s: the most that was resident", what);
    bench_print(name, peak, "MB", "");
    return 0;
}

/*
 * A random checkpoint of about 200 MB with the tokenizer of the model at hand. Small limits, so
 * that a mapping which is kept would show.
 */
static int bench_large(const struct runtime *runtime, const struct bench_flags *flags,
                       struct error *err)
{
    const char *limits[CHILD_SERVER_FLAGS + 1] = {"--max-sequences=1", "--kv-cache-tokens=192",
                                                  "--max-rows-per-tick=384"};
    struct model_config shape = runtime->model->config;
    struct temporary_model model;
    char from[PATH_MAX + 32], to[PATH_MAX + 32];

    shape.layers = 12;
    shape.width = 768;
    shape.heads = shape.kv_heads = 12;
    shape.head_dim = shape.rotary_dim = 64;
    shape.ffn_width = 2304;
    for (int i = 0; flags->compute[i] != NULL; i++)
        limits[3 + i] = flags->compute[i];
    int code = temporary_model_create(&model, err);
    if (code != 0)
        return code;
    code = random_checkpoint_write(model.directory, &shape, 1, err);
    snprintf(from, sizeof from, "%s/tokenizer.json", runtime->model_directory);
    snprintf(to, sizeof to, "%s/tokenizer.json", model.directory);
    if (code == 0 && symlink(from, to) != 0)
        code = error_set(err, ERROR_IO, "bench: %s cannot be linked to as %s", from, to);
    if (code == 0)
        code = bench_process(model.directory, "200 MB random checkpoint", limits, err);
    temporary_model_remove(&model);
    return code;
}

static void read_flags(struct bench_flags *flags, const struct settings *settings)
{
    int compute = 0, all = 0;
    const struct {
        const char *name, *text;
        int64_t number;
    } given[BENCH_FLAGS] = {
        {"device", settings->device, -1},
        {"dtype", settings->dtype, -1},
        {"threads", NULL, settings->threads},
        {"max-sequences", NULL, settings->max_sequences},
        {"max-rows-per-tick", NULL, settings->max_rows_per_tick},
        {"kv-cache-tokens", NULL, settings->kv_cache_tokens},
    };

    *flags = (struct bench_flags){0};
    for (int i = 0; i < BENCH_FLAGS; i++) {
        char *text = flags->text[i];
        if (given[i].text != NULL)
            snprintf(text, sizeof flags->text[i], "--%s=%s", given[i].name, given[i].text);
        else if (given[i].number >= 0)
            snprintf(text, sizeof flags->text[i], "--%s=%lld", given[i].name,
                     (long long)given[i].number);
        else
            continue;
        flags->all[all++] = text;
        if (i < BENCH_COMPUTE_FLAGS)
            flags->compute[compute++] = text;
    }
}

/* Flags that belong to other parts than the one that is named. */
static int check_part(const struct settings *settings, bool kernels, bool rounds, struct error *err)
{
    if (settings->positional_count > 0 && !kernels && !rounds)
        return error_set(err, ERROR_INVALID,
                         "bench has no part \"%s\"; name kernels, rounds, or nothing",
                         settings->positional[0]);
    const char *of_a_part = settings->json                   ? "json"
                            : settings->report != NULL       ? "report"
                            : settings->instructions != NULL ? "instructions"
                                                             : NULL;
    if (of_a_part != NULL && !kernels && !rounds)
        return error_set(err, ERROR_INVALID, "--%s belongs to: denoised bench kernels, or rounds",
                         of_a_part);
    if (!rounds && (settings->shape != NULL || !isnan(settings->price_per_hour)))
        return error_set(err, ERROR_INVALID, "--%s belongs to: denoised bench rounds",
                         settings->shape != NULL ? "shape" : "price-per-hour");
    return 0;
}

int command_bench(struct settings *settings)
{
    struct runtime runtime;
    struct error err = {0};
    struct bench_flags flags;

    const char *part = settings->positional_count == 1 ? settings->positional[0] : "";
    bool kernels = strcmp(part, "kernels") == 0, rounds = strcmp(part, "rounds") == 0;
    if (check_part(settings, kernels, rounds, &err) != 0)
        return runtime_complain(&err);
    if (kernels)
        return bench_kernels_run(settings);
    if (rounds)
        return bench_rounds_run(settings);
    read_flags(&flags, settings);
    if (settings->max_sequences < BENCH_BATCH) {
        error_set(&err, ERROR_INVALID, "max_sequences is %lld: bench decodes %d together",
                  (long long)settings->max_sequences, BENCH_BATCH);
        return runtime_complain(&err);
    }
    int code = runtime_start(&runtime, settings, &err);
    if (code != 0)
        return runtime_complain(&err);
    runtime_print_memory(&runtime, stdout);
    bench_binary();
    if (!settings->quick)
        code = bench_large(&runtime, &flags, &err);
    if (code == 0)
        code = bench_tokenizer(&runtime, &err);
    if (code == 0)
        code = bench_batches(&runtime, &err);
    if (code == 0)
        code = bench_streams(runtime.model_directory, &flags, &err);
    if (code == 0)
        code = bench_idle_streams(runtime.model_directory, &flags, &err);
    if (code == 0)
        code = bench_process(runtime.model_directory, runtime.model_name, flags.all, &err);
    runtime_stop(&runtime);
    return code == 0 ? 0 : runtime_complain(&err);
}

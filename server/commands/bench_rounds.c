/* denoised bench rounds: a model of random weights, as fast as its rounds are on this machine. */
#include "server/commands/bench_rounds.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "common/clock.h"
#include "common/error.h"
#include "server/commands/runtime.h"
#include "server/engine/engine.h"
#include "server/engine/kv_pages.h"

enum {
    SLOWEST_S = 3,         /* passes that would take longer are left out */
    WARM_UP_US = 12000000, /* on a device, where products are tried */
};

/* ---- the model ------------------------------------------------------------------------------- */

static int32_t last_of(const struct rounds_list *list)
{
    return list->of[list->count - 1];
}

static int32_t most(int32_t a, int32_t b)
{
    return a > b ? a : b;
}

/* For rounds of so many sequences, and for the canvases and calls of the plan. */
static struct engine_options engine_options_of(const struct bench_rounds *rounds, int32_t sequences)
{
    const struct rounds_plan *plan = &rounds->plan;
    int32_t canvases = last_of(&plan->canvases), canvas = plan->prompt + plan->answer;
    int32_t positions = plan->window + plan->cached, slots = most(sequences, canvases);
    int32_t pages = most(kv_pages_needed(positions), kv_pages_needed(canvas));

    return (struct engine_options){
        .max_sequences = slots,
        .max_rows_per_tick = most(most(sequences * plan->window, canvases * canvas), positions),
        .queue_limit = slots,
        .kv_cache_tokens = (int64_t)slots * pages * KV_PAGE_POSITIONS,
        .token_limit = rounds->config.vocabulary,
    };
}

static bool fits(const struct bench_rounds *rounds, const struct engine_options *options)
{
    const struct bench_kernels *bench = &rounds->bench;
    const struct model_memory needed = engine_memory_estimate(
        options, &rounds->config, bench->device, bench->options.dtype, bench->options.weight_dtype);
    return bench_fits(bench, model_memory_total(&needed));
}

static void close_model(struct bench_rounds *rounds)
{
    engine_free(rounds->engine);
    model_free(rounds->model);
    rounds->engine = NULL;
    rounds->model = NULL;
}

static int open_with(struct bench_rounds *rounds, int32_t sequences, struct error *err)
{
    const struct engine_options options = engine_options_of(rounds, sequences);
    struct backend *backend;

    if (!fits(rounds, &options))
        return error_set(err, ERROR_MEMORY,
                         "bench: a model of shape %s does not fit into memory; name a smaller "
                         "--shape",
                         rounds->name);
    int code = backend_create(&backend, rounds->bench.device, &rounds->bench.options, err);
    if (code == 0)
        code = model_create_random(&rounds->model, &rounds->config, 1, backend, err);
    if (code == 0)
        code = engine_create(&rounds->engine, rounds->model, &options, err);
    if (code == 0)
        code = model_warm_up(rounds->model, WARM_UP_US, err);
    if (code != 0)
        close_model(rounds);
    rounds->max_sequences = sequences;
    return code;
}

/* With as many sequences as memory has room for. */
static int open_model(struct bench_rounds *rounds, struct error *err)
{
    int32_t sequences = last_of(&rounds->plan.sequences);
    int code = open_with(rounds, sequences, err);

    while (code == ERROR_MEMORY && sequences > 1) {
        sequences /= 2;
        code = open_with(rounds, sequences, err);
    }
    return code;
}

/* ---- rounds ---------------------------------------------------------------------------------- */

static const int32_t TOKENS_A_ROUND[] = {1, 2, 4, 8};
enum { TOKEN_COUNTS = sizeof TOKENS_A_ROUND / sizeof *TOKENS_A_ROUND };

/* What every line of a pass has. */
static json_t *describe_pass(const struct bench_rounds *rounds, int32_t sequences,
                             const struct pass_figures *figures)
{
    return json_pack("{s:s, s:i, s:i, s:i, s:f, s:f, s:f, s:f, s:f, s:f, s:s}", "weight_dtype",
                     dtype_name(rounds->bench.options.weight_dtype), "sequences", sequences, "rows",
                     figures->work.rows, "head_rows", figures->work.head_rows, "ms",
                     1e3 * figures->seconds, "product_flops", figures->work.product_flops,
                     "attention_flops", figures->work.attention_flops, "bytes", figures->work.bytes,
                     "floor_ms", 1e3 * figures->floor_s, "percent_of_floor",
                     100 * figures->floor_s / figures->seconds, "bound", figures->bound);
}

static void say_pass(const struct bench_rounds *rounds, int32_t sequences,
                     const struct pass_figures *figures)
{
    bench_say(&rounds->bench, "%-9s %5d %6d %9.3f %9.3f %7.1f  %-8s",
              dtype_name(rounds->bench.options.weight_dtype), sequences, figures->work.rows,
              1e3 * figures->seconds, 1e3 * figures->floor_s,
              100 * figures->floor_s / figures->seconds, figures->bound);
}

static void report_round(const struct bench_rounds *rounds, int32_t sequences,
                         const struct pass_figures *figures, const struct pass_figures *one)
{
    const struct bench_kernels *bench = &rounds->bench;
    /* The difference of two times; of noise alone where the head takes next to nothing. */
    double head = 100 * (1 - figures->seconds_without_head / figures->seconds);
    double statistics = 100 * pass_statistics_seconds(rounds, figures) / figures->seconds;
    head = head > 0 ? head : 0;
    statistics = statistics > 0 ? statistics : 0;
    json_t *row = describe_pass(rounds, sequences, figures), *speeds = json_object();

    say_pass(rounds, sequences, figures);
    bench_say(bench, " %6.1f %6.1f", head, statistics);
    for (int i = 0; i < TOKEN_COUNTS; i++) {
        double speed = sequences * TOKENS_A_ROUND[i] / figures->seconds;
        char key[16];
        snprintf(key, sizeof key, "%d", TOKENS_A_ROUND[i]);
        json_object_set_new(speeds, key, json_real(speed));
        bench_say(bench, " %9.0f", speed);
    }
    bench_say(bench, "  %9.3f %9.0f\n", 1e3 * one->seconds, sequences / one->seconds);
    if (row != NULL) {
        json_object_set_new(row, "head_percent", json_real(head));
        json_object_set_new(row, "statistics_percent", json_real(statistics));
        json_object_set(row, "tokens_per_second", speeds);
        json_object_set_new(row, "one_token_ms", json_real(1e3 * one->seconds));
        json_object_set_new(row, "one_token_floor_ms", json_real(1e3 * one->floor_s));
        json_object_set_new(row, "one_token_tokens_per_second",
                            json_real(sequences / one->seconds));
    }
    json_decref(speeds);
    bench_add(bench, "rounds", row);
}

static int bench_windows(const struct bench_rounds *rounds, struct error *err)
{
    const struct bench_kernels *bench = &rounds->bench;
    const struct rounds_plan *plan = &rounds->plan;
    int32_t end = plan->cached + plan->window;
    double of_sequence = 0;
    int code = 0;

    bench_say(bench,
              "\nRounds: a window of %d over %d cached positions, every row judged; tokens/s where "
              "so many commit a round.\nFloor: weights and cached K and V once at the memory's "
              "rate, or all flops at the peaks. Behind it the share of\nthe head, in percent, and "
              "of all in it but its product at that floor; at the end the same sequences with one "
              "causal row\neach, a token a pass.\n\n"
              "%-9s %5s %6s %9s %9s %7s  %-8s %6s %6s %9s %9s %9s %9s  %9s %9s\n",
              plan->window, plan->cached, "weights", "seqs", "rows", "ms", "floor ms", "% floor",
              "bound", "head %", "stat %", "1", "2", "4", "8", "causal ms", "tokens/s");
    for (int i = 0; i < plan->sequences.count && code == 0; i++) {
        int32_t sequences = plan->sequences.of[i];
        const struct pass_shape window = {sequences, plan->cached, plan->window, end, plan->window};
        const struct pass_shape token = {sequences, end - 1, 1, 0, 1};
        struct pass_figures figures, one;
        bool too_many = sequences > rounds->max_sequences;
        if (too_many || of_sequence * sequences > SLOWEST_S) {
            bench_leave_out(bench, "rounds of %d sequences with %s weights: %s", sequences,
                            dtype_name(bench->options.weight_dtype),
                            too_many ? "too little memory" : "they would take too long");
            continue;
        }
        code = pass_measure(&figures, rounds, &window, true, err);
        if (code == 0)
            code = pass_measure(&one, rounds, &token, false, err);
        if (code == 0)
            report_round(rounds, sequences, &figures, &one);
        of_sequence = code == 0 ? figures.seconds / sequences : 0;
    }
    return code;
}

static int bench_canvases(const struct bench_rounds *rounds, struct error *err)
{
    const struct bench_kernels *bench = &rounds->bench;
    const struct rounds_plan *plan = &rounds->plan;
    int32_t canvas = plan->prompt + plan->answer;
    int code = 0;

    bench_say(bench,
              "\nWhole canvases: %d of the prompt and %d of the answer recomputed, the answer "
              "judged.\n\n%-9s %5s %6s %9s %9s %7s  %-8s\n",
              plan->prompt, plan->answer, "weights", "seqs", "rows", "ms", "floor ms", "% floor",
              "bound");
    for (int i = 0; i < plan->canvases.count && code == 0; i++) {
        int32_t sequences = plan->canvases.of[i];
        const struct pass_shape shape = {sequences, 0, canvas, canvas, plan->answer};
        struct pass_figures figures;
        code = pass_measure(&figures, rounds, &shape, false, err);
        if (code != 0)
            break;
        say_pass(rounds, sequences, &figures);
        bench_say(bench, "\n");
        bench_add(bench, "canvases", describe_pass(rounds, sequences, &figures));
    }
    return code;
}

/* ---- one number format ----------------------------------------------------------------------- */

static int bench_model(struct bench_rounds *rounds, struct error *err)
{
    const struct bench_kernels *bench = &rounds->bench;
    const char *weights = dtype_name(bench->options.weight_dtype);
    int64_t begin = clock_now_us();
    int code = open_model(rounds, err);

    if (code == ERROR_MEMORY) {
        bench_leave_out(bench, "%s with %s weights: %s", rounds->name, weights, err->message);
        return 0;
    }
    if (code == 0 && bench->on_device)
        code = pass_fill_cache(rounds, err);
    if (code == 0) {
        struct model_memory used = model_memory_used(rounds->model);
        double seconds = 1e-6 * (double)(clock_now_us() - begin);
        bench_say(bench,
                  "\n%s: %.1f M random parameters, weights %s, activations %s, made in %.1f s\n"
                  "memory: weights %.1f MB, KV pool %.1f MB, activations %.1f MB\n",
                  rounds->name, (double)rounds->model->parameters / 1e6, weights,
                  dtype_name(bench->options.dtype), seconds, (double)used.weights / 1e6,
                  (double)used.kv_pool / 1e6, (double)used.activations / 1e6);
        bench_add(bench, "models",
                  json_pack("{s:s, s:s, s:s, s:f, s:f, s:f, s:f}", "model", rounds->name,
                            "weight_dtype", weights, "dtype", dtype_name(bench->options.dtype),
                            "parameters", (double)rounds->model->parameters, "weights_mb",
                            (double)used.weights / 1e6, "kv_pool_mb", (double)used.kv_pool / 1e6,
                            "activations_mb", (double)used.activations / 1e6));
        code = bench_windows(rounds, err);
    }
    if (code == 0)
        code = bench_canvases(rounds, err);
    if (code == 0)
        code = bench_calls(rounds, err);
    close_model(rounds);
    return code;
}

/* With weights in 8 bits too, as far as the device has such products. */
static int bench_formats(struct bench_rounds *rounds, const struct settings *settings,
                         struct error *err)
{
    struct bench_kernels *bench = &rounds->bench;
    enum dtype first = bench->options.weight_dtype;
    int code = bench_model(rounds, err);

    /* fp8 first: it is the faster one where there is time for one alone. */
    for (int i = DTYPE_COUNT - 1; strcmp(settings->dtype, "auto") == 0 && i >= 0 && code == 0;
         i--) {
        if (dtype_size((enum dtype)i) != 1 || (enum dtype)i == first ||
            bench->product_rates[i] == 0)
            continue;
        bench->options.weight_dtype = (enum dtype)i;
        code = bench_model(rounds, err);
    }
    return code;
}

/* ---- all ------------------------------------------------------------------------------------- */

static int choose(struct bench_rounds *rounds, const struct settings *settings, struct error *err)
{
    struct bench_kernels *bench = &rounds->bench;
    struct backend_options *options = &bench->options;
    int code = bench_choose_device(bench, settings, err);

    /* The checkpoint that there is not would be in bfloat16. */
    if (code == 0 && strcmp(settings->dtype, "auto") == 0)
        backend_automatic_dtype(&options->dtype, &options->weight_dtype, bench->device,
                                DTYPE_BFLOAT16);
    else if (code == 0)
        code = runtime_choose_dtype(options, settings, NULL, err);
    if (code != 0)
        return code;
    rounds->price_per_hour = settings->price_per_hour;
    rounds_choose_plan(rounds, settings->shape);
    return bench_choose_instructions(bench, settings, err);
}

int bench_rounds_run(const struct settings *settings)
{
    struct bench_rounds rounds = {0};
    struct error err = {0};
    int code = choose(&rounds, settings, &err);

    if (code == 0)
        code = bench_describe(&rounds.bench, &err);
    if (code == 0)
        code = bench_peaks(&rounds.bench, &err);
    if (code == 0)
        code = bench_formats(&rounds, settings, &err);
    code = bench_finish(&rounds.bench, code, &err);
    return code == 0 ? 0 : runtime_complain(&err);
}

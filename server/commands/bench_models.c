/* Whole models: forward passes with the share of every kernel, and ticks of the engine. */
#include "server/commands/bench_kernels.h"

#include <stdio.h>
#include <string.h>

#include "common/clock.h"
#include "common/error.h"
#include "server/commands/random_work.h"
#include "server/commands/timed_backend.h"
#include "server/engine/engine.h"

enum {
    BLOCK = 32, /* rows of a sequence in a tick */
    CANVAS = 128,
    ROUNDS = 6, /* the first one recomputes the whole canvas */
    FORWARD_ROWS_MAX = 512,
    TICKS_MAX = 64,
};

struct subject {
    const struct bench_kernels *bench;
    char name[64];
    struct model *model; /* on a timed backend */
    struct engine *engine;
    int32_t sequences;
};

/* ---- loading --------------------------------------------------------------------------------- */

static int create_random(struct subject *subject, struct backend *backend, struct error *err)
{
    struct model_config shape = {.layers = 8,
                                 .width = 1024,
                                 .heads = 16,
                                 .kv_heads = 16,
                                 .ffn_width = 2816,
                                 .vocabulary = 4096,
                                 .embedding_rows = 4096,
                                 .max_positions = FORWARD_ROWS_MAX,
                                 .rope_theta = 10000,
                                 .norm_epsilon = 1e-5F,
                                 .tied_head = true,
                                 .mask_token = 2,
                                 .stop_tokens = {1},
                                 .stop_token_count = 1};

    if (subject->bench->quick) {
        shape.layers = shape.heads = shape.kv_heads = 2;
        shape.width = 64;
        shape.ffn_width = 176;
        shape.vocabulary = shape.embedding_rows = 512;
    }
    shape.head_dim = shape.rotary_dim = shape.width / shape.heads;
    snprintf(subject->name, sizeof subject->name, "random, d %d, %d layers", shape.width,
             shape.layers);
    return model_create_random(&subject->model, &shape, 1, backend, err);
}

static int load(struct subject *subject, bool random, struct error *err)
{
    const struct bench_kernels *bench = subject->bench;
    const char *directory = bench->model_directory, *slash = strrchr(directory, '/');
    struct backend *backend;
    int code = backend_create(&backend, bench->device, &bench->options, err);

    if (code == 0)
        code = timed_backend_create(&backend, backend, err);
    if (code != 0 || random)
        return code != 0 ? code : create_random(subject, backend, err);
    snprintf(subject->name, sizeof subject->name, "%.63s", slash != NULL ? slash + 1 : directory);
    return model_load(&subject->model, directory, backend, err);
}

static int32_t canvas_length(const struct subject *subject)
{
    int32_t context = subject->model->config.max_positions;
    return context < CANVAS ? context : CANVAS;
}

/* Reserves what the forward passes need too. */
static int create_engine(struct subject *subject, struct error *err)
{
    int32_t positions = subject->sequences * canvas_length(subject);
    int32_t most = positions > FORWARD_ROWS_MAX ? positions : FORWARD_ROWS_MAX;
    const struct engine_options options = {
        .max_sequences = subject->sequences,
        .max_rows_per_tick = most,
        .queue_limit = subject->sequences,
        .kv_cache_tokens = most + (int64_t)subject->sequences * KV_PAGE_POSITIONS,
        .token_limit = subject->model->config.vocabulary,
    };
    return engine_create(&subject->engine, subject->model, &options, err);
}

/* ---- forward --------------------------------------------------------------------------------- */

struct forward {
    struct subject *subject;
    struct random_rows rows;
    int64_t ns;    /* of all passes, */
    int64_t count; /* of which there were so many */
    int code;
    struct error *err;
};

static void run_forward(void *context)
{
    struct forward *forward = context;
    struct random_rows *rows = &forward->rows;
    int64_t begin = clock_now_ns();

    forward->code = model_forward(forward->subject->model, &rows->step, &rows->batch, &rows->result,
                                  forward->err);
    forward->ns += clock_now_ns() - begin;
    forward->count++;
}

/* Every kernel's part of the passes' time in percent, and that of the products by size. */
static void report_shares(const struct forward *forward, json_t *row)
{
    const struct bench_kernels *bench = forward->subject->bench;
    const struct timed_figures *figures = timed_backend_figures(forward->subject->model->backend);
    double percent = 100 / (double)forward->ns, rest = 100;
    json_t *shares = json_object(), *sizes = json_object();

    bench_say(bench, "   ");
    for (int i = 0; i < TIMED_OPERATIONS; i++) {
        double share = percent * (double)figures->ns[i];
        rest -= share;
        bench_say(bench, " %s %.1f", TIMED_OPERATION_NAMES[i], share);
        json_object_set_new(shares, TIMED_OPERATION_NAMES[i], json_real(share));
    }
    bench_say(bench, " rest %.1f\n    linear:", rest);
    json_object_set_new(shares, "rest", json_real(rest));
    for (int i = 0; i < figures->shape_count; i++) {
        const struct timed_shape *shape = &figures->shapes[i];
        char size[48];
        if (shape->ns == 0)
            continue;
        snprintf(size, sizeof size, "%lldx%lld", (long long)shape->rows, (long long)shape->columns);
        bench_say(bench, " %s %.1f", size, percent * (double)shape->ns);
        json_object_set_new(sizes, size, json_real(percent * (double)shape->ns));
    }
    bench_say(bench, "\n");
    json_object_set_new(row, "percent_of_time", shares);
    json_object_set_new(row, "linear_percent_of_time", sizes);
}

/* What another program needs to build a model that does the same work. */
static json_t *shape_of(const struct model_config *config)
{
    return json_pack("{s:i, s:i, s:i, s:i, s:i, s:i, s:i}", "layers", config->layers, "width",
                     config->width, "heads", config->heads, "kv_heads", config->kv_heads,
                     "head_dim", config->head_dim, "ffn_width", config->ffn_width, "vocabulary",
                     config->embedding_rows);
}

static int bench_forward(struct forward *forward, int32_t rows)
{
    struct subject *subject = forward->subject;
    const struct bench_kernels *bench = subject->bench;
    const struct model_config *config = &subject->model->config;
    struct backend *backend = subject->model->backend;
    int32_t positions = rows;

    while (positions > 1 && positions > config->max_positions)
        positions /= 2;
    if (rows / positions > subject->sequences) {
        bench_leave_out(bench, "a forward pass of %d rows: the context of %s is too short", rows,
                        subject->name);
        return 0;
    }
    /* Whole canvases, every row with its logits. */
    const struct pass_shape shape = {rows / positions, 0, positions, positions, positions};
    random_rows_set(&forward->rows, &shape, config->vocabulary, config->mask_token);
    run_forward(forward); /* warm-up */
    timed_backend_reset(backend);
    forward->ns = forward->count = 0;
    double seconds = bench_median_seconds(bench, run_forward, forward);
    if (forward->code != 0)
        return forward->code;
    double flops = timed_backend_figures(backend)->product_flops / (double)forward->count;
    double peak = 100 * flops / seconds / bench->product_rates[bench->options.weight_dtype];

    bench_say(bench, "%-26s %5d rows, %d x %-4d %9.3f ms %10.1f GFLOP/s %6.1f %% of the peak\n",
              subject->name, rows, rows / positions, positions, 1e3 * seconds,
              1e-9 * flops / seconds, peak);
    json_t *row = json_pack("{s:s, s:i, s:i, s:i, s:f, s:f, s:f, s:f}", "model", subject->name,
                            "rows", rows, "sequences", rows / positions, "positions", positions,
                            "ms", 1e3 * seconds, "product_flops", flops, "gflops",
                            1e-9 * flops / seconds, "percent_of_peak", peak);
    if (row != NULL) {
        json_object_set_new(row, "shape", shape_of(config));
        report_shares(forward, row);
    }
    bench_add(bench, "forward", row);
    return 0;
}

static int bench_forwards(struct subject *subject, struct error *err)
{
    static const int32_t rows[] = {1, 32, 128, FORWARD_ROWS_MAX};
    struct forward forward = {.subject = subject, .err = err};
    int code = random_rows_create(&forward.rows, FORWARD_ROWS_MAX, FORWARD_ROWS_MAX,
                                  FORWARD_ROWS_MAX, err);

    for (int i = 0; i < (subject->bench->quick ? 2 : 4) && code == 0; i++)
        code = bench_forward(&forward, rows[i]);
    random_rows_destroy(&forward.rows);
    return code;
}

/* ---- ticks ----------------------------------------------------------------------------------- */

/* Sums over the ticks in which every sequence had one block. */
struct tick_figures {
    int ticks;
    double ms[TICKS_MAX];
    double seconds, product_seconds, product_flops;
};

static void run_ticks(struct tick_figures *figures, const struct subject *subject)
{
    struct backend *backend = subject->model->backend;
    uint64_t rows = engine_counters_read(subject->engine).rows;

    for (bool busy = true; busy;) {
        timed_backend_reset(backend);
        int64_t begin = clock_now_ns();
        busy = engine_tick(subject->engine, begin / 1000);
        double seconds = 1e-9 * (double)(clock_now_ns() - begin);
        uint64_t rows_now = engine_counters_read(subject->engine).rows;
        const struct timed_figures *timed = timed_backend_figures(backend);
        if (rows_now - rows == (uint64_t)BLOCK * (uint64_t)subject->sequences &&
            figures->ticks < TICKS_MAX) {
            figures->ms[figures->ticks++] = 1e3 * seconds;
            figures->seconds += seconds;
            figures->product_seconds +=
                1e-9 * (double)(timed->ns[TIMED_LINEAR] + timed->ns[TIMED_HEAD]);
            figures->product_flops += timed->product_flops;
        }
        rows = rows_now;
    }
}

static int report_ticks(const struct subject *subject, struct tick_figures *figures,
                        struct error *err)
{
    const struct bench_kernels *bench = subject->bench;
    int ticks = figures->ticks;

    if (ticks == 0)
        return error_set(err, ERROR_INTERNAL, "bench: no tick of %s had all %d sequences",
                         subject->name, subject->sequences);
    double ms = bench_median(figures->ms, ticks), flops = figures->product_flops / figures->seconds;
    double peak = 100 * flops / bench->product_rates[bench->options.weight_dtype];
    double products = 100 * figures->product_seconds / figures->seconds;

    bench_say(bench,
              "%-26s %d x %d rows %9.3f ms %10.1f GFLOP/s %6.1f %% of the peak (%.1f %% of the "
              "time in linear and head; %d ticks)\n",
              subject->name, subject->sequences, BLOCK, ms, 1e-9 * flops, peak, products, ticks);
    bench_add(bench, "ticks",
              json_pack("{s:s, s:i, s:i, s:i, s:i, s:f, s:f, s:f, s:f, s:f}", "model",
                        subject->name, "sequences", subject->sequences, "rows",
                        subject->sequences * BLOCK, "positions", canvas_length(subject), "ticks",
                        ticks, "ms", ms, "product_flops", figures->product_flops / ticks, "gflops",
                        1e-9 * flops, "percent_of_peak", peak, "products_percent_of_time",
                        products));
    return 0;
}

static int bench_ticks(struct subject *subject, struct error *err)
{
    const struct random_call call = {canvas_length(subject) - BLOCK, BLOCK, ROUNDS, CACHE_DUAL};
    struct tick_figures figures = {0};
    struct request **requests;

    if (call.prompt <= 0) {
        bench_leave_out(subject->bench, "ticks of %s: its context has no room for a block of %d",
                        subject->name, BLOCK);
        return 0;
    }
    int code = random_calls_submit(&requests, subject->sequences, subject->engine,
                                   &subject->model->config, &call, err);
    if (code == 0)
        run_ticks(&figures, subject);
    random_calls_release(requests, subject->sequences);
    return code != 0 ? code : report_ticks(subject, &figures, err);
}

/* ---- all ------------------------------------------------------------------------------------- */

static int bench_model(const struct bench_kernels *bench, bool random, struct error *err)
{
    struct subject subject = {.bench = bench, .sequences = bench->quick ? 4 : 32};
    int code = load(&subject, random, err);

    if (code == 0)
        code = create_engine(&subject, err);
    bench_say(bench, "\n");
    if (code == 0)
        code = bench_forwards(&subject, err);
    if (code == 0)
        code = bench_ticks(&subject, err);
    engine_free(subject.engine);
    model_free(subject.model);
    return code;
}

int bench_models(const struct bench_kernels *bench, struct error *err)
{
    bench_say(bench,
              "\nForward passes: sequences x positions, every row with its logits, the share of "
              "each kernel in percent.\nThe last line of a model: a tick of the engine. GFLOP/s "
              "count linear and head alone, over all the time.\n");
    int code = bench_model(bench, true, err);
    return code != 0 ? code : bench_model(bench, false, err);
}

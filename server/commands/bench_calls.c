/* Calls of bench rounds: whole answers through the engine. */
#include "server/commands/bench_rounds.h"

#include <math.h>

#include "common/clock.h"
#include "common/error.h"
#include "server/engine/engine.h"

enum {
    SAMPLES_MAX = 9,
    CASE_US = 300000,       /* samples are taken until this has passed */
    WINDOW_STEPS_SHARE = 2, /* rounds of a window: a token of two a round */
};

static const double BUDGET_S = 0.8; /* that an answer is to end within */

struct call_case {
    const char *what; /* "one region", "last window", "one by one" */
    int32_t at_once;
    struct random_call call;
};

struct call_figures {
    double seconds;     /* until the last of them has ended; the median */
    double rounds;      /* forward passes of a call */
    double gap_us;      /* a round: while no pass is under way, or the host does not wait for one */
    double gap_percent; /* of the round */
};

/* ---- running --------------------------------------------------------------------------------- */

/* All of them together, once. */
static int run_calls(struct call_figures *figures, const struct bench_rounds *rounds,
                     const struct call_case *call, struct error *err)
{
    struct request **requests;
    int64_t begin = clock_now_ns();
    int code = random_calls_submit(&requests, call->at_once, rounds->engine, &rounds->config,
                                   &call->call, err);
    struct engine_counters before = engine_counters_read(rounds->engine);
    const int64_t *waited_ns = &rounds->model->backend->waited_ns;
    int64_t waited_before = *waited_ns;
    int64_t ticking = clock_now_ns();
    while (code == 0 && engine_tick(rounds->engine, clock_now_us()))
        continue;
    int64_t end = clock_now_ns();
    struct engine_counters after = engine_counters_read(rounds->engine);
    double ticks = (double)(after.ticks - before.ticks);
    double busy_us = rounds->bench.on_device ? 1e-3 * (double)(*waited_ns - waited_before)
                                             : (double)(after.forward_us - before.forward_us);
    double all_us = 1e-3 * (double)(end - ticking);
    if (code == 0 &&
        (after.device_lost || after.committed_tokens - before.committed_tokens !=
                                  (uint64_t)call->at_once * (uint64_t)call->call.answer))
        code = error_set(err, ERROR_INTERNAL, "bench: the answers of a call are not complete");
    figures->seconds = 1e-9 * (double)(end - begin);
    figures->rounds = ticks;
    figures->gap_us = (all_us - busy_us) / ticks;
    figures->gap_percent = 100 * (all_us - busy_us) / all_us;
    random_calls_release(requests, call->at_once);
    return code;
}

static int measure(struct call_figures *figures, const struct bench_rounds *rounds,
                   const struct call_case *call, struct error *err)
{
    double seconds[SAMPLES_MAX], gaps[SAMPLES_MAX], percents[SAMPLES_MAX];
    int samples = 0, code = 0;

    if (rounds->bench.on_device) /* warm-up */
        code = run_calls(figures, rounds, call, err);
    int64_t end = clock_now_us() + (rounds->bench.quick ? 0 : CASE_US);
    do {
        if (code == 0)
            code = run_calls(figures, rounds, call, err);
        seconds[samples] = figures->seconds;
        percents[samples] = figures->gap_percent;
        gaps[samples++] = figures->gap_us;
    } while (code == 0 && samples < SAMPLES_MAX && clock_now_us() < end);
    figures->seconds = bench_median(seconds, samples);
    figures->gap_us = bench_median(gaps, samples);
    figures->gap_percent = bench_median(percents, samples);
    return code;
}

/* ---- reporting ------------------------------------------------------------------------------- */

/*
 * A line of the table, and the row of the document as far as all of them have it: the caller adds
 * more. No gap: NULL.
 */
static json_t *say_call(const struct bench_rounds *rounds, const struct call_case *of,
                        const char *cache, double seconds, const struct call_figures *gap)
{
    const struct bench_kernels *bench = &rounds->bench;
    const struct random_call *call = &of->call;
    const char *weights = dtype_name(bench->options.weight_dtype);
    double tokens = (double)of->at_once * call->answer;
    double price = rounds->price_per_hour / 3600 * seconds / tokens * 1e6; /* NAN: not known */
    bool within = seconds <= BUDGET_S;
    char gap_text[24] = "-", percent_text[24] = "-", price_text[24] = "-";

    if (gap != NULL) {
        snprintf(gap_text, sizeof gap_text, "%.1f", gap->gap_us);
        snprintf(percent_text, sizeof percent_text, "%.1f", gap->gap_percent);
    }
    if (!isnan(price))
        snprintf(price_text, sizeof price_text, "%.3f", price);
    bench_say(bench, "%-9s %-11s %6d %7d %6d  %-6s %9.2f %11.1f %6s %10s %6s %10s\n", weights,
              of->what, call->prompt, of->at_once, call->steps, cache, 1e3 * seconds,
              tokens / seconds, within ? "yes" : "no", gap_text, percent_text, price_text);
    json_t *row =
        json_pack("{s:s, s:i, s:i, s:i, s:f, s:f, s:b}", "weight_dtype", weights, "prompt",
                  call->prompt, "answer", call->answer, "at_once", of->at_once, "ms", 1e3 * seconds,
                  "tokens_per_second", tokens / seconds, "within_800_ms", within);
    if (row != NULL && !isnan(price))
        json_object_set_new(row, "price_of_million_tokens", json_real(price));
    return row;
}

static void report(const struct bench_rounds *rounds, const struct call_case *of,
                   const struct call_figures *figures)
{
    const char *cache = cache_mode_name(of->call.cache);
    json_t *row = say_call(rounds, of, cache, figures->seconds, figures);

    json_object_update_new(row, json_pack("{s:s, s:i, s:s, s:f, s:f, s:f}", "what", of->what,
                                          "steps", of->call.steps, "cache", cache, "rounds",
                                          figures->rounds, "host_gap_us_per_round", figures->gap_us,
                                          "host_gap_percent", figures->gap_percent));
    bench_add(&rounds->bench, "calls", row);
}

/* ---- one token a pass ------------------------------------------------------------------------ */

/*
 * The same answer from the same weights read from left to right: a pass over the prompt, and one
 * pass for each token at the middle of the answer. Computed from these two passes.
 */
static int bench_one_by_one(const struct bench_rounds *rounds, int32_t at_once, struct error *err)
{
    const struct rounds_plan *plan = &rounds->plan;
    const struct pass_shape prompt = {at_once, 0, plan->prompt, 0, 1};
    const struct pass_shape token = {at_once, plan->prompt + plan->answer / 2, 1, 0, 1};
    struct pass_figures of_prompt, of_token;
    int code = pass_measure(&of_prompt, rounds, &prompt, false, err);

    if (code == 0)
        code = pass_measure(&of_token, rounds, &token, false, err);
    if (code != 0)
        return code;
    const struct call_case of = {
        "one by one", at_once, {plan->prompt, plan->answer, plan->answer, CACHE_NONE}};
    json_t *row =
        say_call(rounds, &of, "causal", of_prompt.seconds + plan->answer * of_token.seconds, NULL);
    json_object_update_new(row, json_pack("{s:f, s:f}", "prompt_ms", 1e3 * of_prompt.seconds,
                                          "token_ms", 1e3 * of_token.seconds));
    bench_add(&rounds->bench, "one_by_one", row);
    return 0;
}

/* ---- all ------------------------------------------------------------------------------------- */

static int bench_call(const struct bench_rounds *rounds, const struct call_case *call,
                      struct error *err)
{
    struct call_figures figures = {0};
    int code = measure(&figures, rounds, call, err);

    if (code == 0)
        report(rounds, call, &figures);
    return code;
}

static int bench_at_once(const struct bench_rounds *rounds, int32_t at_once, struct error *err)
{
    static const enum cache_mode caches[] = {CACHE_NONE, CACHE_DUAL};
    const struct rounds_plan *plan = &rounds->plan;
    int code = 0;

    for (size_t k = 0; k < sizeof caches / sizeof *caches; k++) {
        for (int i = 0; i < plan->steps.count && code == 0; i++) {
            const struct call_case call = {
                "one region", at_once, {plan->prompt, plan->answer, plan->steps.of[i], caches[k]}};
            code = bench_call(rounds, &call, err);
        }
    }
    const struct call_case window = {
        "last window",
        at_once,
        {plan->cached, plan->window, plan->window / WINDOW_STEPS_SHARE, CACHE_DUAL}};
    if (code == 0)
        code = bench_call(rounds, &window, err);
    return code == 0 ? bench_one_by_one(rounds, at_once, err) : code;
}

int bench_calls(const struct bench_rounds *rounds, struct error *err)
{
    const struct rounds_plan *plan = &rounds->plan;
    int code = 0;

    bench_say(&rounds->bench,
              "\nCalls through the engine, several at once: one region of %d answer tokens, or a "
              "window of %d behind a prompt.\nThe gap is a round's time while no pass is under "
              "way; of a device, while the host does not wait for it: it may\nhave begun by then. "
              "One by one: computed from a causal pass over the prompt and one of a token for each "
              "sequence.\n\n%-9s %-11s %6s %7s %6s  %-6s %9s %11s %6s %10s %6s %10s\n",
              plan->answer, plan->window, "weights", "call", "prompt", "at once", "rounds", "cache",
              "ms", "tokens/s", "<0.8 s", "gap, us", "gap %", "price/M");
    for (int i = 0; i < plan->canvases.count && code == 0; i++) {
        /* The smallest and the largest number tell enough. */
        if (i == 0 || i == plan->canvases.count - 1)
            code = bench_at_once(rounds, plan->canvases.of[i], err);
    }
    return code;
}

/* Calls of bench rounds: whole answers through the engine. */
#include "server/commands/bench_rounds.h"

#include <math.h>
#include <stdlib.h>

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
    const char *what; /* "one region", "last window" */
    int32_t prompt, answer, steps, at_once;
    enum cache_mode cache;
};

struct call_figures {
    double seconds; /* until the last of them has ended; the median */
    double rounds;  /* forward passes of a call */
    double gap_us;  /* a round: while no pass is under way */
};

/* ---- running --------------------------------------------------------------------------------- */

static int submit(const struct bench_rounds *rounds, const struct call_case *call, int32_t index,
                  struct request **out, struct error *err)
{
    struct decode_params params = decode_params_neutral(call->answer, call->answer);
    int32_t *prompt = calloc((size_t)call->prompt, sizeof *prompt);

    if (prompt == NULL)
        return error_set(err, ERROR_MEMORY, "no memory left for a prompt");
    params.selection = SELECTION_STEPS;
    params.steps = call->steps;
    params.cache = call->cache;
    params.ignore_eos = true; /* every position is text */
    for (int32_t i = 0; i < call->prompt; i++)
        prompt[i] = bench_random_token(&rounds->config, (uint32_t)(index * call->prompt + i));
    int code = request_create(out, prompt, call->prompt, &params, rounds->config.mask_token, err);
    if (code == 0)
        code = engine_submit(rounds->engine, *out, err);
    free(prompt);
    return code;
}

/* All of them together, once. */
static int run_calls(struct call_figures *figures, const struct bench_rounds *rounds,
                     const struct call_case *call, struct error *err)
{
    struct request **requests = calloc((size_t)call->at_once, sizeof *requests);
    int code = 0;

    if (requests == NULL)
        return error_set(err, ERROR_MEMORY, "no memory left for the requests");
    int64_t begin = clock_now_ns();
    for (int32_t i = 0; i < call->at_once && code == 0; i++)
        code = submit(rounds, call, i, &requests[i], err);
    struct engine_counters before = engine_counters_read(rounds->engine);
    int64_t ticking = clock_now_ns();
    while (code == 0 && engine_tick(rounds->engine, clock_now_us()))
        continue;
    int64_t end = clock_now_ns();
    struct engine_counters after = engine_counters_read(rounds->engine);
    double ticks = (double)(after.ticks - before.ticks);
    double forward_us = (double)(after.forward_us - before.forward_us);
    if (code == 0 && (after.device_lost || after.committed_tokens - before.committed_tokens !=
                                               (uint64_t)call->at_once * (uint64_t)call->answer))
        code = error_set(err, ERROR_INTERNAL, "bench: the answers of a call are not complete");
    figures->seconds = 1e-9 * (double)(end - begin);
    figures->rounds = ticks;
    figures->gap_us = (1e-3 * (double)(end - ticking) - forward_us) / ticks;
    for (int32_t i = 0; i < call->at_once; i++)
        request_release(requests[i]);
    free(requests);
    return code;
}

static int measure(struct call_figures *figures, const struct bench_rounds *rounds,
                   const struct call_case *call, struct error *err)
{
    double seconds[SAMPLES_MAX], gaps[SAMPLES_MAX];
    int samples = 0, code = 0;

    if (rounds->bench.on_device) /* warm-up */
        code = run_calls(figures, rounds, call, err);
    int64_t end = clock_now_us() + (rounds->bench.quick ? 0 : CASE_US);
    do {
        if (code == 0)
            code = run_calls(figures, rounds, call, err);
        seconds[samples] = figures->seconds;
        gaps[samples++] = figures->gap_us;
    } while (code == 0 && samples < SAMPLES_MAX && clock_now_us() < end);
    figures->seconds = bench_median(seconds, samples);
    figures->gap_us = bench_median(gaps, samples);
    return code;
}

/* ---- reporting ------------------------------------------------------------------------------- */

/* Of a million answer tokens; NAN without a price. */
static double price_of_million(const struct bench_rounds *rounds, double seconds, double tokens)
{
    return rounds->price_per_hour / 3600 * seconds / tokens * 1e6;
}

static void say_price(const struct bench_rounds *rounds, double price)
{
    if (isnan(price))
        bench_say(&rounds->bench, " %10s\n", "-");
    else
        bench_say(&rounds->bench, " %10.3f\n", price);
}

static void report(const struct bench_rounds *rounds, const struct call_case *call,
                   const struct call_figures *figures)
{
    const struct bench_kernels *bench = &rounds->bench;
    const char *weights = dtype_name(bench->options.weight_dtype);
    double tokens = (double)call->at_once * call->answer;
    double price = price_of_million(rounds, figures->seconds, tokens);
    bool within = figures->seconds <= BUDGET_S;

    bench_say(bench, "%-9s %-11s %6d %7d %6d  %-6s %9.2f %11.1f %6s %10.1f", weights, call->what,
              call->prompt, call->at_once, call->steps, cache_mode_name(call->cache),
              1e3 * figures->seconds, tokens / figures->seconds, within ? "yes" : "no",
              figures->gap_us);
    say_price(rounds, price);
    json_t *row =
        json_pack("{s:s, s:s, s:i, s:i, s:i, s:i, s:s, s:f, s:f, s:f, s:b, s:f}", "weight_dtype",
                  weights, "what", call->what, "prompt", call->prompt, "answer", call->answer,
                  "at_once", call->at_once, "steps", call->steps, "cache",
                  cache_mode_name(call->cache), "ms", 1e3 * figures->seconds, "rounds",
                  figures->rounds, "tokens_per_second", tokens / figures->seconds, "within_800_ms",
                  within, "host_gap_us_per_round", figures->gap_us);
    if (row != NULL && !isnan(price))
        json_object_set_new(row, "price_of_million_tokens", json_real(price));
    bench_add(bench, "calls", row);
}

/* ---- one token a pass ------------------------------------------------------------------------ */

/*
 * The same answer from the same weights read from left to right: a pass over the prompt, and one
 * pass for each token at the middle of the answer. Computed from these two passes.
 */
static int bench_one_by_one(const struct bench_rounds *rounds, int32_t at_once, struct error *err)
{
    const struct bench_kernels *bench = &rounds->bench;
    const struct rounds_plan *plan = &rounds->plan;
    const struct pass_shape prompt = {at_once, 0, plan->prompt, 0, 1};
    const struct pass_shape token = {at_once, plan->prompt + plan->answer / 2, 1, 0, 1};
    struct pass_figures of_prompt, of_token;
    int code = pass_measure(&of_prompt, rounds, &prompt, false, err);

    if (code == 0)
        code = pass_measure(&of_token, rounds, &token, false, err);
    if (code != 0)
        return code;
    const char *weights = dtype_name(bench->options.weight_dtype);
    double seconds = of_prompt.seconds + plan->answer * of_token.seconds;
    double tokens = (double)at_once * plan->answer;
    double price = price_of_million(rounds, seconds, tokens);
    bool within = seconds <= BUDGET_S;
    bench_say(bench, "%-9s %-11s %6d %7d %6d  %-6s %9.2f %11.1f %6s %10s", weights, "one by one",
              plan->prompt, at_once, plan->answer, "causal", 1e3 * seconds, tokens / seconds,
              within ? "yes" : "no", "-");
    say_price(rounds, price);
    json_t *row =
        json_pack("{s:s, s:i, s:i, s:i, s:f, s:f, s:f, s:f, s:b}", "weight_dtype", weights,
                  "prompt", plan->prompt, "answer", plan->answer, "at_once", at_once, "prompt_ms",
                  1e3 * of_prompt.seconds, "token_ms", 1e3 * of_token.seconds, "ms", 1e3 * seconds,
                  "tokens_per_second", tokens / seconds, "within_800_ms", within);
    if (row != NULL && !isnan(price))
        json_object_set_new(row, "price_of_million_tokens", json_real(price));
    bench_add(bench, "one_by_one", row);
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
            const struct call_case call = {"one region",      plan->prompt, plan->answer,
                                           plan->steps.of[i], at_once,      caches[k]};
            code = bench_call(rounds, &call, err);
        }
    }
    const struct call_case window = {"last window", plan->cached,
                                     plan->window,  plan->window / WINDOW_STEPS_SHARE,
                                     at_once,       CACHE_DUAL};
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
              "way. One by one: computed from a causal pass over the prompt\nand one of a token "
              "for each sequence.\n\n%-9s %-11s %6s %7s %6s  %-6s %9s %11s %6s %10s %10s\n",
              plan->answer, plan->window, "weights", "call", "prompt", "at once", "rounds", "cache",
              "ms", "tokens/s", "<0.8 s", "gap, us", "price/M");
    for (int i = 0; i < plan->canvases.count && code == 0; i++) {
        /* The smallest and the largest number tell enough. */
        if (i == 0 || i == plan->canvases.count - 1)
            code = bench_at_once(rounds, plan->canvases.of[i], err);
    }
    return code;
}

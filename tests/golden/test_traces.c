/*
 * Every published decoding run of the LLaDA fixtures, round by round and token for token through
 * the real engine: window, region, committed tokens and their confidence.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <criterion/criterion.h>
#include <jansson.h>

#include "common/error.h"
#include "server/engine/engine.h"
#include "server/engine/engine_internal.h"
#include "server/model/model.h"
#include "tests/golden/golden.h"

enum { RUNS_MAX = 32, CANVAS_MAX = 256 };
static const double CONFIDENCE_TOLERANCE = 2e-5;

/* One published run while it is reproduced. */
struct run {
    const json_t *trace; /* an element of runs */
    const char *name;
    bool early_stop;
    struct request *request;
    size_t rounds; /* observed so far */
    int32_t mask_token;
    int32_t before[CANVAS_MAX]; /* the answer before the round under way */
    bool ran_alone;
    int32_t tokens_alone[CANVAS_MAX];
    float confidence_alone[CANVAS_MAX];
};

struct trace_test {
    struct model *model;
    struct engine *engine;
    json_t *file;
    struct run runs[RUNS_MAX];
    size_t count;
    bool
        exact; /* the dtype repeats the published runs; else they are only where prompts are from */
};

static int32_t get_int(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    cr_assert(json_is_integer(value), "no integer %s", key);
    return (int32_t)json_integer_value(value);
}

static int32_t int_at(const json_t *array, size_t index)
{
    const json_t *value = json_array_get(array, index);
    cr_assert(json_is_integer(value));
    return (int32_t)json_integer_value(value);
}

static int32_t get_int_or(const json_t *object, const char *key, int32_t fallback)
{
    return json_object_get(object, key) == NULL ? fallback : get_int(object, key);
}

static float get_float_or_zero(const json_t *object, const char *key)
{
    return (float)json_number_value(json_object_get(object, key));
}

/* ---- what a round has to be ------------------------------------------------------------------ */

static void expect_range(const struct run *run, const char *what, const json_t *expected,
                         int32_t begin, int32_t end)
{
    cr_assert(int_at(expected, 0) == begin && int_at(expected, 1) == end,
              "%s round %zu: %s is [%d, %d), published [%d, %d)", run->name, run->rounds, what,
              begin, end, int_at(expected, 0), int_at(expected, 1));
}

static void expect_commits(struct run *run, const json_t *commits, const struct canvas *canvas)
{
    const struct draft *answer = &canvas->answer;
    size_t committed = 0;
    for (int32_t i = 0; i < answer->length; i++) {
        committed += run->before[i] == run->mask_token && answer->tokens[i] != run->mask_token;
        if (run->before[i] != run->mask_token)
            cr_assert_eq(answer->tokens[i], run->before[i], "%s: revised", run->name);
    }
    cr_assert_eq(committed, json_array_size(commits), "%s round %zu: %zu commits, published %zu",
                 run->name, run->rounds, committed, json_array_size(commits));
    for (size_t i = 0; i < json_array_size(commits); i++) {
        const json_t *commit = json_array_get(commits, i);
        int32_t index = int_at(commit, 0) - canvas->prompt_length;
        double confidence = json_number_value(json_array_get(commit, 2));
        cr_assert_eq(run->before[index], run->mask_token, "%s round %zu position %d", run->name,
                     run->rounds, index);
        cr_assert_eq(answer->tokens[index], int_at(commit, 1), "%s round %zu position %d",
                     run->name, run->rounds, index);
        cr_assert_leq(fabs((double)answer->confidence[index] - confidence), CONFIDENCE_TOLERANCE,
                      "%s round %zu position %d: confidence %.8f, published %.8f", run->name,
                      run->rounds, index, (double)answer->confidence[index], confidence);
    }
    memcpy(run->before, answer->tokens, (size_t)answer->length * sizeof *run->before);
}

static void observe_round(void *context, const struct sequence *sequence)
{
    struct trace_test *test = context;
    struct run *run = NULL;
    for (size_t i = 0; i < test->count; i++) {
        if (test->runs[i].request == sequence->request)
            run = &test->runs[i];
    }
    cr_assert_not_null(run);
    const json_t *round = json_array_get(json_object_get(run->trace, "rounds"), run->rounds++);
    cr_assert_not_null(round, "%s: more than the published rounds", run->name);
    expect_range(run, "the window", json_object_get(round, "forward"), sequence->window.begin,
                 sequence->window.end);
    expect_range(run, "the block", json_object_get(round, "block"), sequence->region.begin,
                 sequence->region.end);
    expect_commits(run, json_object_get(round, "commit"), &sequence->canvas);
}

/* ---- running --------------------------------------------------------------------------------- */

static struct decode_params run_params(const struct run *run)
{
    const json_t *denoised = json_object_get(run->trace, "denoised");
    struct decode_params params =
        decode_params_neutral(get_int(denoised, "max_tokens"), get_int(denoised, "block_length"));
    const char *selection = json_string_value(json_object_get(denoised, "selection"));
    const char *cache = json_string_value(json_object_get(denoised, "cache"));
    cr_assert(selection_from_name(selection, &params.selection), "%s", selection);
    cr_assert(cache_mode_from_name(cache, &params.cache), "%s", cache);
    params.steps = get_int_or(denoised, "steps", 0);
    params.threshold = get_float_or_zero(denoised, "threshold");
    params.factor = get_float_or_zero(denoised, "factor");
    params.cfg_scale = get_float_or_zero(denoised, "cfg_scale");
    params.eos_early_stop = run->early_stop;
    if (json_object_get(run->trace, "eos_token_id") != NULL)
        params.stop_tokens[params.stop_token_count++] = get_int(run->trace, "eos_token_id");
    return params;
}

static void submit_run(struct trace_test *test, struct run *run, bool early_stop)
{
    const json_t *ids = json_object_get(run->trace, "prompt");
    int32_t prompt[CANVAS_MAX];
    int32_t length = (int32_t)json_array_size(ids);
    for (int32_t i = 0; i < length; i++)
        prompt[i] = int_at(ids, (size_t)i);
    run->early_stop = early_stop;
    run->rounds = 0;
    run->mask_token = test->model->config.mask_token;
    for (int32_t i = 0; i < CANVAS_MAX; i++)
        run->before[i] = run->mask_token;

    struct decode_params params = run_params(run);
    struct error err = {0};
    cr_assert_eq(request_create(&run->request, prompt, length, &params, run->mask_token, &err), 0,
                 "%s", err.message);
    cr_assert_eq(engine_submit(test->engine, run->request, &err), 0, "%s", err.message);
}

static void expect_result(const struct run *run)
{
    const struct draft *draft = &run->request->stream.draft;
    const json_t *answer = json_object_get(run->trace, "answer");
    int32_t length = (int32_t)json_array_size(answer);
    int32_t eos_at = get_int_or(run->trace, "eos_at", length);
    size_t rounds = json_array_size(json_object_get(run->trace, "rounds"));
    if (run->early_stop && eos_at < length)
        rounds = (size_t)get_int(run->trace, "rounds_with_eos_early_stop");
    cr_assert_eq(run->request->stream.error.code, 0, "%s", run->request->stream.error.message);
    cr_assert_eq(run->rounds, rounds, "%s: %zu rounds, published %zu", run->name, run->rounds,
                 rounds);
    cr_assert_eq(draft->round, (int32_t)rounds, "%s", run->name);
    cr_assert_eq(draft->text_tokens, eos_at, "%s", run->name);
    cr_assert_eq(draft->finish, eos_at < length ? FINISH_STOP : FINISH_LENGTH, "%s", run->name);
    if (!run->early_stop) {
        cr_assert_eq(draft->forward_passes, get_int(run->trace, "forward_passes"), "%s", run->name);
        for (int32_t i = 0; i < length; i++)
            cr_assert_eq(draft->tokens[i], int_at(answer, (size_t)i), "%s at %d", run->name, i);
    }
}

static void expect_finished(const struct run *run)
{
    const struct draft *draft = &run->request->stream.draft;
    cr_assert_eq(run->request->stream.error.code, 0, "%s", run->request->stream.error.message);
    cr_assert(draft->finish == FINISH_STOP || draft->finish == FINISH_LENGTH, "%s", run->name);
    for (int32_t i = 0; i < draft->text_tokens; i++)
        cr_assert_neq(draft->tokens[i], run->mask_token, "%s at %d", run->name, i);
}

/* Bit for bit: a row's numbers do not depend on what else is in the batch. */
static void expect_as_alone(struct run *run, bool together)
{
    const struct draft *draft = &run->request->stream.draft;
    size_t size = (size_t)draft->length * sizeof *draft->confidence;
    if (!together) {
        memcpy(run->tokens_alone, draft->tokens, size);
        memcpy(run->confidence_alone, draft->confidence, size);
        run->ran_alone = true;
    } else if (run->ran_alone) {
        cr_assert_arr_eq(run->tokens_alone, draft->tokens, size,
                         "%s: other tokens in company than alone", run->name);
        cr_assert_arr_eq(run->confidence_alone, draft->confidence, size,
                         "%s: other confidences in company than alone", run->name);
    }
}

static void run_all(struct trace_test *test, bool early_stop, bool together)
{
    for (size_t i = 0; i < test->count; i++) {
        submit_run(test, &test->runs[i], early_stop);
        while (!together && engine_tick(test->engine, 0))
            ;
    }
    while (engine_tick(test->engine, 0))
        ;
    for (size_t i = 0; i < test->count; i++) {
        struct run *run = &test->runs[i];
        if (test->exact)
            expect_result(run);
        else
            expect_finished(run);
        if (!early_stop)
            expect_as_alone(run, together);
        request_release(run->request);
        run->request = NULL;
    }
    cr_assert_eq(engine_counters_read(test->engine).kv_pages_used, 0);
}

/* Opens a fixture's runs on a backend, in an engine with the given limits. */
static void open_traces(struct trace_test *test, const char *fixture, const char *backend,
                        struct golden_dtypes dtypes, int32_t max_sequences, int32_t max_rows)
{
    json_error_t problem;
    test->file = json_load_file(golden_path(fixture, "traces.json"), 0, &problem);
    cr_assert_not_null(test->file, "%s: %s", fixture, problem.text);
    const json_t *runs = json_object_get(test->file, "runs");
    test->count = json_array_size(runs);
    cr_assert(test->count > 0 && test->count <= RUNS_MAX);
    for (size_t i = 0; i < test->count; i++) {
        test->runs[i].trace = json_array_get(runs, i);
        test->runs[i].name = json_string_value(json_object_get(test->runs[i].trace, "name"));
    }
    test->model = golden_load_model(fixture, backend, dtypes);
    const struct engine_options options = {
        .max_sequences = max_sequences,
        .max_rows_per_tick = max_rows,
        .queue_limit = RUNS_MAX,
        .kv_cache_tokens = (int64_t)max_sequences * CANVAS_MAX,
        .token_limit = test->model->config.vocabulary,
    };
    struct error err = {0};
    cr_assert_eq(engine_create(&test->engine, test->model, &options, &err), 0, "%s", err.message);
    test->exact = dtypes.activations == DTYPE_FLOAT32 && dtypes.weights == DTYPE_FLOAT32;
    if (test->exact)
        engine_observe(test->engine, (struct round_observer){observe_round, test});
}

static void close_traces(struct trace_test *test)
{
    engine_free(test->engine);
    model_free(test->model);
    json_decref(test->file);
}

/* Forgets the runs that keep_run refuses. */
static void keep_runs(struct trace_test *test, bool (*keep_run)(const json_t *trace))
{
    size_t kept = 0;
    for (size_t i = 0; i < test->count; i++) {
        if (keep_run(test->runs[i].trace))
            test->runs[kept++] = test->runs[i];
    }
    test->count = kept;
}

static bool has_stop_token(const json_t *trace)
{
    return json_object_get(trace, "eos_token_id") != NULL;
}

static bool is_short(const json_t *trace)
{
    return json_array_size(json_object_get(trace, "answer")) <= 24;
}

static void expect_traces(const char *fixture, const char *backend)
{
    struct trace_test test = {0};
    open_traces(&test, fixture, backend, GOLDEN_FLOAT32, RUNS_MAX, 4096);
    if (strcmp(backend, "ref") != 0) /* the oracle is slow */
        run_all(&test, false, false);
    run_all(&test, false, true);
    keep_runs(&test, has_stop_token);
    /* The runs of int8 hold no stop id. */
    cr_assert_eq(test.count == 0, strcmp(fixture, "int8") == 0);
    if (test.count > 0)
        run_all(&test, true, true);
    close_traces(&test);
}

Test(traces, plain_matches_the_published_code_on_ref)
{
    expect_traces("plain", "ref");
}

Test(traces, grouped_matches_the_published_code_on_ref)
{
    expect_traces("grouped", "ref");
}

Test(traces, tied_matches_the_published_code_on_ref)
{
    expect_traces("tied", "ref");
}

Test(traces, int8_matches_the_published_code_on_ref)
{
    expect_traces("int8", "ref");
}

Test(traces, plain_matches_the_published_code_on_cpu)
{
    expect_traces("plain", "cpu");
}

Test(traces, grouped_matches_the_published_code_on_cpu)
{
    expect_traces("grouped", "cpu");
}

Test(traces, tied_matches_the_published_code_on_cpu)
{
    expect_traces("tied", "cpu");
}

Test(traces, int8_matches_the_published_code_on_cpu)
{
    expect_traces("int8", "cpu");
}

Test(traces, tiny_matches_the_published_code_on_cpu)
{
    expect_traces("tiny", "cpu");
}

Test(traces, short_runs_of_tiny_match_the_published_code_on_ref)
{
    struct trace_test test = {0};
    open_traces(&test, "tiny", "ref", GOLDEN_FLOAT32, RUNS_MAX, 4096);
    keep_runs(&test, is_short);
    cr_assert_gt(test.count, 0);
    run_all(&test, false, true);
    close_traces(&test);
}

/* Few slots and few rows: sequences queue, wait for rows and take over each other's pages. */
Test(traces, the_published_rounds_do_not_depend_on_how_tight_the_limits_are)
{
    struct trace_test test = {0};
    open_traces(&test, "plain", "cpu", GOLDEN_FLOAT32, 5, 200);
    run_all(&test, false, true);
    run_all(&test, true, true);
    close_traces(&test);
}

/* Numbers of the default model and device. What the texts are is test_commits.c's to judge. */
Test(traces, int8_with_bfloat16_activations_does_not_depend_on_company)
{
    struct trace_test test = {0};
    open_traces(&test, "int8", "cpu", GOLDEN_INT8_BFLOAT16, 3, 200);
    run_all(&test, false, false);
    run_all(&test, false, true);
    close_traces(&test);
}

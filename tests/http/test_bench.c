/*
 * `denoised bench kernels` and `bench rounds` as a script reads them: one JSON document. Not how
 * fast anything is.
 */
#include <criterion/criterion.h>
#include <glob.h>
#include <jansson.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/http/program.h"

static const char *const OPERATIONS[] = {"embed",     "add_rmsnorm", "linear", "rope_store",
                                         "attention", "swiglu",      "gather", "head"};
enum { OPERATION_COUNT = sizeof OPERATIONS / sizeof *OPERATIONS };

static double number(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);

    cr_assert(json_is_number(value), "%s is missing or no number", key);
    return json_number_value(value);
}

static const char *text(const json_t *object, const char *key)
{
    const char *value = json_string_value(json_object_get(object, key));

    cr_assert_not_null(value, "%s is missing or no text", key);
    return value;
}

/* The document of a quick run with more arguments (NULL-terminated, at most four). */
static json_t *run_quick(const char *part, const char *const *more)
{
    const char *arguments[9] = {"bench", part, "--quick", "--json"};
    json_error_t error;

    for (int i = 0; i < 4 && more[i] != NULL; i++)
        arguments[4 + i] = more[i];
    struct outcome outcome = program_run(arguments);
    cr_assert_eq(outcome.status, 0, "%s", outcome.log.data);
    json_t *document = json_loads(outcome.out.data, 0, &error);
    cr_assert_not_null(document, "%s: %s", error.text, outcome.out.data);
    outcome_free(&outcome);
    return document;
}

#define QUICK(...)        run_quick("kernels", (const char *const[]){__VA_ARGS__, NULL})
#define QUICK_ROUNDS(...) run_quick("rounds", (const char *const[]){__VA_ARGS__, NULL})

/* Operations a second at most for the dtype that a key of the document names. */
static double peak_rate(const json_t *document, const char *key)
{
    const json_t *peak;
    size_t i;

    json_array_foreach(json_object_get(document, "peaks"), i, peak)
    {
        if (strcmp(text(peak, "dtype"), text(document, key)) == 0)
            return 1e9 * number(peak, "gops");
    }
    cr_assert_fail("no peak of %s", text(document, key));
    return 0;
}

/* Every operation is there, each beside the right floor. */
static void expect_floors(const json_t *document)
{
    const json_t *kernel;
    double peak = peak_rate(document, "dtype"), weights = peak_rate(document, "weight_dtype");
    double read = 1e9 * number(json_object_get(document, "memory"), "read_gb_per_s");
    int seen[OPERATION_COUNT] = {0};
    size_t i;

    cr_expect_gt(peak, 1e8);
    cr_expect_gt(read, 1e8);
    cr_expect_eq(number(document, "threads"), 1);
    json_array_foreach(json_object_get(document, "kernels"), i, kernel)
    {
        const char *operation = text(kernel, "operation");
        for (int k = 0; k < OPERATION_COUNT; k++)
            seen[k] += strcmp(operation, OPERATIONS[k]) == 0;
        double seconds = 1e-6 * number(kernel, "us");
        bool weighs = strcmp(operation, "linear") == 0 || strcmp(operation, "head") == 0;
        double compute = number(kernel, "flops") / (weighs ? weights : peak);
        double memory = number(kernel, "bytes") / read;
        double percent = 100 * fmax(compute, memory) / seconds;
        cr_expect_gt(seconds, 0, "%s", operation);
        cr_expect_gt(memory, 0, "%s", operation);
        cr_expect_float_eq(number(kernel, "percent_of_floor") / percent, 1, 1e-6, "%s", operation);
        cr_expect_str_eq(text(kernel, "bound"), compute > memory ? "products" : "memory");
    }
    for (int k = 0; k < OPERATION_COUNT; k++)
        cr_expect_gt(seen[k], 0, "%s is missing", OPERATIONS[k]);
    cr_expect_null(json_object_get(document, "left_out"));
}

Test(bench, kernels_lists_every_operation_beside_its_floor)
{
    json_t *document = QUICK("--threads", "1");

    expect_floors(document);
    json_decref(document);
}

Test(bench, int8_products_have_a_peak_of_their_own)
{
    json_t *document = QUICK("--threads", "1", "--dtype", "int8");

    cr_expect_str_eq(text(document, "weight_dtype"), "int8");
    expect_floors(document);
    json_decref(document);
}

Test(bench, kernels_share_out_the_time_of_a_forward_pass)
{
    json_t *document = QUICK("--instructions", "scalar", "--dtype", "float32"), *forward;
    size_t i;

    cr_expect_str_eq(text(document, "instructions"), "scalar");
    cr_expect_str_eq(text(document, "dtype"), "float32");
    json_array_foreach(json_object_get(document, "forward"), i, forward)
    {
        const json_t *shares = json_object_get(forward, "percent_of_time");
        double sum = number(shares, "rest"), linears = 0;
        cr_expect_geq(sum, 0);
        for (int k = 0; k < OPERATION_COUNT; k++)
            sum += number(shares, OPERATIONS[k]);
        cr_expect_float_eq(sum, 100, 1e-6);
        const char *size;
        json_t *share;
        json_object_foreach(json_object_get(forward, "linear_percent_of_time"), size, share)
            linears += json_number_value(share);
        cr_expect_float_eq(linears, number(shares, "linear"), 1e-6);
    }
    cr_expect_eq(i, 4, "two row counts of two models, not %zu", i);
    json_decref(document);
}

/* models/tiny: 6 layers of width 256 and FFN 704; the head sees the rows that are still masked. */
Test(bench, ticks_count_the_products_of_full_batches)
{
    json_t *document = QUICK("--threads", "2"), *tick;
    size_t i;

    json_array_foreach(json_object_get(document, "ticks"), i, tick)
    {
        cr_expect_eq(number(tick, "rows"), 4 * 32);
        cr_expect_eq(number(tick, "ticks"), 5);
        cr_expect_gt(number(tick, "percent_of_peak"), 0);
        cr_expect_lt(number(tick, "products_percent_of_time"), 100);
    }
    cr_expect_eq(i, 2);
    const json_t *tiny = json_array_get(json_object_get(document, "ticks"), 1);
    double layers = 2.0 * 128 * 6 * 256 * (4 * 256 + 3 * 704);
    cr_expect_str_eq(text(tiny, "model"), "tiny");
    cr_expect_gt(number(tiny, "product_flops"), layers);
    cr_expect_leq(number(tiny, "product_flops"), layers + 2.0 * 128 * 4096 * 256);
    json_decref(document);
}

Test(bench, prints_tables_by_default)
{
    struct outcome outcome = RUN("bench", "kernels", "--quick", "--threads", "1");

    cr_expect_eq(outcome.status, 0, "%s", outcome.log.data);
    cr_expect(output_contains(&outcome.out, "registers alone"), "%s", outcome.out.data);
    for (int k = 0; k < OPERATION_COUNT; k++)
        cr_expect(output_contains(&outcome.out, OPERATIONS[k]), "%s", OPERATIONS[k]);
    outcome_free(&outcome);
}

/* ---- rounds ---------------------------------------------------------------------------------- */

/* The shape "toy", and the plan of a quick run. */
enum {
    TOY_LAYERS = 2,
    TOY_WIDTH = 64,
    TOY_FFN = 176,
    TOY_VOCABULARY = 512,
    QUICK_WINDOW = 8,
    QUICK_POSITIONS = 64,
    QUICK_PROMPT = 16,
    QUICK_ANSWER = 32,
};

static const double TOY_LAYER = 4.0 * TOY_WIDTH * TOY_WIDTH + 3.0 * TOY_WIDTH * TOY_FFN;

static double dtype_rate(const json_t *document, const char *dtype)
{
    const json_t *peak;
    size_t i;

    json_array_foreach(json_object_get(document, "peaks"), i, peak)
    {
        if (strcmp(text(peak, "dtype"), dtype) == 0)
            return 1e9 * number(peak, "gops");
    }
    cr_assert_fail("no peak of %s", dtype);
    return 0;
}

/* What a pass over these rows costs, counted anew; `attended` positions by all rows together. */
static void expect_pass(const json_t *document, const json_t *pass, double rows, double head_rows,
                        double attended)
{
    const char *weights = text(pass, "weight_dtype");
    double products =
        2 * rows * TOY_LAYERS * TOY_LAYER + 2 * head_rows * TOY_VOCABULARY * TOY_WIDTH;
    double attention = 4.0 * TOY_LAYERS * attended * TOY_WIDTH;
    double memory = 1e9 * number(json_object_get(document, "memory"), "read_gb_per_s");
    double compute =
        products / dtype_rate(document, weights) + attention / dtype_rate(document, "bfloat16");
    double floor_ms = 1e3 * fmax(compute, number(pass, "bytes") / memory);

    cr_expect_eq(number(pass, "rows"), rows);
    cr_expect_eq(number(pass, "head_rows"), head_rows);
    cr_expect_float_eq(number(pass, "product_flops") / products, 1, 1e-9);
    cr_expect_float_eq(number(pass, "attention_flops") / attention, 1, 1e-9);
    cr_expect_float_eq(number(pass, "floor_ms") / floor_ms, 1, 1e-6);
    cr_expect_float_eq(number(pass, "percent_of_floor") / (100 * floor_ms / number(pass, "ms")), 1,
                       1e-6);
}

Test(bench, rounds_stand_beside_their_floors)
{
    json_t *document = QUICK_ROUNDS("--threads", "1", "--dtype", "bfloat16"), *round, *canvas;
    size_t i;

    json_array_foreach(json_object_get(document, "rounds"), i, round)
    {
        double sequences = (double)(1 << i), rows = QUICK_WINDOW * sequences;
        const json_t *speeds = json_object_get(round, "tokens_per_second");
        double weights = 2 * (TOY_LAYERS * TOY_LAYER + TOY_VOCABULARY * TOY_WIDTH);
        double cached = 2.0 * 2 * TOY_LAYERS * TOY_WIDTH * QUICK_POSITIONS * sequences;
        cr_expect_eq(number(round, "sequences"), sequences);
        expect_pass(document, round, rows, rows, rows * QUICK_POSITIONS);
        /* The backend may pad a matrix, but not by much. */
        cr_expect_geq(number(round, "bytes"), weights + cached);
        cr_expect_leq(number(round, "bytes"), 1.5 * weights + cached);
        cr_expect_float_eq(number(speeds, "4") * 1e-3 * number(round, "ms") / sequences, 4, 1e-6);
        cr_expect_float_eq(number(round, "one_token_tokens_per_second") * 1e-3 *
                               number(round, "one_token_ms") / sequences,
                           1, 1e-6);
        cr_expect_lt(number(round, "head_percent"), 100);
        cr_expect_geq(number(round, "head_percent"), 0);
    }
    cr_expect_eq(i, 2);
    json_array_foreach(json_object_get(document, "canvases"), i, canvas)
    {
        double sequences = (double)(i + 1), positions = QUICK_PROMPT + QUICK_ANSWER;
        expect_pass(document, canvas, sequences * positions, sequences * QUICK_ANSWER,
                    sequences * positions * positions);
    }
    cr_expect_eq(i, 2);
    json_decref(document);
}

Test(bench, calls_have_a_price_and_a_budget)
{
    json_t *document = QUICK_ROUNDS("--price-per-hour", "3.6"), *call, *one;
    size_t i, k;

    json_array_foreach(json_object_get(document, "calls"), i, call)
    {
        double tokens = number(call, "at_once") * number(call, "answer"), ms = number(call, "ms");
        cr_expect_float_eq(number(call, "tokens_per_second") / (1e3 * tokens / ms), 1, 1e-6);
        /* 3.6 an hour is a thousandth a second. */
        cr_expect_float_eq(number(call, "price_of_million_tokens") / (ms / tokens), 1, 1e-6);
        cr_expect_eq(json_is_true(json_object_get(call, "within_800_ms")), ms <= 800);
        cr_expect_geq(number(call, "rounds"), number(call, "steps"));
        cr_expect_geq(number(call, "host_gap_us_per_round"), 0);
    }
    /* One and two at once, in one region with and without a cache and in a window; all formats. */
    size_t formats = json_array_size(json_object_get(document, "models"));
    cr_expect_eq(formats, 2, "%zu", formats);
    cr_expect_eq(i, formats * 2 * 3);
    json_array_foreach(json_object_get(document, "one_by_one"), k, one)
    {
        double ms = number(one, "prompt_ms") + QUICK_ANSWER * number(one, "token_ms");
        cr_expect_float_eq(number(one, "ms") / ms, 1, 1e-6);
    }
    cr_expect_eq(k, formats * 2);
    json_decref(document);
}

Test(bench, rounds_print_tables_and_write_a_report)
{
    const char *path = "build/test-bench-report.json";
    json_error_t error;

    remove(path);
    struct outcome outcome = RUN("bench", "rounds", "--quick", "--report", path);
    cr_expect_eq(outcome.status, 0, "%s", outcome.log.data);
    cr_expect(output_contains(&outcome.out, "Whole canvases"), "%s", outcome.out.data);
    cr_expect(output_contains(&outcome.out, "one region"), "%s", outcome.out.data);
    json_t *document = json_load_file(path, 0, &error);
    cr_expect_not_null(document, "%s", error.text);
    cr_expect_eq(json_array_size(json_object_get(document, "rounds")), 4);
    cr_expect(json_is_true(json_object_get(document, "complete")));
    json_decref(document);
    outcome_free(&outcome);
    remove(path);
}

Test(bench, a_run_that_is_cut_off_leaves_what_it_measured)
{
    const char *path = "build/test-bench-cut-off.json";
    json_error_t error;

    remove(path);
    int out = output_open(), log = output_open();
    pid_t pid =
        program_start((const char *const[]){"bench", "kernels", "--report", path, NULL}, out, log);
    while (access(path, F_OK) != 0 && kill(pid, 0) == 0)
        usleep(1000);
    kill(pid, SIGKILL);
    cr_expect_eq(program_finish(pid), -1);
    json_t *document = json_load_file(path, 0, &error);
    cr_assert_not_null(document, "%s", error.text);
    cr_expect_gt(json_array_size(json_object_get(document, "peaks")), 0);
    cr_expect(json_is_false(json_object_get(document, "complete")));
    json_decref(document);
    close(out);
    close(log);
    remove(path);
    remove("build/test-bench-cut-off.json.part");
}

Test(bench, a_run_that_is_refused_leaves_an_older_report)
{
    const char *path = "build/test-bench-older.json";
    FILE *older = fopen(path, "w");

    cr_assert_not_null(older);
    cr_expect_gt(fputs("{\"of\": \"yesterday\"}", older), 0);
    fclose(older);
    struct outcome outcome =
        RUN("bench", "kernels", "--quick", "--dtype", "fp8", "--device", "cpu", "--report", path);
    cr_expect_eq(outcome.status, 2, "%s", outcome.log.data);
    json_t *document = json_load_file(path, 0, NULL);
    cr_assert_not_null(document);
    cr_expect_str_eq(text(document, "of"), "yesterday");
    json_decref(document);
    outcome_free(&outcome);
    remove(path);
}

static void note(int signal)
{
    (void)signal;
}

/* Waits, up to a minute, until there are such paths, or none. */
static bool wait_for_paths(const char *pattern, bool any)
{
    glob_t found;

    for (int tries = 0; tries < 60000; tries++) {
        int status = glob(pattern, 0, NULL, &found);
        globfree(&found);
        if ((status == 0) == any)
            return true;
        usleep(1000);
    }
    return false;
}

/* Neither Ctrl-C nor a sudden end leaves the checkpoint of 200 MB. */
Test(bench, an_interruption_leaves_nothing_behind)
{
    mkdir("build/test-bench-model", 0777);
    setenv("TMPDIR", "build/test-bench-model", 1);
    setpgid(0, 0);
    cr_assert_eq(getpgrp(), getpid());
    signal(SIGINT, note);
    for (int i = 0; i < 2; i++) {
        int out = output_open(), log = output_open();
        pid_t pid = program_start((const char *const[]){"bench", NULL}, out, log);
        cr_assert(wait_for_paths("build/test-bench-model/*/model.safetensors", true));
        cr_expect_eq(i == 0 ? kill(0, SIGINT) : kill(pid, SIGKILL), 0);
        cr_expect_eq(program_finish(pid), -1);
        cr_expect(wait_for_paths("build/test-bench-model/*", false));
        close(out);
        close(log);
    }
    rmdir("build/test-bench-model");
}

Test(bench, refuses_what_it_does_not_measure)
{
    static const struct {
        const char *arguments[5], *message;
    } cases[] = {
        {{"bench", "disks"}, "bench has no part \"disks\"; name kernels, rounds, or"},
        {{"bench", "--json"}, "--json belongs to: denoised bench kernels"},
        {{"bench", "--instructions=avx2"}, "--instructions belongs to: denoised bench kernels"},
        {{"bench", "--shape=tiny"}, "--shape belongs to: denoised bench rounds"},
        {{"bench", "kernels", "--price-per-hour=1"}, "--price-per-hour belongs to"},
        {{"bench", "rounds", "--device=ref"}, "device \"ref\""},
        {{"bench", "rounds", "--quick", "--report=/nowhere/x"}, "report \"/nowhere/x\""},
        {{"bench", "kernels", "--device=ref"}, "device \"ref\""},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct outcome outcome = program_run(cases[i].arguments);
        cr_expect_eq(outcome.status, 2, "%s", cases[i].message);
        cr_expect_eq(outcome.out.length, 0, "%s", outcome.out.data);
        cr_expect(output_contains(&outcome.log, cases[i].message), "%s", outcome.log.data);
        cr_expect_eq(output_lines(&outcome.log), 1, "%s", outcome.log.data);
        outcome_free(&outcome);
    }
}

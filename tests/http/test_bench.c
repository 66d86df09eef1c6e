/* `denoised bench kernels` as a script reads it: one JSON document. Not how fast anything is. */
#include <criterion/criterion.h>
#include <jansson.h>
#include <math.h>
#include <string.h>

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
static json_t *run_quick(const char *const *more)
{
    const char *arguments[9] = {"bench", "kernels", "--quick", "--json"};
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

#define QUICK(...) run_quick((const char *const[]){__VA_ARGS__, NULL})

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

Test(bench, refuses_what_it_does_not_measure)
{
    static const struct {
        const char *arguments[4], *message;
    } cases[] = {
        {{"bench", "disks"}, "bench has no part \"disks\"; name kernels, or nothing"},
        {{"bench", "--json"}, "--json belongs to: denoised bench kernels"},
        {{"bench", "--instructions=avx2"}, "--instructions belongs to: denoised bench kernels"},
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

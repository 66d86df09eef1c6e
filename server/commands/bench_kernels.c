/* denoised bench kernels: what is common to its parts, and their order. */
#include "server/commands/bench_kernels.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/clock.h"
#include "common/cpu_count.h"
#include "common/error.h"
#include "common/rng.h"
#include "kernels/cpu/instructions.h"
#include "server/commands/runtime.h"

enum {
    SAMPLES_MAX = 99,
    SAMPLE_NS = 1000000, /* shorter calls are timed several at once */
    CASE_NS = 100000000, /* samples are taken until this has passed */
};

void bench_say(const struct bench_kernels *bench, const char *format, ...)
{
    va_list arguments;

    if (bench->document != NULL)
        return;
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    fflush(stdout);
}

void bench_add(const struct bench_kernels *bench, const char *list, json_t *row)
{
    if (bench->document == NULL) {
        json_decref(row);
        return;
    }
    json_t *rows = json_object_get(bench->document, list);
    if (rows == NULL) {
        json_object_set_new(bench->document, list, json_array());
        rows = json_object_get(bench->document, list);
    }
    json_array_append_new(rows, row);
}

void bench_leave_out(const struct bench_kernels *bench, const char *format, ...)
{
    char text[200];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    bench_say(bench, "left out: %s\n", text);
    bench_add(bench, "left_out", json_string(text));
}

void bench_random_bfloat16(uint16_t *out, size_t count)
{
    static const uint32_t key[2] = {1, 2};

    for (size_t i = 0; i < count; i += 4) {
        const uint32_t counter[4] = {(uint32_t)(i / 4), (uint32_t)(i >> 34), 0, 0};
        uint32_t words[4];
        rng_philox(words, counter, key);
        for (size_t k = 0; k < 4 && i + k < count; k++)
            out[i + k] = bfloat16_from_float((float)(2 * rng_uniform(words[k]) - 1));
    }
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

double bench_median(double *values, int count)
{
    qsort(values, (size_t)count, sizeof *values, compare_doubles);
    return values[count / 2];
}

double bench_median_seconds(const struct bench_kernels *bench, void (*run)(void *context),
                            void *context)
{
    double seconds[SAMPLES_MAX];
    int samples = 0;
    int64_t begin = clock_now_ns();

    run(context);
    int64_t first = clock_now_ns() - begin;
    int64_t calls = bench->quick || first >= SAMPLE_NS ? 1 : SAMPLE_NS / (first + 1) + 1;
    int64_t end = clock_now_ns() + (bench->quick ? 0 : CASE_NS);
    do {
        begin = clock_now_ns();
        for (int64_t i = 0; i < calls; i++)
            run(context);
        seconds[samples++] = 1e-9 * (double)(clock_now_ns() - begin) / (double)calls;
    } while (samples < SAMPLES_MAX && clock_now_ns() < end);
    return bench_median(seconds, samples);
}

static void read_cpu_name(char *out, size_t size)
{
    char line[256];
    FILE *file = fopen("/proc/cpuinfo", "re");

    snprintf(out, size, "unknown");
    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        const char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) != 0 || colon == NULL)
            continue;
        snprintf(out, size, "%.*s", (int)strcspn(colon + 2, "\n"), colon + 2);
        break;
    }
    if (file != NULL)
        fclose(file);
}

/* What was measured on, in the first line of the tables or the first keys of the document. */
static void describe(const struct bench_kernels *bench)
{
    char cpu[128], date[32];
    time_t now = (time_t)(clock_wall_us() / 1000000);
    struct tm utc;

    read_cpu_name(cpu, sizeof cpu);
    gmtime_r(&now, &utc);
    strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%SZ", &utc);
    const char *dtype = dtype_name(bench->options.dtype);
    const char *weight_dtype = dtype_name(bench->weight_dtype);
    bench_say(bench, "%s: weights %s, activations %s, %s, threads %d, %s\n", date, weight_dtype,
              dtype, bench->options.instructions, bench->options.threads, cpu);
    if (bench->document == NULL)
        return;
    json_object_update_new(bench->document,
                           json_pack("{s:s, s:s, s:s, s:i, s:s, s:s, s:b}", "date", date, "cpu",
                                     cpu, "instructions", bench->options.instructions, "threads",
                                     bench->options.threads, "weight_dtype", weight_dtype, "dtype",
                                     dtype, "quick", bench->quick));
}

static int choose(struct bench_kernels *bench, const struct settings *settings, struct error *err)
{
    struct cpu_instructions instructions;

    if (strcmp(settings->device, "auto") != 0 && strcmp(settings->device, "cpu") != 0)
        return error_set(err, ERROR_INVALID,
                         "device \"%s\": bench kernels compares the kernels of the CPU with the "
                         "CPU; use cpu or auto",
                         settings->device);
    int code = runtime_find_model(bench->model_directory, settings, err);
    if (code == 0)
        code = runtime_choose_dtype(&bench->options, settings, bench->model_directory, err);
    if (code == 0)
        code = cpu_instructions_choose(&instructions, settings->instructions, bench->options.dtype,
                                       err);
    if (code != 0)
        return code;
    bench->options.instructions = instructions.name;
    bench->options.threads = settings->threads > 0 ? (int)settings->threads : cpu_count();
    bench->weight_dtype = bench->options.weight_dtype;
    bench->weight_element = (double)dtype_size(bench->weight_dtype);
    bench->element = (double)dtype_size(bench->options.dtype);
    bench->quick = settings->quick;
    return 0;
}

int bench_kernels_run(const struct settings *settings)
{
    struct bench_kernels bench = {0};
    struct error err = {0};
    int code = choose(&bench, settings, &err);

    if (code == 0 && settings->json)
        bench.document = json_object();
    if (code == 0)
        describe(&bench);
    if (code == 0)
        code = bench_peaks(&bench, &err);
    if (code == 0)
        code = bench_operations(&bench, &err);
    if (code == 0)
        code = bench_models(&bench, &err);
    if (code == 0 && bench.document != NULL) {
        json_dumpf(bench.document, stdout, JSON_INDENT(1) | JSON_REAL_PRECISION(10));
        putchar('\n');
    }
    json_decref(bench.document);
    return code == 0 ? 0 : runtime_complain(&err);
}

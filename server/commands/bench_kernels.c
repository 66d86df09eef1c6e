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
#include "kernels/cpu/instructions.h"
#include "server/commands/runtime.h"
#include "server/model/config.h"

enum {
    SAMPLES_MAX = 99,
    SAMPLE_NS = 1000000, /* shorter calls are timed several at once */
    CASE_NS = 100000000, /* samples are taken until this has passed */
};

void bench_say(const struct bench_kernels *bench, const char *format, ...)
{
    va_list arguments;

    if (bench->silent)
        return;
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    fflush(stdout);
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

bool bench_fits(const struct bench_kernels *bench, double bytes)
{
    const struct backend_memory memory = backend_memory_read(bench->device);
    return bytes < (memory.total > 0 ? 1 : 0.75) * (double)memory.available;
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

static void describe(const struct bench_kernels *bench, const char *description)
{
    char cpu[128], date[32];
    time_t now = (time_t)(clock_wall_us() / 1000000);
    struct tm utc;

    read_cpu_name(cpu, sizeof cpu);
    gmtime_r(&now, &utc);
    strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%SZ", &utc);
    bench_say(bench, "%s: %s; CPU %s\n", date, description, cpu);
    if (bench->document == NULL)
        return;
    json_object_update_new(bench->document,
                           json_pack("{s:s, s:s, s:s, s:s, s:i, s:b, s:b}", "date", date, "cpu",
                                     cpu, "device", bench->device, "backend", description,
                                     "threads", bench->options.threads, "quick", bench->quick,
                                     "complete", false));
}

int bench_describe(const struct bench_kernels *bench, struct error *err)
{
    struct backend *backend;
    int code = backend_create(&backend, bench->device, &bench->options, err);

    if (code != 0)
        return code;
    describe(bench, backend->ops->description(backend));
    backend_destroy(backend);
    return 0;
}

static void describe_dtypes(const struct bench_kernels *bench)
{
    const char *dtype = dtype_name(bench->options.dtype);
    const char *weight_dtype = dtype_name(bench->options.weight_dtype);
    const char *instructions = bench->options.instructions;

    bench_say(bench, "weights %s, activations %s%s%s\n", weight_dtype, dtype,
              instructions != NULL ? ", " : "", instructions != NULL ? instructions : "");
    if (bench->document == NULL)
        return;
    json_object_set_new(bench->document, "weight_dtype", json_string(weight_dtype));
    json_object_set_new(bench->document, "dtype", json_string(dtype));
    if (instructions != NULL)
        json_object_set_new(bench->document, "instructions", json_string(instructions));
}

int bench_choose_device(struct bench_kernels *bench, const struct settings *settings,
                        struct error *err)
{
    if (strcmp(settings->device, "ref") == 0)
        return error_set(err, ERROR_INVALID,
                         "device \"ref\": it is there to be right, not fast; use auto, cpu or "
                         "another device");
    bench->device = backend_best_name(settings->device);
    bench->on_device = strcmp(bench->device, "cpu") != 0;
    if (bench->on_device) /* which says what it has */
        bench->options.instructions = settings->instructions;
    bench->options.threads = settings->threads > 0 ? (int)settings->threads : cpu_count();
    bench->options.deterministic = settings->deterministic;
    bench->quick = settings->quick;
    bench->silent = settings->json;
    bench->report = settings->report;
    if (bench->silent || bench->report != NULL)
        bench->document = json_object();
    return bench_check_report(bench->report, err);
}

int bench_choose_instructions(struct bench_kernels *bench, const struct settings *settings,
                              struct error *err)
{
    struct cpu_instructions instructions;

    if (bench->on_device)
        return 0;
    int code =
        cpu_instructions_choose(&instructions, settings->instructions, bench->options.dtype, err);
    bench->options.instructions = code == 0 ? instructions.name : NULL;
    return code;
}

static int choose(struct bench_kernels *bench, const struct settings *settings, struct error *err)
{
    int code = bench_choose_device(bench, settings, err);

    if (code == 0)
        code = runtime_find_model(bench->model_directory, settings, err);
    if (code == 0)
        code = runtime_choose_dtype(&bench->options, settings, bench->model_directory, err);
    if (code != 0)
        return code;
    return bench_choose_instructions(bench, settings, err);
}

int bench_kernels_run(const struct settings *settings)
{
    struct bench_kernels bench = {0};
    struct error err = {0};
    int code = choose(&bench, settings, &err);

    if (code == 0)
        code = bench_describe(&bench, &err);
    if (code == 0) {
        describe_dtypes(&bench);
        code = bench_peaks(&bench, &err);
    }
    if (code == 0)
        code = bench_operations(&bench, &err);
    if (code == 0 && !bench.on_device)
        code = bench_models(&bench, &err);
    code = bench_finish(&bench, code, &err);
    return code == 0 ? 0 : runtime_complain(&err);
}

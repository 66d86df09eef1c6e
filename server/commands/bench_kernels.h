/*
 * Parts of `denoised bench kernels` and `denoised bench rounds`: kernels and models beside what the
 * CPU or the device can do at most. One thread.
 */
#ifndef SERVER_COMMANDS_BENCH_KERNELS_H
#define SERVER_COMMANDS_BENCH_KERNELS_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>

#include <jansson.h>

#include "kernels/backend.h"

struct error;
struct settings;

struct bench_kernels {
    const char *device;             /* of backend_create; never "auto" */
    bool on_device;                 /* none of the CPU's: operations only enqueue */
    struct backend_options options; /* of every backend; on the CPU names the instruction set */
    char model_directory[PATH_MAX]; /* kernels alone */
    bool quick;         /* tiny shapes and one sample: whether it works, not how fast it is */
    json_t *document;   /* NULL: tables alone */
    bool silent;        /* no tables: the document goes to the standard output */
    const char *report; /* a file for the document, or NULL */

    /* What bench_peaks found, of all threads together: operations a second of the best product
     * instructions of each dtype (0: none), and bytes a second out of memory. On a device those of
     * a large linear, and bytes that a copy reads and writes. */
    double product_rates[DTYPE_COUNT], read_rate;
};

/*
 * Sets device, options and quick from the settings, but for the dtypes. ERROR_INVALID for a device
 * that is no subject of a benchmark.
 */
int bench_choose_device(struct bench_kernels *bench, const struct settings *settings,
                        struct error *err);

/* On the CPU: names the instruction set for options.dtype in options. */
int bench_choose_instructions(struct bench_kernels *bench, const struct settings *settings,
                              struct error *err);

/*
 * What is measured on, in the first line of the tables or the first keys of the document. Opens the
 * backend for that alone, so its errors come before minutes are spent.
 */
int bench_describe(const struct bench_kernels *bench, struct error *err);

/*
 * Before minutes are spent on what is to be written to `path`, which stays as it is. ERROR_INVALID
 * where that cannot be; NULL is no report.
 */
int bench_check_report(const char *path, struct error *err);

/*
 * Where the document of a run that ended with `code` is to go; frees it. One that began has
 * "complete", and "error" with the message where the code is one. Returns the code, or ERROR_IO
 * where the report cannot be written.
 */
int bench_finish(struct bench_kernels *bench, int code, struct error *err);

/* `denoised bench kernels`; returns the exit status. */
int bench_kernels_run(const struct settings *settings);

/* The parts, in their order. */
int bench_peaks(struct bench_kernels *bench, struct error *err);
int bench_device_peaks(struct bench_kernels *bench, struct error *err); /* called by bench_peaks */
int bench_operations(const struct bench_kernels *bench, struct error *err);
int bench_models(const struct bench_kernels *bench, struct error *err);

double bench_median(double *values, int count); /* count >= 1; sorts them */

/* Median seconds of one call; the first one is a warm-up. */
double bench_median_seconds(const struct bench_kernels *bench, void (*run)(void *context),
                            void *context);

/* A piece of the tables. */
void bench_say(const struct bench_kernels *bench, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/*
 * Puts a row into a list of the document, which then owns it, and writes the report as it is so
 * far; frees the row where there is no document.
 */
void bench_add(const struct bench_kernels *bench, const char *list, json_t *row);

/* Says in table and document what is not measured, and why. */
void bench_leave_out(const struct bench_kernels *bench, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/*
 * Whether so many bytes more can be taken. On the CPU only up to a part of what is there: too much
 * would not fail there, but end the process.
 */
bool bench_fits(const struct bench_kernels *bench, double bytes);

#endif

/* Parts of `denoised bench kernels`: the kernels beside what the CPU can do at most. One thread. */
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
    struct backend_options options; /* of every backend; names the instruction set */
    char model_directory[PATH_MAX];
    bool quick;       /* tiny shapes and one sample: whether it works, not how fast it is */
    json_t *document; /* NULL: tables are printed as the figures come */

    enum dtype weight_dtype;        /* of matrices: what their products are computed in */
    double weight_element, element; /* bytes of a number of a matrix; of all others */

    /* What bench_peaks found, of all threads together: operations a second of the best product
     * instructions of weight_dtype and of options.dtype, and bytes a second out of memory. */
    double weight_product_rate, product_rate, read_rate;
};

/* `denoised bench kernels`; returns the exit status. */
int bench_kernels_run(const struct settings *settings);

/* The parts, in their order. */
int bench_peaks(struct bench_kernels *bench, struct error *err);
int bench_operations(const struct bench_kernels *bench, struct error *err);
int bench_models(const struct bench_kernels *bench, struct error *err);

double bench_median(double *values, int count); /* count >= 1; sorts them */

/* Median seconds of one call; the first one is a warm-up. */
double bench_median_seconds(const struct bench_kernels *bench, void (*run)(void *context),
                            void *context);

/* A piece of the tables; nothing where a JSON document is made. */
void bench_say(const struct bench_kernels *bench, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Puts a row into a list of the document, which then owns it; frees it where tables are printed. */
void bench_add(const struct bench_kernels *bench, const char *list, json_t *row);

/* Says in table and document what is not measured, and why. */
void bench_leave_out(const struct bench_kernels *bench, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* out [count] = bfloat16 numbers between -1 and 1, the same ones every time. */
void bench_random_bfloat16(uint16_t *out, size_t count);

#endif

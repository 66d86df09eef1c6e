/*
 * Parts of `denoised bench rounds`: rounds, whole canvases and calls of a model of random weights
 * beside their floors. One thread.
 */
#ifndef SERVER_COMMANDS_BENCH_ROUNDS_H
#define SERVER_COMMANDS_BENCH_ROUNDS_H

#include <stdint.h>

#include "server/commands/bench_kernels.h"
#include "server/commands/random_work.h"
#include "server/model/model.h"

struct engine;
struct error;
struct settings;

enum { ROUNDS_COUNTS_MAX = 8 };

/* A list of numbers, as many sequences at a time or as many rounds. */
struct rounds_list {
    int count;
    int32_t of[ROUNDS_COUNTS_MAX];
};

/* What is measured. */
struct rounds_plan {
    int32_t window, cached;       /* a round recomputes `window` positions behind `cached` ones */
    int32_t prompt, answer;       /* of whole canvases and of calls */
    struct rounds_list sequences; /* of rounds, rising */
    struct rounds_list canvases;  /* of whole canvases and of calls, rising */
    struct rounds_list steps;     /* of calls */
};

struct bench_rounds {
    struct bench_kernels bench;
    struct rounds_plan plan;
    char name[32]; /* of the shape */
    struct model_config config;
    double price_per_hour; /* NAN: not known */
    struct model *model;
    struct engine *engine; /* has reserved what passes need too */
    int32_t max_sequences; /* that memory has room for, at most those of the plan */
};

/* What a pass over the model has to do at least. */
struct pass_work {
    int32_t rows, head_rows;
    double product_flops;          /* of the weights' products */
    double attention_flops;        /* in the dtype of activations */
    double bytes;                  /* of weights and of cached K and V, each read once */
    double head_flops, head_bytes; /* of these, those of the head's product and its weight */
};

struct pass_figures {
    struct pass_work work;
    double seconds, seconds_without_head;
    double floor_s;
    const char *bound; /* "memory", "products" */
};

/* Sets the plan, and name and config of the shape: for the CPU, for a device, or for --quick. */
void rounds_choose_plan(struct bench_rounds *rounds, const char *shape); /* NULL: by default */

/*
 * Times model_forward on such rows, with the head and where with_and_without is set without it too.
 * On a device the cache of all canvases is filled first, once for a model.
 */
int pass_measure(struct pass_figures *figures, const struct bench_rounds *rounds,
                 const struct pass_shape *shape, bool with_and_without, struct error *err);

/* What the head takes at most beside its product: all of it, less the floor of that. */
double pass_statistics_seconds(const struct bench_rounds *rounds,
                               const struct pass_figures *figures);

/* K and V of every canvas of the pool, from random tokens. */
int pass_fill_cache(const struct bench_rounds *rounds, struct error *err);

/* Calls through the engine, and beside them what one token a pass would take. */
int bench_calls(const struct bench_rounds *rounds, struct error *err);

/* `denoised bench rounds`; returns the exit status. */
int bench_rounds_run(const struct settings *settings);

#endif

/*
 * What the operations of one decoder layer work on: a backend of its own with matrices of random
 * numbers, and the rows of a step. One thread.
 */
#ifndef SERVER_COMMANDS_BENCH_WORKLOAD_H
#define SERVER_COMMANDS_BENCH_WORKLOAD_H

#include "kernels/backend.h"
#include "server/commands/bench_kernels.h"
#include "server/commands/random_work.h"

/* The sizes of a decoder layer with as many heads for K and V as for Q, and of the head. */
struct layer_shape {
    int32_t width, heads, head_dim, ffn_width, vocabulary;
};

/* Rows of a step: `sequences` neighbouring canvases of `positions`, `rows` of each recomputed. */
struct rows_shape {
    int32_t sequences, rows, positions;
};

struct workload {
    const struct bench_kernels *bench;
    struct layer_shape shape;
    struct backend *backend;
    int32_t max_rows, max_positions, kv_pages;

    float *residual;       /* [max_rows, width] float32 */
    void *in, *out;        /* [max_rows, 2 * ffn_width], the widest matrix there is */
    float *scale;          /* [width] */
    struct weight *weight; /* NULL, or what workload_set_weight made */

    struct random_rows rows; /* each of them judged */
    int32_t programs;        /* numbers of step.program that were used */
};

/*
 * Makes the backend, and all but the weight and the rows. max_rows is those of all sequences
 * together; the KV cache has kv_pages for canvases of at most max_positions.
 */
int workload_create(struct workload *workload, const struct bench_kernels *bench,
                    const struct layer_shape *shape, int32_t max_rows, int32_t max_positions,
                    int32_t kv_pages, struct error *err);
void workload_destroy(struct workload *workload);

/*
 * Makes a matrix of random numbers [rows, columns], the only one: the last one is destroyed first.
 * `fits` is false, and nothing made, where it would take most of the memory there is.
 */
int workload_set_weight(struct workload *workload, bool *fits, int64_t rows, int64_t columns,
                        struct error *err);

/* Sets the step's rows: of every sequence those from position `first` on. */
void workload_set_rows(struct workload *workload, const struct rows_shape *rows, int32_t first);

/* Fills the KV cache of these canvases and then sets the rows, from position 0 on. */
int workload_fill_cache(struct workload *workload, const struct rows_shape *rows,
                        struct error *err);

#endif

/*
 * What benchmarks give a model to do, from random tokens: the rows of a step, and calls of an
 * engine. One thread.
 */
#ifndef SERVER_COMMANDS_RANDOM_WORK_H
#define SERVER_COMMANDS_RANDOM_WORK_H

#include "kernels/backend.h"
#include "server/engine/request.h"

struct engine;
struct error;
struct model_config;

/* Rows of a step: of each of `sequences` canvases those from `first` on. */
struct pass_shape {
    int32_t sequences, first, rows;
    int32_t kv_end;    /* what every row attends to; 0: what lies before it, and itself */
    int32_t head_rows; /* of each sequence, its last ones: the best token of each */
};

int32_t pass_positions(const struct pass_shape *shape); /* of a canvas, as far as it is used */

struct random_rows {
    struct step_rows step;
    struct head_batch batch;
    struct head_result result;
    /* Where step and batch point: [rows], [head rows] and [sequences, stride]. */
    int32_t *token, *sequence, *position, *kv_end, *gather, *page_table;
    uint8_t *shadow;
    struct head_row *head_row;
};

/* Room for any shape of at most so many rows, head rows and pages, all sequences together. */
int random_rows_create(struct random_rows *rows, int32_t max_rows, int32_t max_head_rows,
                       int32_t max_pages, struct error *err);
void random_rows_destroy(struct random_rows *rows);

/* Sets step and batch; the pages of the sequences lie one behind the other. */
void random_rows_set(struct random_rows *rows, const struct pass_shape *shape, int32_t vocabulary,
                     int32_t mask_token);

/* An answer of one region, as many positions a round as `steps` asks for. */
struct random_call {
    int32_t prompt, answer, steps;
    enum cache_mode cache;
};

/*
 * Hands `count` such calls over. *requests [count] is the caller's, after a failure too, and goes
 * back through random_calls_release.
 */
int random_calls_submit(struct request ***requests, int32_t count, struct engine *engine,
                        const struct model_config *config, const struct random_call *call,
                        struct error *err);
void random_calls_release(struct request **requests, int32_t count);

#endif

#include "server/engine/step_batch.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

#include "common/error.h"

int step_batch_create(struct step_batch *batch, int32_t max_rows, int32_t slots, int32_t mask_token,
                      int32_t token_limit, struct error *err)
{
    size_t rows = (size_t)max_rows;
    *batch = (struct step_batch){
        .max_rows = max_rows,
        .mask_token = mask_token,
        .token_limit = token_limit,
        .token = calloc(rows, sizeof *batch->token),
        .line = calloc(rows, sizeof *batch->line),
        .position = calloc(rows, sizeof *batch->position),
        .kv_end = calloc(rows, sizeof *batch->kv_end),
        .gather = calloc(rows, sizeof *batch->gather),
        .shadow = calloc(rows, sizeof *batch->shadow),
        .head = calloc(rows, sizeof *batch->head),
        .biases = calloc((size_t)slots * MODEL_STOP_TOKENS_MAX, sizeof *batch->biases),
    };
    if (batch->token != NULL && batch->line != NULL && batch->position != NULL &&
        batch->kv_end != NULL && batch->gather != NULL && batch->shadow != NULL &&
        batch->head != NULL && batch->biases != NULL)
        return 0;
    step_batch_free(batch);
    return error_set(err, ERROR_MEMORY,
                     "out of memory for a batch of %d rows: lower max_rows_per_tick", max_rows);
}

void step_batch_free(struct step_batch *batch)
{
    free(batch->token);
    free(batch->line);
    free(batch->position);
    free(batch->kv_end);
    free(batch->gather);
    free(batch->shadow);
    free(batch->head);
    free(batch->biases);
    *batch = (struct step_batch){0};
}

void step_batch_clear(struct step_batch *batch)
{
    batch->rows = 0;
    batch->gathered = 0;
    batch->head_rows = 0;
}

/*
 * The window's rows; returns the row of window.begin. An unconditional row set (guidance) sees
 * masks in place of the prompt.
 */
static int32_t add_window(struct step_batch *batch, const struct sequence *sequence, int32_t line,
                          bool conditional)
{
    const struct canvas *canvas = &sequence->canvas;
    int32_t first = batch->rows;
    for (int32_t i = sequence->window.begin; i < sequence->window.end; i++) {
        int32_t row = batch->rows++;
        bool hidden = !conditional && i < canvas->prompt_length;
        batch->token[row] = hidden ? canvas->mask_token : canvas->tokens[i];
        batch->line[row] = line;
        batch->position[row] = i;
        batch->kv_end[row] = canvas->length;
    }
    return first;
}

static int32_t add_gather(struct step_batch *batch, int32_t row)
{
    batch->gather[batch->gathered] = row;
    return batch->gathered++;
}

/* Bans the stop ids of a sequence that ignores them; returns how many biases its rows have. */
static int32_t set_biases(struct token_bias *biases, const struct decode_params *params)
{
    if (!params->ignore_eos)
        return 0;
    for (int32_t i = 0; i < params->stop_token_count; i++)
        biases[i] = (struct token_bias){params->stop_tokens[i], -INFINITY};
    return params->stop_token_count;
}

/* A head row without its position and hidden lines: what all masks of a sequence have in common. */
static struct head_row head_row_of(const struct sequence *sequence, int32_t biases_begin,
                                   int32_t bias_count)
{
    const struct decode_params *params = &sequence->request->params;
    return (struct head_row){
        .partner = -1,
        .guidance = params->cfg_scale,
        .given = -1,
        .temperature = params->temperature,
        .top_k = params->top_k,
        .top_p = params->top_p,
        .min_p = params->min_p,
        .seed = sequence->seed,
        .round = (uint32_t)sequence->rounds_done + 1,
        .repetition_penalty = 1,
        .biases_begin = biases_begin,
        .biases_end = biases_begin + bias_count,
        .allowed = -1,
    };
}

void step_batch_add(struct step_batch *batch, struct sequence *sequence, int32_t slot,
                    int32_t partner_line)
{
    assert(sequence_rows(sequence) <= batch->max_rows - batch->rows);
    const struct canvas *canvas = &sequence->canvas;
    bool guided = sequence_is_guided(sequence);
    int32_t rows = add_window(batch, sequence, slot, true);
    int32_t partner_rows = guided ? add_window(batch, sequence, partner_line, false) : 0;

    int32_t biases_begin = slot * MODEL_STOP_TOKENS_MAX;
    int32_t bias_count = set_biases(batch->biases + biases_begin, &sequence->request->params);
    const struct head_row common = head_row_of(sequence, biases_begin, bias_count);
    sequence->head_begin = batch->head_rows;
    for (int32_t i = sequence->region.begin; i < sequence->region.end; i++) {
        if (canvas->tokens[i] != canvas->mask_token)
            continue;
        struct head_row *head = &batch->head[batch->head_rows++];
        *head = common;
        head->position = (uint32_t)i;
        head->hidden = add_gather(batch, rows + i - sequence->window.begin);
        if (guided)
            head->partner = add_gather(batch, partner_rows + i - sequence->window.begin);
    }
    sequence->head_end = batch->head_rows;
}

struct step_rows step_batch_rows(const struct step_batch *batch, const int32_t *page_table,
                                 int32_t page_table_stride)
{
    return (struct step_rows){
        .rows = batch->rows,
        .token = batch->token,
        .sequence = batch->line,
        .position = batch->position,
        .kv_end = batch->kv_end,
        .shadow = batch->shadow,
        .page_table_stride = page_table_stride,
        .page_table = page_table,
        .gathered = batch->gathered,
        .gather = batch->gather,
    };
}

struct head_batch step_batch_head(const struct step_batch *batch)
{
    return (struct head_batch){
        .rows = batch->head_rows,
        .row = batch->head,
        .biases = batch->biases,
        .mask_token = batch->mask_token,
        .token_limit = batch->token_limit,
    };
}

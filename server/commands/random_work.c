#include "server/commands/random_work.h"

#include <stdlib.h>

#include "common/error.h"
#include "common/rng.h"
#include "server/engine/engine.h"
#include "server/engine/kv_pages.h"

/* Any but the mask. */
static int32_t random_token(int32_t vocabulary, int32_t mask_token, uint32_t place)
{
    int32_t token = (int32_t)(rng_word(1, place, 1, RNG_ORIGIN, 0) % (uint32_t)vocabulary);
    return token != mask_token ? token : (token + 1) % vocabulary;
}

/* ---- rows ------------------------------------------------------------------------------------ */

int32_t pass_positions(const struct pass_shape *shape)
{
    return shape->kv_end > 0 ? shape->kv_end : shape->first + shape->rows;
}

int random_rows_create(struct random_rows *rows, int32_t max_rows, int32_t max_head_rows,
                       int32_t max_pages, struct error *err)
{
    size_t count = (size_t)max_rows, head_rows = (size_t)max_head_rows + 1;

    *rows = (struct random_rows){
        .token = calloc(count, sizeof *rows->token),
        .sequence = calloc(count, sizeof *rows->sequence),
        .position = calloc(count, sizeof *rows->position),
        .kv_end = calloc(count, sizeof *rows->kv_end),
        .gather = calloc(head_rows, sizeof *rows->gather),
        .page_table = calloc((size_t)max_pages, sizeof *rows->page_table),
        .shadow = calloc(count, sizeof *rows->shadow),
        .head_row = calloc(head_rows, sizeof *rows->head_row),
    };
    int code = 0;
    if (rows->token == NULL || rows->sequence == NULL || rows->position == NULL ||
        rows->kv_end == NULL || rows->gather == NULL || rows->page_table == NULL ||
        rows->shadow == NULL || rows->head_row == NULL)
        code = error_set(err, ERROR_MEMORY, "no memory left for the rows of a step");
    if (code == 0)
        code = head_result_create(&rows->result, max_head_rows, err);
    if (code != 0)
        random_rows_destroy(rows);
    return code;
}

void random_rows_destroy(struct random_rows *rows)
{
    void *tables[] = {rows->token,  rows->sequence,   rows->position, rows->kv_end,
                      rows->gather, rows->page_table, rows->shadow,   rows->head_row};

    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++)
        free(tables[i]);
    head_result_free(&rows->result);
    *rows = (struct random_rows){0};
}

void random_rows_set(struct random_rows *rows, const struct pass_shape *shape, int32_t vocabulary,
                     int32_t mask_token)
{
    int32_t count = shape->sequences * shape->rows, head_rows = 0;
    int32_t pages = kv_pages_needed(pass_positions(shape));

    for (int32_t i = 0; i < count; i++) {
        int32_t place = i % shape->rows, position = shape->first + place;
        rows->token[i] = random_token(vocabulary, mask_token, (uint32_t)i);
        rows->sequence[i] = i / shape->rows;
        rows->position[i] = position;
        rows->kv_end[i] = shape->kv_end > 0 ? shape->kv_end : position + 1;
        if (place < shape->rows - shape->head_rows)
            continue;
        rows->gather[head_rows] = i;
        rows->head_row[head_rows] = head_row_greedy(head_rows);
        head_rows++;
    }
    for (int32_t i = 0; i < shape->sequences * pages; i++)
        rows->page_table[i] = i;
    rows->step = (struct step_rows){.rows = count,
                                    .token = rows->token,
                                    .sequence = rows->sequence,
                                    .position = rows->position,
                                    .kv_end = rows->kv_end,
                                    .shadow = rows->shadow,
                                    .page_table_stride = pages,
                                    .page_table = rows->page_table,
                                    .gathered = head_rows,
                                    .gather = rows->gather};
    rows->batch = (struct head_batch){.rows = head_rows,
                                      .row = rows->head_row,
                                      .mask_token = mask_token,
                                      .token_limit = vocabulary};
}

/* ---- calls ----------------------------------------------------------------------------------- */

static int submit(struct request **out, struct engine *engine, const struct model_config *config,
                  const struct random_call *call, int32_t index, struct error *err)
{
    struct decode_params params = decode_params_neutral(call->answer, call->answer);
    int32_t *prompt = calloc((size_t)call->prompt, sizeof *prompt);

    if (prompt == NULL)
        return error_set(err, ERROR_MEMORY, "no memory left for a prompt");
    params.selection = SELECTION_STEPS;
    params.steps = call->steps;
    params.cache = call->cache;
    params.ignore_eos = true; /* every position is text */
    for (int32_t i = 0; i < call->prompt; i++)
        prompt[i] = random_token(config->vocabulary, config->mask_token,
                                 (uint32_t)(index * call->prompt + i));
    int code = request_create(out, prompt, call->prompt, &params, config->mask_token, err);
    if (code == 0)
        code = engine_submit(engine, *out, err);
    free(prompt);
    return code;
}

int random_calls_submit(struct request ***requests, int32_t count, struct engine *engine,
                        const struct model_config *config, const struct random_call *call,
                        struct error *err)
{
    int code = 0;

    *requests = calloc((size_t)count, sizeof **requests);
    if (*requests == NULL)
        return error_set(err, ERROR_MEMORY, "no memory left for the requests");
    for (int32_t i = 0; i < count && code == 0; i++)
        code = submit(&(*requests)[i], engine, config, call, i, err);
    return code;
}

void random_calls_release(struct request **requests, int32_t count)
{
    for (int32_t i = 0; requests != NULL && i < count; i++)
        request_release(requests[i]);
    free(requests);
}

/* Steps of a loaded model that nobody waits for, so that the first real ones find all prepared. */
#include <stdlib.h>

#include "common/clock.h"
#include "common/error.h"
#include "server/model/model.h"

/* Rows that nobody has asked for; the page that they store to and see is not in use yet. */
struct rehearsal {
    int32_t *zeros;             /* [max_rows] */
    int32_t *kv_end;            /* [max_rows] a page, so that attention has some work */
    uint8_t *shadow;            /* the same */
    struct head_row *head_rows; /* [max_head_rows] */
    struct head_result result;
};

static void rehearsal_free(struct rehearsal *rehearsal)
{
    free(rehearsal->zeros);
    free(rehearsal->kv_end);
    free(rehearsal->shadow);
    free(rehearsal->head_rows);
    head_result_free(&rehearsal->result);
}

static int rehearsal_create(struct rehearsal *rehearsal, const struct backend_limits *limits,
                            struct error *err)
{
    size_t rows = (size_t)limits->max_rows, head_rows = (size_t)limits->max_head_rows;
    *rehearsal = (struct rehearsal){
        .zeros = calloc(rows, sizeof *rehearsal->zeros),
        .kv_end = calloc(rows, sizeof *rehearsal->kv_end),
        .shadow = calloc(rows, sizeof *rehearsal->shadow),
        .head_rows = calloc(head_rows + 1, sizeof *rehearsal->head_rows),
    };
    if (rehearsal->zeros == NULL || rehearsal->kv_end == NULL || rehearsal->shadow == NULL ||
        rehearsal->head_rows == NULL)
        return error_set(err, ERROR_MEMORY, "no memory left to rehearse steps of %d rows",
                         limits->max_rows);
    for (int32_t i = 0; i < limits->max_rows; i++)
        rehearsal->kv_end[i] =
            limits->max_positions < KV_PAGE_POSITIONS ? limits->max_positions : KV_PAGE_POSITIONS;
    for (int32_t i = 0; i < limits->max_head_rows; i++)
        rehearsal->head_rows[i] = head_row_greedy(i);
    return head_result_create(&rehearsal->result, limits->max_head_rows, err);
}

static int rehearse(struct model *model, struct rehearsal *rehearsal, int32_t rows,
                    struct error *err)
{
    const struct backend_limits *limits = &model->limits;
    int32_t judged = rows < limits->max_head_rows ? rows : limits->max_head_rows;
    const struct step_rows step = {
        .rows = rows,
        .token = rehearsal->zeros,
        .sequence = rehearsal->zeros,
        .position = rehearsal->zeros,
        .kv_end = rehearsal->kv_end,
        .shadow = rehearsal->shadow,
        .page_table_stride = 1,
        .page_table = rehearsal->zeros,
        .gathered = judged,
        .gather = rehearsal->zeros,
        .rehearsal = true,
    };
    const struct head_batch batch = {
        .rows = judged,
        .row = rehearsal->head_rows,
        .mask_token = model->config.mask_token,
        .token_limit = model->config.embedding_rows,
    };
    return model_forward(model, &step, &batch, &rehearsal->result, err);
}

int model_warm_up(struct model *model, int64_t limit_us, struct error *err)
{
    const char *device = model->backend->ops->name;
    int32_t most = model->limits.max_rows, rows = backend_next_bucket(device, 0);
    int64_t started_us = clock_now_us();
    struct rehearsal rehearsal;
    if (rows == 0)
        return 0;
    int code = rehearsal_create(&rehearsal, &model->limits, err);
    bool more = code == 0;
    while (more) {
        code = rehearse(model, &rehearsal, rows < most ? rows : most, err);
        more = code == 0 && rows < most && clock_now_us() - started_us < limit_us;
        rows = backend_next_bucket(device, rows);
    }
    rehearsal_free(&rehearsal);
    return code;
}

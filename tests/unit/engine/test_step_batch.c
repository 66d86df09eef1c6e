#include "server/engine/step_batch.h"

#include <math.h>

#include <criterion/criterion.h>

#include "common/error.h"

enum { MASK = 99, SLOTS = 2 };

struct packed {
    struct request *request;
    struct sequence sequence;
    struct step_batch batch;
};

/* A sequence with prompt 5, 6, 7, answer 8 # # # and the window of its second round. */
static void pack(struct packed *packed, const struct decode_params *params)
{
    struct error err = {0};
    const int32_t prompt[] = {5, 6, 7};
    *packed = (struct packed){0};
    cr_assert_eq(request_create(&packed->request, prompt, 3, params, 1, MASK, &err), 0);
    cr_assert_eq(canvas_create(&packed->sequence.canvas, 16, &err), 0);
    cr_assert_eq(step_batch_create(&packed->batch, 32, SLOTS, MASK, 90, &err), 0);
    struct sequence *sequence = &packed->sequence;
    sequence_begin(sequence, packed->request, 0, MASK, 0);
    sequence_plan_round(sequence);
    canvas_commit(&sequence->canvas, 3, 8, 0.5f, -1);
    sequence->rounds_done = 1;
    sequence->region_rounds_done = 1;
    sequence_plan_round(sequence);
    step_batch_clear(&packed->batch);
    step_batch_add(&packed->batch, sequence, 1, SLOTS + 1);
}

static void unpack(struct packed *packed)
{
    step_batch_free(&packed->batch);
    canvas_free(&packed->sequence.canvas);
    request_release(packed->request);
}

static void expect_row(const struct packed *packed, int32_t row, int32_t token, int32_t line,
                       int32_t position)
{
    const struct step_batch *batch = &packed->batch;
    cr_expect_eq(batch->token[row], token, "row %d", row);
    cr_expect_eq(batch->line[row], line, "row %d", row);
    cr_expect_eq(batch->position[row], position, "row %d", row);
    cr_expect_eq(batch->kv_end[row], packed->sequence.canvas.length, "row %d", row);
    cr_expect_eq(batch->shadow[row], 0, "row %d", row);
}

Test(step_batch, a_block_window_attends_to_the_whole_canvas_and_asks_for_its_masks)
{
    struct decode_params params = decode_params_neutral(5, 4);
    params.cache = CACHE_DUAL;
    params.seed = 42;
    params.temperature = 0.5f;
    params.top_k = 7;
    params.top_p = 0.75f;
    params.min_p = 0.25f;
    struct packed packed;
    pack(&packed, &params);
    const struct step_batch *batch = &packed.batch;
    cr_assert_eq(batch->rows, 4);
    expect_row(&packed, 0, 8, 1, 3);
    for (int32_t i = 1; i < 4; i++)
        expect_row(&packed, i, MASK, 1, 3 + i);

    cr_assert_eq(batch->head_rows, 3);
    cr_assert_eq(batch->gathered, 3);
    for (int32_t i = 0; i < 3; i++) {
        const struct head_row *head = &batch->head[i];
        cr_expect_eq(batch->gather[head->hidden], 1 + i);
        cr_expect_eq(head->partner, -1);
        cr_expect_eq(head->position, (uint32_t)(4 + i));
        cr_expect_eq(head->round, 2, "the request's own round, from 1");
        cr_expect_eq(head->seed, 42);
        cr_expect_float_eq((double)head->temperature, 0.5, 0);
        cr_expect_eq(head->top_k, 7);
        cr_expect_float_eq((double)head->top_p, 0.75, 0);
        cr_expect_float_eq((double)head->min_p, 0.25, 0);
        cr_expect_eq(head->given, -1);
        cr_expect_eq(head->allowed, -1);
        cr_expect_float_eq((double)head->repetition_penalty, 1, 0);
        cr_expect_eq(head->biases_begin, head->biases_end);
    }
    cr_expect_eq(packed.sequence.head_begin, 0);
    cr_expect_eq(packed.sequence.head_end, 3);
    unpack(&packed);
}

Test(step_batch, a_guided_sequence_brings_a_partner_that_sees_no_prompt)
{
    struct decode_params params = decode_params_neutral(5, 4);
    params.cfg_scale = 1.5f;
    struct packed packed;
    pack(&packed, &params);
    const struct step_batch *batch = &packed.batch;
    const int32_t tokens[] = {5, 6, 7, 8, MASK, MASK, MASK, MASK};
    cr_assert_eq(batch->rows, 16);
    for (int32_t i = 0; i < 8; i++) {
        expect_row(&packed, i, tokens[i], 1, i);
        expect_row(&packed, 8 + i, i < 3 ? MASK : tokens[i], SLOTS + 1, i);
    }
    cr_assert_eq(batch->head_rows, 3, "the masks of the region only");
    cr_assert_eq(batch->gathered, 6);
    for (int32_t i = 0; i < 3; i++) {
        const struct head_row *head = &batch->head[i];
        cr_expect_eq(batch->gather[head->hidden], 4 + i);
        cr_expect_eq(batch->gather[head->partner], 12 + i);
        cr_expect_float_eq((double)head->guidance, 1.5, 0);
    }
    unpack(&packed);
}

Test(step_batch, ignored_stop_ids_are_banned_in_every_row)
{
    struct decode_params params = decode_params_neutral(5, 4);
    params.ignore_eos = true;
    params.stop_tokens[0] = 11;
    params.stop_tokens[1] = 12;
    params.stop_token_count = 2;
    struct packed packed;
    pack(&packed, &params);
    const struct head_batch head = step_batch_head(&packed.batch);
    for (int32_t i = 0; i < head.rows; i++) {
        const struct head_row *row = &head.row[i];
        cr_assert_eq(row->biases_end - row->biases_begin, 2);
        for (int32_t k = 0; k < 2; k++) {
            const struct token_bias *bias = &head.biases[row->biases_begin + k];
            cr_expect_eq(bias->token, 11 + k);
            cr_expect(isinf(bias->bias) && bias->bias < 0);
        }
    }
    cr_expect_eq(head.mask_token, MASK);
    cr_expect_eq(head.token_limit, 90);
    unpack(&packed);
}

#include "server/engine/step_batch.h"

#include <math.h>

#include <criterion/criterion.h>

#include "common/error.h"

enum { MASK = 99, SLOTS = 2 };

static const struct step_batch_limits LIMITS = {
    .max_rows = 32,
    .slots = SLOTS,
    .positions = 32,
    .vocabulary = 100,
    .token_limit = 90,
    .mask_token = MASK,
    .eos_tokens = (const int32_t[]){12, 13},
    .eos_token_count = 2,
};

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
    cr_assert_eq(request_create(&packed->request, prompt, 3, params, MASK, &err), 0);
    cr_assert_eq(canvas_create(&packed->sequence.canvas, 16, &err), 0);
    cr_assert_eq(step_batch_create(&packed->batch, &LIMITS, &err), 0);
    struct sequence *sequence = &packed->sequence;
    sequence_begin(sequence, packed->request, MASK, 0);
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

static const struct token_bias *find_bias(const struct head_batch *head, const struct head_row *row,
                                          int32_t token)
{
    const struct token_bias *found = NULL;
    for (int32_t i = row->biases_begin; i < row->biases_end; i++) {
        if (head->biases[i].token != token)
            continue;
        cr_expect_null(found, "token %d has two biases", token);
        found = &head->biases[i];
    }
    return found;
}

Test(step_batch, biases_and_the_bans_of_stop_ids_and_eos_are_combined)
{
    const struct token_bias biases[] = {{30, 1.5f}, {12, 4}, {31, -INFINITY}};
    struct decode_params params = decode_params_neutral(5, 4);
    params.biases = biases;
    params.bias_count = 3;
    params.ignore_eos = true;
    params.stop_tokens[0] = 11;
    params.stop_tokens[1] = 12;
    params.stop_token_count = 2;
    params.logits_eos_inf = true; /* 12 and 13 */
    struct packed packed;
    pack(&packed, &params);
    const struct head_batch head = step_batch_head(&packed.batch);
    cr_assert_eq(head.rows, 3);
    for (int32_t i = 0; i < head.rows; i++) {
        const struct head_row *row = &head.row[i];
        cr_expect_eq(row->biases_end - row->biases_begin, 5);
        cr_expect_float_eq((double)find_bias(&head, row, 30)->bias, 1.5, 0);
        for (int32_t token = 11; token <= 13; token++)
            cr_expect(isinf(find_bias(&head, row, token)->bias));
        cr_expect(isinf(find_bias(&head, row, 31)->bias));
    }
    unpack(&packed);
}

static void expect_counts(const struct head_batch *head, const struct head_row *row,
                          const struct token_count *expected, int32_t count)
{
    cr_assert_eq(row->counts_end - row->counts_begin, count);
    for (int32_t i = 0; i < count; i++) {
        const struct token_count *found = &head->counts[row->counts_begin + i];
        cr_expect(found->token == expected[i].token && found->in_answer == expected[i].in_answer &&
                      found->in_prompt == expected[i].in_prompt,
                  "%d: %d in the answer, %d in the prompt", found->token, found->in_answer,
                  found->in_prompt);
    }
}

Test(step_batch, penalties_count_the_answer_and_the_repetition_penalty_the_prompt_too)
{
    struct decode_params params = decode_params_neutral(5, 4);
    params.frequency_penalty = 0.5f;
    params.presence_penalty = 0.25f;
    struct packed packed;
    pack(&packed, &params);
    struct head_batch head = step_batch_head(&packed.batch);
    expect_counts(&head, &head.row[0], (const struct token_count[]){{8, 1, 0}}, 1);
    cr_expect_float_eq((double)head.row[2].frequency_penalty, 0.5, 0);
    cr_expect_float_eq((double)head.row[2].presence_penalty, 0.25, 0);
    unpack(&packed);

    params.repetition_penalty = 1.5f;
    pack(&packed, &params);
    canvas_commit(&packed.sequence.canvas, 4, 6, 0.5f, -1);
    canvas_commit(&packed.sequence.canvas, 5, 8, 0.5f, -1);
    for (int32_t again = 0; again < 2; again++) { /* the scratch is clean after each use */
        step_batch_clear(&packed.batch);
        step_batch_add(&packed.batch, &packed.sequence, 0, SLOTS);
        head = step_batch_head(&packed.batch);
        const struct token_count expected[] = {{5, 0, 1}, {6, 1, 1}, {7, 0, 1}, {8, 2, 0}};
        expect_counts(&head, &head.row[0], expected, 4);
    }
    cr_expect_float_eq((double)head.row[0].repetition_penalty, 1.5, 0);
    unpack(&packed);
}

Test(step_batch, an_allowed_set_has_a_line_of_its_own)
{
    const uint32_t allowed[] = {1, 2, 3, 4};
    const struct decode_params params = decode_params_neutral(5, 4);
    struct packed packed;
    pack(&packed, &params);
    cr_expect_eq(packed.batch.head[0].allowed, -1);
    packed.request->allowed = allowed;
    step_batch_clear(&packed.batch);
    step_batch_add(&packed.batch, &packed.sequence, 0, SLOTS);
    step_batch_add(&packed.batch, &packed.sequence, 1, SLOTS + 1);
    const struct head_batch head = step_batch_head(&packed.batch);
    cr_assert_eq(head.rows, 6);
    for (int32_t i = 0; i < 6; i++) {
        cr_assert_eq(head.row[i].allowed, i / 3);
        cr_expect_arr_eq(head.allowed + (ptrdiff_t)head.row[i].allowed * 4, allowed,
                         sizeof allowed);
    }
    unpack(&packed);
}

Test(step_batch, whether_a_token_is_left_to_choose_is_known_beforehand)
{
    const uint32_t allowed[] = {0, 0, 1u << 3, 1u << 2 | 1u << 3}; /* 67; 98, 99 = mask */
    struct token_bias biases[] = {{67, -2}, {98, -INFINITY}};
    struct decode_params params = decode_params_neutral(5, 4);
    params.biases = biases;
    params.bias_count = 2;
    struct packed packed;
    pack(&packed, &params);
    cr_expect(step_batch_can_choose(&LIMITS, packed.request));
    packed.request->allowed = allowed;
    cr_expect(step_batch_can_choose(&LIMITS, packed.request));
    biases[0].bias = -INFINITY; /* what is left lies behind the token limit */
    cr_expect_not(step_batch_can_choose(&LIMITS, packed.request));
    packed.request->allowed = NULL;
    cr_expect(step_batch_can_choose(&LIMITS, packed.request));
    unpack(&packed);
}

Test(step_batch, top_entries_are_asked_for_by_who_needs_them)
{
    const struct banned_word word = {"x", 1};
    struct decode_params params = decode_params_neutral(5, 4);
    struct packed packed;
    pack(&packed, &params);
    cr_expect_eq(packed.batch.head[0].top, 0);
    cr_expect_eq(packed.batch.head[0].raw_top, 0);
    unpack(&packed);
    params.top_logprobs = 3;
    params.banned_words = &word;
    params.banned_word_count = 1;
    pack(&packed, &params);
    cr_expect_eq(packed.batch.head[0].top, HEAD_TOP_MAX);
    cr_expect_eq(packed.batch.head[0].raw_top, 3);
    unpack(&packed);
}

static void expect_partner_rows(const struct packed *packed, int32_t first, const int32_t *tokens,
                                int32_t count, int32_t position, int32_t length)
{
    const struct step_batch *batch = &packed->batch;
    cr_assert_eq(batch->rows, first + count);
    for (int32_t i = 0; i < count; i++) {
        cr_expect_eq(batch->token[first + i], tokens[i], "row %d", i);
        cr_expect_eq(batch->line[first + i], SLOTS + 1);
        cr_expect_eq(batch->position[first + i], position + i);
        cr_expect_eq(batch->kv_end[first + i], length);
    }
    for (int32_t i = 0; i < batch->head_rows; i++) {
        const struct head_row *head = &batch->head[i];
        int32_t own = batch->gather[head->hidden], partner = batch->gather[head->partner];
        cr_expect_eq(length - batch->position[partner], 8 - batch->position[own]);
        cr_expect_eq(batch->token[partner], MASK);
    }
}

Test(step_batch, a_negative_prompt_makes_a_partner_of_its_own_length)
{
    const int32_t negative[] = {21, 22, 23, 24, 25};
    struct decode_params params = decode_params_neutral(5, 4);
    params.cfg_scale = 1;
    params.negative_prompt = negative;
    for (int32_t length = 0; length <= 5; length += 5) {
        params.negative_prompt_length = length;
        params.cache = CACHE_NONE;
        struct packed packed;
        pack(&packed, &params);
        const int32_t whole[] = {21, 22, 23, 24, 25, 8, MASK, MASK, MASK, MASK};
        expect_partner_rows(&packed, 8, whole + 5 - length, length + 5, 0, length + 5);
        cr_expect_eq(sequence_rows(&packed.sequence), 8 + length + 5);
        unpack(&packed);

        params.cache = CACHE_DUAL;
        pack(&packed, &params);
        expect_partner_rows(&packed, 4, whole + 5, 4, length, length + 5);
        unpack(&packed);

        params.cache = CACHE_PREFIX;
        pack(&packed, &params);
        expect_partner_rows(&packed, 5, whole + 5, 5, length, length + 5);
        unpack(&packed);
    }
}

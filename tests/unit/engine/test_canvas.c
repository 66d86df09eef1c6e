#include "server/engine/canvas.h"

#include <criterion/criterion.h>

#include "common/error.h"

enum { MASK = 99, STOP = 7, OTHER_STOP = 8 };

static const struct decode_params PARAMS = {.stop_tokens = {STOP, OTHER_STOP},
                                            .stop_token_count = 2};

static void commit(struct canvas *canvas, int32_t answer_position, int32_t token)
{
    canvas_commit(canvas, canvas->prompt_length + answer_position, token, 0.5f, -1);
    canvas_settle(canvas, &PARAMS);
}

static void create(struct canvas *canvas, int32_t max_tokens)
{
    struct error err = {0};
    cr_assert_eq(canvas_create(canvas, 16, &err), 0);
    canvas_begin(canvas, (const int32_t[]){1, 2, 3}, 3, max_tokens, MASK);
}

Test(canvas, only_the_leading_tokens_are_settled)
{
    struct canvas canvas;
    create(&canvas, 5);
    commit(&canvas, 2, 4);
    cr_expect_eq(canvas.answer.settled, 0);
    commit(&canvas, 0, 4);
    cr_expect_eq(canvas.answer.settled, 1);
    commit(&canvas, 1, 4);
    cr_expect_eq(canvas.answer.settled, 3);
    cr_expect_eq(canvas.answer.text_tokens, 3);
    cr_expect_eq(canvas.answer.masked, 2);
    canvas_free(&canvas);
}

Test(canvas, the_text_ends_before_the_first_stop_id)
{
    struct canvas canvas;
    create(&canvas, 6);
    commit(&canvas, 3, OTHER_STOP);
    commit(&canvas, 0, 4);
    cr_expect_eq(canvas.answer.text_tokens, 1);
    commit(&canvas, 2, STOP);
    commit(&canvas, 1, 4);
    cr_expect_eq(canvas.answer.settled, 4);
    cr_expect_eq(canvas.answer.text_tokens, 2);
    commit(&canvas, 4, 4);
    cr_expect_eq(canvas.answer.settled, 5);
    cr_expect_eq(canvas.answer.text_tokens, 2, "the text does not go on behind a stop id");
    canvas_free(&canvas);
}

Test(canvas, a_stop_id_at_the_first_position_leaves_no_text)
{
    struct canvas canvas;
    create(&canvas, 2);
    commit(&canvas, 0, STOP);
    commit(&canvas, 1, 4);
    cr_expect_eq(canvas.answer.settled, 2);
    cr_expect_eq(canvas.answer.text_tokens, 0);
    canvas_free(&canvas);
}

Test(canvas, the_next_sequence_finds_a_fresh_canvas)
{
    struct canvas canvas;
    create(&canvas, 5);
    for (int32_t i = 0; i < 5; i++)
        commit(&canvas, i, STOP);
    canvas_begin(&canvas, (const int32_t[]){6}, 1, 10, MASK);
    cr_expect_eq(canvas.length, 11);
    cr_expect_eq(canvas.tokens[0], 6);
    cr_expect_eq(canvas.answer.masked, 10);
    cr_expect_eq(canvas.answer.settled, 0);
    cr_expect_eq(canvas.answer.text_tokens, 0);
    for (int32_t i = 0; i < 10; i++) {
        cr_expect_eq(canvas.answer.tokens[i], MASK);
        cr_expect_float_eq((double)canvas.answer.confidence[i], 0, 0);
        cr_expect_float_eq((double)canvas.answer.raw_logprob[i], 0, 0);
    }
    canvas_free(&canvas);
}

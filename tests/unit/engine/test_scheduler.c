/* Who is admitted, and who runs in a tick. */
#include "server/engine/scheduler.h"

#include <criterion/criterion.h>

#include "common/error.h"
#include "tests/unit/engine/harness.h"

/* Rounds that each request has done. */
static void expect_rounds(struct request *const *requests, int32_t count, const int32_t *rounds)
{
    for (int32_t i = 0; i < count; i++)
        cr_expect_eq(harness_draft(requests[i])->round, rounds[i],
                     "request %d: %d rounds, expected %d", i, harness_draft(requests[i])->round,
                     rounds[i]);
}

static void release_all(struct request *const *requests, int32_t count)
{
    for (int32_t i = 0; i < count; i++)
        request_release(requests[i]);
}

Test(scheduler, whole_canvases_get_their_pages_at_admission_in_order)
{
    struct harness harness;
    struct engine_options options = harness_options(8, 8);
    options.kv_cache_tokens = INT64_C(3) * KV_PAGE_POSITIONS;
    harness_create(&harness, &options);
    const struct decode_params small = decode_params_neutral(4, 4);
    const struct decode_params large = decode_params_neutral(70, 70);
    struct request *requests[] = {
        harness_request(5, 1, &small), harness_request(5, 2, &small),
        harness_request(5, 3, &large), /* two pages: not before one of the first ends */
        harness_request(5, 4, &small), /* would fit, but stays behind */
    };
    for (int32_t i = 0; i < 4; i++)
        harness_submit(&harness, requests[i]);
    harness_tick(&harness);
    cr_expect_eq(engine_counters_read(harness.engine).kv_pages_used, 2);
    expect_rounds(requests, 4, (const int32_t[]){1, 1, 0, 0});
    for (int32_t i = 0; i < 4; i++)
        harness_tick(&harness);
    cr_expect_eq(engine_counters_read(harness.engine).kv_pages_used, 3);
    expect_rounds(requests, 4, (const int32_t[]){4, 4, 1, 1});
    harness_run(&harness);
    release_all(requests, 4);
    harness_free(&harness);
}

Test(scheduler, guidance_takes_pages_and_rows_for_its_partner)
{
    struct harness harness;
    struct engine_options options = harness_options(4, 4);
    options.max_rows_per_tick = 40;
    harness_create(&harness, &options);
    struct decode_params params = decode_params_neutral(8, 8);
    params.cache = CACHE_DUAL;
    params.cfg_scale = 1;
    struct request *request = harness_request(5, 1, &params);
    harness_submit(&harness, request);
    harness_tick(&harness);
    cr_expect_eq(engine_counters_read(harness.engine).kv_pages_used, 2);
    cr_expect_eq(engine_counters_read(harness.engine).rows, 26);
    harness_tick(&harness);
    cr_expect_eq(engine_counters_read(harness.engine).rows, 26 + 16);
    cr_expect_eq(harness_draft(request)->forward_passes, 2, "a pair is one forward pass");
    harness_run(&harness);
    request_release(request);
    harness_free(&harness);
}

Test(scheduler, the_earliest_deadline_runs_first_and_age_counts_as_one)
{
    struct harness harness;
    struct engine_options options = harness_options(4, 0);
    options.max_rows_per_tick = 10; /* one canvas of 5 + 5 */
    harness_create(&harness, &options);
    struct decode_params params = decode_params_neutral(5, 5);
    params.steps = 2;
    struct request *requests[4];
    for (int32_t i = 0; i < 4; i++)
        requests[i] = harness_request(5, i, &params);
    requests[0]->arrival_us = 2000;
    requests[1]->deadline_us = 1000 + NO_DEADLINE_PATIENCE_US;
    requests[2]->arrival_us = 0;
    requests[3]->deadline_us = 3000 + NO_DEADLINE_PATIENCE_US;
    for (int32_t i = 0; i < 4; i++)
        harness_submit(&harness, requests[i]);
    harness_tick(&harness);
    harness_tick(&harness);
    expect_rounds(requests, 4, (const int32_t[]){0, 0, 2, 0});
    harness_tick(&harness);
    harness_tick(&harness);
    expect_rounds(requests, 4, (const int32_t[]){0, 2, 2, 0});
    harness_run(&harness);
    release_all(requests, 4);
    harness_free(&harness);
}

Test(scheduler, block_windows_go_before_whole_canvases_but_not_for_ever)
{
    struct harness harness;
    struct engine_options options = harness_options(3, 0);
    options.max_rows_per_tick = 40;
    harness_create(&harness, &options);
    struct decode_params blocks = decode_params_neutral(20, 20);
    blocks.cache = CACHE_DUAL;
    const struct decode_params whole = decode_params_neutral(20, 20);
    struct request *requests[] = {
        harness_request(5, 1, &blocks),
        harness_request(5, 2, &whole),
    };
    requests[1]->arrival_us = -1; /* more urgent */
    harness_submit(&harness, requests[0]);
    harness_tick(&harness); /* its whole canvas; from now on windows of 20 rows */
    harness_submit(&harness, requests[1]);
    for (int32_t i = 0; i < WHOLE_CANVAS_PATIENCE; i++)
        harness_tick(&harness);
    expect_rounds(requests, 2, (const int32_t[]){1 + WHOLE_CANVAS_PATIENCE, 0});
    harness_tick(&harness); /* 25 rows first: 15 are left, too few for the block */
    expect_rounds(requests, 2, (const int32_t[]){1 + WHOLE_CANVAS_PATIENCE, 1});
    harness_tick(&harness);
    expect_rounds(requests, 2, (const int32_t[]){2 + WHOLE_CANVAS_PATIENCE, 1});
    harness_run(&harness);
    release_all(requests, 2);
    harness_free(&harness);
}

Test(scheduler, block_windows_go_in_the_order_of_their_deadlines)
{
    struct harness harness;
    struct engine_options options = harness_options(3, 0);
    options.max_rows_per_tick = 50; /* two blocks of 20, or two canvases of 25 */
    harness_create(&harness, &options);
    struct decode_params params = decode_params_neutral(20, 20);
    params.cache = CACHE_DUAL;
    struct request *requests[3];
    for (int32_t i = 0; i < 3; i++) {
        requests[i] = harness_request(5, i, &params);
        requests[i]->deadline_us = 10000000 - 1000000 * i; /* the last is the most urgent */
        harness_submit(&harness, requests[i]);
    }
    harness_tick(&harness);
    expect_rounds(requests, 3, (const int32_t[]){0, 1, 1});
    for (int32_t i = 1; i < WHOLE_CANVAS_PATIENCE; i++)
        harness_tick(&harness); /* blocks of 2 and 1: the whole canvas of 0 finds no room */
    expect_rounds(requests, 3, (const int32_t[]){0, WHOLE_CANVAS_PATIENCE, WHOLE_CANVAS_PATIENCE});
    harness_tick(&harness); /* patience is over: 25 rows, and the most urgent block */
    expect_rounds(requests, 3,
                  (const int32_t[]){1, WHOLE_CANVAS_PATIENCE, WHOLE_CANVAS_PATIENCE + 1});
    harness_tick(&harness); /* three blocks now, room for two */
    expect_rounds(requests, 3,
                  (const int32_t[]){1, WHOLE_CANVAS_PATIENCE + 1, WHOLE_CANVAS_PATIENCE + 2});
    harness_run(&harness);
    release_all(requests, 3);
    harness_free(&harness);
}

Test(scheduler, whole_canvases_go_while_rows_last_and_a_short_one_fills_the_rest)
{
    struct harness harness;
    struct engine_options options = harness_options(4, 0);
    options.max_rows_per_tick = 60;
    harness_create(&harness, &options);
    const struct decode_params large = decode_params_neutral(20, 20);
    const struct decode_params small = decode_params_neutral(5, 5);
    struct request *requests[] = {
        harness_request(5, 1, &large), /* 25 rows */
        harness_request(5, 2, &large), harness_request(5, 3, &large),
        harness_request(5, 4, &small), /* 10 rows */
    };
    for (int32_t i = 0; i < 4; i++) {
        requests[i]->deadline_us = 1000000 + i;
        harness_submit(&harness, requests[i]);
    }
    harness_tick(&harness);
    expect_rounds(requests, 4, (const int32_t[]){1, 1, 0, 1});
    cr_expect_eq(engine_counters_read(harness.engine).rows, 60);
    harness_run(&harness);
    release_all(requests, 4);
    harness_free(&harness);
}

Test(scheduler, whoever_waited_longest_among_the_overdue_goes_first)
{
    struct harness harness;
    struct engine_options options = harness_options(3, 0);
    options.max_rows_per_tick = 25; /* one canvas */
    harness_create(&harness, &options);
    const struct decode_params params = decode_params_neutral(20, 20);
    struct request *requests[3];
    for (int32_t i = 0; i < 3; i++) {
        requests[i] = harness_request(5, i, &params);
        requests[i]->deadline_us = 1000000 + i;
        harness_submit(&harness, requests[i]);
    }
    for (int32_t i = 0; i < WHOLE_CANVAS_PATIENCE; i++)
        harness_tick(&harness);
    expect_rounds(requests, 3, (const int32_t[]){WHOLE_CANVAS_PATIENCE, 0, 0});
    harness_tick(&harness);
    expect_rounds(requests, 3, (const int32_t[]){WHOLE_CANVAS_PATIENCE, 1, 0});
    harness_tick(&harness);
    expect_rounds(requests, 3, (const int32_t[]){WHOLE_CANVAS_PATIENCE, 1, 1});
    harness_tick(&harness);
    expect_rounds(requests, 3, (const int32_t[]){WHOLE_CANVAS_PATIENCE + 1, 1, 1});
    harness_run(&harness);
    release_all(requests, 3);
    harness_free(&harness);
}

Test(scheduler, a_request_without_a_deadline_ages_past_later_ones_that_have_one)
{
    struct harness harness;
    struct engine_options options = harness_options(2, 4);
    options.max_rows_per_tick = 10;
    harness_create(&harness, &options);
    const struct decode_params params = decode_params_neutral(5, 5);
    struct request *patient = harness_request(5, 1, &params); /* arrival 0 */
    struct request *early = harness_request(5, 2, &params);
    struct request *late = harness_request(5, 3, &params);
    early->deadline_us = NO_DEADLINE_PATIENCE_US - 1;
    late->deadline_us = NO_DEADLINE_PATIENCE_US + 1;
    struct request *requests[] = {patient, early, late};
    harness_submit(&harness, early);
    harness_submit(&harness, patient);
    for (int32_t i = 0; i < 3; i++)
        harness_tick(&harness);
    expect_rounds(requests, 3, (const int32_t[]){0, 3, 0});
    harness_run(&harness);
    harness_submit(&harness, late);
    struct request *again = harness_request(5, 1, &params);
    harness_submit(&harness, again);
    for (int32_t i = 0; i < 3; i++)
        harness_tick(&harness);
    cr_expect_eq(harness_draft(again)->round, 3);
    cr_expect_eq(harness_draft(late)->round, 0);
    harness_run(&harness);
    release_all(requests, 3);
    request_release(again);
    harness_free(&harness);
}

#include "server/engine/engine.h"

#include <string.h>

#include <criterion/criterion.h>

#include "common/error.h"
#include "tests/unit/engine/harness.h"

static void expect_refused(struct harness *harness, struct request *request, int code,
                           const char *word)
{
    struct error err = {0};
    cr_expect_eq(engine_submit(harness->engine, request, &err), code, "%d: %s", err.code,
                 err.message);
    cr_expect_not_null(strstr(err.message, word), "\"%s\" is not in: %s", word, err.message);
    cr_expect_eq(atomic_load(&request->references), 1, "a refused request is not kept");
    request_release(request);
}

/* ---- one request ----------------------------------------------------------------------------- */

Test(engine, a_request_is_decoded_in_the_rounds_of_its_budget)
{
    struct harness harness;
    const struct engine_options options = harness_options(2, 0);
    harness_create(&harness, &options);
    struct decode_params params = decode_params_neutral(24, 8);
    params.steps = 6;
    struct request *request = harness_request(5, 1, &params);
    harness_submit(&harness, request);
    const int32_t masked[] = {20, 16, 12, 8, 4, 0};
    for (int32_t round = 1; round <= 6; round++) {
        cr_expect_eq(harness_tick(&harness), round < 6);
        const struct draft *draft = harness_draft(request);
        cr_expect_eq(draft->round, round);
        cr_expect_eq(draft->of, 6);
        cr_expect_eq(draft->masked, masked[round - 1]);
        cr_expect_eq(draft->block_begin, (round - 1) / 2 * 8);
        cr_expect_eq(draft->block_end, draft->block_begin + 8);
        cr_expect_eq(draft->forward_passes, round);
        cr_expect_eq(draft->admitted_us, 1000);
        cr_expect_geq(draft->updated_us, 1000 * round);
    }
    cr_expect_eq(harness_draft(request)->settled, 24);
    request_release(request);
    harness_free(&harness);
}

Test(engine, a_budget_below_the_blocks_decodes_them_as_one_region)
{
    struct harness harness;
    const struct engine_options options = harness_options(2, 0);
    harness_create(&harness, &options);
    struct decode_params params = decode_params_neutral(24, 8);
    params.steps = 2;
    struct request *request = harness_request(5, 1, &params);
    harness_submit(&harness, request);
    harness_tick(&harness);
    cr_expect_eq(harness_draft(request)->masked, 12);
    cr_expect_eq(harness_draft(request)->block_end, 24);
    cr_expect_not(harness_tick(&harness));
    cr_expect_eq(harness_draft(request)->masked, 0);
    request_release(request);
    harness_free(&harness);
}

/* A request, done, whose answer has a stop id well before its end. */
static struct request *find_request_with_stop(struct harness *harness,
                                              const struct decode_params *params)
{
    for (int32_t seed = 1; seed < 100; seed++) {
        struct request *request = harness_request(5, seed, params);
        harness_submit(harness, request);
        harness_run(harness);
        const struct draft *draft = harness_draft(request);
        if (draft->finish == FINISH_STOP && draft->text_tokens < 12)
            return request;
        request_release(request);
    }
    return NULL;
}

Test(engine, the_first_stop_id_ends_the_text_and_with_early_stop_the_rounds)
{
    struct harness harness;
    const struct engine_options options = harness_options(2, 0);
    harness_create(&harness, &options);
    struct decode_params params = decode_params_neutral(32, 8);
    params.stop_tokens[0] = FAKE_STOP_TOKEN;
    params.stop_token_count = 1;
    struct request *whole = find_request_with_stop(&harness, &params);
    cr_assert_not_null(whole);
    const struct draft *all = harness_draft(whole);
    cr_expect_eq(all->masked, 0);
    cr_expect_eq(all->round, 32);
    cr_expect_eq(all->tokens[all->text_tokens], FAKE_STOP_TOKEN);

    params.eos_early_stop = true;
    struct request *early;
    struct error err = {0};
    cr_assert_eq(request_create(&early, whole->prompt, 5, &params, FAKE_MASK_TOKEN, &err), 0);
    harness_submit(&harness, early);
    harness_run(&harness);
    const struct draft *cut = harness_draft(early);
    cr_expect_eq(cut->finish, FINISH_STOP);
    cr_expect_eq(cut->text_tokens, all->text_tokens);
    cr_expect_lt(cut->round, all->round);
    for (int32_t i = 0; i <= cut->text_tokens; i++)
        cr_expect_eq(cut->tokens[i], all->tokens[i]);

    params.ignore_eos = true;
    struct request *ignoring;
    cr_assert_eq(request_create(&ignoring, whole->prompt, 5, &params, FAKE_MASK_TOKEN, &err), 0);
    harness_submit(&harness, ignoring);
    harness_run(&harness);
    cr_expect_eq(harness_draft(ignoring)->finish, FINISH_LENGTH);
    cr_expect_eq(harness_draft(ignoring)->text_tokens, 32);
    for (int32_t i = 0; i < 32; i++)
        cr_expect_neq(harness_draft(ignoring)->tokens[i], FAKE_STOP_TOKEN);
    request_release(whole);
    request_release(early);
    request_release(ignoring);
    harness_free(&harness);
}

Test(engine, siblings_answer_one_prompt_as_their_seeds_do_alone)
{
    struct harness harness;
    const struct engine_options options = harness_options(2, 8); /* fewer slots than siblings */
    harness_create(&harness, &options);
    struct decode_params params = decode_params_neutral(16, 8);
    params.temperature = 1;
    params.seed = 41;
    struct request *five[5];
    harness_siblings(five, 5, harness_request(5, 1, &params));
    harness_submit_all(&harness, five, 5);
    harness_run(&harness);
    for (int32_t i = 0; i < 5; i++) {
        params.seed = 41 + (uint64_t)i;
        struct request *one = harness_request(5, 1, &params);
        harness_submit(&harness, one);
        harness_run(&harness);
        cr_expect(drafts_are_equal(harness_draft(five[i]), harness_draft(one)), "seed %d", i);
        if (i > 0)
            cr_expect_not(drafts_are_equal(harness_draft(five[i]), harness_draft(five[0])));
        request_release(one);
    }
    for (int32_t i = 0; i < 5; i++)
        request_release(five[i]);
    harness_free(&harness);
}

/* ---- what is refused ------------------------------------------------------------------------- */

Test(engine, a_canvas_that_can_never_run_is_refused_with_both_numbers)
{
    struct harness harness;
    struct engine_options options = harness_options(2, 0);
    options.kv_cache_tokens = 64;
    options.max_rows_per_tick = 60;
    harness_create(&harness, &options);
    struct decode_params params = decode_params_neutral(100, 8);
    expect_refused(&harness, harness_request(29, 1, &params), ERROR_INVALID, "129");
    expect_refused(&harness, harness_request(28, 1, &params), ERROR_INVALID, "2 KV pages");
    params.max_tokens = 50;
    expect_refused(&harness, harness_request(11, 1, &params), ERROR_INVALID, "61 rows");
    params.max_tokens = 30;
    params.cfg_scale = 1;
    expect_refused(&harness, harness_request(5, 1, &params), ERROR_INVALID, "2 KV pages");
    cr_expect_eq(engine_counters_read(harness.engine).rejected, 4);
    harness_free(&harness);

    options.kv_cache_tokens = 256;
    harness_create(&harness, &options);
    expect_refused(&harness, harness_request(1, 1, &params), ERROR_INVALID, "62 rows");
    harness_free(&harness);
}

Test(engine, a_list_that_can_never_run_and_wait_is_refused_with_both_numbers)
{
    struct harness harness;
    const struct engine_options options = harness_options(2, 0);
    const struct decode_params params = decode_params_neutral(8, 8);
    struct request *three[3];
    struct error err = {0};
    harness_create(&harness, &options);
    harness_siblings(three, 3, harness_request(1, 1, &params));
    cr_expect_eq(engine_submit_all(harness.engine, three, 3, &err), ERROR_INVALID);
    cr_expect_not_null(strstr(err.message, "3 answers were asked for, at most 2"), "%s",
                       err.message);
    cr_expect_eq(three[0]->fault, REQUEST_FAULT_CHOICES);
    for (int32_t i = 0; i < 3; i++)
        request_release(three[i]);
    harness_free(&harness);
}

Test(engine, options_out_of_range_are_named)
{
    struct model *model = fake_model_create(&(struct fake_options){.max_positions = 64});
    struct engine_options options = harness_options(0, 0);
    struct engine *engine;
    struct error err = {0};
    cr_expect_eq(engine_create(&engine, model, &options, &err), ERROR_INVALID);
    cr_expect_not_null(strstr(err.message, "max_sequences is 0"));
    model_free(model);
}

Test(engine, a_full_queue_refuses_until_a_sequence_ends)
{
    struct harness harness;
    const struct engine_options options = harness_options(2, 3);
    harness_create(&harness, &options);
    struct decode_params params = decode_params_neutral(8, 8);
    params.steps = 2;
    struct request *first[4], *third[2];
    struct request *second = harness_request(5, 2, &params);
    harness_siblings(first, 4, harness_request(5, 1, &params));
    harness_submit_all(&harness, first, 4);
    harness_submit(&harness, second);
    expect_refused(&harness, harness_request(5, 3, &params), ERROR_LIMIT, "full");
    harness_tick(&harness);
    const struct engine_counters counters = engine_counters_read(harness.engine);
    cr_expect_eq(counters.running, 2);
    cr_expect_eq(counters.waiting, 3);
    expect_refused(&harness, harness_request(5, 3, &params), ERROR_LIMIT, "full");
    harness_tick(&harness);
    harness_siblings(third, 2, harness_request(5, 3, &params));
    harness_submit_all(&harness, third, 2);
    harness_run(&harness);
    cr_expect_eq(engine_counters_read(harness.engine).finished, 7);
    cr_expect_eq(engine_counters_read(harness.engine).rejected, 2);
    for (int32_t i = 0; i < 4; i++)
        request_release(first[i]);
    request_release(second);
    request_release(third[0]);
    request_release(third[1]);
    harness_free(&harness);
}

Test(engine, a_draining_engine_finishes_what_it_has)
{
    struct harness harness;
    const struct engine_options options = harness_options(1, 3);
    harness_create(&harness, &options);
    const struct decode_params params = decode_params_neutral(8, 8);
    struct request *first = harness_request(5, 1, &params);
    struct request *second = harness_request(5, 2, &params);
    harness_submit(&harness, first);
    harness_submit(&harness, second);
    harness_tick(&harness);
    engine_drain(harness.engine);
    cr_expect(engine_counters_read(harness.engine).draining);
    expect_refused(&harness, harness_request(5, 3, &params), ERROR_UNAVAILABLE, "draining");
    cr_expect_not(engine_wait_idle(harness.engine, 0));
    harness_run(&harness);
    cr_expect(engine_wait_idle(harness.engine, 0));
    cr_expect_eq(harness_draft(first)->finish, FINISH_LENGTH);
    cr_expect_eq(harness_draft(second)->finish, FINISH_LENGTH);
    request_release(first);
    request_release(second);
    harness_free(&harness);
}

/* ---- endings --------------------------------------------------------------------------------- */

Test(engine, a_request_can_be_cancelled_at_any_round_and_leaves_its_mates_alone)
{
    enum { ROUNDS = 8 };
    for (int32_t cancel_at = 0; cancel_at <= ROUNDS; cancel_at++) {
        struct harness harness;
        const struct engine_options options = harness_options(3, 4);
        harness_create(&harness, &options);
        struct decode_params params = decode_params_neutral(ROUNDS, 4);
        params.cfg_scale = 1;
        struct request *siblings[2];
        harness_siblings(siblings, 2, harness_request(5, 1, &params));
        struct request *cancelled = siblings[0];
        struct request *mate = harness_request(6, 2, &params);
        struct request *waiting = harness_request(7, 3, &params);
        harness_submit_all(&harness, siblings, 2);
        harness_submit(&harness, mate);
        harness_submit(&harness, waiting);
        for (int32_t i = 0; i < cancel_at; i++)
            harness_tick(&harness);
        request_cancel(cancelled);
        harness_tick(&harness);
        bool too_late = cancel_at == ROUNDS;
        cr_expect(stream_finished(&cancelled->stream), "cancelled after %d rounds", cancel_at);
        cr_expect_eq(harness_draft(cancelled)->finish, too_late ? FINISH_LENGTH : FINISH_CANCELLED);
        cr_expect_eq(harness_draft(cancelled)->round, cancel_at);
        cr_expect_eq(atomic_load(&cancelled->references), 2, "the caller's and its sibling's");
        harness_run(&harness);
        cr_expect_eq(harness_draft(siblings[1])->finish, FINISH_LENGTH);
        cr_expect_eq(harness_draft(mate)->finish, FINISH_LENGTH);
        cr_expect_eq(harness_draft(waiting)->finish, FINISH_LENGTH);
        cr_expect_eq(engine_counters_read(harness.engine).cancelled, too_late ? 0 : 1);
        request_release(cancelled); /* its prompt stays as long as its sibling */
        request_release(siblings[1]);
        request_release(mate);
        request_release(waiting);
        harness_free(&harness);
    }
}

Test(engine, a_satisfied_request_frees_its_rows_and_counts_as_finished)
{
    struct harness harness;
    const struct engine_options options = harness_options(1, 2);
    harness_create(&harness, &options);
    const struct decode_params params = decode_params_neutral(8, 8);
    struct request *running = harness_request(5, 1, &params);
    struct request *waiting = harness_request(5, 2, &params);
    harness_submit(&harness, running);
    harness_submit(&harness, waiting);
    harness_tick(&harness);
    request_end(running, REQUEST_SATISFIED);
    request_cancel(running); /* its reader goes away afterwards, as they all do */
    request_end(waiting, REQUEST_SATISFIED);
    cr_expect_not(harness_tick(&harness));
    const struct engine_counters counters = engine_counters_read(harness.engine);
    cr_expect_eq(counters.finished, 2);
    cr_expect_eq(counters.cancelled, 0);
    cr_expect_gt(atomic_load(&engine_histograms(harness.engine)->answer.sum_us), 0);
    cr_expect_eq(harness_draft(running)->round, 1);
    request_release(running);
    request_release(waiting);
    harness_free(&harness);
}

Test(engine, a_request_cancelled_in_the_queue_gives_up_its_place)
{
    struct harness harness;
    const struct engine_options options = harness_options(1, 3);
    harness_create(&harness, &options);
    const struct decode_params params = decode_params_neutral(8, 8);
    struct request *requests[4];
    for (int32_t i = 0; i < 4; i++) {
        requests[i] = harness_request(5, i, &params);
        harness_submit(&harness, requests[i]);
    }
    harness_tick(&harness);
    request_cancel(requests[1]); /* the queue's head and its tail */
    request_cancel(requests[3]);
    harness_tick(&harness);
    cr_expect_eq(engine_counters_read(harness.engine).waiting, 1);
    struct request *last = harness_request(5, 9, &params);
    harness_submit(&harness, last);
    harness_run(&harness);
    cr_expect_eq(harness_draft(requests[1])->finish, FINISH_CANCELLED);
    cr_expect_eq(harness_draft(requests[1])->round, 0);
    cr_expect_eq(harness_draft(requests[2])->finish, FINISH_LENGTH);
    cr_expect_eq(harness_draft(requests[3])->finish, FINISH_CANCELLED);
    cr_expect_eq(harness_draft(last)->finish, FINISH_LENGTH);
    request_release(last);
    for (int32_t i = 0; i < 4; i++)
        request_release(requests[i]);
    harness_free(&harness);
}

Test(engine, a_lost_device_fails_everything_with_its_error)
{
    struct harness harness;
    const struct engine_options options = harness_options(1, 3);
    harness_create_with(&harness, &options,
                        &(struct fake_options){.max_positions = 128, .lose_device_at = 3});
    const struct decode_params params = decode_params_neutral(8, 8);
    struct request *running = harness_request(5, 1, &params);
    struct request *waiting = harness_request(5, 2, &params);
    harness_submit(&harness, running);
    harness_submit(&harness, waiting);
    harness_run(&harness);
    cr_expect_eq(harness.ticks, 3);
    cr_expect_eq(harness_draft(running)->finish, FINISH_FAILED);
    cr_expect_eq(harness_draft(running)->round, 2);
    cr_expect_eq(harness_draft(waiting)->finish, FINISH_FAILED);
    cr_expect_eq(waiting->stream.error.code, ERROR_DEVICE_LOST);
    cr_expect_not_null(strstr(waiting->stream.error.message, "fake device"));
    cr_expect(engine_counters_read(harness.engine).device_lost);
    expect_refused(&harness, harness_request(5, 3, &params), ERROR_DEVICE_LOST, "lost");
    request_release(running);
    request_release(waiting);
    harness_free(&harness);
}

Test(engine, logits_that_are_no_numbers_fail_the_one_request)
{
    struct harness harness;
    const struct engine_options options = harness_options(4, 0);
    harness_create_with(&harness, &options,
                        &(struct fake_options){.max_positions = 128, .bad_position = 20});
    const struct decode_params params = decode_params_neutral(8, 4);
    struct request *broken[2];
    struct request *sound = harness_request(5, 1, &params);
    harness_siblings(broken, 2, harness_request(14, 1, &params)); /* answers 14 to 21 */
    harness_submit_all(&harness, broken, 2);
    harness_submit(&harness, sound);
    harness_run(&harness);
    for (int32_t i = 0; i < 2; i++) {
        cr_expect_eq(harness_draft(broken[i])->finish, FINISH_FAILED);
        cr_expect_eq(harness_draft(broken[i])->round, 4, "the first block was sound");
        cr_expect_eq(broken[i]->stream.error.code, ERROR_INTERNAL, "it is not the client's fault");
    }
    cr_expect_eq(harness_draft(sound)->finish, FINISH_LENGTH);
    request_release(broken[0]);
    request_release(broken[1]);
    request_release(sound);
    harness_free(&harness);
}

Test(engine, stopping_fails_and_freeing_cancels_what_is_left)
{
    for (int stop = 0; stop <= 1; stop++) {
        struct harness harness;
        const struct engine_options options = harness_options(1, 3);
        harness_create(&harness, &options);
        const struct decode_params params = decode_params_neutral(8, 8);
        struct request *requests[3];
        for (int32_t i = 0; i < 3; i++)
            requests[i] = harness_request(5, i, &params);
        harness_submit(&harness, requests[0]);
        harness_submit(&harness, requests[1]);
        harness_tick(&harness);
        harness_submit(&harness, requests[2]); /* no tick has seen it */
        if (stop) {
            engine_stop(harness.engine);
            struct error err = {0};
            cr_expect_eq(engine_submit(harness.engine, requests[0], &err), ERROR_UNAVAILABLE);
        }
        engine_free(harness.engine);
        model_free(harness.model);
        for (int32_t i = 0; i < 3; i++) {
            cr_expect_eq(harness_draft(requests[i])->finish,
                         stop ? FINISH_FAILED : FINISH_CANCELLED);
            cr_expect_eq(requests[i]->stream.error.code, stop ? ERROR_UNAVAILABLE : 0);
            cr_expect_eq(atomic_load(&requests[i]->references), 1);
            request_release(requests[i]);
        }
    }
}

/* What submit says of a request that it refuses, lists of requests, and how long an answer may be.
 */
#include <criterion/criterion.h>
#include <string.h>

#include "common/error.h"
#include "tests/unit/engine/harness.h"

static void expect_fault(struct harness *harness, struct request *request, enum request_fault fault)
{
    struct error err = {0};
    cr_expect_neq(engine_submit(harness->engine, request, &err), 0);
    cr_expect_eq(request->fault, fault, "%d: %s", request->fault, err.message);
    request_release(request);
}

Test(submit, a_refused_request_says_what_is_wrong_with_it)
{
    struct harness harness;
    const struct engine_options options = harness_options(2, 0);
    harness_create(&harness, &options);
    struct decode_params params = decode_params_neutral(1000, 8);
    expect_fault(&harness, harness_request(5, 1, &params), REQUEST_FAULT_LENGTH);
    params.max_tokens = 8;
    params.repetition_penalty = 0;
    expect_fault(&harness, harness_request(5, 1, &params), REQUEST_FAULT_PENALTIES);
    params.repetition_penalty = 1;
    params.stop_token_count = DECODE_STOP_TOKENS_MAX + 1;
    expect_fault(&harness, harness_request(5, 1, &params), REQUEST_FAULT_STOP_TOKENS);
    params.stop_token_count = 0;
    const struct token_bias biases[] = {{FAKE_VOCABULARY, 1}};
    params.biases = biases;
    params.bias_count = 1;
    expect_fault(&harness, harness_request(5, 1, &params), REQUEST_FAULT_BIASES);
    params.bias_count = 0;
    const struct banned_word empty[] = {{"", 0}};
    params.banned_words = empty;
    params.banned_word_count = 1;
    expect_fault(&harness, harness_request(5, 1, &params), REQUEST_FAULT_BANNED_WORDS);
    params.banned_word_count = 0;
    const uint32_t nothing[FAKE_VOCABULARY / 32] = {0};
    params.allowed = nothing;
    expect_fault(&harness, harness_request(5, 1, &params), REQUEST_FAULT_NO_TOKEN);
    harness_free(&harness);
}

enum { LIST = 3 };

static void make_list(struct request *requests[LIST], const struct decode_params *params)
{
    for (int32_t i = 0; i < LIST; i++)
        requests[i] = harness_request(5, i + 1, params);
}

Test(submit, a_sibling_shares_the_prompt_and_what_may_be_chosen)
{
    struct harness harness;
    struct request *requests[LIST];
    const struct engine_options options = harness_options(LIST, 0);
    const struct banned_word words[] = {{"a", 1}};
    struct decode_params params = decode_params_neutral(8, 8);
    params.banned_words = words;
    params.banned_word_count = 1;
    harness_create(&harness, &options);
    harness_siblings(requests, LIST, harness_request(5, 1, &params));
    harness_submit_all(&harness, requests, LIST);
    for (int32_t i = 1; i < LIST; i++) {
        cr_expect_eq(requests[i]->prompt, requests[0]->prompt);
        cr_expect_eq(requests[i]->allowed, requests[0]->allowed);
    }
    cr_expect_neq(requests[0]->allowed, NULL);
    harness_run(&harness);
    for (int32_t i = 0; i < LIST; i++) /* the first goes before the others */
        request_release(requests[i]);
    harness_free(&harness);
}

static void expect_untouched(struct harness *harness, struct request *requests[LIST])
{
    for (int32_t i = 0; i < LIST; i++) {
        cr_expect_eq(atomic_load(&requests[i]->references), 1);
        request_release(requests[i]);
    }
    cr_expect_eq(engine_counters_read(harness->engine).waiting, 0);
    cr_expect_eq(engine_counters_read(harness->engine).rejected, LIST);
}

Test(submit, a_list_without_room_for_all_leaves_nothing_behind)
{
    struct harness harness;
    struct error err = {0};
    struct request *requests[LIST];
    const struct engine_options options = harness_options(1, 2);
    const struct decode_params params = decode_params_neutral(8, 8);
    harness_create(&harness, &options);
    struct request *first = harness_request(5, 9, &params);
    harness_submit(&harness, first);
    harness_tick(&harness);
    make_list(requests, &params);
    cr_expect_eq(engine_submit_all(harness.engine, requests, LIST, &err), ERROR_LIMIT);
    expect_untouched(&harness, requests);
    harness_run(&harness);
    make_list(requests, &params);
    cr_expect_eq(engine_submit_all(harness.engine, requests, LIST, &err), 0, "%s", err.message);
    harness_run(&harness);
    cr_expect_eq(engine_counters_read(harness.engine).finished, 1 + LIST);
    request_release(first);
    for (int32_t i = 0; i < LIST; i++)
        request_release(requests[i]);
    harness_free(&harness);
}

Test(submit, one_that_is_wrong_refuses_its_list)
{
    struct harness harness;
    struct error err = {0};
    struct request *requests[LIST];
    const struct engine_options options = harness_options(4, 0);
    const struct decode_params params = decode_params_neutral(8, 8);
    const uint32_t nothing[FAKE_VOCABULARY / 32] = {0};
    harness_create(&harness, &options);
    make_list(requests, &params);
    requests[LIST - 1]->params.allowed = nothing;
    cr_expect_eq(engine_submit_all(harness.engine, requests, LIST, &err), ERROR_INVALID);
    cr_expect_eq(requests[0]->fault, REQUEST_FAULT_NONE);
    cr_expect_eq(requests[LIST - 1]->fault, REQUEST_FAULT_NO_TOKEN);
    expect_untouched(&harness, requests);
    harness_free(&harness);
}

/* An answer of this length behind these prompts is taken, and one that is longer is not. */
static void expect_limit(struct harness *harness, int32_t prompt, int32_t partner)
{
    static const int32_t negative[400] = {1};
    int32_t limit = engine_answer_limit(harness->engine, prompt, partner);
    cr_assert_gt(limit, 0);
    for (int32_t more = 0; more < 2; more++) {
        struct error err = {0};
        struct decode_params params = decode_params_neutral(limit + more, 8);
        params.cfg_scale = partner < 0 ? 0 : 1;
        params.negative_prompt = negative;
        params.negative_prompt_length = partner;
        struct request *request = harness_request(prompt, 1, &params);
        cr_expect_eq(engine_submit(harness->engine, request, &err), more ? ERROR_INVALID : 0,
                     "%d and %d: %d + %d: %s", prompt, partner, limit, more, err.message);
        request_release(request);
        harness_run(harness);
    }
}

Test(submit, the_answer_limit_is_the_longest_that_is_taken)
{
    static const struct {
        int64_t tokens;
        int32_t rows;
    } sizes[] = {{512, 4096}, {128, 4096}, {256, 100}, {64, 60}};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        struct harness harness;
        struct engine_options options = harness_options(1, 0);
        options.kv_cache_tokens = sizes[i].tokens;
        options.max_rows_per_tick = sizes[i].rows;
        harness_create(&harness, &options);
        expect_limit(&harness, 5, -1);
        if (sizes[i].tokens > 64) {
            expect_limit(&harness, 5, 5);
            expect_limit(&harness, 5, 40);
        }
        cr_expect_eq(engine_answer_limit(harness.engine, 4096, -1), 0);
        harness_free(&harness);
    }
}

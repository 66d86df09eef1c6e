/* What a request's parameters do, and which ones are refused at the door. */
#include <math.h>
#include <string.h>

#include <criterion/criterion.h>

#include "common/error.h"
#include "tests/unit/engine/harness.h"

enum { PROMPT = 5 };

static struct harness harness;

static void create(void)
{
    const struct engine_options options = harness_options(2, 0);
    harness_create(&harness, &options);
}

static struct request *decode(const struct decode_params *params)
{
    struct request *request = harness_request(PROMPT, 1, params);
    harness_submit(&harness, request);
    harness_run(&harness);
    return request;
}

/* ---- effects --------------------------------------------------------------------------------- */

Test(parameters, top_entries_are_kept_from_the_round_of_the_commit)
{
    create();
    struct decode_params params = decode_params_neutral(16, 16);
    params.steps = 4;
    params.top_logprobs = 3;
    struct request *request = harness_request(PROMPT, 1, &params);
    harness_submit(&harness, request);
    int32_t kept[16 * 3];
    memset(kept, 0xFF, sizeof kept); /* -1 */
    for (int32_t round = 1; round <= 4; round++) {
        harness_tick(&harness);
        const struct draft *draft = harness_draft(request);
        cr_assert_eq(draft->top_count, 3);
        for (int32_t i = 0; i < 16; i++) {
            const int32_t *top = draft->top_token + (ptrdiff_t)i * 3;
            const float *logprob = draft->top_logprob + (ptrdiff_t)i * 3;
            if (draft->tokens[i] == FAKE_MASK_TOKEN) {
                cr_expect(top[0] == -1 && top[2] == -1 && isinf(logprob[1]));
                continue;
            }
            cr_expect_eq(top[0], draft->tokens[i], "the best token of a greedy row");
            cr_expect_float_eq((double)logprob[0], (double)draft->raw_logprob[i], 0);
            cr_expect(logprob[0] >= logprob[1] && logprob[1] >= logprob[2]);
            if (kept[i * 3] >= 0)
                cr_expect_arr_eq(kept + (ptrdiff_t)i * 3, top, 3 * sizeof *top);
            memcpy(kept + (ptrdiff_t)i * 3, top, 3 * sizeof *top);
        }
    }
    request_release(request);
    harness_free(&harness);
}

Test(parameters, a_strong_presence_penalty_lets_no_token_come_twice)
{
    create();
    struct decode_params params = decode_params_neutral(40, 8);
    params.presence_penalty = 100;
    struct request *request = decode(&params);
    const struct draft *draft = harness_draft(request);
    for (int32_t i = 0; i < 40; i++) {
        for (int32_t k = 0; k < i; k++)
            cr_expect_neq(draft->tokens[i], draft->tokens[k]);
    }
    request_release(request);
    harness_free(&harness);
}

Test(parameters, biases_and_allowed_sets_decide_what_is_chosen)
{
    create();
    const struct token_bias biases[] = {{33, 50}, {34, 60}, {35, -INFINITY}};
    const uint32_t allowed[] = {0, 1u << (33 - 32) | 1u << (35 - 32) | 1u << (36 - 32)};
    struct decode_params params = decode_params_neutral(8, 8);
    params.biases = biases;
    params.bias_count = 3;
    struct request *biased = decode(&params);
    params.allowed = allowed; /* not 34 */
    struct request *confined = decode(&params);
    for (int32_t i = 0; i < 8; i++) {
        cr_expect_eq(harness_draft(biased)->tokens[i], 34);
        cr_expect_eq(harness_draft(confined)->tokens[i], 33);
        cr_expect_gt(harness_draft(confined)->confidence[i], 0.999f, "bans before the softmax");
    }
    request_release(biased);
    request_release(confined);
    harness_free(&harness);
}

Test(parameters, eos_ids_of_the_model_are_banned_without_being_stop_ids)
{
    create();
    struct decode_params params = decode_params_neutral(100, 100);
    params.logits_eos_inf = true;
    struct request *request = decode(&params);
    for (int32_t i = 0; i < 100; i++)
        cr_expect_neq(harness_draft(request)->tokens[i], FAKE_STOP_TOKEN);
    request_release(request);
    harness_free(&harness);
}

/* Every row proposes either the stop id or another token; the stop ids must come last. */
Test(parameters, stop_ids_commit_behind_all_others)
{
    create();
    const uint32_t allowed[] = {1u << FAKE_STOP_TOKEN | 1u << 9, 0};
    struct decode_params params = decode_params_neutral(24, 24);
    params.allowed = allowed;
    params.confidence_eos_eot_inf = true;
    params.stop_tokens[0] = FAKE_STOP_TOKEN;
    params.stop_token_count = 1;
    for (int selection = SELECTION_STEPS; selection <= SELECTION_RANDOM; selection++) {
        params.selection = (enum selection)selection;
        params.threshold = 0.1f;
        struct request *request = harness_request(PROMPT, 1, &params);
        harness_submit(&harness, request);
        harness_tick(&harness);
        const struct draft *draft = harness_draft(request);
        for (int32_t i = 0; i < 24; i++)
            cr_expect_neq(draft->tokens[i], FAKE_STOP_TOKEN, "%s", selection_name(selection));
        cr_expect_gt(24 - draft->masked, 0);
        harness_run(&harness);
        request_release(request);
    }
    harness_free(&harness);
}

Test(parameters, a_negative_prompt_guides_and_takes_pages_and_rows_of_its_own)
{
    create();
    int32_t negative[70];
    for (int32_t i = 0; i < 70; i++)
        negative[i] = 7 + i % 20;
    struct decode_params params = decode_params_neutral(8, 8);
    params.cfg_scale = 1;
    params.cache = CACHE_DUAL;
    struct request *masked = decode(&params);
    params.negative_prompt = negative;
    params.negative_prompt_length = 70;
    struct request *request = harness_request(PROMPT, 1, &params);
    harness_submit(&harness, request);
    uint64_t rows = engine_counters_read(harness.engine).rows;
    harness_tick(&harness);
    cr_expect_eq(engine_counters_read(harness.engine).kv_pages_used, 1 + 2);
    cr_expect_eq(engine_counters_read(harness.engine).rows - rows, 13 + 78);
    harness_tick(&harness);
    cr_expect_eq(engine_counters_read(harness.engine).rows - rows, 13 + 78 + 8 + 8);
    harness_run(&harness);
    cr_expect_arr_neq(harness_draft(request)->tokens, harness_draft(masked)->tokens,
                      8 * sizeof(int32_t));
    request_release(request);

    /* The prompt masked is a negative prompt of masks. */
    memset(negative, 0, sizeof negative);
    cr_assert_eq(FAKE_MASK_TOKEN, 0);
    params.negative_prompt_length = PROMPT;
    request = decode(&params);
    cr_expect(drafts_are_equal(harness_draft(request), harness_draft(masked)));
    request_release(masked);
    request_release(request);
    harness_free(&harness);
}

/* ---- refusals -------------------------------------------------------------------------------- */

static void expect_refused(const struct decode_params *params, int code, const char *words)
{
    struct error err = {0};
    struct request *request = harness_request(PROMPT, 1, params);
    cr_expect_eq(engine_submit(harness.engine, request, &err), code, "%s", err.message);
    cr_expect_not_null(strstr(err.message, words), "\"%s\" is not in: %s", words, err.message);
    cr_expect_eq(atomic_load(&request->references), 1);
    cr_expect_eq(engine_counters_read(harness.engine).waiting, 0);
    request_release(request);
}

Test(parameters, numbers_out_of_range_are_refused)
{
    create();
    struct decode_params params = decode_params_neutral(8, 8);
    params.repetition_penalty = 0;
    expect_refused(&params, ERROR_INVALID, "repetition_penalty 0");
    params.repetition_penalty = 1;
    params.presence_penalty = NAN;
    expect_refused(&params, ERROR_INVALID, "presence_penalty nan");
    params.presence_penalty = 0;
    params.stop_tokens[0] = 64;
    params.stop_token_count = 1;
    expect_refused(&params, ERROR_INVALID, "stop ids name token 64");
    harness_free(&harness);
}

Test(parameters, biases_are_limited_unique_and_of_known_tokens)
{
    create();
    static struct token_bias biases[DECODE_BIASES_MAX + 1];
    struct decode_params params = decode_params_neutral(8, 8);
    params.biases = biases;
    params.bias_count = DECODE_BIASES_MAX + 1;
    expect_refused(&params, ERROR_INVALID, "1025 biases were given, at most 1024");
    params.bias_count = 2;
    expect_refused(&params, ERROR_INVALID, "token 0 has two biases");
    biases[1].token = 64;
    expect_refused(&params, ERROR_INVALID, "token 64, the model has the tokens 0 to 63");
    biases[1] = (struct token_bias){4, INFINITY};
    expect_refused(&params, ERROR_INVALID, "the bias of token 4 is inf");
    harness_free(&harness);
}

Test(parameters, banned_words_are_limited_and_need_the_text_of_tokens)
{
    create();
    static struct banned_word words[DECODE_BANNED_WORDS_MAX + 1];
    struct decode_params params = decode_params_neutral(8, 8);
    params.banned_words = words;
    params.banned_word_count = DECODE_BANNED_WORDS_MAX + 1;
    expect_refused(&params, ERROR_INVALID, "257 banned words");
    params.banned_word_count = 2;
    words[0] = (struct banned_word){"word", 4};
    expect_refused(&params, ERROR_INVALID, "banned word 1 has 0 bytes");
    harness_free(&harness);

    struct engine_options options = harness_options(2, 0);
    options.token_text = NULL;
    harness_create(&harness, &options);
    expect_refused(&params, ERROR_UNSUPPORTED, "text of tokens");
    harness_free(&harness);
}

Test(parameters, a_request_that_leaves_no_token_is_refused)
{
    create();
    const uint32_t allowed[] = {1u << FAKE_MASK_TOKEN | 1u << FAKE_STOP_TOKEN, 0};
    struct decode_params params = decode_params_neutral(8, 8);
    params.allowed = allowed;
    params.logits_eos_inf = true;
    expect_refused(&params, ERROR_INVALID, "leave no token");

    const struct banned_word letters[] = {{"a", 1}, {"b", 1}, {"c", 1}, {"d", 1}};
    uint32_t with_text[FAKE_VOCABULARY / 32] = {0};
    for (int32_t i = 0; i < FAKE_VOCABULARY; i++) {
        if (i != HARNESS_FREE_TOKEN && harness_token_text()[i].length > 0)
            with_text[i / 32] |= 1u << i % 32;
    }
    params = decode_params_neutral(8, 8);
    params.allowed = with_text;
    params.banned_words = letters;
    params.banned_word_count = 4;
    expect_refused(&params, ERROR_INVALID, "leave no token");
    harness_free(&harness);
}

Test(parameters, a_negative_prompt_that_can_never_run_is_refused)
{
    create();
    static const int32_t negative[400] = {1};
    struct decode_params params = decode_params_neutral(28, 8);
    params.cfg_scale = 1;
    params.negative_prompt = negative;
    params.negative_prompt_length = 101;
    expect_refused(&params, ERROR_INVALID, "negative prompt 101 + max_tokens 28");
    params.cfg_scale = 0; /* without guidance it is not looked at */
    request_release(decode(&params));
    harness_free(&harness);

    struct engine_options options = harness_options(2, 0);
    options.kv_cache_tokens = 128;
    harness_create(&harness, &options);
    params.cfg_scale = 1;
    params.negative_prompt_length = 40; /* 33 positions and 68 */
    expect_refused(&params, ERROR_INVALID, "partner of 68 need 3 KV pages");
    harness_free(&harness);
    options.kv_cache_tokens = 256;
    options.max_rows_per_tick = 100;
    harness_create(&harness, &options);
    expect_refused(&params, ERROR_INVALID, "101 rows");
    harness_free(&harness);
}

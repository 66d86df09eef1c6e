#include "server/engine/banned_words.h"

#include <string.h>

#include <criterion/criterion.h>

#include "common/error.h"
#include "tests/unit/engine/harness.h"

enum { MASK = 0, STOP = 1, SPECIAL = 2, BA, D, A, B, BAD, X, LONG, TOKENS };

static const char *const TEXTS[TOKENS] = {
    [MASK] = "", [STOP] = "", [SPECIAL] = "", [BA] = "ba",       [D] = "d",
    [A] = "a",   [B] = "b",   [BAD] = "bad",  [X] = "\xC3\xA4x", [LONG] = "no bad word"};

struct checked {
    struct token_text table[TOKENS];
    struct banned_word words[2];
    struct decode_params params;
    struct canvas canvas;
    char scratch[1024];
};

/* An answer of these tokens behind a prompt that ends with "ba". */
static void create(struct checked *checked, const int32_t *answer, int32_t length)
{
    struct error err = {0};
    *checked = (struct checked){.words = {{"bad", 3}, {"aab", 3}}};
    for (int32_t i = 0; i < TOKENS; i++)
        checked->table[i] = (struct token_text){TEXTS[i], (int32_t)strlen(TEXTS[i])};
    cr_assert_leq(banned_words_scratch_size(checked->table, TOKENS), sizeof checked->scratch);
    checked->params = decode_params_neutral(length, length);
    checked->params.banned_words = checked->words;
    checked->params.banned_word_count = 2;
    checked->params.stop_tokens[0] = STOP;
    checked->params.stop_token_count = 1;
    cr_assert_eq(canvas_create(&checked->canvas, 16, &err), 0);
    canvas_begin(&checked->canvas, (const int32_t[]){X, BA}, 2, length, MASK);
    for (int32_t i = 0; i < length; i++) {
        if (answer[i] != MASK)
            canvas_commit(&checked->canvas, 2 + i, answer[i], 1, 0);
    }
}

static void expect(const int32_t *answer, int32_t length, int32_t at, int32_t token, bool completes)
{
    struct checked checked;
    create(&checked, answer, length);
    const struct word_check check = {&checked.params, checked.table, checked.scratch};
    cr_expect_eq(banned_words_would_complete(&check, &checked.canvas, 2 + at, token), completes,
                 "\"%s\" at %d", TEXTS[token], at);
    canvas_free(&checked.canvas);
}

#define ANSWER(...)                                                                                \
    (const int32_t[]){__VA_ARGS__}, (int32_t)(sizeof((int32_t[]){__VA_ARGS__}) / sizeof(int32_t))

Test(banned_words, a_word_is_completed_by_its_last_part_wherever_that_stands)
{
    expect(ANSWER(BA, MASK), 1, D, true);
    expect(ANSWER(BA, MASK), 1, A, false);
    expect(ANSWER(MASK, D), 0, BA, true);
    expect(ANSWER(B, MASK, D), 1, A, true);
    expect(ANSWER(B, MASK, D), 1, B, false);
    expect(ANSWER(X, B, MASK, D, X), 2, A, true);
    expect(ANSWER(MASK, MASK, MASK), 1, BAD, true);
    expect(ANSWER(A, MASK), 1, A, false);
    expect(ANSWER(A, MASK, BA), 1, A, true); /* "aab", the second word, across three tokens */
}

Test(banned_words, a_mask_a_stop_id_and_the_prompt_end_the_joined_text)
{
    expect(ANSWER(BA, MASK, MASK), 2, D, false);
    expect(ANSWER(BA, STOP, MASK), 2, D, false);
    expect(ANSWER(BA, MASK, D), 1, STOP, false);
    expect(ANSWER(MASK), 0, D, false); /* the prompt ends with "ba" */
}

Test(banned_words, a_token_without_text_joins_its_neighbours)
{
    expect(ANSWER(BA, MASK, D), 1, SPECIAL, true);
    expect(ANSWER(BA, SPECIAL, MASK), 2, D, true);
    expect(ANSWER(BA, MASK, A), 1, SPECIAL, false);
}

Test(banned_words, tokens_that_hold_a_word_are_excluded)
{
    struct checked checked;
    create(&checked, ANSWER(MASK));
    uint32_t allowed[1] = {UINT32_MAX};
    banned_words_exclude_tokens(allowed, &checked.params, checked.table, TOKENS);
    cr_expect_eq(allowed[0], UINT32_MAX & ~(1u << BAD | 1u << LONG), "%x", allowed[0]);
    canvas_free(&checked.canvas);
}

/* ---- whole answers --------------------------------------------------------------------------- */

/* The text between masks, stop ids and ends. */
static void expect_clean(const struct request *request, const struct draft *draft, int32_t number)
{
    const struct decode_params *params = &request->params;
    const struct token_text *table = harness_token_text();
    char text[512];
    size_t length = 0;
    for (int32_t i = 0; i <= draft->length; i++) {
        int32_t token = i < draft->length ? draft->tokens[i] : FAKE_MASK_TOKEN;
        bool ends = token == FAKE_MASK_TOKEN || decode_is_stop_token(params, token);
        if (!ends) {
            memcpy(text + length, table[token].bytes, (size_t)table[token].length);
            length += (size_t)table[token].length;
            continue;
        }
        for (int32_t k = 0; k < params->banned_word_count; k++) {
            const struct banned_word *word = &params->banned_words[k];
            cr_assert_null(memmem(text, length, word->bytes, (size_t)word->length),
                           "request %d: \"%.*s\" in \"%.*s\"", number, word->length, word->bytes,
                           (int)length, text);
        }
        length = 0;
    }
}

static struct banned_word words[6];
static char letters[6][8];

static struct decode_params random_params(void)
{
    struct decode_params params = decode_params_neutral(random_draw(1, 60), random_draw(1, 40));
    params.selection = (enum selection)random_draw(SELECTION_STEPS, SELECTION_RANDOM);
    params.steps = random_draw(0, 2) > 0 ? random_draw(1, 12) : 0;
    params.threshold = (float)random_draw(0, 10) / 10;
    params.factor = (float)random_draw(1, 80) / 10;
    params.cache = (enum cache_mode)random_draw(CACHE_NONE, CACHE_DUAL);
    params.temperature = (float)random_draw(0, 2);
    params.seed = (uint64_t)random_draw(0, 1000);
    params.ignore_eos = random_draw(0, 1) == 1;
    params.confidence_eos_eot_inf = random_draw(0, 1) == 1;
    params.stop_tokens[0] = FAKE_STOP_TOKEN;
    params.stop_token_count = random_draw(0, 1);
    params.banned_words = words;
    params.banned_word_count = random_draw(1, 6);
    for (int32_t i = 0; i < params.banned_word_count; i++) {
        words[i] = (struct banned_word){letters[i], random_draw(1, 7)};
        for (int32_t k = 0; k < words[i].length; k++)
            letters[i][k] = (char)random_draw('a', 'd');
    }
    return params;
}

/* Over half of all random texts of this alphabet hold one of the words. */
Test(banned_words, no_answer_holds_one_whatever_the_budget)
{
    struct harness harness;
    const struct engine_options options = harness_options(1, 0);
    harness_create(&harness, &options);
    random_begin(99);
    for (int32_t i = 0; i < 1500; i++) {
        const struct decode_params params = random_params();
        struct request *request = harness_request(random_draw(1, 20), i, &params);
        harness_submit(&harness, request);
        int64_t before = harness.ticks;
        const struct draft *draft = harness_draft(request);
        int32_t masked = draft->masked;
        while (harness_tick(&harness)) {
            cr_assert_lt(draft->masked, masked, "request %d: a round without a commit", i);
            masked = draft->masked;
        }
        cr_assert(draft->finish == FINISH_STOP || draft->finish == FINISH_LENGTH, "%s",
                  request->stream.error.message);
        cr_assert_eq(draft->masked, 0);
        int32_t rounds_at_most = params.steps > 0 ? params.steps : params.max_tokens;
        cr_assert_leq(draft->round, rounds_at_most);
        cr_assert_leq(harness.ticks - before, rounds_at_most);
        expect_clean(request, draft, i);
        request_release(request);
    }
    harness_free(&harness);
}

/* Every token is a single "a" but one: where "aa" is banned no two of them may stand together. */
static struct request *decode_letters(struct harness *harness, struct decode_params *params)
{
    static const struct banned_word TWICE = {"aa", 2};
    params->banned_words = &TWICE;
    params->banned_word_count = 1;
    struct request *request = harness_request(5, 1, params);
    harness_submit(harness, request);
    harness_run(harness);
    return request;
}

Test(banned_words, when_the_top_list_is_refused_any_token_with_text_is_taken_or_the_request_fails)
{
    static struct token_text table[FAKE_VOCABULARY];
    for (int32_t i = 0; i < FAKE_VOCABULARY; i++)
        table[i] = (struct token_text){"a", i == FAKE_STOP_TOKEN ? 0 : 1};
    for (int32_t other = 0; other <= 1; other++) {
        if (other)
            table[50] = (struct token_text){"b", 1};
        struct harness harness;
        struct engine_options options = harness_options(1, 0);
        options.token_text = table;
        harness_create(&harness, &options);
        struct decode_params params = decode_params_neutral(20, 5);
        params.ignore_eos = true;
        params.stop_tokens[0] = FAKE_STOP_TOKEN;
        params.stop_token_count = 1;
        struct request *request = decode_letters(&harness, &params);
        const struct draft *draft = harness_draft(request);
        cr_expect_eq(draft->finish, other ? FINISH_LENGTH : FINISH_FAILED);
        cr_expect_eq(request->stream.error.code, other ? 0 : ERROR_INVALID);
        for (int32_t i = 1; other && i < draft->length; i++)
            cr_expect(draft->tokens[i - 1] == 50 || draft->tokens[i] == 50, "position %d", i);
        request_release(request);

        params.ignore_eos = false; /* a stop id always fits */
        params.steps = 1;
        request = decode_letters(&harness, &params);
        cr_expect_neq(harness_draft(request)->finish, FINISH_FAILED, "%s",
                      request->stream.error.message);
        request_release(request);
        harness_free(&harness);
    }
}

#include "tests/unit/engine/harness.h"

#include <string.h>

#include <criterion/criterion.h>

#include "common/error.h"

enum { CANVAS_LIMIT = 128, PROMPT_MAX = CANVAS_LIMIT, TICKS_MAX = 1000000 };

static uint64_t random_state;

void random_begin(uint64_t seed)
{
    random_state = seed;
}

int32_t random_draw(int32_t min, int32_t max)
{
    random_state ^= random_state >> 12;
    random_state ^= random_state << 25;
    random_state ^= random_state >> 27;
    uint64_t word = random_state * 0x2545F4914F6CDD1Du;
    return min + (int32_t)(word % (uint64_t)(max - min + 1));
}

const struct token_text *harness_token_text(void)
{
    static const char *const TEXTS[] = {"a",   "b",  "c",  "d",  "ab", "bc", "cd", "da",
                                        "abc", "bd", "ca", "db", "dd", "",   "ac", "bbd"};
    static struct token_text table[FAKE_VOCABULARY];
    for (int32_t i = 0; i < FAKE_VOCABULARY; i++) {
        const char *text = i == HARNESS_FREE_TOKEN ? "z" : TEXTS[i * 7 % 16];
        table[i] = (struct token_text){text, (int32_t)strlen(text)};
    }
    table[FAKE_MASK_TOKEN] = table[FAKE_STOP_TOKEN] = (struct token_text){"", 0};
    return table;
}

struct engine_options harness_options(int32_t sequences, int32_t waiting)
{
    return (struct engine_options){
        .max_sequences = sequences,
        .max_rows_per_tick = 4 * CANVAS_LIMIT,
        .queue_limit = waiting,
        .kv_cache_tokens = 2 * (int64_t)sequences * CANVAS_LIMIT,
        .token_limit = FAKE_VOCABULARY,
        .token_text = harness_token_text(),
    };
}

void harness_create_with(struct harness *harness, const struct engine_options *options,
                         const struct fake_options *fake)
{
    struct error err = {0};
    *harness = (struct harness){.model = fake_model_create(fake)};
    cr_assert_not_null(harness->model);
    cr_assert_eq(engine_create(&harness->engine, harness->model, options, &err), 0, "%s",
                 err.message);
}

void harness_create(struct harness *harness, const struct engine_options *options)
{
    harness_create_with(harness, options, &(struct fake_options){.max_positions = CANVAS_LIMIT});
}

void harness_free(struct harness *harness)
{
    const struct engine_counters counters = engine_counters_read(harness->engine);
    cr_expect_eq(fake_model_violations(harness->model), 0);
    cr_expect_leq(fake_model_largest_step(harness->model),
                  harness->engine->options.max_rows_per_tick);
    cr_expect_eq(counters.kv_pages_used, 0, "%d pages leaked", counters.kv_pages_used);
    cr_expect_eq(counters.running, 0);
    cr_expect_eq(counters.waiting, 0);
    engine_free(harness->engine);
    model_free(harness->model);
}

struct request *harness_request(int32_t prompt_length, int32_t prompt_seed,
                                const struct decode_params *params)
{
    int32_t prompt[PROMPT_MAX];
    for (int32_t i = 0; i < prompt_length; i++)
        prompt[i] = 1 + (prompt_seed * 31 + i * 7) % (FAKE_VOCABULARY - 1);
    struct request *request;
    struct error err = {0};
    cr_assert_eq(request_create(&request, prompt, prompt_length, params, FAKE_MASK_TOKEN, &err), 0,
                 "%s", err.message);
    request->arrival_us = 0;
    return request;
}

void harness_siblings(struct request **out, int32_t count, struct request *first)
{
    struct error err = {0};
    out[0] = first;
    for (int32_t i = 1; i < count; i++) {
        cr_assert_eq(request_create_sibling(&out[i], first, first->params.seed + (uint64_t)i,
                                            FAKE_MASK_TOKEN, &err),
                     0, "%s", err.message);
        out[i]->arrival_us = first->arrival_us;
    }
}

void harness_submit(struct harness *harness, struct request *request)
{
    harness_submit_all(harness, &request, 1);
}

void harness_submit_all(struct harness *harness, struct request *const *requests, int32_t count)
{
    struct error err = {0};
    cr_assert_eq(engine_submit_all(harness->engine, requests, count, &err), 0, "%s", err.message);
}

bool harness_tick(struct harness *harness)
{
    harness->now_us += 1000;
    harness->ticks++;
    return engine_tick(harness->engine, harness->now_us);
}

void harness_run(struct harness *harness)
{
    while (harness_tick(harness))
        cr_assert_lt(harness->ticks, TICKS_MAX, "the engine never comes to an end");
}

const struct draft *harness_draft(const struct request *request)
{
    return &request->stream.draft;
}

static bool tops_are_equal(const struct draft *a, const struct draft *b)
{
    size_t count = (size_t)a->length * (size_t)a->top_count;
    return a->top_count == b->top_count &&
           (count == 0 ||
            (memcmp(a->top_token, b->top_token, count * sizeof *a->top_token) == 0 &&
             memcmp(a->top_logprob, b->top_logprob, count * sizeof *a->top_logprob) == 0));
}

bool drafts_are_equal(const struct draft *a, const struct draft *b)
{
    size_t count = (size_t)a->length;
    return a->length == b->length && a->round == b->round && a->masked == b->masked &&
           a->settled == b->settled && a->text_tokens == b->text_tokens && a->finish == b->finish &&
           a->forward_passes == b->forward_passes &&
           memcmp(a->tokens, b->tokens, count * sizeof *a->tokens) == 0 &&
           memcmp(a->confidence, b->confidence, count * sizeof *a->confidence) == 0 &&
           memcmp(a->raw_logprob, b->raw_logprob, count * sizeof *a->raw_logprob) == 0 &&
           tops_are_equal(a, b);
}

/*
 * Properties over thousands of random schedules: every request ends, nothing leaks, nothing
 * starves, and a result depends neither on the arrival order, nor on batch mates, nor on limits.
 */
#include <string.h>

#include <criterion/criterion.h>

#include "common/error.h"
#include "tests/unit/engine/harness.h"

enum { SCHEDULES = 2000, REQUESTS_MAX = 12, KINDS = 64, CHOICES_MAX = 3 };

/* xorshift64*: schedules are the same in every run. */
static uint64_t random_state;

static uint64_t next_random(void)
{
    random_state ^= random_state >> 12;
    random_state ^= random_state << 25;
    random_state ^= random_state >> 27;
    return random_state * 0x2545F4914F6CDD1Du;
}

static int32_t draw(int32_t min, int32_t max)
{
    return min + (int32_t)(next_random() % (uint64_t)(max - min + 1));
}

/* ---- kinds of requests, and what they answer when they are alone ----------------------------- */

static struct request *make_request(int32_t kind)
{
    random_state = 0x9E3779B97F4A7C15u * (uint64_t)(kind + 1);
    struct decode_params params = decode_params_neutral(draw(1, 70), draw(1, 40));
    params.selection = (enum selection)draw(SELECTION_STEPS, SELECTION_RANDOM);
    params.steps = draw(0, 1) ? draw(1, 40) : 0;
    params.threshold = (float)draw(1, 10) / 10;
    params.factor = (float)draw(1, 20) / 10;
    params.cache = (enum cache_mode)draw(CACHE_NONE, CACHE_DUAL);
    params.refresh_interval = draw(0, 1) ? draw(1, 5) : 0;
    params.temperature = (float)draw(0, 1);
    params.seed = (uint64_t)draw(0, 1000);
    params.cfg_scale = draw(0, 3) == 0 ? 1 : 0;
    params.eos_early_stop = draw(0, 1) == 1;
    params.ignore_eos = draw(0, 3) == 0;
    params.stop_tokens[0] = FAKE_STOP_TOKEN;
    params.stop_token_count = draw(0, 1);
    return harness_request(draw(1, 50), kind, &params, draw(1, CHOICES_MAX));
}

static struct request *alone[KINDS];

static void answer_all_alone(void)
{
    struct harness harness;
    const struct engine_options options = harness_options(1, CHOICES_MAX);
    harness_create(&harness, &options);
    for (int32_t i = 0; i < KINDS; i++) {
        alone[i] = make_request(i);
        harness_submit(&harness, alone[i]);
        harness_run(&harness);
    }
    harness_free(&harness);
}

static void release_alone(void)
{
    for (int32_t i = 0; i < KINDS; i++)
        request_release(alone[i]);
}

/* ---- one schedule ---------------------------------------------------------------------------- */

struct arrival {
    struct request *request;
    int32_t kind;
    int64_t tick, cancel_tick; /* INT64_MAX: never */
    bool submitted;
};

struct schedule {
    struct harness harness;
    struct arrival arrivals[REQUESTS_MAX];
    int32_t count;
    int64_t rounds_at_most; /* a tick without work ends the schedule; one with work does a round */
};

static void plan_schedule(struct schedule *schedule, int32_t number)
{
    random_state = 0xD1B54A32D192ED03u * (uint64_t)(number + 1);
    struct engine_options options = harness_options(draw(1, 6), REQUESTS_MAX * CHOICES_MAX);
    options.max_rows_per_tick = draw(240, 500);
    options.kv_cache_tokens = draw(4, 16) * KV_PAGE_POSITIONS;
    *schedule = (struct schedule){.count = draw(1, REQUESTS_MAX)};
    harness_create(&schedule->harness, &options);
    for (int32_t i = 0; i < schedule->count; i++) {
        struct arrival *arrival = &schedule->arrivals[i];
        arrival->kind = draw(0, KINDS - 1);
        arrival->tick = draw(0, 30);
        arrival->cancel_tick = draw(0, 4) == 0 ? arrival->tick + draw(0, 40) : INT64_MAX;
        int64_t deadline_us = draw(0, 2) == 0 ? draw(1, 9000000) : INT64_MAX;
        uint64_t state = random_state;
        arrival->request = make_request(arrival->kind);
        random_state = state;
        arrival->request->deadline_us = deadline_us;
        schedule->rounds_at_most +=
            (int64_t)arrival->request->params.max_tokens * arrival->request->choices;
    }
}

static void act_before_tick(struct schedule *schedule)
{
    int64_t tick = schedule->harness.ticks;
    for (int32_t i = 0; i < schedule->count; i++) {
        struct arrival *arrival = &schedule->arrivals[i];
        if (!arrival->submitted && arrival->tick <= tick) {
            arrival->request->arrival_us = schedule->harness.now_us;
            harness_submit(&schedule->harness, arrival->request);
            arrival->submitted = true;
        }
        if (arrival->cancel_tick <= tick)
            request_cancel(arrival->request);
    }
}

static bool all_submitted(const struct schedule *schedule)
{
    for (int32_t i = 0; i < schedule->count; i++) {
        if (!schedule->arrivals[i].submitted)
            return false;
    }
    return true;
}

/* The one that waits longest is taken in every tick, so the wait is bounded by the running ones. */
static void expect_no_starvation(const struct schedule *schedule)
{
    const struct scheduler *scheduler = &schedule->harness.engine->scheduler;
    for (int32_t i = 0; i < scheduler->running_count; i++)
        cr_assert_leq(scheduler->sequences[scheduler->running[i]].waited,
                      WHOLE_CANVAS_PATIENCE + scheduler->limits.max_sequences);
}

static void run_schedule(struct schedule *schedule)
{
    int64_t ticks_at_most = 100 + schedule->rounds_at_most;
    bool busy = true;
    while (busy || !all_submitted(schedule)) {
        act_before_tick(schedule);
        busy = harness_tick(&schedule->harness);
        expect_no_starvation(schedule);
        cr_assert_leq(schedule->harness.ticks, ticks_at_most, "a tick with work did no round");
    }
}

static void expect_results(struct schedule *schedule, int32_t number)
{
    uint64_t finished = 0, cancelled = 0;
    for (int32_t i = 0; i < schedule->count; i++) {
        struct arrival *arrival = &schedule->arrivals[i];
        bool complete = true;
        cr_assert(stream_finished(&arrival->request->stream));
        cr_assert_eq(atomic_load(&arrival->request->references), 1);
        for (int32_t k = 0; k < arrival->request->choices; k++) {
            const struct draft *draft = harness_draft(arrival->request, k);
            complete = complete && draft->finish != FINISH_CANCELLED;
            if (draft->finish != FINISH_CANCELLED)
                cr_assert(drafts_are_equal(draft, harness_draft(alone[arrival->kind], k)),
                          "schedule %d, request %d of kind %d, choice %d", number, i, arrival->kind,
                          k);
        }
        cr_assert(complete || arrival->cancel_tick != INT64_MAX);
        finished += complete;
        cancelled += !complete;
        request_release(arrival->request);
    }
    const struct engine_counters counters = engine_counters_read(schedule->harness.engine);
    cr_assert_eq(counters.finished, finished);
    cr_assert_eq(counters.cancelled, cancelled);
}

Test(schedules, every_request_ends_with_the_answer_it_has_alone)
{
    answer_all_alone();
    for (int32_t i = 0; i < SCHEDULES; i++) {
        struct schedule schedule;
        plan_schedule(&schedule, i);
        run_schedule(&schedule);
        expect_results(&schedule, i);
        harness_free(&schedule.harness);
    }
    release_alone();
}

/*
 * Properties over thousands of random schedules: every request ends, nothing leaks, nothing
 * starves, and a result depends neither on the arrival order, nor on batch mates, nor on limits.
 * Some queues are too short, and some engines are drained midway: what they refuse leaves no trace.
 */
#include <math.h>
#include <string.h>

#include <criterion/criterion.h>

#include "common/error.h"
#include "tests/unit/engine/harness.h"

#ifdef __SANITIZE_ADDRESS__
enum { SCHEDULES = 400 }; /* ten times slower */
#else
enum { SCHEDULES = 3000 };
#endif
enum { REQUESTS_MAX = 12, KINDS = 200, SIBLINGS_MAX = 3 };

/* ---- kinds of requests, and what they answer when they are alone ----------------------------- */

static void *allocate(struct request *request, size_t size)
{
    void *memory = arena_alloc(&request->arena, size);
    cr_assert_not_null(memory);
    return memory;
}

/* Biases and bans of some tokens, each once. */
static void add_biases(struct request *request)
{
    int32_t count = random_draw(1, 12), token = 1;
    struct token_bias *biases = allocate(request, (size_t)count * sizeof *biases);
    for (int32_t i = 0; i < count; i++) {
        token += random_draw(1, 4);
        bool ban = token != HARNESS_FREE_TOKEN && random_draw(0, 3) == 0;
        biases[i] = (struct token_bias){token, ban ? -INFINITY : (float)random_draw(-20, 20) / 4};
    }
    request->params.biases = biases;
    request->params.bias_count = count;
}

static void add_allowed(struct request *request)
{
    uint32_t *allowed = allocate(request, FAKE_VOCABULARY / 8);
    allowed[HARNESS_FREE_TOKEN / 32] |= UINT32_C(1) << HARNESS_FREE_TOKEN % 32;
    for (int32_t i = 0; i < 40; i++) {
        int32_t token = random_draw(0, FAKE_VOCABULARY - 1);
        allowed[token / 32] |= UINT32_C(1) << token % 32;
    }
    request->params.allowed = allowed;
}

static void add_negative_prompt(struct request *request)
{
    int32_t length = random_draw(0, 50);
    int32_t *prompt = allocate(request, (size_t)length * sizeof *prompt);
    for (int32_t i = 0; i < length; i++)
        prompt[i] = random_draw(1, FAKE_VOCABULARY - 1);
    request->params.cfg_scale = 1;
    request->params.negative_prompt = prompt;
    request->params.negative_prompt_length = length;
}

static void add_banned_words(struct request *request)
{
    int32_t count = random_draw(1, 5);
    struct banned_word *words = allocate(request, (size_t)count * sizeof *words);
    for (int32_t i = 0; i < count; i++) {
        int32_t length = random_draw(1, 6);
        char *bytes = allocate(request, (size_t)length);
        for (int32_t k = 0; k < length; k++)
            bytes[k] = (char)random_draw('a', 'd');
        words[i] = (struct banned_word){bytes, length};
    }
    request->params.banned_words = words;
    request->params.banned_word_count = count;
}

static struct request *make_request(int32_t kind)
{
    random_begin(0x9E3779B97F4A7C15u * (uint64_t)(kind + 1));
    struct decode_params params = decode_params_neutral(random_draw(1, 70), random_draw(1, 40));
    params.selection = (enum selection)random_draw(SELECTION_STEPS, SELECTION_RANDOM);
    params.steps = random_draw(0, 1) ? random_draw(1, 40) : 0;
    params.threshold = (float)random_draw(1, 10) / 10;
    params.factor = (float)random_draw(1, 20) / 10;
    params.cache = (enum cache_mode)random_draw(CACHE_NONE, CACHE_DUAL);
    params.refresh_interval = random_draw(0, 1) ? random_draw(1, 5) : 0;
    params.temperature = (float)random_draw(0, 1);
    params.seed = (uint64_t)random_draw(0, 1000);
    params.cfg_scale = random_draw(0, 3) == 0 ? 1 : 0;
    params.eos_early_stop = random_draw(0, 1) == 1;
    params.ignore_eos = random_draw(0, 3) == 0;
    params.logits_eos_inf = random_draw(0, 5) == 0;
    params.confidence_eos_eot_inf = random_draw(0, 3) == 0;
    params.stop_tokens[0] = FAKE_STOP_TOKEN;
    params.stop_token_count = random_draw(0, 1);
    if (random_draw(0, 3) == 0) {
        params.presence_penalty = (float)random_draw(-8, 8) / 4;
        params.frequency_penalty = (float)random_draw(-8, 8) / 4;
    }
    if (random_draw(0, 3) == 0)
        params.repetition_penalty = (float)random_draw(1, 8) / 4;
    if (random_draw(0, 3) == 0)
        params.top_logprobs = random_draw(1, HEAD_RAW_TOP_MAX);
    struct request *request = harness_request(random_draw(1, 50), kind, &params);
    if (random_draw(0, 3) == 0)
        add_biases(request);
    if (random_draw(0, 3) == 0)
        add_allowed(request);
    if (random_draw(0, 4) == 0)
        add_negative_prompt(request);
    if (random_draw(0, 2) == 0)
        add_banned_words(request);
    return request;
}

/* A request of this kind and up to two siblings; how many. */
static int32_t make_siblings(struct request *out[SIBLINGS_MAX], int32_t kind)
{
    struct request *first = make_request(kind);
    int32_t count = random_draw(1, SIBLINGS_MAX);
    harness_siblings(out, count, first);
    return count;
}

static struct request *alone[KINDS][SIBLINGS_MAX];
static int32_t alone_count[KINDS];

static void answer_all_alone(void)
{
    struct harness harness;
    const struct engine_options options = harness_options(1, SIBLINGS_MAX);
    harness_create(&harness, &options);
    for (int32_t i = 0; i < KINDS; i++) {
        alone_count[i] = make_siblings(alone[i], i);
        for (int32_t k = 0; k < alone_count[i]; k++) {
            harness_submit(&harness, alone[i][k]);
            harness_run(&harness);
        }
    }
    harness_free(&harness);
}

static void release_alone(void)
{
    for (int32_t i = 0; i < KINDS; i++) {
        for (int32_t k = 0; k < alone_count[i]; k++)
            request_release(alone[i][k]);
    }
}

/* ---- one schedule ---------------------------------------------------------------------------- */

/* Requests that belong together: they are submitted as one list. */
struct arrival {
    struct request *requests[SIBLINGS_MAX];
    int32_t kind, count;
    int64_t tick, cancel_tick, satisfied_tick; /* INT64_MAX: never */
    bool submitted, refused;
};

struct schedule {
    struct harness harness;
    struct arrival arrivals[REQUESTS_MAX];
    int32_t count, places;
    int64_t drain_tick;     /* INT64_MAX: never */
    int64_t rounds_at_most; /* a tick without work ends the schedule; one with work does a round */
};

static void plan_schedule(struct schedule *schedule, int32_t number)
{
    uint64_t seed = 0xD1B54A32D192ED03u * (uint64_t)(number + 1);
    random_begin(seed);
    int32_t waiting = random_draw(0, 2) == 0 ? random_draw(SIBLINGS_MAX, 2 * SIBLINGS_MAX)
                                             : REQUESTS_MAX * SIBLINGS_MAX;
    struct engine_options options = harness_options(random_draw(1, 6), waiting);
    options.max_rows_per_tick = random_draw(240, 500);
    options.kv_cache_tokens = random_draw(4, 16) * KV_PAGE_POSITIONS;
    *schedule = (struct schedule){
        .count = random_draw(1, REQUESTS_MAX),
        .places = options.max_sequences + options.queue_limit,
        .drain_tick = random_draw(0, 3) == 0 ? random_draw(0, 40) : INT64_MAX,
    };
    harness_create(&schedule->harness, &options);
    for (int32_t i = 0; i < schedule->count; i++) {
        struct arrival *arrival = &schedule->arrivals[i];
        arrival->kind = random_draw(0, KINDS - 1);
        arrival->tick = random_draw(0, 30);
        arrival->cancel_tick =
            random_draw(0, 4) == 0 ? arrival->tick + random_draw(0, 40) : INT64_MAX;
        arrival->satisfied_tick =
            random_draw(0, 7) == 0 ? arrival->tick + random_draw(0, 40) : INT64_MAX;
        int64_t deadline_us = random_draw(0, 2) == 0 ? random_draw(1, 9000000) : INT64_MAX;
        arrival->count = make_siblings(arrival->requests, arrival->kind);
        random_begin(seed + (uint64_t)i + 1);
        for (int32_t k = 0; k < arrival->count; k++)
            arrival->requests[k]->deadline_us = deadline_us;
        schedule->rounds_at_most +=
            (int64_t)arrival->requests[0]->params.max_tokens * arrival->count;
    }
}

/* Refused exactly while the engine drains, or where the queue has no place for all of them. */
static void submit(struct schedule *schedule, struct arrival *arrival)
{
    struct engine *engine = schedule->harness.engine;
    const struct engine_counters counters = engine_counters_read(engine);
    int32_t used = counters.waiting + counters.running;
    struct error err = {0};
    int code = engine_submit_all(engine, arrival->requests, arrival->count, &err);
    int expected = counters.draining                          ? ERROR_UNAVAILABLE
                   : used + arrival->count > schedule->places ? ERROR_LIMIT
                                                              : 0;
    cr_assert_eq(code, expected, "%d in use of %d: %s", used, schedule->places, err.message);
    arrival->submitted = true;
    arrival->refused = code != 0;
}

static struct request *last_of(const struct arrival *arrival)
{
    return arrival->requests[arrival->count - 1];
}

static void act_before_tick(struct schedule *schedule)
{
    int64_t tick = schedule->harness.ticks;
    if (schedule->drain_tick <= tick)
        engine_drain(schedule->harness.engine);
    for (int32_t i = 0; i < schedule->count; i++) {
        struct arrival *arrival = &schedule->arrivals[i];
        if (!arrival->submitted && arrival->tick <= tick) {
            for (int32_t k = 0; k < arrival->count; k++)
                arrival->requests[k]->arrival_us = schedule->harness.now_us;
            submit(schedule, arrival);
        }
        /* The last of the list alone ends early: its siblings go on. */
        if (arrival->cancel_tick <= tick)
            request_cancel(last_of(arrival));
        if (arrival->satisfied_tick <= tick)
            request_end(last_of(arrival), REQUEST_SATISFIED);
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

/* How many of the list were answered, each as it is alone. */
static int32_t expect_answers(const struct arrival *arrival, int32_t number)
{
    int32_t answered = 0;
    for (int32_t k = 0; k < arrival->count; k++) {
        cr_assert(stream_finished(&arrival->requests[k]->stream));
        const struct draft *draft = harness_draft(arrival->requests[k]);
        if (draft->finish == FINISH_CANCELLED)
            continue;
        cr_assert(drafts_are_equal(draft, harness_draft(alone[arrival->kind][k])),
                  "schedule %d, kind %d, request %d", number, arrival->kind, k);
        answered++;
    }
    return answered;
}

/* Nobody holds them any more but the test, and the siblings their first. */
static void release_requests(const struct arrival *arrival)
{
    for (int32_t k = arrival->count - 1; k >= 0; k--) {
        cr_assert_eq(atomic_load(&arrival->requests[k]->references), 1);
        request_release(arrival->requests[k]);
    }
}

static void expect_results(struct schedule *schedule, int32_t number)
{
    uint64_t ended = 0, cancelled = 0, refused = 0;
    for (int32_t i = 0; i < schedule->count; i++) {
        struct arrival *arrival = &schedule->arrivals[i];
        if (arrival->refused) {
            refused += (uint64_t)arrival->count;
        } else {
            bool complete = expect_answers(arrival, number) == arrival->count;
            int64_t early = arrival->cancel_tick < arrival->satisfied_tick
                                ? arrival->cancel_tick
                                : arrival->satisfied_tick;
            cr_assert(complete || early != INT64_MAX);
            cancelled += !complete && arrival->cancel_tick == early;
            ended += (uint64_t)arrival->count;
        }
        release_requests(arrival);
    }
    const struct engine_counters counters = engine_counters_read(schedule->harness.engine);
    cr_assert_eq(counters.finished, ended - cancelled);
    cr_assert_eq(counters.cancelled, cancelled);
    cr_assert_eq(counters.rejected, refused);
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

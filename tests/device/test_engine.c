/*
 * The engine on a device, with models/tiny: answers are those that each request gets alone,
 * whatever it shares its ticks with, and nothing is left behind. DENOISED_DEVICE names the device
 * ("cpu"), DENOISED_SOAK_SECONDS how long the soak lasts (1).
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/rng.h"
#include "server/engine/engine.h"

enum {
    KINDS = 10,        /* requests that differ */
    ANSWER_MAX = 96,   /* tokens */
    PROMPT_MAX = 200,  /* tokens */
    TOGETHER_MAX = 24, /* requests that run at the same time */
};

struct subject {
    const char *device;
    enum dtype dtype, weight_dtype;
    bool deterministic;
};

struct machine {
    struct model *model;
    struct engine *engine;
};

/* What a request answers. */
struct answer {
    int32_t length;
    int32_t tokens[ANSWER_MAX];
    float raw_logprobs[ANSWER_MAX];
};

/* ---- a machine ------------------------------------------------------------------------------- */

static const char *device_name(void)
{
    const char *name = getenv("DENOISED_DEVICE");
    return name != NULL ? name : "cpu";
}

static int create_backend(struct backend **out, const struct subject *subject, struct error *err)
{
    const struct backend_options options = {.dtype = subject->dtype,
                                            .weight_dtype = subject->weight_dtype,
                                            .deterministic = subject->deterministic};
    return backend_create(out, subject->device, &options, err);
}

/* Skips the test where the device is not there, or lacks the number formats. */
static struct machine open_machine(const struct subject *subject, int32_t max_sequences,
                                   int32_t max_rows)
{
    struct machine machine = {0};
    struct backend *backend;
    struct error err = {0};
    int code = create_backend(&backend, subject, &err);
    if (code == ERROR_NO_DEVICE || code == ERROR_INVALID)
        cr_skip_test("%s", err.message);
    cr_assert_eq(code, 0, "%s", err.message);
    cr_assert_eq(model_load(&machine.model, "models/tiny", backend, &err), 0, "%s", err.message);
    const struct engine_options options = {
        .max_sequences = max_sequences,
        .max_rows_per_tick = max_rows,
        .queue_limit = 64,
        .kv_cache_tokens = (int64_t)max_sequences * 2 * (PROMPT_MAX + ANSWER_MAX + 128),
        .token_limit = machine.model->config.vocabulary,
    };
    cr_assert_eq(engine_create(&machine.engine, machine.model, &options, &err), 0, "%s",
                 err.message);
    return machine;
}

static void close_machine(struct machine *machine)
{
    engine_free(machine->engine);
    model_free(machine->model);
}

/* ---- requests -------------------------------------------------------------------------------- */

static uint32_t random_word(uint32_t place, uint32_t use)
{
    return rng_word(7, place, use, RNG_ORIGIN, 0);
}

static struct decode_params params_of(uint32_t kind)
{
    static const int32_t lengths[] = {16, 32, 48, ANSWER_MAX};
    static const int32_t blocks[] = {8, 32, ANSWER_MAX};
    int32_t length = lengths[kind % 4];
    int32_t block = blocks[kind % 3];
    struct decode_params params = decode_params_neutral(length, block < length ? block : length);
    params.steps = length / (1 + (int32_t)kind % 5);
    params.steps = params.steps < 12 ? params.steps : 12;
    params.cache = (enum cache_mode)(kind % 3);
    params.ignore_eos = kind % 2 == 0;
    params.seed = kind;
    params.temperature = kind % 4 == 1 ? 0.8f : 0;
    params.top_p = kind % 8 == 5 ? 0.9f : 1;
    params.top_k = kind % 8 == 1 ? 20 : 0;
    params.cfg_scale = kind % 6 == 3 ? 0.5f : 0;
    params.repetition_penalty = kind % 5 == 2 ? 1.2f : 1;
    params.top_logprobs = (int32_t)kind % 3;
    return params;
}

static struct request *submit(const struct machine *machine, uint32_t kind)
{
    int32_t prompt[PROMPT_MAX];
    int32_t length = 3 + (int32_t)(random_word(kind, 1) % (PROMPT_MAX - 3));
    const struct decode_params params = params_of(kind);
    const struct model_config *config = &machine->model->config;
    struct request *request;
    struct error err = {0};
    for (int32_t i = 0; i < length; i++)
        prompt[i] = 300 + (int32_t)(random_word(kind * PROMPT_MAX + (uint32_t)i, 2) % 2000);
    cr_assert_eq(request_create(&request, prompt, length, &params, config->mask_token, &err), 0,
                 "%s", err.message);
    cr_assert_eq(engine_submit(machine->engine, request, &err), 0, "%s", err.message);
    return request;
}

static const struct draft *draft_of(const struct request *request)
{
    return &request->stream.draft;
}

static void keep_answer(struct answer *answer, const struct request *request)
{
    const struct draft *draft = draft_of(request);
    cr_assert(draft->finish == FINISH_STOP || draft->finish == FINISH_LENGTH, "%s",
              request->stream.error.message);
    answer->length = draft->length;
    memcpy(answer->tokens, draft->tokens, (size_t)draft->length * sizeof *draft->tokens);
    memcpy(answer->raw_logprobs, draft->raw_logprob, (size_t)draft->length * sizeof(float));
}

static bool is_same(const struct answer *a, const struct answer *b)
{
    size_t length = (size_t)a->length;
    return a->length == b->length && memcmp(a->tokens, b->tokens, length * sizeof(int32_t)) == 0 &&
           memcmp(a->raw_logprobs, b->raw_logprobs, length * sizeof(float)) == 0;
}

static void run_until_idle(const struct machine *machine)
{
    while (engine_tick(machine->engine, clock_now_us()))
        continue;
}

/* Each kind by itself. */
static void answer_alone(struct answer *answers, const struct machine *machine)
{
    for (uint32_t kind = 0; kind < KINDS; kind++) {
        struct request *request = submit(machine, kind);
        run_until_idle(machine);
        keep_answer(&answers[kind], request);
        request_release(request);
    }
}

static void answer_together(struct answer *answers, const struct machine *machine)
{
    struct request *requests[KINDS];
    for (uint32_t kind = 0; kind < KINDS; kind++)
        requests[kind] = submit(machine, kind);
    run_until_idle(machine);
    for (uint32_t kind = 0; kind < KINDS; kind++) {
        keep_answer(&answers[kind], requests[kind]);
        request_release(requests[kind]);
    }
}

/* ---- alone and together ---------------------------------------------------------------------- */

static void expect_as_alone(enum dtype dtype, enum dtype weight_dtype)
{
    const struct subject subject = {device_name(), dtype, weight_dtype, true};
    /* Few rows and few sequences, or all together: other batches, other buckets of rows. */
    static const int32_t limits[][2] = {{3, 700}, {KINDS, 1024}, {KINDS, 4096}};
    static struct answer alone[KINDS], together[KINDS];
    struct machine machine = open_machine(&subject, 1, 700);
    answer_alone(alone, &machine);
    close_machine(&machine);
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
        machine = open_machine(&subject, limits[i][0], limits[i][1]);
        answer_together(together, &machine);
        close_machine(&machine);
        for (uint32_t kind = 0; kind < KINDS; kind++)
            cr_expect(is_same(&alone[kind], &together[kind]),
                      "request %u differs with %d sequences and %d rows", kind, limits[i][0],
                      limits[i][1]);
    }
}

Test(device, answers_are_those_of_each_request_alone_in_bfloat16)
{
    expect_as_alone(DTYPE_BFLOAT16, DTYPE_BFLOAT16);
}

Test(device, answers_are_those_of_each_request_alone_with_int8_weights)
{
    expect_as_alone(DTYPE_BFLOAT16, DTYPE_INT8);
}

Test(device, answers_are_those_of_each_request_alone_with_fp8_weights)
{
    expect_as_alone(DTYPE_BFLOAT16, DTYPE_FP8);
}

/* ---- soak ------------------------------------------------------------------------------------ */

struct soak {
    struct machine machine;
    struct answer alone[KINDS];
    struct request *running[TOGETHER_MAX];
    uint32_t kind[TOGETHER_MAX];
    bool cancelled[TOGETHER_MAX];
    uint32_t place; /* of the next random number */
    int finished, ended_early;
};

static uint32_t next_random(struct soak *soak, uint32_t limit)
{
    return random_word(soak->place++, 3) % limit;
}

static bool has_ended(const struct request *request)
{
    return draft_of(request)->finish != FINISH_NONE;
}

/* Takes what has ended, and submits others in its place; now and then cancels one. */
static void serve_one(struct soak *soak, int slot)
{
    struct request *request = soak->running[slot];
    if (request == NULL) {
        soak->kind[slot] = next_random(soak, KINDS);
        soak->cancelled[slot] = false;
        soak->running[slot] = submit(&soak->machine, soak->kind[slot]);
        return;
    }
    if (has_ended(request)) {
        struct answer answer;
        enum finish finish = draft_of(request)->finish;
        if (finish == FINISH_CANCELLED) {
            cr_assert(soak->cancelled[slot], "a request was cancelled that nobody cancelled");
            soak->ended_early++;
        } else {
            keep_answer(&answer, request);
            cr_assert(is_same(&answer, &soak->alone[soak->kind[slot]]),
                      "request %u differs from what it is alone", soak->kind[slot]);
            soak->finished++;
        }
        request_release(request);
        soak->running[slot] = NULL;
    } else if (next_random(soak, 12) == 0) {
        soak->cancelled[slot] = true;
        request_cancel(request);
    }
}

static void soak_for(struct soak *soak, double seconds)
{
    int64_t end = clock_now_us() + (int64_t)(1e6 * seconds);
    while (clock_now_us() < end || soak->finished < KINDS) {
        /* Sometimes few, sometimes all: the buckets change. */
        int most = 1 + (int)next_random(soak, TOGETHER_MAX);
        for (int slot = 0; slot < most; slot++)
            serve_one(soak, slot);
        int ticks = 1 + (int)next_random(soak, 4);
        for (int i = 0; i < ticks; i++)
            engine_tick(soak->machine.engine, clock_now_us());
    }
    run_until_idle(&soak->machine);
    for (int slot = 0; slot < TOGETHER_MAX; slot++) {
        if (soak->running[slot] != NULL)
            serve_one(soak, slot);
        cr_assert_null(soak->running[slot], "a request has not ended");
    }
}

static double soak_seconds(void)
{
    const char *text = getenv("DENOISED_SOAK_SECONDS");
    return text != NULL ? strtod(text, NULL) : 1;
}

static size_t memory_of(const struct backend *backend)
{
    size_t weights, kv, other;
    backend->ops->memory_used(backend, &weights, &kv, &other);
    return weights + kv + other;
}

Test(device, a_soak_leaves_no_pages_and_changes_no_answer)
{
    const struct subject subject = {device_name(), DTYPE_BFLOAT16, DTYPE_BFLOAT16, true};
    struct soak *soak = calloc(1, sizeof *soak);
    cr_assert_not_null(soak);
    soak->machine = open_machine(&subject, TOGETHER_MAX, 2048);
    const struct backend *backend = soak->machine.model->backend;
    answer_alone(soak->alone, &soak->machine);
    soak_for(soak, soak_seconds() / 4); /* what is made once is made now */
    size_t used = memory_of(backend);
    int64_t available = backend_memory_read(device_name()).available;
    soak_for(soak, soak_seconds());
    /* Nothing of the machine's other memory counts against a device of its own. */
    int64_t taken = available - backend_memory_read(device_name()).available;
    if (backend_memory_read(device_name()).total > 0)
        cr_expect_lt(taken, 64 << 20, "%lld bytes of the device are gone", (long long)taken);
    cr_expect_eq(memory_of(backend), used);
    const struct engine_counters counters = engine_counters_read(soak->machine.engine);
    cr_expect_eq(counters.kv_pages_used, 0);
    cr_expect_eq(counters.running + counters.waiting, 0);
    cr_expect(!counters.device_lost);
    cr_expect_geq(soak->finished, KINDS);
    printf("# soak: %d answers as alone, %d cancelled, %llu rounds\n", soak->finished,
           soak->ended_early, (unsigned long long)counters.rounds);
    close_machine(&soak->machine);
    free(soak);
}

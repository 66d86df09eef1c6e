/*
 * A tick allocates and frees nothing and takes no lock but the streams': the linker puts the
 * functions below in front of the C library's for everything that this program is linked from.
 */
#include <math.h>
#include <pthread.h>
#include <stdlib.h>

#include <criterion/criterion.h>

#include "tests/unit/engine/harness.h"

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *memory, size_t size);
void __real_free(void *memory);
int __real_pthread_mutex_lock(pthread_mutex_t *lock);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *memory, size_t size);
void __wrap_free(void *memory);
int __wrap_pthread_mutex_lock(pthread_mutex_t *lock);

static bool watched;
static int64_t allocations, frees, locks, stream_locks;
static const struct stream *streams[8];

void *__wrap_malloc(size_t size)
{
    allocations += watched;
    return __real_malloc(size);
}

void *__wrap_calloc(size_t count, size_t size)
{
    allocations += watched;
    return __real_calloc(count, size);
}

void *__wrap_realloc(void *memory, size_t size)
{
    allocations += watched;
    return __real_realloc(memory, size);
}

void __wrap_free(void *memory)
{
    frees += watched;
    __real_free(memory);
}

int __wrap_pthread_mutex_lock(pthread_mutex_t *lock)
{
    bool known = false;
    for (size_t i = 0; i < sizeof streams / sizeof *streams; i++)
        known = known || (streams[i] != NULL && lock == &streams[i]->lock);
    stream_locks += watched && known;
    locks += watched && !known;
    return __real_pthread_mutex_lock(lock);
}

static bool watched_tick(struct harness *harness)
{
    watched = true;
    bool busy = harness_tick(harness);
    watched = false;
    return busy;
}

/* Everything that makes a round do more. */
static struct decode_params rich_params(void)
{
    static const struct banned_word words[] = {{"ab", 2}, {"cd", 2}, {"bb", 2}};
    static const struct token_bias biases[] = {{5, 2}, {6, -INFINITY}};
    static const int32_t negative_prompt[] = {4, 5, 6, 7, 8, 9};
    struct decode_params params = decode_params_neutral(40, 8);
    params.selection = SELECTION_THRESHOLD;
    params.threshold = 0.3f;
    params.cache = CACHE_DUAL;
    params.temperature = 1;
    params.cfg_scale = 1;
    params.negative_prompt = negative_prompt;
    params.negative_prompt_length = 6;
    params.frequency_penalty = 0.5f;
    params.repetition_penalty = 1.25f;
    params.biases = biases;
    params.bias_count = 2;
    params.banned_words = words;
    params.banned_word_count = 3;
    params.top_logprobs = HEAD_RAW_TOP_MAX;
    params.confidence_eos_eot_inf = true;
    params.logits_eos_inf = true;
    return params;
}

Test(quiet_tick, a_tick_allocates_nothing_and_takes_no_lock_but_the_streams)
{
    struct harness harness;
    const struct engine_options options = harness_options(3, 8);
    harness_create(&harness, &options);
    const struct decode_params plain = decode_params_neutral(24, 8), rich = rich_params();
    struct request *requests[6];
    for (int32_t i = 0; i < 6; i++) {
        requests[i] = harness_request(8, i, i % 2 ? &rich : &plain);
        streams[i] = &requests[i]->stream;
        harness_submit(&harness, requests[i]);
    }
    request_cancel(requests[2]);
    watched_tick(&harness);
    request_cancel(requests[3]); /* one that runs */
    request_release(requests[4]);
    request_release(requests[5]); /* their clients have gone without a word */
    while (watched_tick(&harness))
        ;
    cr_expect_eq(allocations, 0);
    cr_expect_eq(frees, 0);
    cr_expect_eq(locks, 0);
    cr_expect_gt(stream_locks, 40);

    watched = true; /* whoever submits next frees what they left */
    struct request *next = harness_request(8, 9, &plain);
    harness_submit(&harness, next);
    watched = false;
    cr_expect_geq(frees, 2);
    cr_expect_gt(allocations, 0);
    harness_run(&harness);
    for (int32_t i = 0; i < 4; i++)
        request_release(requests[i]);
    request_release(next);
    harness_free(&harness);
}

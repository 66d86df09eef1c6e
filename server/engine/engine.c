#include "server/engine/engine.h"

#include <assert.h>
#include <stdlib.h>

#include "common/clock.h"
#include "common/error.h"
#include "server/engine/banned_words.h"
#include "server/engine/engine_internal.h"
#include "server/engine/numbers.h"

/* ---- life ------------------------------------------------------------------------------------ */

static int check_option(const char *name, int64_t value, int64_t min, int64_t max,
                        struct error *err)
{
    if (value >= min && value <= max)
        return 0;
    return error_set(err, ERROR_INVALID, "%s is %lld: it must be between %lld and %lld", name,
                     (long long)value, (long long)min, (long long)max);
}

static int check_options(const struct engine_options *options, struct error *err)
{
    int rc = check_option("max_sequences", options->max_sequences, 1, 65536, err);
    if (rc == 0)
        rc = check_option("max_rows_per_tick", options->max_rows_per_tick, 2, 1 << 24, err);
    if (rc == 0)
        rc = check_option("queue_limit", options->queue_limit, 0, 1 << 24, err);
    if (rc == 0)
        rc = check_option("kv_cache_tokens", options->kv_cache_tokens, 2, INT64_C(1) << 36, err);
    if (rc == 0)
        rc = check_option("token_limit", options->token_limit, 1, INT32_MAX, err);
    return rc;
}

static int32_t longest_canvas(const struct engine *engine)
{
    int64_t pool = (int64_t)engine->kv_pages * KV_PAGE_POSITIONS;
    int64_t limit = min_int64(engine->model->config.max_positions, pool);
    return (int32_t)min_int64(limit, engine->options.max_rows_per_tick);
}

static int reserve_batch(struct engine *engine, struct error *err)
{
    const struct engine_options *options = &engine->options;
    const struct model_config *config = &engine->model->config;
    const struct step_batch_limits limits = {
        .max_rows = options->max_rows_per_tick,
        .slots = options->max_sequences,
        .positions = min_int64((int64_t)engine->kv_pages * KV_PAGE_POSITIONS,
                               (int64_t)options->max_sequences * engine->canvas_limit),
        .vocabulary = config->embedding_rows,
        .token_limit = (int32_t)min_int64(options->token_limit, config->embedding_rows),
        .mask_token = config->mask_token,
        .eos_tokens = config->stop_tokens,
        .eos_token_count = config->stop_token_count,
    };
    return step_batch_create(&engine->batch, &limits, err);
}

/* Lines of the page table: every sequence's own, and its guidance partner's. */
static int32_t page_table_lines(const struct engine_options *options)
{
    return 2 * options->max_sequences;
}

struct model_memory engine_memory_estimate(const struct engine_options *options,
                                           const struct model_config *config, const char *device,
                                           enum dtype dtype, enum dtype weight_dtype)
{
    return model_memory_estimate(config, device, dtype, weight_dtype, options->max_rows_per_tick,
                                 options->max_rows_per_tick, page_table_lines(options),
                                 kv_pages_needed(options->kv_cache_tokens));
}

/* Everything that a tick needs. */
static int engine_reserve(struct engine *engine, struct error *err)
{
    const struct engine_options *options = &engine->options;
    struct model *model = engine->model;
    const struct scheduler_limits limits = {
        .max_sequences = options->max_sequences,
        .canvas_limit = engine->canvas_limit,
        .max_rows = options->max_rows_per_tick,
        .kv_pages = engine->kv_pages,
    };
    int rc = scheduler_create(&engine->scheduler, &limits, &engine->counters,
                              &engine->histograms.answer, &engine->leftovers, err);
    if (rc == 0)
        rc = reserve_batch(engine, err);
    if (rc == 0)
        rc = head_result_create(&engine->result, options->max_rows_per_tick, err);
    if (rc != 0)
        return rc;
    engine->candidates = calloc((size_t)engine->canvas_limit, sizeof *engine->candidates);
    size_t text_size = 1;
    if (options->token_text != NULL)
        text_size = banned_words_scratch_size(options->token_text, options->token_limit);
    engine->text = calloc(text_size, 1);
    if (engine->candidates == NULL || engine->text == NULL)
        return error_set(err, ERROR_MEMORY, "out of memory for the engine: lower max_sequences");
    return model_reserve(model, options->max_rows_per_tick, options->max_rows_per_tick,
                         page_table_lines(options), engine->kv_pages, err);
}

static int engine_init_sleep(struct engine *engine, struct error *err)
{
    pthread_condattr_t attributes;
    if (pthread_condattr_init(&attributes) != 0)
        return error_set(err, ERROR_MEMORY, "out of memory for the engine's locks");
    int failed = pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    failed |= pthread_mutex_init(&engine->sleep_lock, NULL);
    failed |= pthread_cond_init(&engine->wake, &attributes);
    failed |= pthread_cond_init(&engine->idle, &attributes);
    pthread_condattr_destroy(&attributes);
    return failed ? error_set(err, ERROR_MEMORY, "out of memory for the engine's locks") : 0;
}

int engine_create(struct engine **out, struct model *model, const struct engine_options *options,
                  struct error *err)
{
    int rc = check_options(options, err);
    if (rc != 0)
        return rc;
    if (model->config.attention != ATTENTION_FULL || model->config.shifted_logits)
        return error_set(err, ERROR_UNSUPPORTED,
                         "%s: this build decodes models with full attention and unshifted logits "
                         "only",
                         model->config.model_type);
    struct engine *engine = calloc(1, sizeof *engine);
    if (engine == NULL)
        return error_set(err, ERROR_MEMORY, "out of memory for the engine");
    rc = engine_init_sleep(engine, err);
    if (rc != 0) {
        free(engine);
        return rc;
    }
    engine->model = model;
    engine->options = *options;
    engine->kv_pages = kv_pages_needed(options->kv_cache_tokens);
    engine->canvas_limit = longest_canvas(engine);
    intake_init(&engine->intake);
    intake_init(&engine->leftovers);
    rc = engine_reserve(engine, err);
    if (rc != 0) {
        engine_free(engine);
        return rc;
    }
    *out = engine;
    return 0;
}

static void enqueue_list(struct engine *engine, struct request *oldest)
{
    struct request *next;
    for (struct request *i = oldest; i != NULL; i = next) {
        next = i->next;
        scheduler_enqueue(&engine->scheduler, i);
    }
}

/* Without a running thread: refuses new requests and ends all there are. */
static void engine_close(struct engine *engine, enum finish finish, const struct error *error)
{
    enqueue_list(engine, intake_close(&engine->intake));
    scheduler_fail_all(&engine->scheduler, finish, error);
}

void engine_stop(struct engine *engine)
{
    engine_drain(engine);
    engine_join(engine);
    struct error stopped = {0};
    error_set(&stopped, ERROR_UNAVAILABLE, "the server stops: send the request again later");
    engine_close(engine, FINISH_FAILED, &stopped);
}

void engine_free(struct engine *engine)
{
    if (engine == NULL)
        return;
    engine_join(engine);
    engine_close(engine, FINISH_CANCELLED, NULL);
    engine_free_leftovers(engine);
    scheduler_free(&engine->scheduler);
    step_batch_free(&engine->batch);
    head_result_free(&engine->result);
    free(engine->candidates);
    free(engine->text);
    pthread_mutex_destroy(&engine->sleep_lock);
    pthread_cond_destroy(&engine->wake);
    pthread_cond_destroy(&engine->idle);
    free(engine);
}

void engine_free_leftovers(struct engine *engine)
{
    struct request *next;
    for (struct request *i = intake_take(&engine->leftovers); i != NULL; i = next) {
        next = i->next;
        request_release(i);
    }
}

void engine_observe(struct engine *engine, struct round_observer observer)
{
    engine->observer = observer;
}

/* ---- one tick -------------------------------------------------------------------------------- */

static bool has_work(const struct engine *engine)
{
    return engine->scheduler.running_count > 0 || engine->scheduler.queue_head != NULL ||
           !intake_is_empty(&engine->intake);
}

static void pack_rows(struct engine *engine)
{
    struct scheduler *scheduler = &engine->scheduler;
    step_batch_clear(&engine->batch);
    for (int32_t i = 0; i < scheduler->picked_count; i++) {
        int32_t slot = scheduler->picked[i];
        step_batch_add(&engine->batch, &scheduler->sequences[slot], slot,
                       scheduler_partner_line(scheduler, slot));
    }
}

static int run_forward(struct engine *engine, struct error *err)
{
    const struct scheduler *scheduler = &engine->scheduler;
    const struct step_rows rows =
        step_batch_rows(&engine->batch, scheduler->page_table, scheduler->page_table_stride);
    const struct head_batch head = step_batch_head(&engine->batch);
    return model_forward(engine->model, &rows, &head, &engine->result, err);
}

static void observe_draft(struct engine *engine, struct request *request, int64_t now_us)
{
    if (!request->drafted)
        histogram_observe_us(&engine->histograms.first_draft, now_us - request->arrival_us);
    request->drafted = true;
}

/* Commits one sequence's round and publishes it. */
static void finish_round(struct engine *engine, int32_t slot, const struct round_context *context,
                         int64_t now_us)
{
    struct scheduler *scheduler = &engine->scheduler;
    struct counters *counters = &engine->counters;
    struct sequence *sequence = &scheduler->sequences[slot];
    struct request *request = sequence->request;
    int32_t masked_before = sequence->canvas.answer.masked;
    enum finish finish;
    struct error error = {0};
    if (round_finish(sequence, &finish, context, now_us, &error) != 0) {
        scheduler_fail(scheduler, slot, FINISH_FAILED, &error);
        return;
    }
    counter_add(&counters->rounds, 1);
    counter_add(&counters->committed_tokens,
                (uint64_t)(masked_before - sequence->canvas.answer.masked));
    observe_draft(engine, request, now_us);
    if (engine->observer.observe != NULL)
        engine->observer.observe(engine->observer.context, sequence);
    if (finish == FINISH_NONE)
        stream_post(&request->stream, &sequence->canvas.answer);
    else
        scheduler_finish(scheduler, slot, now_us);
}

static void finish_rounds(struct engine *engine, int64_t now_us)
{
    struct scheduler *scheduler = &engine->scheduler;
    const struct head_batch head = step_batch_head(&engine->batch);
    const struct round_context context = {
        .batch = &head,
        .result = &engine->result,
        .token_text = engine->options.token_text,
        .candidates = engine->candidates,
        .text = engine->text,
    };
    for (int32_t i = 0; i < scheduler->picked_count; i++)
        finish_round(engine, scheduler->picked[i], &context, now_us);
}

static void observe_rows(struct engine *engine)
{
    int bucket = 0;
    while (bucket < ENGINE_ROW_BUCKETS && engine->batch.rows > 1 << bucket)
        bucket++;
    counter_add(&engine->histograms.rows[bucket], 1);
    counter_add(&engine->counters.rows, (uint64_t)engine->batch.rows);
    counter_add(&engine->counters.ticks, 1);
}

/* One forward pass for the picked sequences, and their rounds. */
static void run_rounds(struct engine *engine, int64_t now_us)
{
    struct counters *counters = &engine->counters;
    struct engine_histograms *histograms = &engine->histograms;
    int64_t started_us = clock_now_us();
    counters_begin_tick(counters, now_us);
    pack_rows(engine);
    int64_t forward_us = clock_now_us();
    if (run_forward(engine, &engine->device_error) != 0) {
        atomic_store(&counters->device_lost, true);
        scheduler_fail_all(&engine->scheduler, FINISH_FAILED, &engine->device_error);
        return;
    }
    int64_t selecting_us = clock_now_us();
    finish_rounds(engine, now_us + (selecting_us - started_us));
    int64_t ended_us = clock_now_us();
    observe_rows(engine);
    histogram_observe_us(&histograms->pack, forward_us - started_us);
    histogram_observe_us(&histograms->forward, selecting_us - forward_us);
    histogram_observe_us(&histograms->select, ended_us - selecting_us);
    atomic_fetch_add(&counters->forward_us, selecting_us - forward_us);
    atomic_fetch_add(&counters->tick_us, ended_us - started_us);
}

bool engine_tick(struct engine *engine, int64_t now_us)
{
    struct scheduler *scheduler = &engine->scheduler;
    enqueue_list(engine, intake_take(&engine->intake));
    scheduler_drop_ended(scheduler, now_us);
    scheduler_admit(scheduler, engine->model->config.mask_token, now_us);
    scheduler_pick(scheduler);
    if (scheduler->picked_count > 0)
        run_rounds(engine, now_us);
    return has_work(engine);
}

/* Until a request that is refused now has a chance. */
static int retry_after(const struct counters *counters, int32_t outstanding, int32_t waiting)
{
    if (atomic_load(&counters->device_lost))
        return ENGINE_RESTART_S;
    /* A drain ends with the last one; else it is a place in the queue that has to become free. */
    bool draining = atomic_load(&counters->draining);
    return counters_seconds_until(counters, draining ? outstanding : waiting);
}

struct engine_counters engine_counters_read(const struct engine *engine)
{
    const struct counters *counters = &engine->counters;
    /* In this order: a sequence that ends in between makes the difference larger, not negative. */
    int32_t running = atomic_load(&counters->running);
    int32_t outstanding = atomic_load(&counters->outstanding);
    int32_t waiting = outstanding - running;
    return (struct engine_counters){
        .waiting = waiting > 0 ? waiting : 0,
        .running = running,
        .max_sequences = engine->options.max_sequences,
        .queue_limit = engine->options.queue_limit,
        .kv_pages_used = atomic_load(&counters->kv_pages_used),
        .kv_pages_total = engine->kv_pages,
        .ticks = atomic_load(&counters->ticks),
        .rows = atomic_load(&counters->rows),
        .rounds = atomic_load(&counters->rounds),
        .committed_tokens = atomic_load(&counters->committed_tokens),
        .revised_tokens = atomic_load(&counters->revised_tokens),
        .finished = atomic_load(&counters->finished),
        .cancelled = atomic_load(&counters->cancelled),
        .rejected = atomic_load(&counters->rejected),
        .deadline_misses = atomic_load(&counters->deadline_misses),
        .forward_us = atomic_load(&counters->forward_us),
        .tick_us = atomic_load(&counters->tick_us),
        .draining = atomic_load(&counters->draining),
        .device_lost = atomic_load(&counters->device_lost),
        .retry_after_s = retry_after(counters, outstanding, waiting),
    };
}

const struct engine_histograms *engine_histograms(const struct engine *engine)
{
    return &engine->histograms;
}

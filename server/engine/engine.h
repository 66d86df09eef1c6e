/*
 * The engine: many sequences refined by one forward pass per tick. One thread (its own after
 * engine_start, or the caller of engine_tick) owns model, KV pages and sequences. Any thread may
 * submit, cancel and read the counters. The engine knows nothing of JSON, text or sockets.
 *
 * A tick allocates and frees nothing, takes no lock but the streams' and logs nothing. Requests
 * that end when nobody else holds them any more are freed by whoever submits next, or when the
 * engine's thread has nothing to do.
 */
#ifndef SERVER_ENGINE_ENGINE_H
#define SERVER_ENGINE_ENGINE_H

#include <stdbool.h>
#include <stdint.h>

#include "common/metrics.h"
#include "server/engine/request.h"
#include "server/model/model.h"

struct error;
struct engine;

struct engine_options {
    int32_t max_sequences;     /* sequences that run at the same time */
    int32_t max_rows_per_tick; /* rows of one forward; a canvas (guided: two) must fit */
    int32_t queue_limit;       /* sequences that wait beyond those */
    int64_t kv_cache_tokens;   /* positions of the KV pool, rounded up to pages */
    int32_t token_limit;       /* ids from here on are never chosen (size of the tokenizer) */
    /* [token_limit] outlives the engine; NULL: requests with banned words are refused. */
    const struct token_text *token_text;
};

/* Reserves everything it will ever need (the model's activations and KV pool included). */
int engine_create(struct engine **out, struct model *model, const struct engine_options *options,
                  struct error *err);
/* model_memory_used of such a model, estimated before anything is loaded. */
struct model_memory engine_memory_estimate(const struct engine_options *options,
                                           const struct model_config *config, const char *device,
                                           enum dtype dtype, enum dtype weight_dtype);
/* Stops the thread if it runs; unfinished requests end as cancelled. The model stays the caller's.
 */
void engine_free(struct engine *engine);

/*
 * Hands a request over; the engine takes a reference of its own. ERROR_LIMIT: the queue is full;
 * ERROR_UNAVAILABLE: draining or stopped; ERROR_DEVICE_LOST; ERROR_INVALID: the canvas (prompt +
 * max_tokens, and its guidance partner's) is longer than the context, than the pool can ever hold
 * or than a tick has rows, there are more requests than can ever wait (the message has both
 * numbers), a parameter is out of range, or no token is left to choose. ERROR_UNSUPPORTED: banned
 * words without token_text. No reference is kept of a request that is refused; its fault says what
 * is wrong with it where that is ERROR_INVALID or ERROR_UNSUPPORTED.
 */
int engine_submit(struct engine *engine, struct request *request, struct error *err);
/* The same for `count` >= 1 requests that belong together: all of them are taken, or none is. */
int engine_submit_all(struct engine *engine, struct request *const *requests, int32_t count,
                      struct error *err);

/*
 * Any thread: the longest answer that can run here behind this prompt and, with guidance, behind
 * its partner's (-1: no guidance), as context, pool and rows of a tick allow. 0: none.
 */
int32_t engine_answer_limit(const struct engine *engine, int32_t prompt_length,
                            int32_t partner_prompt_length);

/*
 * One pass of the loop at time now. Returns true while any request is queued or running. It
 * allocates nothing, logs nothing and takes no lock but the streams' and what their wakes take
 * (stream_set_wake).
 */
bool engine_tick(struct engine *engine, int64_t now_us);

/* Runs ticks on a thread of its own; sleeps while there is nothing to do. */
int engine_start(struct engine *engine, struct error *err);
/* From now on submit fails with ERROR_UNAVAILABLE; what runs goes on. */
void engine_drain(struct engine *engine);
/* Waits until nothing is queued or running, at most timeout_us (without a thread of its own: not at
 * all). True when all is done. Call it from the thread that starts and stops the engine. */
bool engine_wait_idle(struct engine *engine, int64_t timeout_us);
/* Ends everything that still runs with ERROR_UNAVAILABLE and joins the thread. */
void engine_stop(struct engine *engine);

/* Read at any time from any thread; each number is consistent by itself. */
struct engine_counters {
    int32_t waiting, running;           /* sequences */
    int32_t max_sequences, queue_limit; /* submit refuses what goes beyond their sum */
    int32_t kv_pages_used, kv_pages_total;
    uint64_t ticks, rows, rounds, committed_tokens, revised_tokens;
    uint64_t finished, cancelled, rejected; /* requests */
    uint64_t deadline_misses;               /* requests that finished behind their deadline */
    int64_t forward_us, tick_us; /* time inside forward passes; inside ticks that had rows */
    bool draining, device_lost;
    /* What a refused client is told, in seconds, never 0: from the rate at which places became free
     * lately, or ENGINE_RESTART_S after a device loss. */
    int retry_after_s;
};
enum { ENGINE_RESTART_S = 30 }; /* about what a restart with large weights takes */
struct engine_counters engine_counters_read(const struct engine *engine);

enum { ENGINE_ROW_BUCKETS = 17 };

/* Distributions since the start; the engine's thread writes, any thread reads at any time. */
struct engine_histograms {
    /* Of ticks that had rows, by phase: packing rows; the forward pass; choosing, committing and
     * publishing. */
    struct histogram pack, forward, select;
    struct histogram first_draft; /* from a request's arrival to its first draft */
    struct histogram answer;      /* from a request's arrival to its end */
    /* Ticks with at most 2^i rows that have more than 2^(i - 1); the last: above every bound. Their
     * sum is engine_counters.rows. */
    atomic_uint_least64_t rows[ENGINE_ROW_BUCKETS + 1];
};
const struct engine_histograms *engine_histograms(const struct engine *engine);

#endif

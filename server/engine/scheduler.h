/*
 * The scheduler: the waiting queue, the running sequences with their KV pages, and which of them
 * run in a tick. Everything is reserved at creation. Engine thread only; it writes the counters.
 */
#ifndef SERVER_ENGINE_SCHEDULER_H
#define SERVER_ENGINE_SCHEDULER_H

#include <stdbool.h>
#include <stdint.h>

#include "server/engine/counters.h"
#include "server/engine/intake.h"
#include "server/engine/kv_pages.h"
#include "server/engine/sequence.h"

struct error;
struct histogram;

enum {
    WHOLE_CANVAS_PATIENCE = 4,         /* ticks that a window may be passed over */
    NO_DEADLINE_PATIENCE_US = 5000000, /* what a request without a deadline counts as */
};

struct scheduler_limits {
    int32_t max_sequences;
    int32_t canvas_limit; /* positions of the longest canvas */
    int32_t max_rows;     /* of one tick */
    int32_t kv_pages;
};

struct scheduler {
    struct scheduler_limits limits;
    struct counters *counters;
    struct histogram *answer_times;
    struct intake *leftovers;

    struct request *queue_head, *queue_tail; /* first come, first admitted; linked by next */

    struct sequence *sequences; /* [max_sequences] slots */
    int32_t *running;           /* [max_sequences] slots that run, most urgent first */
    int32_t running_count;
    int32_t *free_slots; /* [max_sequences] a stack of max_sequences - running_count slots */
    uint64_t admissions;

    int32_t *picked; /* [max_sequences] slots whose round is in this tick */
    int32_t picked_count;

    struct kv_pages pages;
    int32_t page_table_stride;
    int32_t *page_table; /* [2 * max_sequences, stride]: slots' own lines, then their partners' */
};

/*
 * `answer_times` takes the time from arrival to the end of every request that was not cancelled.
 * A request that has ended and whose last reference the engine holds is not freed but pushed to the
 * leftovers: freeing is not for a tick.
 */
int scheduler_create(struct scheduler *scheduler, const struct scheduler_limits *limits,
                     struct counters *counters, struct histogram *answer_times,
                     struct intake *leftovers, struct error *err);
/* Nothing may be queued or running. */
void scheduler_free(struct scheduler *scheduler);

/* Takes over the engine's reference. */
void scheduler_enqueue(struct scheduler *scheduler, struct request *request);

/* Ends the queued and running requests that are to end early. */
void scheduler_drop_ended(struct scheduler *scheduler, int64_t now_us);

/* Admits from the queue, in order, while there are slots and pages for whole canvases. */
void scheduler_admit(struct scheduler *scheduler, int32_t mask_token, int64_t now_us);

/*
 * Plans the round of every running sequence and picks those of this tick: one that was passed over
 * for too long, then block windows, then whole-canvas windows, the most urgent first, while rows
 * last. Picks at least one when any runs.
 */
void scheduler_pick(struct scheduler *scheduler);

/* The line of the page table for a slot's guidance partner; its own line is the slot itself. */
int32_t scheduler_partner_line(const struct scheduler *scheduler, int32_t slot);

/* Ends one sequence whose draft is final: frees slot and pages, posts the draft. */
void scheduler_finish(struct scheduler *scheduler, int32_t slot, int64_t now_us);

/* Ends one sequence that gets no answer any more. */
void scheduler_fail(struct scheduler *scheduler, int32_t slot, enum finish finish,
                    const struct error *error);
/* The same for all that are queued or running. */
void scheduler_fail_all(struct scheduler *scheduler, enum finish finish, const struct error *error);

#endif

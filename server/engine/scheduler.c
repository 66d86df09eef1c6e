#include "server/engine/scheduler.h"

#include <assert.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/metrics.h"

/* ---- life ------------------------------------------------------------------------------------ */

static int create_slots(struct scheduler *scheduler, struct error *err)
{
    int32_t slots = scheduler->limits.max_sequences;
    scheduler->sequences = calloc((size_t)slots, sizeof *scheduler->sequences);
    scheduler->running = calloc((size_t)slots, sizeof *scheduler->running);
    scheduler->free_slots = calloc((size_t)slots, sizeof *scheduler->free_slots);
    scheduler->picked = calloc((size_t)slots, sizeof *scheduler->picked);
    scheduler->page_table = calloc(2 * (size_t)slots * (size_t)scheduler->page_table_stride,
                                   sizeof *scheduler->page_table);
    if (scheduler->sequences == NULL || scheduler->running == NULL ||
        scheduler->free_slots == NULL || scheduler->picked == NULL || scheduler->page_table == NULL)
        return error_set(err, ERROR_MEMORY, "out of memory for %d sequences: lower max_sequences",
                         slots);
    for (int32_t i = 0; i < slots; i++) {
        int rc =
            canvas_create(&scheduler->sequences[i].canvas, scheduler->limits.canvas_limit, err);
        if (rc != 0)
            return rc;
        scheduler->free_slots[i] = slots - 1 - i;
    }
    return 0;
}

int scheduler_create(struct scheduler *scheduler, const struct scheduler_limits *limits,
                     struct counters *counters, struct histogram *answer_times,
                     struct intake *leftovers, struct error *err)
{
    *scheduler = (struct scheduler){
        .limits = *limits,
        .counters = counters,
        .answer_times = answer_times,
        .leftovers = leftovers,
        .page_table_stride = kv_pages_needed(limits->canvas_limit),
    };
    int rc = create_slots(scheduler, err);
    if (rc == 0)
        rc = kv_pages_create(&scheduler->pages, limits->kv_pages, err);
    if (rc != 0)
        scheduler_free(scheduler);
    return rc;
}

void scheduler_free(struct scheduler *scheduler)
{
    assert(scheduler->queue_head == NULL && scheduler->running_count == 0);
    for (int32_t i = 0; scheduler->sequences != NULL && i < scheduler->limits.max_sequences; i++)
        canvas_free(&scheduler->sequences[i].canvas);
    free(scheduler->sequences);
    free(scheduler->running);
    free(scheduler->free_slots);
    free(scheduler->picked);
    free(scheduler->page_table);
    kv_pages_free(&scheduler->pages);
    *scheduler = (struct scheduler){0};
}

/* ---- queue ----------------------------------------------------------------------------------- */

void scheduler_enqueue(struct scheduler *scheduler, struct request *request)
{
    request->next = NULL;
    if (scheduler->queue_tail == NULL)
        scheduler->queue_head = request;
    else
        scheduler->queue_tail->next = request;
    scheduler->queue_tail = request;
}

/* Takes the request behind `previous` (NULL: the head) out of the queue. */
static struct request *unlink_behind(struct scheduler *scheduler, struct request *previous)
{
    struct request *request = previous == NULL ? scheduler->queue_head : previous->next;
    if (previous == NULL)
        scheduler->queue_head = request->next;
    else
        previous->next = request->next;
    if (scheduler->queue_tail == request)
        scheduler->queue_tail = previous;
    request->next = NULL;
    return request;
}

/* ---- slots and pages ------------------------------------------------------------------------- */

int32_t scheduler_partner_line(const struct scheduler *scheduler, int32_t slot)
{
    return scheduler->limits.max_sequences + slot;
}

static int32_t *line_pages(struct scheduler *scheduler, int32_t line)
{
    return scheduler->page_table + (size_t)line * (size_t)scheduler->page_table_stride;
}

static void publish_use(struct scheduler *scheduler)
{
    atomic_store(&scheduler->counters->running, scheduler->running_count);
    atomic_store(&scheduler->counters->kv_pages_used, scheduler->pages.used);
}

static bool is_more_urgent(const struct sequence *a, const struct sequence *b)
{
    return a->due_us != b->due_us ? a->due_us < b->due_us : a->admission < b->admission;
}

/* Keeps `running` ordered, so that a tick need not sort. */
static void insert_running(struct scheduler *scheduler, int32_t slot)
{
    const struct sequence *sequence = &scheduler->sequences[slot];
    int32_t at = scheduler->running_count++;
    while (at > 0 && is_more_urgent(sequence, &scheduler->sequences[scheduler->running[at - 1]])) {
        scheduler->running[at] = scheduler->running[at - 1];
        at--;
    }
    scheduler->running[at] = slot;
}

/* Frees slot and pages of a running sequence; its canvas stays readable until the slot is taken. */
static void release_slot(struct scheduler *scheduler, int32_t slot)
{
    struct sequence *sequence = &scheduler->sequences[slot];
    int32_t partner_line = scheduler_partner_line(scheduler, slot);
    kv_pages_give(&scheduler->pages, line_pages(scheduler, slot), sequence->page_count);
    kv_pages_give(&scheduler->pages, line_pages(scheduler, partner_line),
                  sequence->partner_page_count);
    int32_t at = 0;
    while (scheduler->running[at] != slot)
        at++;
    scheduler->running_count--;
    memmove(&scheduler->running[at], &scheduler->running[at + 1],
            (size_t)(scheduler->running_count - at) * sizeof *scheduler->running);
    scheduler->free_slots[scheduler->limits.max_sequences - scheduler->running_count - 1] = slot;
    sequence->request = NULL;
    publish_use(scheduler);
}

/* ---- admission ------------------------------------------------------------------------------- */

/* Requests without a deadline grow more urgent with their age, measured against deadlines. */
static int64_t due_time(const struct request *request)
{
    if (request->deadline_us != INT64_MAX)
        return request->deadline_us;
    return request->arrival_us + NO_DEADLINE_PATIENCE_US;
}

/* Admits the queue's head; false when a slot or pages are missing. */
static bool admit_one(struct scheduler *scheduler, int32_t mask_token, int64_t now_us)
{
    struct request *request = scheduler->queue_head;
    int32_t pages = kv_pages_needed(request_canvas_length(request));
    int32_t partner_pages = kv_pages_needed(request_partner_length(request));
    int32_t pages_free = scheduler->pages.total - scheduler->pages.used;
    int32_t slots_free = scheduler->limits.max_sequences - scheduler->running_count;
    if (slots_free == 0 || pages_free < pages + partner_pages)
        return false;

    int32_t slot = scheduler->free_slots[slots_free - 1];
    struct sequence *sequence = &scheduler->sequences[slot];
    sequence_begin(sequence, request, mask_token, now_us);
    sequence->page_count = pages;
    sequence->partner_page_count = partner_pages;
    int32_t partner_line = scheduler_partner_line(scheduler, slot);
    kv_pages_take(&scheduler->pages, line_pages(scheduler, slot), pages);
    kv_pages_take(&scheduler->pages, line_pages(scheduler, partner_line), partner_pages);
    sequence->due_us = due_time(request);
    sequence->admission = scheduler->admissions++;
    insert_running(scheduler, slot);
    unlink_behind(scheduler, NULL);
    return true;
}

void scheduler_admit(struct scheduler *scheduler, int32_t mask_token, int64_t now_us)
{
    bool any = false;
    while (scheduler->queue_head != NULL && admit_one(scheduler, mask_token, now_us))
        any = true;
    if (any)
        publish_use(scheduler);
}

/* ---- who runs in this tick ------------------------------------------------------------------- */

static void try_pick(struct scheduler *scheduler, int32_t slot, int32_t *rows_left)
{
    struct sequence *sequence = &scheduler->sequences[slot];
    int32_t rows = sequence_rows(sequence);
    if (sequence->picked || rows > *rows_left)
        return;
    *rows_left -= rows;
    sequence->picked = true;
    scheduler->picked[scheduler->picked_count++] = slot;
}

/* The sequence that was passed over for the longest time, if that is too long; else -1. */
static int32_t find_overdue(const struct scheduler *scheduler)
{
    int32_t overdue = -1, longest = WHOLE_CANVAS_PATIENCE - 1;
    for (int32_t i = 0; i < scheduler->running_count; i++) {
        int32_t slot = scheduler->running[i];
        if (scheduler->sequences[slot].waited > longest) {
            longest = scheduler->sequences[slot].waited;
            overdue = slot;
        }
    }
    return overdue;
}

void scheduler_pick(struct scheduler *scheduler)
{
    int32_t rows_left = scheduler->limits.max_rows;
    scheduler->picked_count = 0;
    for (int32_t i = 0; i < scheduler->running_count; i++) {
        struct sequence *sequence = &scheduler->sequences[scheduler->running[i]];
        sequence_plan_round(sequence);
        sequence->picked = false;
    }
    int32_t overdue = find_overdue(scheduler);
    if (overdue >= 0)
        try_pick(scheduler, overdue, &rows_left);
    for (int whole = 0; whole <= 1; whole++) {
        for (int32_t i = 0; i < scheduler->running_count; i++) {
            int32_t slot = scheduler->running[i];
            const struct sequence *sequence = &scheduler->sequences[slot];
            if (policy_window_is_whole(sequence->window, sequence->canvas.length) == (whole == 1))
                try_pick(scheduler, slot, &rows_left);
        }
    }
    for (int32_t i = 0; i < scheduler->running_count; i++) {
        struct sequence *sequence = &scheduler->sequences[scheduler->running[i]];
        sequence->waited = sequence->picked ? 0 : sequence->waited + 1;
    }
}

/* ---- endings --------------------------------------------------------------------------------- */

static void drop_reference(struct scheduler *scheduler, struct request *request)
{
    if (!request_release_unless_last(request))
        intake_push(scheduler->leftovers, request);
}

static void count_finished(struct scheduler *scheduler, const struct request *request,
                           int64_t now_us)
{
    counter_add(&scheduler->counters->finished, 1);
    histogram_observe_us(scheduler->answer_times, now_us - request->arrival_us);
    if (now_us > request->deadline_us)
        counter_add(&scheduler->counters->deadline_misses, 1);
}

void scheduler_finish(struct scheduler *scheduler, int32_t slot, int64_t now_us)
{
    const struct sequence *sequence = &scheduler->sequences[slot];
    struct request *request = sequence->request;
    /* All numbers first: who reads the end of the answer may find its place free. */
    release_slot(scheduler, slot);
    count_finished(scheduler, request, now_us);
    counters_free_places(scheduler->counters, 1);
    stream_post(&request->stream, &sequence->canvas.answer);
    drop_reference(scheduler, request);
}

/* Of a request that has neither slot nor place in the queue any more. */
static void end_without_answer(struct scheduler *scheduler, struct request *request,
                               enum finish finish, const struct error *error)
{
    counters_free_places(scheduler->counters, 1);
    stream_fail(&request->stream, finish, error);
    drop_reference(scheduler, request);
}

void scheduler_fail(struct scheduler *scheduler, int32_t slot, enum finish finish,
                    const struct error *error)
{
    struct request *request = scheduler->sequences[slot].request;
    release_slot(scheduler, slot);
    end_without_answer(scheduler, request, finish, error);
}

void scheduler_fail_all(struct scheduler *scheduler, enum finish finish, const struct error *error)
{
    while (scheduler->running_count > 0)
        scheduler_fail(scheduler, scheduler->running[scheduler->running_count - 1], finish, error);
    while (scheduler->queue_head != NULL)
        end_without_answer(scheduler, unlink_behind(scheduler, NULL), finish, error);
}

static bool has_ended(const struct request *request)
{
    return atomic_load_explicit(&request->ending, memory_order_acquire) != REQUEST_GOES_ON;
}

/* A satisfied request counts as finished; its draft ends as cancelled, and nobody reads it. */
static void count_ended(struct scheduler *scheduler, const struct request *request, int64_t now_us)
{
    if (atomic_load_explicit(&request->ending, memory_order_acquire) == REQUEST_SATISFIED)
        count_finished(scheduler, request, now_us);
    else
        counter_add(&scheduler->counters->cancelled, 1);
}

void scheduler_drop_ended(struct scheduler *scheduler, int64_t now_us)
{
    /* From the end: what ends takes itself out of the list. */
    for (int32_t i = scheduler->running_count - 1; i >= 0; i--) {
        int32_t slot = scheduler->running[i];
        const struct request *request = scheduler->sequences[slot].request;
        if (!has_ended(request))
            continue;
        count_ended(scheduler, request, now_us);
        scheduler_fail(scheduler, slot, FINISH_CANCELLED, NULL);
    }
    struct request *previous = NULL, *next;
    for (struct request *i = scheduler->queue_head; i != NULL; i = next) {
        next = i->next;
        if (has_ended(i)) {
            count_ended(scheduler, i, now_us);
            end_without_answer(scheduler, unlink_behind(scheduler, previous), FINISH_CANCELLED,
                               NULL);
        } else {
            previous = i;
        }
    }
}

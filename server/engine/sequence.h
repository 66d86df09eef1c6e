/*
 * One running sequence: a request with its canvas, its plan and its place in the page
 * table. A fixed set of slots is made at start and used again and again. Engine thread only.
 */
#ifndef SERVER_ENGINE_SEQUENCE_H
#define SERVER_ENGINE_SEQUENCE_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/backend.h"
#include "server/engine/canvas.h"
#include "server/engine/policy.h"
#include "server/engine/request.h"

struct sequence {
    struct request *request; /* NULL while the slot is free; the engine's reference holds it */
    struct canvas canvas;

    int32_t rounds_done;
    struct region region;         /* begin = end before the first plan */
    int32_t region_rounds_done;   /* rounds of the region that are over */
    struct window window;         /* of the coming round, or of the one just done */
    int32_t head_begin, head_end; /* head rows of the round under way */

    int32_t page_count;         /* entries of its line of the page table */
    int32_t partner_page_count; /* of its guidance partner's; 0 without guidance */
    int64_t due_us;             /* by what the scheduler orders sequences; fixed at admission */
    uint64_t admission;         /* counts admissions; decides equal due times */
    int32_t waited;             /* ticks since its last round in which it was passed over */
    bool picked;                /* its round is in this tick */
};

/* Fills a free slot. The caller sets pages and order. */
void sequence_begin(struct sequence *sequence, struct request *request, int32_t mask_token,
                    int64_t now_us);

bool sequence_is_guided(const struct sequence *sequence);
/* Rows of the coming round, guidance partners included. */
int32_t sequence_rows(const struct sequence *sequence);

/*
 * The guidance partner's canvas is the negative prompt (without one: the prompt, masked) and the
 * same answer: an answer position lies `shift` further right there.
 */
int32_t sequence_partner_shift(const struct sequence *sequence);
/* The positions of the partner's canvas that are recomputed in the coming round. */
struct window sequence_partner_window(const struct sequence *sequence);

/* Plans the coming round: a new region where the old one is done, and the window. */
void sequence_plan_round(struct sequence *sequence);

/* Ends a round whose commits are done: counts it, settles what can no longer change and fills in
 * the draft. FINISH_NONE, FINISH_STOP or FINISH_LENGTH. */
enum finish sequence_end_round(struct sequence *sequence, int64_t now_us);

#endif

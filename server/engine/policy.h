/*
 * Decode policy: what is decoded next, what is recomputed for it, and what commits. Pure functions
 * over plain arrays: no I/O, no allocation, no device. Positions count from the canvas start.
 */
#ifndef SERVER_ENGINE_POLICY_H
#define SERVER_ENGINE_POLICY_H

#include <stdbool.h>
#include <stdint.h>

#include "server/engine/decode.h"

enum { POLICY_NO_BUDGET = INT32_MAX }; /* as rounds left: as many as there are masks */

/* What is decoded now, [begin, end), and in how many rounds it has to be done. */
struct region {
    int32_t begin, end; /* equal when nothing is masked any more */
    int32_t rounds;
};

/* The positions recomputed in a round, [begin, end). */
struct window {
    int32_t begin, end;
};

/* What the model proposes for one masked position. */
struct candidate {
    int32_t position;
    int32_t token;
    float confidence;  /* probability of the token in the adjusted row */
    float raw_logprob; /* its log-probability in the raw row */
    int32_t row;       /* head row that proposed it; carried along */
    bool last;         /* ranks behind all that are not */
    double rank;       /* written by policy_select: by what the candidates are ordered */
};

struct selection_rule {
    enum selection selection;
    float threshold, factor;
    int32_t rounds_left; /* of the region's plan, this round included, >= 1 */
    int32_t withheld;    /* masks of the region that have no candidate in this round */
    uint64_t seed;
    int32_t round; /* the request's own, from 1 */
};

/*
 * The plan for the answer [begin, end) of a canvas whose blocks of block_length start at begin.
 * With R = rounds_left and B = blocks that still hold masks:
 *   R >= B: the first such block, in ceil(R / B) rounds;
 *   R < B:  all of them as one region, in R rounds.
 * Never more rounds than masks: each round commits at least one.
 */
struct region policy_plan_region(const int32_t *tokens, int32_t begin, int32_t end,
                                 int32_t mask_token, int32_t block_length, int32_t rounds_left);

/* Fewest positions that commit when `masked` are left for `rounds_left` rounds. */
int32_t policy_commit_floor(int32_t masked, int32_t rounds_left);

/* The window of the region's next round, of which rounds_done are over. */
struct window policy_window(enum cache_mode cache, int32_t refresh_interval,
                            const struct region *region, int32_t rounds_done,
                            int32_t canvas_length);
bool policy_window_is_whole(struct window window, int32_t canvas_length);

/*
 * Orders the candidates of the region's masks (count >= 1) by falling confidence (selection random:
 * by falling random number; ties go to the lower position) and returns how many commit, >= 1: the
 * first ones of the array.
 *
 * Candidates marked `last` come behind all others, and threshold and factor see the others alone:
 * they commit when nothing else is left or the plan's floor takes them. This is
 * confidence_eos_eot_inf for candidates that are stop ids. LLaDA's published code means the same,
 * but writes -infinity over the EOS column of a copy that is not read again and over the EOT column
 * of the logits before the softmax: there only EOT commits last, with confidence 0, EOS ranks by
 * its confidence, all other confidences are shares of what EOT leaves, and `random` ignores it all.
 * Here EOS and EOT both commit last, in every selection, and no confidence changes.
 */
int32_t policy_select(struct candidate *candidates, int32_t count,
                      const struct selection_rule *rule);

#endif

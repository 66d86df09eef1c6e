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
    double rank;       /* written by policy_select: by what the candidates are ordered */
};

struct selection_rule {
    enum selection selection;
    float threshold, factor;
    int32_t rounds_left; /* of the region's plan, this round included, >= 1 */
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
 * Orders the candidates of all masks of the region (count >= 1) by falling confidence (selection
 * random: by falling random number; ties go to the lower position) and returns how many commit,
 * >= 1: the first ones of the array.
 */
int32_t policy_select(struct candidate *candidates, int32_t count,
                      const struct selection_rule *rule);

#endif

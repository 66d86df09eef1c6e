#include "server/engine/policy.h"

#include <assert.h>
#include <stddef.h>

#include "common/rng.h"
#include "server/engine/numbers.h"

static int32_t divide_up(int32_t numerator, int32_t denominator)
{
    return numerator / denominator + (numerator % denominator != 0);
}

static int32_t count_masks(const int32_t *tokens, int32_t begin, int32_t end, int32_t mask_token)
{
    int32_t masks = 0;
    for (int32_t i = begin; i < end; i++)
        masks += tokens[i] == mask_token;
    return masks;
}

struct region policy_plan_region(const int32_t *tokens, int32_t begin, int32_t end,
                                 int32_t mask_token, int32_t block_length, int32_t rounds_left)
{
    assert(block_length >= 1 && rounds_left >= 1);
    struct region first = {end, end, 0};
    int32_t blocks = 0, all_masks = 0, first_masks = 0, last_end = end;
    for (int32_t block = begin; block < end;) {
        int32_t block_end = block + min_int32(block_length, end - block);
        int32_t masks = count_masks(tokens, block, block_end, mask_token);
        if (masks > 0) {
            if (blocks == 0) {
                first = (struct region){block, block_end, 0};
                first_masks = masks;
            }
            blocks++;
            all_masks += masks;
            last_end = block_end;
        }
        block = block_end;
    }
    if (blocks == 0)
        return first;
    if (rounds_left >= blocks) {
        first.rounds = min_int32(divide_up(rounds_left, blocks), first_masks);
        return first;
    }
    return (struct region){first.begin, last_end, min_int32(rounds_left, all_masks)};
}

int32_t policy_commit_floor(int32_t masked, int32_t rounds_left)
{
    assert(rounds_left >= 1);
    return divide_up(masked, rounds_left);
}

struct window policy_window(enum cache_mode cache, int32_t refresh_interval,
                            const struct region *region, int32_t rounds_done, int32_t canvas_length)
{
    const struct window whole = {0, canvas_length};
    bool refresh = refresh_interval > 0 && rounds_done % refresh_interval == 0;
    if (rounds_done == 0 || refresh)
        return whole;
    switch (cache) {
    case CACHE_PREFIX:
        return (struct window){region->begin, canvas_length};
    case CACHE_DUAL:
        return (struct window){region->begin, region->end};
    case CACHE_NONE:
        break;
    }
    return whole;
}

bool policy_window_is_whole(struct window window, int32_t canvas_length)
{
    return window.begin == 0 && window.end == canvas_length;
}

/* ---- selection ------------------------------------------------------------------------------- */

static bool ranks_before(const struct candidate *a, const struct candidate *b)
{
    if (a->last != b->last)
        return b->last;
    return a->rank != b->rank ? a->rank > b->rank : a->position < b->position;
}

/* Moves the candidate at `root` down until no child ranks behind it. */
static void heap_sift_down(struct candidate *heap, int32_t root, int32_t count)
{
    struct candidate moving = heap[root];
    for (;;) {
        int32_t child = 2 * root + 1;
        if (child >= count)
            break;
        if (child + 1 < count && ranks_before(&heap[child], &heap[child + 1]))
            child++;
        if (!ranks_before(&moving, &heap[child]))
            break;
        heap[root] = heap[child];
        root = child;
    }
    heap[root] = moving;
}

/* Heapsort: in place, where qsort may allocate. */
static void sort_by_rank(struct candidate *candidates, int32_t count)
{
    for (int32_t root = count / 2 - 1; root >= 0; root--)
        heap_sift_down(candidates, root, count);
    for (int32_t last = count - 1; last > 0; last--) {
        struct candidate behind = candidates[0];
        candidates[0] = candidates[last];
        candidates[last] = behind;
        heap_sift_down(candidates, 0, last);
    }
}

static int32_t count_over_threshold(const struct candidate *sorted, int32_t count, float threshold)
{
    int32_t n = 0;
    while (n < count && sorted[n].confidence >= threshold)
        n++;
    return n;
}

/* Fast-dLLM's factor rule as dInfer publishes it. */
static int32_t count_by_factor(const struct candidate *sorted, int32_t count, float factor)
{
    int32_t n = count;
    while (n >= 2 && ((double)n + 1) * (1 - (double)sorted[n - 1].confidence) > (double)factor)
        n--;
    if (n < 1)
        n = 1;
    return n == count - 1 ? count : n;
}

int32_t policy_select(struct candidate *candidates, int32_t count,
                      const struct selection_rule *rule)
{
    assert(count >= 1);
    for (int32_t i = 0; i < count; i++) {
        struct candidate *candidate = &candidates[i];
        candidate->rank = (double)candidate->confidence;
        if (rule->selection == SELECTION_RANDOM)
            candidate->rank = rng_uniform(rng_word(rule->seed, (uint32_t)candidate->position,
                                                   (uint32_t)rule->round, RNG_RANDOM_ORDER, 0));
    }
    sort_by_rank(candidates, count);

    int32_t eager = 0; /* those that need not wait for the others */
    while (eager < count && !candidates[eager].last)
        eager++;
    int32_t floor =
        min_int32(count, policy_commit_floor(count + rule->withheld, rule->rounds_left));
    int32_t chosen = floor;
    switch (rule->selection) {
    case SELECTION_STEPS:
    case SELECTION_RANDOM:
        break;
    case SELECTION_THRESHOLD:
        chosen = count_over_threshold(candidates, eager, rule->threshold);
        break;
    case SELECTION_FACTOR:
        chosen = count_by_factor(candidates, eager, rule->factor);
        break;
    }
    return chosen > floor ? chosen : floor;
}

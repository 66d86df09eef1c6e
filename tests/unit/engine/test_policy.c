#include "server/engine/policy.h"

#include <string.h>

#include <criterion/criterion.h>

enum { MASK = 99 };

/* An answer of `length` positions behind `prompt` prompt tokens; '#' in the pattern is masked. */
static void fill_canvas(int32_t *tokens, int32_t prompt, const char *pattern)
{
    for (int32_t i = 0; i < prompt; i++)
        tokens[i] = 1;
    for (int32_t i = 0; pattern[i] != '\0'; i++)
        tokens[prompt + i] = pattern[i] == '#' ? MASK : 2;
}

static void expect_plan(const char *pattern, int32_t block_length, int32_t rounds_left,
                        int32_t begin, int32_t end, int32_t rounds)
{
    enum { PROMPT = 3 };
    int32_t tokens[64];
    int32_t length = PROMPT + (int32_t)strlen(pattern);
    fill_canvas(tokens, PROMPT, pattern);
    struct region region =
        policy_plan_region(tokens, PROMPT, length, MASK, block_length, rounds_left);
    cr_expect(region.begin == begin && region.end == end && region.rounds == rounds,
              "%s, blocks of %d, %d rounds: [%d, %d) in %d, expected [%d, %d) in %d", pattern,
              block_length, rounds_left, region.begin, region.end, region.rounds, begin, end,
              rounds);
}

Test(policy, a_budget_of_a_round_per_block_or_more_plans_one_block)
{
    expect_plan("########", 4, 8, 3, 7, 4);
    expect_plan("########", 4, 6, 3, 7, 3);
    expect_plan("########", 4, 5, 3, 7, 3); /* ceil(5 / 2) */
    expect_plan("########", 4, 2, 3, 7, 1);
    expect_plan("..######", 4, 4, 3, 7, 2);
    expect_plan("....####", 4, 3, 7, 11, 3);
    expect_plan("##########", 4, 9, 3, 7, 3); /* the last block is short */
    expect_plan("........##", 4, 2, 11, 13, 2);
}

Test(policy, a_tighter_budget_plans_all_that_is_left_as_one_region)
{
    expect_plan("############", 4, 2, 3, 15, 2);
    expect_plan("############", 4, 1, 3, 15, 1);
    expect_plan("....########", 4, 1, 7, 15, 1);
    expect_plan("..##....####", 4, 1, 3, 15, 1);
    expect_plan("##......", 2, 1, 3, 5, 1);
}

Test(policy, a_plan_never_has_more_rounds_than_masks)
{
    expect_plan("########", 4, 100, 3, 7, 4);
    expect_plan("########", 4, POLICY_NO_BUDGET, 3, 7, 4);
    expect_plan("#.##....", 4, POLICY_NO_BUDGET, 3, 7, 3);
    expect_plan("#", 8, POLICY_NO_BUDGET, 3, 4, 1);
}

Test(policy, a_full_answer_plans_an_empty_region)
{
    expect_plan("........", 4, 3, 11, 11, 0);
}

Test(policy, a_round_commits_at_least_its_share_of_the_masks)
{
    /* 20 masks in 7 rounds: the published even split, remainder to the first rounds. */
    const int32_t expected[] = {3, 3, 3, 3, 3, 3, 2};
    int32_t masked = 20;
    for (int32_t i = 0; i < 7; i++) {
        int32_t n = policy_commit_floor(masked, 7 - i);
        cr_expect_eq(n, expected[i], "round %d", i);
        masked -= n;
    }
    cr_expect_eq(masked, 0);
    cr_expect_eq(policy_commit_floor(32, 1), 32);
    cr_expect_eq(policy_commit_floor(2, 5), 1);
}

static void expect_window(enum cache_mode cache, int32_t refresh_interval, int32_t rounds_done,
                          int32_t begin, int32_t end)
{
    const struct region region = {10, 18, 8};
    struct window window = policy_window(cache, refresh_interval, &region, rounds_done, 40);
    cr_expect(window.begin == begin && window.end == end,
              "%s, refresh %d, %d rounds done: [%d, %d)", cache_mode_name(cache), refresh_interval,
              rounds_done, window.begin, window.end);
    cr_expect_eq(policy_window_is_whole(window, 40), begin == 0);
}

Test(policy, the_first_round_of_a_region_recomputes_the_whole_canvas)
{
    expect_window(CACHE_NONE, 0, 0, 0, 40);
    expect_window(CACHE_PREFIX, 0, 0, 0, 40);
    expect_window(CACHE_DUAL, 0, 0, 0, 40);
}

Test(policy, later_rounds_recompute_what_the_cache_mode_leaves_out)
{
    expect_window(CACHE_NONE, 0, 1, 0, 40);
    expect_window(CACHE_PREFIX, 0, 1, 10, 40);
    expect_window(CACHE_DUAL, 0, 1, 10, 18);
    expect_window(CACHE_DUAL, 0, 7, 10, 18);
}

Test(policy, a_refresh_interval_of_3_recomputes_everything_in_rounds_4_and_7)
{
    expect_window(CACHE_DUAL, 3, 1, 10, 18);
    expect_window(CACHE_DUAL, 3, 2, 10, 18);
    expect_window(CACHE_DUAL, 3, 3, 0, 40);
    expect_window(CACHE_PREFIX, 3, 4, 10, 40);
    expect_window(CACHE_PREFIX, 3, 6, 0, 40);
    expect_window(CACHE_DUAL, 1, 5, 0, 40);
}

/* ---- selection ------------------------------------------------------------------------------- */

enum { CANDIDATES_MAX = 600 };

static struct candidate candidates[CANDIDATES_MAX];

/* Candidates at positions 20, 21, ... with these confidences. */
static int32_t set_candidates(const float *confidence, int32_t count)
{
    for (int32_t i = 0; i < count; i++)
        candidates[i] =
            (struct candidate){.position = 20 + i, .token = i, .confidence = confidence[i]};
    return count;
}

#define CANDIDATES(...)                                                                            \
    set_candidates((const float[]){__VA_ARGS__},                                                   \
                   sizeof((const float[]){__VA_ARGS__}) / sizeof(float))

static void expect_first(int32_t n, const int32_t *positions)
{
    for (int32_t i = 0; i < n; i++)
        cr_expect_eq(candidates[i].position, positions[i], "rank %d: position %d, expected %d", i,
                     candidates[i].position, positions[i]);
}

Test(policy, steps_commits_the_most_confident_ones)
{
    const struct selection_rule rule = {.selection = SELECTION_STEPS, .rounds_left = 2};
    int32_t count = CANDIDATES(0.2f, 0.9f, 0.5f, 0.1f, 0.7f);
    cr_assert_eq(policy_select(candidates, count, &rule), 3);
    expect_first(5, (const int32_t[]){21, 24, 22, 20, 23});
    cr_expect_eq(candidates[0].token, 1, "a candidate travels as a whole");
}

Test(policy, ties_go_to_the_lower_position)
{
    const struct selection_rule rule = {.selection = SELECTION_STEPS, .rounds_left = 3};
    int32_t count = CANDIDATES(0.5f, 0.5f, 0.9f, 0.5f, 0.9f, 0.5f);
    cr_assert_eq(policy_select(candidates, count, &rule), 2);
    expect_first(6, (const int32_t[]){22, 24, 20, 21, 23, 25});
}

Test(policy, threshold_commits_all_at_or_over_the_bar_and_always_one)
{
    struct selection_rule rule = {
        .selection = SELECTION_THRESHOLD, .threshold = 0.5f, .rounds_left = 5};
    int32_t count = CANDIDATES(0.2f, 0.9f, 0.5f, 0.1f, 0.7f);
    cr_assert_eq(policy_select(candidates, count, &rule), 3);
    expect_first(3, (const int32_t[]){21, 24, 22});

    count = CANDIDATES(0.2f, 0.3f, 0.1f, 0.2f, 0.2f);
    cr_assert_eq(policy_select(candidates, count, &rule), 1);
    expect_first(1, (const int32_t[]){21});
}

Test(policy, a_tight_plan_raises_what_the_selection_says)
{
    struct selection_rule rule = {
        .selection = SELECTION_THRESHOLD, .threshold = 0.9f, .rounds_left = 2};
    int32_t count = CANDIDATES(0.2f, 0.3f, 0.1f, 0.2f, 0.2f);
    cr_expect_eq(policy_select(candidates, count, &rule), 3);
    rule.rounds_left = 1;
    cr_expect_eq(policy_select(candidates, count, &rule), 5);
}

Test(policy, factor_takes_the_largest_n_that_the_rule_allows)
{
    struct selection_rule rule = {.selection = SELECTION_FACTOR, .factor = 1, .rounds_left = 9};
    /* (n + 1)(1 - c_n): n 2: 0.6, n 3: 1.2, n 4: 4, n 5: 5.4 */
    int32_t count = CANDIDATES(0.2f, 0.9f, 0.8f, 0.1f, 0.7f);
    cr_expect_eq(policy_select(candidates, count, &rule), 2);
    expect_first(2, (const int32_t[]){21, 22});
    rule.factor = 1.25f;
    count = CANDIDATES(0.2f, 0.9f, 0.8f, 0.1f, 0.7f);
    cr_expect_eq(policy_select(candidates, count, &rule), 3);
    /* n 2: 1.5: not even two, so one */
    count = CANDIDATES(0.2f, 0.9f, 0.5f, 0.1f, 0.4f);
    cr_expect_eq(policy_select(candidates, count, &rule), 1);
}

Test(policy, factor_never_leaves_exactly_one_mask)
{
    struct selection_rule rule = {.selection = SELECTION_FACTOR, .factor = 1, .rounds_left = 9};
    int32_t count = CANDIDATES(0.9f, 0.1f, 0.8f);
    cr_expect_eq(policy_select(candidates, count, &rule), 3, "two of three");
    count = CANDIDATES(0.2f, 0.1f);
    cr_expect_eq(policy_select(candidates, count, &rule), 2, "one of two");
    count = CANDIDATES(0.1f);
    cr_expect_eq(policy_select(candidates, count, &rule), 1, "one of one");
}

Test(policy, random_takes_the_largest_numbers_of_the_known_stream)
{
    /* The numbers belong to seed, position and round, whatever else is masked. */
    const struct selection_rule rule = {
        .selection = SELECTION_RANDOM, .rounds_left = 1, .seed = 123456789, .round = 3};
    float confidence[32] = {0};
    int32_t count = set_candidates(confidence, 32);
    for (int32_t i = 0; i < count; i++)
        candidates[i].position = i;
    cr_assert_eq(policy_select(candidates, count, &rule), count);
    int32_t order[32];
    for (int32_t i = 0; i < count; i++) {
        order[i] = candidates[i].position;
        if (order[i] == 5) /* a known answer of the sampling table */
            cr_expect_float_eq(candidates[i].rank, 0.50235426507424563, 1e-15);
        if (i > 0)
            cr_expect_gt(candidates[i - 1].rank, candidates[i].rank);
    }
    /* Half of the positions: the same order among themselves. */
    int32_t half = 0;
    for (int32_t i = 0; i < 32; i += 2)
        candidates[half++] = (struct candidate){.position = i};
    struct selection_rule half_rule = rule;
    half_rule.rounds_left = 4;
    cr_assert_eq(policy_select(candidates, half, &half_rule), 4);
    for (int32_t i = 0, at = 0; i < count; i++) {
        if (order[i] % 2 == 0)
            cr_expect_eq(candidates[at++].position, order[i]);
    }
}

Test(policy, a_long_region_is_ordered_completely)
{
    int32_t count = CANDIDATES_MAX;
    for (int32_t i = 0; i < count; i++)
        candidates[i] =
            (struct candidate){.position = i, .confidence = (float)(i * 7919 % 101) / 101};
    const struct selection_rule rule = {.selection = SELECTION_STEPS, .rounds_left = 1};
    cr_assert_eq(policy_select(candidates, count, &rule), count);
    for (int32_t i = 1; i < count; i++) {
        const struct candidate *a = &candidates[i - 1], *b = &candidates[i];
        cr_assert(a->confidence > b->confidence ||
                  (a->confidence >= b->confidence && a->position < b->position));
    }
}

/* Of the five candidates those at 21 and 24 come last. */
static int32_t set_last_ones(void)
{
    int32_t count = CANDIDATES(0.2f, 0.9f, 0.5f, 0.1f, 0.7f);
    candidates[1].last = candidates[4].last = true;
    return count;
}

Test(policy, candidates_that_come_last_commit_when_nothing_else_is_left)
{
    struct selection_rule rule = {
        .selection = SELECTION_THRESHOLD, .threshold = 0.15f, .rounds_left = 5};
    int32_t count = set_last_ones();
    cr_expect_eq(policy_select(candidates, count, &rule), 2);
    expect_first(5, (const int32_t[]){22, 20, 23, 21, 24});
    rule.threshold = 0.6f; /* those over it must wait, and one commits always */
    cr_expect_eq(policy_select(candidates, count, &rule), 1);
    rule.selection = SELECTION_FACTOR;
    rule.factor = 2; /* (n + 1)(1 - c_n): n 2: 2.4, n 3: 3.6 */
    cr_expect_eq(policy_select(candidates, count, &rule), 1);
    rule.factor = 2.5f; /* two of the three that count: never leaves one of them */
    cr_expect_eq(policy_select(candidates, count, &rule), 3);
    rule.selection = SELECTION_RANDOM;
    policy_select(candidates, count, &rule);
    cr_expect(candidates[3].last && candidates[4].last);
}

Test(policy, the_floor_of_the_plan_takes_them_too)
{
    struct selection_rule rule = {.selection = SELECTION_STEPS, .rounds_left = 1};
    int32_t count = set_last_ones();
    cr_expect_eq(policy_select(candidates, count, &rule), 5);
    rule.rounds_left = 2;
    cr_expect_eq(policy_select(candidates, count, &rule), 3);
    for (int32_t i = 0; i < count; i++)
        candidates[i].last = true;
    rule = (struct selection_rule){
        .selection = SELECTION_THRESHOLD, .threshold = 0.1f, .rounds_left = 5};
    cr_expect_eq(policy_select(candidates, count, &rule), 1, "one commits in any case");
    expect_first(1, (const int32_t[]){21});
}

Test(policy, masks_without_a_candidate_count_for_the_floor)
{
    struct selection_rule rule = {.selection = SELECTION_STEPS, .rounds_left = 3, .withheld = 4};
    int32_t count = CANDIDATES(0.2f, 0.9f, 0.5f, 0.1f, 0.7f);
    cr_expect_eq(policy_select(candidates, count, &rule), 3);
    rule.withheld = 20;
    cr_expect_eq(policy_select(candidates, count, &rule), 5);
}

/* ---- names ----------------------------------------------------------------------------------- */

Test(decode, names_and_values_belong_together)
{
    for (int i = SELECTION_STEPS; i <= SELECTION_RANDOM; i++) {
        enum selection selection;
        cr_assert(selection_from_name(selection_name((enum selection)i), &selection));
        cr_expect_eq((int)selection, i);
    }
    for (int i = CACHE_NONE; i <= CACHE_DUAL; i++) {
        enum cache_mode cache;
        cr_assert(cache_mode_from_name(cache_mode_name((enum cache_mode)i), &cache));
        cr_expect_eq((int)cache, i);
    }
    enum selection selection = SELECTION_FACTOR;
    cr_expect_not(selection_from_name("best", &selection));
    cr_expect_eq(selection, SELECTION_FACTOR);
    cr_expect_str_eq(selection_name(SELECTION_THRESHOLD), "threshold");
    cr_expect_str_eq(cache_mode_name(CACHE_DUAL), "dual");
}

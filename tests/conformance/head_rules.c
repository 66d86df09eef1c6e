/* The head's rules on logits written down by hand. */
#include <math.h>
#include <stdlib.h>
#include "common/rng.h"
#include "head.h"

enum { VOCABULARY = 40, DRAWS = 200 };

static struct backend *open_one(const struct subject *subject)
{
    struct backend *backend = subject_open(subject, 1);
    struct backend_limits limits = plain_limits(DRAWS, VOCABULARY);
    reserve(backend, &limits);
    return backend;
}

static struct head_statistics statistics_of(struct backend *backend, const float *logits,
                                            const struct head_batch *batch)
{
    struct head_output output = judge_logits(backend, logits, VOCABULARY, batch);
    struct head_statistics statistics = output.row[0];
    free_head_output(&output);
    return statistics;
}

static struct head_batch batch_of(const struct head_row *row)
{
    return (struct head_batch){.rows = 1, .row = row, .mask_token = 39, .token_limit = 38};
}

SUBJECT_TEST(head_rules, best_is_the_lower_id_and_never_mask_or_padding)
{
    struct backend *backend = open_one(subject);
    struct head_row row = head_row_greedy(0);
    struct head_batch batch = batch_of(&row);
    float logits[VOCABULARY] = {0};
    logits[17] = logits[5] = logits[30] = 2;
    logits[38] = logits[39] = 3; /* padding, mask */
    row.top = 4;
    struct head_output output = judge_logits(backend, logits, VOCABULARY, &batch);
    double sum = 35 + 3 * exp(2) + 2 * exp(3);
    cr_assert_eq(output.row[0].token, 5);
    cr_assert_float_eq(output.row[0].logsumexp, log(sum), 1e-6);
    cr_assert_float_eq(output.row[0].logprob, 2 - log(sum), 1e-6);
    const int32_t expected[5] = {5, 17, 30, 0, -1};
    for (int i = 0; i < 5; i++)
        cr_assert_eq(output.top_token[i], expected[i], "entry %d is %d", i, output.top_token[i]);
    cr_assert_eq(output.raw_top_token[0], -1);
    free_head_output(&output);
    backend_destroy(backend);
}

SUBJECT_TEST(head_rules, nan_is_never_chosen)
{
    struct backend *backend = open_one(subject);
    struct head_row row = head_row_greedy(0);
    struct head_batch batch = batch_of(&row);
    float logits[VOCABULARY];
    for (int round = 0; round < 2; round++) {
        row.temperature = (float)round;
        row.top_p = round == 0 ? 1 : 0.5f;
        for (int i = 0; i < VOCABULARY; i++)
            logits[i] = NAN;
        cr_assert_eq(statistics_of(backend, logits, &batch).token, -1);
        logits[21] = -8;
        struct head_statistics statistics = statistics_of(backend, logits, &batch);
        cr_assert_eq(statistics.token, 21);
        cr_assert_eq(statistics.logprob, 0);
        cr_assert_float_eq(statistics.entropy, 0, 1e-30);
    }
    backend_destroy(backend);
}

/* What a broken weight gives: its statistics mean nothing, but the choice does not go astray. */
SUBJECT_TEST(head_rules, an_infinite_logit_is_chosen_whatever_the_filters)
{
    struct backend *backend = open_one(subject);
    float logits[VOCABULARY];
    for (int i = 0; i < VOCABULARY; i++)
        logits[i] = (float)(i % 7);
    logits[21] = INFINITY;
    for (int i = 0; i < 5; i++) {
        struct head_row row = head_row_greedy(0);
        struct head_batch batch = batch_of(&row);
        row.temperature = i == 0 ? 0 : 1;
        row.top_p = i == 2 ? 0.5f : 1;
        row.top_k = i == 3 ? 3 : i == 4 ? HEAD_TOP_MAX + 1 : 0;
        row.min_p = i > 2 ? 0.1f : 0;
        row.round = 1;
        cr_assert_eq(statistics_of(backend, logits, &batch).token, 21, "case %d", i);
    }
    backend_destroy(backend);
}

SUBJECT_TEST(head_rules, nothing_allowed_gives_no_token)
{
    struct backend *backend = open_one(subject);
    const uint32_t allowed[2] = {0, 1u << 7}; /* the mask alone */
    struct head_row row = head_row_greedy(0);
    struct head_batch batch = batch_of(&row);
    float logits[VOCABULARY] = {0};
    batch.allowed = allowed;
    row.allowed = 0;
    row.top = 3;
    row.given = 4;
    for (int i = 0; i < 4; i++) {
        row.temperature = i == 0 ? 0 : 1;
        row.top_k = i == 2 ? 3 : 0;
        row.top_p = i == 3 ? 0.5f : 1;
        struct head_output output = judge_logits(backend, logits, VOCABULARY, &batch);
        cr_assert_eq(output.row[0].token, -1);
        cr_assert_eq(output.row[0].logprob, -INFINITY);
        cr_assert_eq(output.row[0].given_logprob, -INFINITY);
        cr_assert_eq(output.top_token[0], -1);
        free_head_output(&output);
    }
    backend_destroy(backend);
}

/* Repetition divides or multiplies, presence and frequency subtract, then biases, then bans. */
SUBJECT_TEST(head_rules, adjustments_come_in_their_order)
{
    struct backend *backend = open_one(subject);
    const struct token_count counts[] = {{2, 2, 0}, {3, 0, 4}, {4, 1, 1}};
    const struct token_bias biases[] = {{4, 3}, {6, -INFINITY}, {8, 1}};
    const uint32_t allowed[2] = {~(1u << 8), ~0u};
    struct head_row row = head_row_greedy(0);
    struct head_batch batch = batch_of(&row);
    float logits[VOCABULARY] = {0};
    logits[2] = 4;
    logits[3] = -2;
    logits[4] = 1;
    logits[6] = 6;
    logits[8] = 5;
    batch.counts = counts;
    batch.biases = biases;
    batch.allowed = allowed;
    row.repetition_penalty = 2;
    row.presence_penalty = 0.5f;
    row.frequency_penalty = 0.25f;
    row.counts_end = 3;
    row.biases_end = 3;
    row.allowed = 0;
    row.top = 3;
    row.raw_top = 2;
    row.given = 3;
    struct head_output output = judge_logits(backend, logits, VOCABULARY, &batch);
    /* 2: 4/2 - 0.5 - 2*0.25 = 1; 3: -2*2 = -4; 4: 1/2 - 0.5 - 0.25 + 3 = 2.75; 6, 8: banned. */
    double sum = exp(1) + exp(-4) + exp(2.75) + 35;
    double raw_sum = exp(4) + exp(-2) + exp(1) + exp(6) + exp(5) + 35;
    cr_assert_eq(output.row[0].token, 4);
    cr_assert_float_eq(output.row[0].logprob, 2.75 - log(sum), 1e-6);
    cr_assert_float_eq(output.row[0].raw_logprob, 1 - log(raw_sum), 1e-5);
    cr_assert_float_eq(output.row[0].given_logprob, -4 - log(sum), 1e-6);
    cr_assert_eq(output.top_token[1], 2);
    cr_assert_float_eq(output.top_logprob[1], 1 - log(sum), 1e-6);
    cr_assert_eq(output.raw_top_token[0], 6);
    cr_assert_eq(output.raw_top_token[1], 8);
    free_head_output(&output);
    backend_destroy(backend);
}

SUBJECT_TEST(head_rules, sampling_is_the_argmax_of_scaled_logits_and_noise)
{
    struct backend *backend = open_one(subject);
    struct head_row row = head_row_greedy(0);
    struct head_batch batch = batch_of(&row);
    float logits[VOCABULARY];
    for (int i = 0; i < VOCABULARY; i++)
        logits[i] = (float)(i * 7 % 11) / 4;
    row.temperature = 0.5f;
    row.seed = 0xfedcba9876543210u;
    row.position = 9;
    for (row.round = 1; row.round <= 50; row.round++) {
        double best = -INFINITY;
        int32_t expected = -1;
        for (uint32_t i = 0; i < 38; i++) {
            uint32_t word = rng_word(row.seed, row.position, row.round, RNG_GUMBEL, i);
            if (logits[i] / 0.5 + rng_gumbel(word) > best) {
                best = logits[i] / 0.5 + rng_gumbel(word);
                expected = (int32_t)i;
            }
        }
        cr_assert_eq(statistics_of(backend, logits, &batch).token, expected);
    }
    backend_destroy(backend);
}

static double noise_of(const struct head_row *row, uint32_t round, uint32_t token)
{
    return rng_gumbel(rng_word(row->seed, row->position, round, RNG_GUMBEL, token));
}

/*
 * Noise as one draw in a million has it brings a token to the top that is far below: whoever leaves
 * out tokens that cannot win has to know how large noise can be.
 */
SUBJECT_TEST(head_rules, rare_noise_lifts_a_token_from_far_below)
{
    enum { ROUNDS = 20000, BEST = 3 };
    struct backend *backend = open_one(subject);
    struct head_row row = head_row_greedy(0);
    struct head_batch batch = batch_of(&row);
    uint32_t rare = 0;
    double largest = 0;
    row.seed = 0x0123456789abcdefu;
    row.position = 5;
    for (uint32_t round = 1; round <= ROUNDS; round++) {
        for (uint32_t token = BEST + 1; token < 38; token++) {
            if (noise_of(&row, round, token) > largest) {
                largest = noise_of(&row, round, token);
                row.round = round;
                rare = token;
            }
        }
    }
    cr_assert_gt(largest, 12);
    for (int i = 0; i < 4; i++) {
        float logits[VOCABULARY];
        row.temperature = i < 2 ? 1 : 0.25f;
        for (int token = 0; token < VOCABULARY; token++)
            logits[token] = -64;
        logits[BEST] = 0;
        /* Half a unit of noise more than the best token has, or less. */
        double below = largest - noise_of(&row, row.round, BEST) + (i % 2 == 0 ? -0.5 : 0.5);
        logits[rare] =
            bfloat16_to_float(bfloat16_from_float((float)(-below * (double)row.temperature)));
        int32_t expected = i % 2 == 0 ? (int32_t)rare : BEST;
        cr_assert_eq(statistics_of(backend, logits, &batch).token, expected, "case %d", i);
    }
    backend_destroy(backend);
}

/* Which tokens the draws reach. Probabilities: token 3 1/2, 4 and 9 1/8 each, 32 others 1/128. */
static uint64_t reached(struct backend *backend, struct head_row row)
{
    struct head_row rows[DRAWS];
    struct head_batch batch = batch_of(rows);
    float logits[VOCABULARY];
    uint64_t tokens = 0;
    for (int i = 0; i < VOCABULARY; i++)
        logits[i] = i < 35 ? 0 : -INFINITY;
    logits[3] = bfloat16_to_float(bfloat16_from_float(logf(64)));
    logits[4] = logits[9] = bfloat16_to_float(bfloat16_from_float(logf(16)));
    row.temperature = 1;
    for (int i = 0; i < DRAWS; i++) {
        rows[i] = row;
        rows[i].round = 1 + (uint32_t)i;
    }
    batch.rows = DRAWS;
    struct head_output output = judge_logits(backend, logits, VOCABULARY, &batch);
    for (int i = 0; i < DRAWS; i++)
        tokens |= 1ull << output.row[i].token;
    free_head_output(&output);
    return tokens;
}

SUBJECT_TEST(head_rules, filters_keep_exactly_what_they_say)
{
    struct backend *backend = open_one(subject);
    const struct {
        int32_t top_k;
        float top_p, min_p;
        uint64_t expected;
    } cases[] = {
        {1, 1, 0, 1u << 3},
        {2, 1, 0, 1u << 3 | 1u << 4}, /* of equal ones the lower id stays */
        {3, 1, 0, 1u << 3 | 1u << 4 | 1u << 9},
        {0, 0.4f, 0, 1u << 3},
        {0, 0.55f, 0, 1u << 3 | 1u << 4}, /* 1/2 is not over 0.55, 5/8 is */
        {0, 0.7f, 0, 1u << 3 | 1u << 4 | 1u << 9},
        {0, 1, 0.2f, 1u << 3 | 1u << 4 | 1u << 9},
        {0, 1, 0.5f, 1u << 3},
        {2, 0.75f, 0, 1u << 3}, /* of the two that top_k leaves token 3 has 0.8 */
        {3, 0.75f, 0.5f, 1u << 3},
        {3, 0.75f, 0, 1u << 3 | 1u << 4}, /* 2/3 of the three comes before 4, 5/6 before 9 */
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct head_row row = head_row_greedy(0);
        row.top_k = cases[i].top_k;
        row.top_p = cases[i].top_p;
        row.min_p = cases[i].min_p;
        uint64_t tokens = reached(backend, row);
        cr_assert_eq(tokens, cases[i].expected, "case %zu reached %llx", i,
                     (unsigned long long)tokens);
    }
    backend_destroy(backend);
}

#include "server/engine/next_choice.h"

#include <math.h>

#include <criterion/criterion.h>

#include "common/rng.h"

/* A row over four tokens with the logits log 8, log 4, log 2, log 2 and raw logits of their own. */
struct judged {
    struct head_row row;
    struct head_batch batch;
    struct head_statistics statistics;
    int32_t top_token[HEAD_TOP_MAX];
    float top_logprob[HEAD_TOP_MAX];
    struct head_result result;
    struct next_choice choice;
};

static void begin(struct judged *judged, int32_t chosen)
{
    static const double PROBABILITY[] = {0.5, 0.25, 0.125, 0.125};
    judged->row.top = 4;
    judged->row.top_p = judged->row.top_p > 0 ? judged->row.top_p : 1;
    judged->row.repetition_penalty = 1;
    judged->batch.rows = 1;
    judged->batch.row = &judged->row;
    for (int32_t i = 0; i < HEAD_TOP_MAX; i++) {
        judged->top_token[i] = i < 4 ? 10 + i : -1;
        judged->top_logprob[i] = i < 4 ? (float)log(PROBABILITY[i]) : -INFINITY;
    }
    judged->statistics = (struct head_statistics){
        .token = 10 + chosen,
        .logprob = (float)log(PROBABILITY[chosen]),
        .raw_logprob = -7,
        .logsumexp = (float)log(16),
        .raw_logsumexp = (float)log(32),
    };
    judged->result = (struct head_result){.row = &judged->statistics,
                                          .top_token = judged->top_token,
                                          .top_logprob = judged->top_logprob};
    next_choice_begin(&judged->choice, &judged->batch, &judged->result, 0);
}

static void expect_choice(const struct judged *judged, int32_t token, double confidence)
{
    cr_expect_eq(judged->choice.token, token, "%d, expected %d", judged->choice.token, token);
    cr_expect_float_eq(judged->choice.confidence, confidence, 1e-6);
}

Test(next_choice, refused_tokens_leave_their_share_to_the_others)
{
    struct judged judged = {0};
    begin(&judged, 0);
    expect_choice(&judged, 10, 0.5);
    cr_expect_float_eq((double)next_choice_raw_logprob(&judged.choice), -7, 0);
    next_choice_refuse(&judged.choice);
    expect_choice(&judged, 11, 0.5);
    next_choice_refuse(&judged.choice);
    expect_choice(&judged, 12, 0.5); /* a tie: the lower id */
    next_choice_refuse(&judged.choice);
    expect_choice(&judged, 13, 1);
    next_choice_refuse(&judged.choice);
    cr_expect_eq(judged.choice.token, -1);
}

Test(next_choice, a_sampled_token_may_be_outside_the_list)
{
    struct judged judged = {.row.temperature = 1, .row.seed = 5, .row.round = 1};
    begin(&judged, 0);
    judged.choice.token = 99;
    judged.choice.logprob = (float)log(0.1);
    next_choice_refuse(&judged.choice);
    cr_expect_eq(judged.choice.count, 4);
    cr_expect_float_eq(judged.choice.refused, 0.1, 1e-6);
}

static int32_t best_with_noise(const struct judged *judged, double temperature, int32_t first,
                               int32_t kept)
{
    int32_t best = -1;
    double winner = -INFINITY;
    for (int32_t i = first; i < first + kept; i++) {
        double score = (double)judged->top_logprob[i] / temperature +
                       rng_gumbel(rng_word(judged->row.seed, judged->row.position,
                                           judged->row.round, RNG_GUMBEL, (uint32_t)(10 + i)));
        if (score > winner) {
            winner = score;
            best = 10 + i;
        }
    }
    return best;
}

Test(next_choice, sampling_goes_on_with_the_same_noise_and_filters)
{
    int32_t others = 0;
    for (uint64_t seed = 1; seed < 60; seed++) {
        struct judged judged = {.row.temperature = 2, .row.seed = seed, .row.round = 3};
        begin(&judged, 0);
        next_choice_refuse(&judged.choice);
        cr_expect_eq(judged.choice.token, best_with_noise(&judged, 2, 1, 3));
        others += judged.choice.token != 11;

        judged.row.top_k = 2;
        begin(&judged, 0);
        next_choice_refuse(&judged.choice);
        cr_expect_eq(judged.choice.token, best_with_noise(&judged, 2, 1, 2));

        judged.row.top_k = 0;
        judged.row.top_p = 0.01f;
        begin(&judged, 0);
        next_choice_refuse(&judged.choice);
        cr_expect_eq(judged.choice.token, 11);

        judged.row.top_p = 1;
        judged.row.min_p = 0.9f;
        begin(&judged, 0);
        next_choice_refuse(&judged.choice);
        cr_expect_eq(judged.choice.token, 11);
    }
    cr_expect_gt(others, 10);
}

Test(next_choice, raw_log_probabilities_undo_penalties_and_biases)
{
    /* Adjusted logit log 4 = raw / 2 - (0.5 + 0.25 * 3) + 0.125. */
    const struct token_count counts[] = {{10, 1, 0}, {11, 3, 0}};
    const struct token_bias biases[] = {{11, 0.125f}};
    struct judged judged = {.batch = {.counts = counts, .biases = biases}};
    begin(&judged, 0);
    judged.row.counts_end = 2;
    judged.row.biases_end = 1;
    judged.row.presence_penalty = 0.5f;
    judged.row.frequency_penalty = 0.25f;
    judged.row.repetition_penalty = 2;
    next_choice_refuse(&judged.choice);
    judged.statistics.raw_logsumexp = 6;
    double raw = 2 * (log(4) - 0.125 + 1.25);
    cr_expect_float_eq((double)next_choice_raw_logprob(&judged.choice), raw - 6, 1e-5);
}

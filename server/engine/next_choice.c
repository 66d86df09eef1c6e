#include "server/engine/next_choice.h"

#include <math.h>
#include <string.h>

#include "common/rng.h"

void next_choice_begin(struct next_choice *choice, const struct head_batch *batch,
                       const struct head_result *result, int32_t index)
{
    const struct head_row *row = &batch->row[index];
    size_t first = (size_t)index * HEAD_TOP_MAX;
    choice->batch = batch;
    choice->row = row;
    choice->statistics = &result->row[index];
    choice->count = 0;
    while (choice->count < row->top && result->top_token[first + (size_t)choice->count] >= 0)
        choice->count++;
    memcpy(choice->top_token, result->top_token + first,
           (size_t)choice->count * sizeof *choice->top_token);
    memcpy(choice->top_logprob, result->top_logprob + first,
           (size_t)choice->count * sizeof *choice->top_logprob);
    choice->refused = 0;
    choice->token = choice->statistics->token;
    choice->logprob = choice->statistics->logprob;
    choice->confidence = exp((double)choice->logprob);
}

/* Entry of the list that temperature, top_k, top_p and min_p choose. */
static int32_t choose_entry(const struct next_choice *choice)
{
    const struct head_row *row = choice->row;
    if (!(row->temperature > 0))
        return 0;
    int32_t kept = row->top_k > 0 && row->top_k < choice->count ? row->top_k : choice->count;
    double temperature = (double)row->temperature;
    double best = (double)choice->top_logprob[0] / temperature, total = 0;
    for (int32_t i = 0; i < kept; i++)
        total += exp((double)choice->top_logprob[i] / temperature - best);

    double before = 0, winner = -INFINITY;
    int32_t entry = 0;
    for (int32_t i = 0; i < kept; i++) {
        double scaled = (double)choice->top_logprob[i] / temperature;
        double weight = exp(scaled - best);
        if ((row->top_p < 1 && before / total > (double)row->top_p) || weight < (double)row->min_p)
            break;
        before += weight;
        double score = scaled + rng_gumbel(rng_word(row->seed, row->position, row->round,
                                                    RNG_GUMBEL, (uint32_t)choice->top_token[i]));
        if (score > winner ||
            (score >= winner && choice->top_token[i] < choice->top_token[entry])) {
            winner = score;
            entry = i;
        }
    }
    return entry;
}

static void remove_entry(struct next_choice *choice, int32_t entry)
{
    size_t behind = (size_t)(choice->count - entry - 1);
    memmove(&choice->top_token[entry], &choice->top_token[entry + 1],
            behind * sizeof *choice->top_token);
    memmove(&choice->top_logprob[entry], &choice->top_logprob[entry + 1],
            behind * sizeof *choice->top_logprob);
    choice->count--;
}

void next_choice_refuse(struct next_choice *choice)
{
    choice->refused += exp((double)choice->logprob);
    for (int32_t i = 0; i < choice->count; i++) {
        if (choice->top_token[i] == choice->token) {
            remove_entry(choice, i);
            break;
        }
    }
    if (choice->count == 0) {
        choice->token = -1;
        return;
    }
    int32_t entry = choose_entry(choice);
    choice->token = choice->top_token[entry];
    choice->logprob = choice->top_logprob[entry];
    /* Rounding may leave less than the choice itself has. */
    double probability = exp((double)choice->logprob), left = 1 - choice->refused;
    choice->confidence = left > probability ? probability / left : 1;
}

/* The head's steps for penalties and biases, the other way round. */
float next_choice_raw_logprob(const struct next_choice *choice)
{
    const struct head_batch *batch = choice->batch;
    const struct head_row *row = choice->row;
    if (choice->token == choice->statistics->token)
        return choice->statistics->raw_logprob;
    double logit = (double)choice->logprob + (double)choice->statistics->logsumexp;
    for (int32_t i = row->biases_begin; i < row->biases_end; i++) {
        if (batch->biases[i].token == choice->token)
            logit -= (double)batch->biases[i].bias;
    }
    for (int32_t i = row->counts_begin; i < row->counts_end; i++) {
        const struct token_count *count = &batch->counts[i];
        if (count->token != choice->token)
            continue;
        if (count->in_answer > 0)
            logit +=
                (double)row->presence_penalty + (double)row->frequency_penalty * count->in_answer;
        double repetition = (double)row->repetition_penalty;
        logit = logit > 0 ? logit * repetition : logit / repetition;
    }
    return (float)fmin(0, logit - (double)choice->statistics->raw_logsumexp);
}

/* The steps of struct head_row, one after the other over whole rows. A NaN counts as -INFINITY. */
#include <math.h>
#include <stdlib.h>
#include "common/rng.h"
#include "kernels/ref/ref.h"

static double without_nan(double logit)
{
    return isnan(logit) ? -INFINITY : logit;
}

static double logit_of(const void *gathered, int64_t line, const struct ref_weight *weight,
                       int64_t token, enum dtype dtype)
{
    double sum = weight->bias != NULL ? weight->bias[token] : 0;
    for (int64_t i = 0; i < weight->columns; i++)
        sum += (double)weight->values[token * weight->columns + i] *
               ref_load(gathered, line * weight->columns + i, dtype);
    return sum;
}

/* logits [vocabulary] of one line */
static void make_logits(double *logits, struct ref_backend *ref, const void *gathered, int64_t line,
                        const struct ref_weight *weight)
{
    float scale = 0;
    if (weight->small != NULL)
        scale = ref_quantise(ref->line, ref->host.base.weight_dtype, gathered,
                             line * weight->columns, weight->columns, ref->host.base.dtype);
    for (int64_t token = 0; token < weight->rows; token++)
        logits[token] = weight->small != NULL
                            ? ref_product_small(ref, weight, token, scale)
                            : logit_of(gathered, line, weight, token, ref->host.base.dtype);
}

/* (1) Guidance. The partner's logits stand where the adjusted row will be. */
static void make_raw_row(struct ref_backend *ref, const void *gathered,
                         const struct ref_weight *weight, const struct head_row *row)
{
    make_logits(ref->raw, ref, gathered, row->hidden, weight);
    if (row->partner >= 0)
        make_logits(ref->adjusted, ref, gathered, row->partner, weight);
    for (int64_t token = 0; token < weight->rows; token++) {
        double own = ref->raw[token], partner = ref->adjusted[token];
        if (row->partner >= 0)
            own = partner + ((double)row->guidance + 1) * (own - partner);
        ref->raw[token] = without_nan(own);
    }
}

/* (2) Penalties, (3) biases, (4) bans and allowed sets. */
static void make_adjusted_row(struct ref_backend *ref, int64_t vocabulary,
                              const struct head_row *row, const struct head_batch *batch)
{
    memcpy(ref->adjusted, ref->raw, (size_t)vocabulary * sizeof *ref->raw);
    for (int32_t i = row->counts_begin; i < row->counts_end; i++) {
        const struct token_count *count = &batch->counts[i];
        double *logit = &ref->adjusted[count->token];
        if (count->in_answer > 0 || count->in_prompt > 0)
            *logit =
                *logit > 0 ? *logit / row->repetition_penalty : *logit * row->repetition_penalty;
        if (count->in_answer > 0)
            *logit -= row->presence_penalty + (double)row->frequency_penalty * count->in_answer;
    }
    for (int32_t i = row->biases_begin; i < row->biases_end; i++)
        ref->adjusted[batch->biases[i].token] += batch->biases[i].bias;
    for (int64_t token = 0; token < vocabulary; token++) {
        int64_t words = (vocabulary + 31) / 32;
        if (row->allowed >= 0 &&
            !(batch->allowed[row->allowed * words + token / 32] >> (token % 32) & 1))
            ref->adjusted[token] = -INFINITY;
        ref->adjusted[token] = without_nan(ref->adjusted[token]);
    }
}

/* log(sum of exp); the sum runs over every column, the mask and padding included. */
static double log_sum_exp(const double *logits, int64_t vocabulary)
{
    double largest = -INFINITY, sum = 0;
    for (int64_t token = 0; token < vocabulary; token++)
        largest = fmax(largest, logits[token]);
    if (largest == -INFINITY)
        return -INFINITY;
    for (int64_t token = 0; token < vocabulary; token++)
        sum += exp(logits[token] - largest);
    return largest + log(sum);
}

static double log_probability(double logit, double logsumexp)
{
    return logit == -INFINITY ? -INFINITY : logit - logsumexp;
}

static double entropy_of(const double *logits, int64_t vocabulary, double logsumexp)
{
    double entropy = 0;
    for (int64_t token = 0; token < vocabulary; token++) {
        double logprob = log_probability(logits[token], logsumexp);
        if (logprob > -INFINITY)
            entropy -= exp(logprob) * logprob;
    }
    return entropy;
}

static int compare_tokens(const void *left, const void *right, void *logits)
{
    int32_t a = *(const int32_t *)left, b = *(const int32_t *)right;
    double x = ((const double *)logits)[a], y = ((const double *)logits)[b];
    if (x != y)
        return x > y ? -1 : 1;
    return a < b ? -1 : 1;
}

/* Fills ref->order with what may be chosen, best first, and returns how many these are. */
static int32_t sort_candidates(struct ref_backend *ref, double *logits, int64_t vocabulary,
                               const struct head_batch *batch)
{
    int32_t count = 0;
    for (int32_t token = 0; token < vocabulary && token < batch->token_limit; token++) {
        if (token != batch->mask_token && logits[token] > -INFINITY)
            ref->order[count++] = token;
    }
    qsort_r(ref->order, (size_t)count, sizeof *ref->order, compare_tokens, logits);
    return count;
}

static void write_top(int32_t *tokens, float *logprobs, int32_t wanted, int32_t entries,
                      const int32_t *order, int32_t candidates, const double *logits,
                      double logsumexp)
{
    for (int32_t i = 0; i < entries; i++) {
        bool used = i < wanted && i < candidates;
        tokens[i] = used ? order[i] : -1;
        logprobs[i] = used ? (float)log_probability(logits[order[i]], logsumexp) : -INFINITY;
    }
}

/* (5) The best token, or the sampled one. `order` holds the candidates, best first. */
static int32_t choose(const struct head_row *row, const double *adjusted, const int32_t *order,
                      int32_t candidates)
{
    if (candidates == 0)
        return -1;
    if (!(row->temperature > 0))
        return order[0];
    double temperature = row->temperature, best = adjusted[order[0]] / temperature, total = 0;
    int32_t kept = candidates;
    if (row->top_k > 0 && row->top_k < kept)
        kept = row->top_k;
    for (int32_t i = 0; i < kept; i++)
        total += exp(adjusted[order[i]] / temperature - best);

    double before = 0, winner = -INFINITY;
    int32_t chosen = -1;
    for (int32_t i = 0; i < kept; i++) {
        double scaled = adjusted[order[i]] / temperature, weight = exp(scaled - best);
        if ((row->top_p < 1 && before / total > row->top_p) || weight < row->min_p)
            break; /* the order falls: no later token can be kept */
        before += weight;
        uint32_t word =
            rng_word(row->seed, row->position, row->round, RNG_GUMBEL, (uint32_t)order[i]);
        double score = scaled + rng_gumbel(word);
        if (score > winner || (score == winner && order[i] < chosen)) {
            winner = score;
            chosen = order[i];
        }
    }
    return chosen;
}

void ref_head(struct backend *backend, struct head_result *result, const void *gathered,
              const struct weight *opaque, const struct head_batch *batch)
{
    struct ref_backend *ref = (struct ref_backend *)backend;
    const struct ref_weight *weight = (const struct ref_weight *)opaque;
    int64_t vocabulary = weight->rows;

    for (int64_t i = 0; i < batch->rows; i++) {
        const struct head_row *row = &batch->row[i];
        struct head_statistics *statistics = &result->row[i];
        make_raw_row(ref, gathered, weight, row);
        make_adjusted_row(ref, vocabulary, row, batch);
        double raw_sum = log_sum_exp(ref->raw, vocabulary);
        double sum = log_sum_exp(ref->adjusted, vocabulary);

        int32_t raw_top = row->raw_top;
        int32_t candidates = raw_top > 0 ? sort_candidates(ref, ref->raw, vocabulary, batch) : 0;
        write_top(result->raw_top_token + i * HEAD_RAW_TOP_MAX,
                  result->raw_top_logprob + i * HEAD_RAW_TOP_MAX, raw_top, HEAD_RAW_TOP_MAX,
                  ref->order, candidates, ref->raw, raw_sum);
        candidates = sort_candidates(ref, ref->adjusted, vocabulary, batch);
        write_top(result->top_token + i * HEAD_TOP_MAX, result->top_logprob + i * HEAD_TOP_MAX,
                  row->top, HEAD_TOP_MAX, ref->order, candidates, ref->adjusted, sum);

        int32_t token = choose(row, ref->adjusted, ref->order, candidates);
        statistics->token = token;
        statistics->logprob =
            token < 0 ? -INFINITY : (float)log_probability(ref->adjusted[token], sum);
        statistics->raw_logprob =
            token < 0 ? -INFINITY : (float)log_probability(ref->raw[token], raw_sum);
        statistics->given_logprob =
            row->given < 0 ? 0 : (float)log_probability(ref->adjusted[row->given], sum);
        statistics->logsumexp = (float)sum;
        statistics->raw_logsumexp = (float)raw_sum;
        statistics->entropy = (float)entropy_of(ref->adjusted, vocabulary, sum);
    }
}

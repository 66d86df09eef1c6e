/*
 * The partials of every row put together, one warp a row: each lane takes every 32nd block, then
 * the lanes' results are added up as a tree. The order depends on nothing but the vocabulary.
 */
#include "kernels/cuda/head_device.h"

enum { ROWS_THREADS = 128, ROWS_WARPS = ROWS_THREADS / SIMT_WARP };

SIMT_DEVICE double shuffle_double(double value, uint32_t lanes)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint32_t low = simt_shuffle_xor(SIMT_ALL, (uint32_t)bits, lanes);
    uint32_t high = simt_shuffle_xor(SIMT_ALL, (uint32_t)(bits >> 32), lanes);
    bits = (uint64_t)high << 32 | low;
    memcpy(&value, &bits, sizeof bits);
    return value;
}

/* Sums of a softmax over some columns, as in struct head_partial. */
struct softmax_sums {
    float largest;
    double sum, weighted;
};

/* Of both together, the same whichever comes first. */
SIMT_DEVICE struct softmax_sums add_sums(const struct softmax_sums &a, const struct softmax_sums &b)
{
    float largest = fmaxf(a.largest, b.largest);
    if (largest == -INFINITY)
        return {largest, 0, 0};
    double a_distance = (double)a.largest - (double)largest;
    double b_distance = (double)b.largest - (double)largest;
    double a_factor = exp(a_distance), b_factor = exp(b_distance);
    double a_weighted = a_factor > 0 ? a_factor * (a.weighted + a.sum * a_distance) : 0.0;
    double b_weighted = b_factor > 0 ? b_factor * (b.weighted + b.sum * b_distance) : 0.0;
    return {largest, a_factor * a.sum + b_factor * b.sum, a_weighted + b_weighted};
}

SIMT_DEVICE struct softmax_sums add_lanes(struct softmax_sums sums)
{
    for (uint32_t lanes = SIMT_WARP / 2; lanes > 0; lanes /= 2) {
        const struct softmax_sums other = {simt_shuffle_xor(SIMT_ALL, sums.largest, lanes),
                                           shuffle_double(sums.sum, lanes),
                                           shuffle_double(sums.weighted, lanes)};
        sums = add_sums(sums, other);
    }
    return sums;
}

SIMT_DEVICE double log_sum_exp(const struct softmax_sums &sums)
{
    return sums.largest == -INFINITY ? -INFINITY : (double)sums.largest + log(sums.sum);
}

/* The token of the row so far; -1: none. */
struct row_choice {
    double score;
    int32_t token;
    float logit, raw_logit;
};

/* The other one where it is better: ties go to the lower token. */
SIMT_DEVICE struct row_choice better_choice(const struct row_choice &a, const struct row_choice &b)
{
    bool is_better = b.token >= 0 && (a.token < 0 || b.score > a.score ||
                                      (b.score == a.score && b.token < a.token));
    return is_better ? b : a;
}

SIMT_DEVICE struct row_choice best_of_lanes(struct row_choice choice)
{
    for (uint32_t lanes = SIMT_WARP / 2; lanes > 0; lanes /= 2) {
        const struct row_choice other = {shuffle_double(choice.score, lanes),
                                         simt_shuffle_xor(SIMT_ALL, choice.token, lanes),
                                         simt_shuffle_xor(SIMT_ALL, choice.logit, lanes),
                                         simt_shuffle_xor(SIMT_ALL, choice.raw_logit, lanes)};
        choice = better_choice(choice, other);
    }
    return choice;
}

SIMT_DEVICE void write_row(const struct head_arguments &arguments, int32_t index,
                           const struct softmax_sums &sums, const struct softmax_sums &raw_sums,
                           const struct row_choice &choice)
{
    const struct head_row &row = head_row_at(arguments.tables, index)->row;
    double logsumexp = log_sum_exp(sums), raw_logsumexp = log_sum_exp(raw_sums);
    bool is_empty = sums.largest == -INFINITY, is_chosen = choice.token >= 0;
    arguments.judgements[index] = {logsumexp, raw_logsumexp, choice.logit, choice.token};
    struct head_statistics *statistics = &arguments.statistics[index];
    statistics->token = choice.token;
    statistics->logprob = is_chosen ? head_log_probability(choice.logit, logsumexp) : -INFINITY;
    statistics->raw_logprob =
        is_chosen ? head_log_probability(choice.raw_logit, raw_logsumexp) : -INFINITY;
    statistics->given_logprob =
        row.given < 0 ? 0.0f : head_log_probability(arguments.given_logits[index], logsumexp);
    statistics->logsumexp = (float)logsumexp;
    statistics->raw_logsumexp = (float)raw_logsumexp;
    statistics->entropy = is_empty ? 0.0f : (float)(log(sums.sum) - sums.weighted / sums.sum);
}

SIMT_KERNEL(ROWS_THREADS) void head_row_results(const struct head_arguments arguments)
{
    simt_begin();
    int32_t index = (int32_t)(simt_block_x() * ROWS_WARPS + simt_warp());
    if (index >= arguments.tables->rows)
        return;
    const struct head_partial *partials = arguments.partials + (int64_t)index * arguments.blocks;
    struct softmax_sums sums = {-INFINITY, 0, 0}, raw_sums = {-INFINITY, 0, 0};
    struct row_choice choice = {0, -1, 0, 0};
    for (int32_t block = (int32_t)simt_lane(); block < arguments.blocks; block += SIMT_WARP) {
        const struct head_partial &partial = partials[block];
        sums = add_sums(sums, {partial.largest, partial.sum, partial.weighted});
        raw_sums = add_sums(raw_sums, {partial.raw_largest, partial.raw_sum, 0});
        choice =
            better_choice(choice, {partial.score, partial.token, partial.logit, partial.raw_logit});
    }
    sums = add_lanes(sums);
    raw_sums = add_lanes(raw_sums);
    choice = best_of_lanes(choice);
    if (simt_lane() == 0)
        write_row(arguments, index, sums, raw_sums, choice);
}

extern "C" void head_launch_rows(struct simt_queue *queue, const struct head_arguments *arguments,
                                 int32_t rows)
{
    const struct simt_grid grid = {((uint32_t)rows + ROWS_WARPS - 1) / ROWS_WARPS, 1, ROWS_THREADS,
                                   0};
    simt_launch(queue, head_row_results, grid, *arguments);
}

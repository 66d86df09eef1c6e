/*
 * Raw and adjusted logits of one row in one block of columns, and their statistics. A thread has
 * eight columns, two groups of four neighbours: of one 16-byte load and of one group of noise
 * words.
 */
#include "kernels/cuda/head_device.h"

enum {
    STATISTICS_THREADS = 256,
    STATISTICS_WARPS = STATISTICS_THREADS / SIMT_WARP,
    COLUMNS = HEAD_BLOCK_COLUMNS / STATISTICS_THREADS, /* of a thread */
};

struct statistics_shared {
    uint64_t score; /* key of the best one, 0: none yet */
    uint32_t token; /* ~ of the lowest one with that score */
    float warps[STATISTICS_WARPS][3];
    alignas(16) float logits[HEAD_BLOCK_COLUMNS];
};

SIMT_DEVICE struct statistics_shared *statistics_shared_memory()
{
    return (struct statistics_shared *)simt_shared();
}

/* Where column i of the thread lies in the block. */
SIMT_DEVICE int32_t column_of(int i)
{
    return i / 4 * (STATISTICS_THREADS * 4) + (int32_t)simt_thread() * 4 + i % 4;
}

/* From and to the block's columns at a multiple of 16 bytes. */
SIMT_DEVICE void load_columns(float (&out)[COLUMNS], const float *block)
{
    SIMT_UNROLL
    for (int i = 0; i < COLUMNS; i += 4) {
        const struct four_floats four = *(const struct four_floats *)(block + column_of(i));
        out[i] = four.x;
        out[i + 1] = four.y;
        out[i + 2] = four.z;
        out[i + 3] = four.w;
    }
}

SIMT_DEVICE void store_columns(float *block, const float (&values)[COLUMNS])
{
    SIMT_UNROLL
    for (int i = 0; i < COLUMNS; i += 4)
        *(struct four_floats *)(block + column_of(i)) = {values[i], values[i + 1], values[i + 2],
                                                         values[i + 3]};
}

/* A NaN counts as -infinity. */
SIMT_DEVICE float without_nan(float logit)
{
    return logit == logit ? logit : -INFINITY;
}

/* Guidance, and what the weight's bias adds. -infinity behind the vocabulary. */
SIMT_DEVICE void load_raw(float (&raw)[COLUMNS], const struct head_arguments &arguments,
                          const struct head_row &row, int32_t first)
{
    int64_t in_chunk = (int64_t)simt_block_y() * HEAD_BLOCK_COLUMNS;
    float partner[COLUMNS] = {};
    load_columns(raw, arguments.logits + row.hidden * arguments.stride + in_chunk);
    if (row.partner >= 0)
        load_columns(partner, arguments.logits + row.partner * arguments.stride + in_chunk);
    SIMT_UNROLL
    for (int i = 0; i < COLUMNS; i++) {
        int32_t token = first + column_of(i);
        if (token >= arguments.vocabulary) {
            raw[i] = -INFINITY;
            continue;
        }
        if (arguments.bias != NULL) {
            raw[i] += arguments.bias[token];
            partner[i] += arguments.bias[token];
        }
        if (row.partner >= 0)
            raw[i] = partner[i] + (row.guidance + 1.0f) * (raw[i] - partner[i]);
        raw[i] = without_nan(raw[i]);
    }
}

SIMT_DEVICE bool is_adjusted(const struct head_row &row)
{
    return row.counts_end > row.counts_begin || row.biases_end > row.biases_begin ||
           row.allowed >= 0;
}

/*
 * What the entries [begin, end) of a list do to the logits of their tokens, as far as these lie in
 * the block, in shared memory: change(logit, entry) for all entries of a token in their order.
 */
template <class E, class F>
SIMT_DEVICE void apply_entries(float *logits, const E *entries, int32_t begin, int32_t end,
                               int32_t first, F change)
{
    for (int32_t i = begin + (int32_t)simt_thread(); i < end; i += STATISTICS_THREADS) {
        int32_t column = entries[i].token - first;
        if (column < 0 || column >= HEAD_BLOCK_COLUMNS || entries[i].previous >= begin)
            continue;
        float logit = logits[column];
        for (int32_t j = i; j >= 0 && j < end; j = entries[j].next)
            logit = change(logit, entries[j]);
        logits[column] = logit;
    }
}

SIMT_DEVICE void apply_counts(float *logits, const struct head_count *counts,
                              const struct head_row &row, int32_t first)
{
    apply_entries(
        logits, counts, row.counts_begin, row.counts_end, first,
        [&row](float logit, const struct head_count &count) {
            if (count.times >= 0)
                logit = logit > 0 ? logit / row.repetition_penalty : logit * row.repetition_penalty;
            if (count.times > 0)
                logit -= row.presence_penalty + row.frequency_penalty * (float)count.times;
            return logit;
        });
}

SIMT_DEVICE void apply_biases(float *logits, const struct head_bias *biases,
                              const struct head_row &row, int32_t first)
{
    apply_entries(logits, biases, row.biases_begin, row.biases_end, first,
                  [](float logit, const struct head_bias &bias) { return logit + bias.bias; });
}

/* Every thread of the block calls it, with the same row. */
SIMT_DEVICE void adjust(float (&adjusted)[COLUMNS], const struct head_arguments &arguments,
                        const struct head_row &row, int32_t first)
{
    const struct head_tables *tables = arguments.tables;
    float *logits = statistics_shared_memory()->logits;
    store_columns(logits, adjusted);
    simt_barrier();
    apply_counts(logits, (const struct head_count *)head_table_at(tables, tables->counts_at), row,
                 first);
    simt_barrier();
    apply_biases(logits, (const struct head_bias *)head_table_at(tables, tables->biases_at), row,
                 first);
    simt_barrier();
    load_columns(adjusted, logits);
    int64_t words = ((int64_t)arguments.vocabulary + 31) / 32;
    const uint32_t *allowed = (const uint32_t *)head_table_at(tables, tables->allowed_at);
    SIMT_UNROLL
    for (int i = 0; i < COLUMNS; i++) {
        int32_t token = first + column_of(i);
        if (row.allowed >= 0 && token < arguments.vocabulary &&
            (allowed[row.allowed * words + token / 32] >> (token % 32) & 1) == 0)
            adjusted[i] = -INFINITY;
        adjusted[i] = without_nan(adjusted[i]);
    }
}

/* The largest of the first `count` values over the block, in every thread. */
SIMT_DEVICE void block_largest(float (&values)[3], int count)
{
    struct statistics_shared *shared = statistics_shared_memory();
    SIMT_UNROLL
    for (int i = 0; i < 3; i++) {
        if (i >= count)
            continue;
        for (uint32_t lanes = SIMT_WARP / 2; lanes > 0; lanes /= 2)
            values[i] = fmaxf(values[i], simt_shuffle_xor(SIMT_ALL, values[i], lanes));
        if (simt_lane() == 0)
            shared->warps[simt_warp()][i] = values[i];
    }
    simt_barrier();
    SIMT_UNROLL
    for (int i = 0; i < 3; i++) {
        for (int warp = 0; warp < STATISTICS_WARPS && i < count; warp++)
            values[i] = fmaxf(values[i], shared->warps[warp][i]);
    }
}

/* The same for sums; their order depends on nothing. */
SIMT_DEVICE void block_sums(float (&values)[3], int count)
{
    struct statistics_shared *shared = statistics_shared_memory();
    SIMT_UNROLL
    for (int i = 0; i < 3; i++) {
        if (i >= count)
            continue;
        values[i] = simt_warp_sum(values[i]);
        if (simt_lane() == 0)
            shared->warps[simt_warp()][i] = values[i];
    }
    simt_barrier();
    SIMT_UNROLL
    for (int i = 0; i < 3; i++) {
        values[i] = 0;
        for (int warp = 0; warp < STATISTICS_WARPS && i < count; warp++)
            values[i] += shared->warps[warp][i];
    }
}

/* What orders the tokens: the logit, or near enough the logit over the temperature plus noise. */
SIMT_DEVICE void make_scores(float (&scores)[COLUMNS], const float (&adjusted)[COLUMNS],
                             const struct head_noise &noise, bool is_noisy, int32_t first)
{
    SIMT_UNROLL
    for (int i = 0; i < COLUMNS; i += 4) {
        uint32_t words[4] = {};
        if (is_noisy)
            head_noise_words(words, noise, (uint32_t)(first + column_of(i)) / 4);
        SIMT_UNROLL
        for (int j = 0; j < 4; j++)
            scores[i + j] =
                is_noisy ? head_near_score(noise, adjusted[i + j], words[j]) : adjusted[i + j];
    }
}

/* The score itself, of a column that is not known when this is compiled. */
SIMT_DEVICE double exact_score(const struct head_noise &noise, bool is_noisy, float logit,
                               int32_t token)
{
    uint32_t words[4];
    if (!is_noisy)
        return logit;
    head_noise_words(words, noise, (uint32_t)token / 4);
    uint32_t word = token % 4 == 0 ? words[0] : token % 4 == 1 ? words[1] : words[2];
    return head_exact_score(noise, logit, token % 4 == 3 ? words[3] : word);
}

/* A token that may win, with what is said of the one that does. */
struct contender {
    uint64_t key; /* 0: none */
    int32_t token;
    float logit, raw_logit;
};

/* values[i] without an address, which would put the array into local memory. */
SIMT_DEVICE float pick(const float (&values)[COLUMNS], uint32_t i)
{
    float value = values[0];
    SIMT_UNROLL
    for (uint32_t j = 1; j < COLUMNS; j++)
        value = i == j ? values[j] : value;
    return value;
}

/* Those of the candidates that may have the best score. */
SIMT_DEVICE uint32_t find_close(uint32_t candidates, const float (&scores)[COLUMNS], float floor)
{
    SIMT_UNROLL
    for (int i = 0; i < COLUMNS; i++) {
        if (scores[i] < floor)
            candidates &= ~(1u << i);
    }
    return candidates;
}

/* The best of the thread's columns that are close, of which most threads have none. */
SIMT_DEVICE struct contender find_contender(uint32_t close, const float (&adjusted)[COLUMNS],
                                            const float (&raw)[COLUMNS],
                                            const struct head_noise &noise, bool is_noisy,
                                            int32_t first)
{
    struct contender best = {0, 0, 0, 0};
    SIMT_NO_UNROLL
    for (; close != 0; close &= close - 1) {
        uint32_t i = simt_first_bit(close);
        int32_t token = first + column_of((int)i);
        float logit = pick(adjusted, i);
        uint64_t key = head_key_of_score(exact_score(noise, is_noisy, logit, token));
        if (key > best.key)
            best = {key, token, logit, pick(raw, i)};
    }
    return best;
}

/* Over the block: ties go to the lower token, so the order in which threads come is of no account.
 */
SIMT_DEVICE void choose_contender(struct head_partial *partial, const struct contender &own)
{
    struct statistics_shared *shared = statistics_shared_memory();
    if (own.key > 0)
        simt_atomic_max(&shared->score, own.key);
    simt_barrier();
    if (own.key > 0 && own.key == shared->score)
        simt_atomic_max(&shared->token, ~(uint32_t)own.token);
    simt_barrier();
    if (shared->score == 0 && simt_thread() == 0)
        partial->token = -1;
    if (own.key > 0 && own.key == shared->score && ~(uint32_t)own.token == shared->token) {
        partial->token = own.token;
        partial->logit = own.logit;
        partial->raw_logit = own.raw_logit;
        partial->score = head_score(own.key);
    }
}

/* One bit for each column that may be chosen. */
SIMT_DEVICE uint32_t find_candidates(const struct head_arguments &arguments,
                                     const float (&adjusted)[COLUMNS], int32_t first)
{
    int32_t end = head_candidate_end(arguments), mask = arguments.tables->mask_token;
    uint32_t candidates = 0;
    SIMT_UNROLL
    for (int i = 0; i < COLUMNS; i++) {
        int32_t token = first + column_of(i);
        if (token < end && token != mask && adjusted[i] > -INFINITY)
            candidates |= 1u << i;
    }
    return candidates;
}

/* Adds e = exp(x - largest) and e (x - largest) of the thread's columns. */
SIMT_DEVICE void sum_exponentials(float &sum, float &weighted, const float (&logits)[COLUMNS],
                                  float largest)
{
    /* Where all is -infinity, every term is 0, and not the NaN of inf - inf. */
    float base = largest == -INFINITY ? 0.0f : largest;
    SIMT_UNROLL
    for (int i = 0; i < COLUMNS; i++) {
        float distance = logits[i] - base;
        float exponential = simt_exp2(distance * SIMT_LOG2_E);
        sum += exponential;
        weighted += exponential > 0 ? exponential * distance : 0.0f;
    }
}

/* What the block says of the row; where nothing adjusts it, the raw row has the same sums. */
SIMT_DEVICE void judge_columns(const struct head_arguments &arguments, const struct head_row &row,
                               bool is_noisy, const float (&raw)[COLUMNS],
                               const float (&adjusted)[COLUMNS], int32_t first,
                               struct head_partial *partial)
{
    const struct head_noise noise = head_noise_of(row);
    uint32_t candidates = find_candidates(arguments, adjusted, first);
    bool has_raw = is_adjusted(row);
    float scores[COLUMNS], largest[3] = {-INFINITY, -INFINITY, -INFINITY}, sums[3] = {}, unused = 0;
    make_scores(scores, adjusted, noise, is_noisy, first);
    SIMT_UNROLL
    for (int i = 0; i < COLUMNS; i++) {
        largest[0] = fmaxf(largest[0], adjusted[i]);
        if ((candidates >> i & 1) != 0)
            largest[1] = fmaxf(largest[1], scores[i]);
        largest[2] = fmaxf(largest[2], raw[i]);
    }
    block_largest(largest, has_raw ? 3 : 2);
    float margin = is_noisy ? head_near_margin(largest[1]) : 0.0f;
    uint32_t close = find_close(candidates, scores, largest[1] - margin);
    choose_contender(partial, find_contender(close, adjusted, raw, noise, is_noisy, first));
    sum_exponentials(sums[0], sums[1], adjusted, largest[0]);
    if (has_raw)
        sum_exponentials(sums[2], unused, raw, largest[2]);
    block_sums(sums, has_raw ? 3 : 2);
    if (simt_thread() == 0) {
        partial->largest = largest[0];
        partial->sum = sums[0];
        partial->weighted = sums[1];
        partial->raw_largest = has_raw ? largest[2] : largest[0];
        partial->raw_sum = has_raw ? sums[2] : sums[0];
    }
}

SIMT_KERNEL(STATISTICS_THREADS)
void head_statistics_of_block(const struct head_arguments arguments)
{
    simt_begin();
    int32_t index = (int32_t)simt_block_x();
    if (index >= arguments.tables->rows)
        return;
    const struct head_table_row *entry = head_row_at(arguments.tables, index);
    const struct head_row row = entry->row; /* read once, whatever is stored in between */
    int32_t place = entry->place - arguments.slice * arguments.slice_rows;
    bool is_stored = entry->place >= 0 && place >= 0 && place < arguments.slice_rows;
    if (arguments.slice > 0 && !is_stored)
        return;
    int32_t block = arguments.first_block + (int32_t)simt_block_y();
    int32_t first = block * HEAD_BLOCK_COLUMNS;
    float raw[COLUMNS], adjusted[COLUMNS];
    if (simt_thread() == 0) {
        statistics_shared_memory()->score = 0;
        statistics_shared_memory()->token = 0;
    }
    load_raw(raw, arguments, row, first);
    SIMT_UNROLL
    for (int i = 0; i < COLUMNS; i++)
        adjusted[i] = raw[i];
    if (is_adjusted(row))
        adjust(adjusted, arguments, row, first);
    if (is_stored) {
        int64_t at = (int64_t)place * arguments.blocks * HEAD_BLOCK_COLUMNS + first;
        store_columns(arguments.raw + at, raw);
        store_columns(arguments.adjusted + at, adjusted);
    }
    if (arguments.slice > 0)
        return;
    SIMT_UNROLL
    for (int i = 0; i < COLUMNS; i++) {
        if (row.given >= 0 && row.given == first + column_of(i))
            arguments.given_logits[index] = adjusted[i];
    }
    judge_columns(arguments, row, row.temperature > 0 && entry->place < 0, raw, adjusted, first,
                  arguments.partials + (int64_t)index * arguments.blocks + block);
}

extern "C" void head_launch_statistics(struct simt_queue *queue,
                                       const struct head_arguments *arguments, int32_t rows,
                                       int32_t blocks)
{
    const struct simt_grid grid = {(uint32_t)rows, (uint32_t)blocks, STATISTICS_THREADS,
                                   sizeof(struct statistics_shared)};
    simt_launch(queue, head_statistics_of_block, grid, *arguments);
}

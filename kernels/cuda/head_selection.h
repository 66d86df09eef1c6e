/*
 * Where a stored row is cut by top_k, top_p or the length of a list: candidates fall by logit, ties
 * by rising token, and from some place on nothing is kept. That place is found by histograms: first
 * over the distance from the best one, which spreads candidates over the bins, then, of what lies
 * in the bin of the cut, over one digit after the other of the logit's key. Sums are of integers,
 * so no order of atomics matters.
 * Device code; every thread of the block calls with the same arguments.
 */
#ifndef KERNELS_CUDA_HEAD_SELECTION_H
#define KERNELS_CUDA_HEAD_SELECTION_H

#include "kernels/cuda/head_device.h"

enum {
    SELECTION_THREADS = 512,
    SELECTION_BINS = 2048,
    SELECTION_DIGIT_BITS = 11,
    SELECTION_BINS_OF_THREAD = SELECTION_BINS / SELECTION_THREADS,
    SELECTION_GROUP = SELECTION_THREADS / SIMT_WARP, /* threads whose bins make a group */
};

struct selection_shared {
    uint64_t bins[SELECTION_BINS];
    uint64_t of_thread[SELECTION_THREADS], of_group[SIMT_WARP];
    uint64_t before, inside; /* of the bin that was found */
    uint64_t score;          /* the choice's: key of the best one */
    uint32_t found;          /* 1 + the bin */
    uint32_t token, largest; /* the choice's */
    uint32_t count;
    uint64_t list[HEAD_TOP_MAX];
};

SIMT_DEVICE struct selection_shared *selection_shared_memory()
{
    return (struct selection_shared *)simt_shared();
}

/* Kept: greater logits than that of `key`, and of those that equal it the tokens up to `last`. */
struct selection_cut {
    uint32_t key;
    int32_t last;
};

SIMT_DEVICE struct selection_cut selection_all()
{
    return {0, 0}; /* the key of no candidate */
}

SIMT_DEVICE struct selection_cut selection_none()
{
    return {0xffffffffu, -1};
}

/* The candidates of a row: greater than -infinity, no mask, no padding. */
struct selection_row {
    const float *logits;
    int32_t end, mask_token;
    float best, exponent; /* weight of a token: 2^((logit - best) exponent) */
};

/*
 * What is kept of those candidates that a cut has left, as long as the measure of all that come
 * before is less than `count`, each measuring 1; or, by mass, not over top_p of the whole, each
 * measuring its weight.
 */
struct selection_rule {
    bool by_mass;
    float top_p;
    uint64_t count;
    uint64_t total; /* by mass: of the whole */
};

SIMT_DEVICE bool selection_has(const struct selection_row &row, const struct selection_cut &cut,
                               int32_t token, float logit)
{
    uint32_t key = head_key_of_logit(logit);
    return token < row.end && token != row.mask_token && key > HEAD_KEY_OF_NOTHING &&
           (key > cut.key || (key == cut.key && token <= cut.last));
}

/*
 * In units of 2^-40 of the best token's: 2^23 of them fit into 64 bits. What rounds to 0 lies
 * behind everything that counts, and top_p < 1 never keeps it.
 */
SIMT_DEVICE uint64_t selection_weight(const struct selection_row &row, float logit)
{
    if (logit == row.best)
        return 1ull << 40;
    float weight = simt_exp2((logit - row.best) * row.exponent);
    return (uint64_t)(weight * 0x1p40f + 0.5f);
}

SIMT_DEVICE uint64_t selection_measure(const struct selection_row &row,
                                       const struct selection_rule &rule, float logit)
{
    return rule.by_mass ? selection_weight(row, logit) : 1;
}

SIMT_DEVICE bool selection_goes_on(const struct selection_rule &rule, uint64_t before)
{
    if (!rule.by_mass)
        return before < rule.count;
    return !((double)before / (double)rule.total > (double)rule.top_p);
}

/* Adds what the thread's neighbours below have in their bins; returns it, and the sum of all. */
SIMT_DEVICE uint64_t selection_sum_before(uint64_t *all)
{
    struct selection_shared *shared = selection_shared_memory();
    uint32_t thread = simt_thread(), group = thread / SELECTION_GROUP;
    uint64_t sum = 0, before = 0;
    SIMT_UNROLL
    for (uint32_t i = 0; i < SELECTION_BINS_OF_THREAD; i++)
        sum += shared->bins[thread * SELECTION_BINS_OF_THREAD + i];
    shared->of_thread[thread] = sum;
    simt_barrier();
    if (thread < SIMT_WARP) {
        sum = 0;
        for (uint32_t i = 0; i < SELECTION_GROUP; i++)
            sum += shared->of_thread[thread * SELECTION_GROUP + i];
        shared->of_group[thread] = sum;
    }
    simt_barrier();
    *all = 0;
    for (uint32_t i = 0; i < SIMT_WARP; i++) {
        before += i < group ? shared->of_group[i] : 0;
        *all += shared->of_group[i];
    }
    for (uint32_t i = group * SELECTION_GROUP; i < thread; i++)
        before += shared->of_thread[i];
    return before;
}

/* A bin, with the measure before it and in it. */
struct selection_bin {
    bool exists;
    uint32_t digit;
    uint64_t before, inside;
};

/* The last bin with something in it at whose begin the rule still goes on; `before`: outside. */
SIMT_DEVICE struct selection_bin selection_find_bin(struct selection_rule &rule, uint64_t before,
                                                    bool is_first)
{
    struct selection_shared *shared = selection_shared_memory();
    uint64_t all, own = before + selection_sum_before(&all);
    if (is_first)
        rule.total = all;
    uint32_t last = 0; /* 1 + the thread's last such bin */
    uint64_t last_before = 0;
    for (uint32_t i = 0; i < SELECTION_BINS_OF_THREAD; i++) {
        uint32_t bin = simt_thread() * SELECTION_BINS_OF_THREAD + i;
        uint64_t inside = shared->bins[bin];
        if (inside > 0 && selection_goes_on(rule, own)) {
            last = bin + 1;
            last_before = own;
        }
        own += inside;
    }
    if (last > 0)
        simt_atomic_max(&shared->found, last);
    simt_barrier();
    if (last > 0 && last == shared->found) {
        shared->before = last_before;
        shared->inside = shared->bins[last - 1];
    }
    simt_barrier();
    return {shared->found > 0, shared->found - 1, shared->before, shared->inside};
}

SIMT_DEVICE void selection_clear_bins()
{
    struct selection_shared *shared = selection_shared_memory();
    simt_barrier(); /* what was found has been read */
    for (uint32_t i = simt_thread(); i < SELECTION_BINS; i += SELECTION_THREADS)
        shared->bins[i] = 0;
    if (simt_thread() == 0)
        shared->found = 0;
    simt_barrier();
}

/*
 * Which tokens of a cut a histogram has, and by what: at first by their distance from the best one;
 * then those of one distance, or of one key, by a digit of a number below whose other digits are
 * the same.
 */
struct selection_digit {
    bool by_token; /* the number is the token, of those with `key`; else it is ~key */
    uint32_t key;
    bool by_distance;
    uint32_t distance;
    float scale; /* of distances */
    uint32_t prefix, shift, bits;
};

/* Rises as the logit falls. Bins of 2^-6, or by mass such that only weights of 0 fill the last. */
SIMT_DEVICE uint32_t selection_distance(const struct selection_row &row, float scale, float logit)
{
    if (logit == row.best)
        return 0; /* and not the NaN of inf - inf, or of 0 times inf */
    return (uint32_t)fmaxf(0.0f, fminf((row.best - logit) * scale, SELECTION_BINS - 1));
}

/* SELECTION_BINS: the histogram does not have it. */
SIMT_DEVICE uint32_t selection_bin_of(const struct selection_row &row,
                                      const struct selection_digit &digit, int32_t token,
                                      float logit)
{
    uint32_t number = (uint32_t)token, key = head_key_of_logit(logit);
    if (digit.by_token && key != digit.key)
        return SELECTION_BINS;
    if (!digit.by_token) {
        uint32_t distance = selection_distance(row, digit.scale, logit);
        if (digit.by_distance)
            return distance;
        if (distance != digit.distance)
            return SELECTION_BINS;
        number = ~key;
    }
    bool is_below = (uint64_t)number >> (digit.shift + digit.bits) == digit.prefix;
    return is_below ? number >> digit.shift & ((1u << digit.bits) - 1) : (uint32_t)SELECTION_BINS;
}

/*
 * What a thread has for one bin. Where one token after the other falls into the same bin, as in a
 * flat row or behind the last distance, they cost one atomic together.
 */
struct selection_run {
    uint32_t bin;
    uint64_t sum;
};

SIMT_DEVICE void selection_end_run(struct selection_run &run)
{
    if (run.sum > 0)
        simt_atomic_add(&selection_shared_memory()->bins[run.bin], run.sum);
    run.sum = 0;
}

SIMT_DEVICE void selection_add(struct selection_run &run, uint32_t bin, uint64_t measure)
{
    if (bin != run.bin)
        selection_end_run(run);
    run.bin = bin;
    run.sum += measure;
}

/* Logits of four neighbours at `first` and at the same place of the next blocks of columns. */
enum { SELECTION_BATCH = 4, SELECTION_STEP = SELECTION_THREADS * 4 };
SIMT_DEVICE void selection_load(struct four_floats (&batch)[SELECTION_BATCH],
                                const struct selection_row &row, int32_t first)
{
    SIMT_UNROLL
    for (int i = 0; i < SELECTION_BATCH; i++) {
        batch[i] = {-INFINITY, -INFINITY, -INFINITY, -INFINITY};
        if (first + i * SELECTION_STEP < row.end)
            batch[i] = *(const struct four_floats *)(row.logits + first + i * SELECTION_STEP);
    }
}

/* Calls visit(token, logit) for what a cut keeps: every thread for its own, by rising token. */
template <typename VISIT>
SIMT_DEVICE void selection_visit(const struct selection_row &row, const struct selection_cut &cut,
                                 const VISIT &visit)
{
    for (int32_t first = (int32_t)simt_thread() * 4; first < row.end;
         first += SELECTION_BATCH * SELECTION_STEP) {
        struct four_floats batch[SELECTION_BATCH];
        selection_load(batch, row, first);
        SIMT_UNROLL
        for (int i = 0; i < SELECTION_BATCH; i++) {
            const float logits[4] = {batch[i].x, batch[i].y, batch[i].z, batch[i].w};
            SIMT_UNROLL
            for (int j = 0; j < 4; j++) {
                int32_t token = first + i * SELECTION_STEP + j;
                if (selection_has(row, cut, token, logits[j]))
                    visit(token, logits[j]);
            }
        }
    }
}

SIMT_DEVICE void selection_fill_bins(const struct selection_row &row,
                                     const struct selection_cut &cut,
                                     const struct selection_rule &rule,
                                     const struct selection_digit &digit)
{
    struct selection_run run = {0, 0};
    selection_visit(row, cut, [&](int32_t token, float logit) {
        uint32_t bin = selection_bin_of(row, digit, token, logit);
        if (bin < SELECTION_BINS)
            selection_add(run, bin, selection_measure(row, rule, logit));
    });
    selection_end_run(run);
    simt_barrier();
}

/*
 * The last number that is kept, as the `digit` of the bin, with the measure of all smaller ones and
 * of its own: of the tokens with `key`, or, where that is the key of nothing, of all keys.
 */
SIMT_DEVICE struct selection_bin selection_find_number(const struct selection_row &row,
                                                       const struct selection_cut &cut,
                                                       struct selection_rule &rule, uint32_t key)
{
    const float by_mass = row.exponent * (SELECTION_BINS / 42); /* 2^-41 and less rounds to 0 */
    struct selection_digit digit = {key != HEAD_KEY_OF_NOTHING,     key, false, 0,
                                    rule.by_mass ? by_mass : 64.0f, 0,   32,    0};
    struct selection_bin found = {true, 0, 0, 0};
    digit.by_distance = !digit.by_token;
    SIMT_NO_UNROLL
    while (digit.shift > 0 && found.exists) {
        if (!digit.by_distance) {
            uint32_t most = SELECTION_DIGIT_BITS;
            digit.bits = digit.shift < most ? digit.shift : most;
            digit.shift -= digit.bits;
        }
        selection_clear_bins();
        selection_fill_bins(row, cut, rule, digit);
        found = selection_find_bin(rule, found.before, digit.by_distance);
        if (digit.by_distance)
            digit.distance = found.digit;
        else
            digit.prefix = digit.prefix << digit.bits | found.digit;
        digit.by_distance = false;
    }
    found.digit = digit.prefix;
    return found;
}

/* How many of `count` equal tokens are kept, each measuring `unit`, with `before` before them. */
SIMT_DEVICE uint64_t selection_keep_equal(const struct selection_rule &rule, uint64_t before,
                                          uint64_t unit, uint64_t count)
{
    uint64_t kept = 1, over = count + 1; /* the first one is; kept < over */
    while (over - kept > 1) {
        uint64_t middle = kept + (over - kept) / 2;
        if (selection_goes_on(rule, before + (middle - 1) * unit))
            kept = middle;
        else
            over = middle;
    }
    return kept;
}

/*
 * The cut that a rule makes in what another one has left: first the last logit of which something
 * is kept, then, where that is not all of it, the last token.
 */
SIMT_DEVICE struct selection_cut selection_cut_by(const struct selection_row &row,
                                                  const struct selection_cut &cut,
                                                  struct selection_rule rule)
{
    uint32_t key = HEAD_KEY_OF_NOTHING;
    SIMT_NO_UNROLL
    for (;;) {
        const struct selection_bin found = selection_find_number(row, cut, rule, key);
        if (!found.exists)
            return selection_none();
        if (key != HEAD_KEY_OF_NOTHING)
            return {key, (int32_t)found.digit};
        key = ~found.digit;
        uint64_t unit = selection_measure(row, rule, head_logit_of_key(key)),
                 count = found.inside / unit;
        uint64_t kept = selection_keep_equal(rule, found.before, unit, count);
        if (kept == count)
            return {key, key == cut.key ? cut.last : INT32_MAX};
        rule = {false, 0, kept, 0};
    }
}

#endif

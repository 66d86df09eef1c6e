/*
 * Where a stored row is cut by top_k, top_p or the length of a list: candidates fall by logit, ties
 * by rising token, and from some place on nothing is kept. That place is found by radix: a
 * histogram over the leading digit of the candidates' order, the bin in which the cut lies, then
 * the next digit of what is in that bin. Sums are of integers, so no order of atomics matters.
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
    uint32_t key = head_key(logit);
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

/* All tokens of a cut, or those with one key, in the order of a number of 32 bits. */
struct selection_order {
    bool by_token;
    uint32_t key; /* of those that are ordered by token */
};

/* Adds a token to the bin of the digit at `shift`, if its digits above it are `prefix`. */
SIMT_DEVICE void selection_add_token(const struct selection_row &row,
                                     const struct selection_cut &cut,
                                     const struct selection_rule &rule,
                                     const struct selection_order &order, uint32_t prefix,
                                     uint32_t shift, uint32_t bits, int32_t token, float logit)
{
    uint32_t key = head_key(logit), number = order.by_token ? (uint32_t)token : ~key;
    if (!selection_has(row, cut, token, logit) || (order.by_token && key != order.key) ||
        (uint64_t)number >> (shift + bits) != prefix)
        return;
    uint64_t measure = selection_measure(row, rule, logit);
    if (measure > 0)
        simt_atomic_add(&selection_shared_memory()->bins[number >> shift & ((1u << bits) - 1)],
                        measure);
}

SIMT_DEVICE void selection_fill_bins(const struct selection_row &row,
                                     const struct selection_cut &cut,
                                     const struct selection_rule &rule,
                                     const struct selection_order &order, uint32_t prefix,
                                     uint32_t shift, uint32_t bits)
{
    for (int32_t first = (int32_t)simt_thread() * 4; first < row.end;
         first += SELECTION_THREADS * 4) {
        const struct four_floats four = *(const struct four_floats *)(row.logits + first);
        selection_add_token(row, cut, rule, order, prefix, shift, bits, first, four.x);
        selection_add_token(row, cut, rule, order, prefix, shift, bits, first + 1, four.y);
        selection_add_token(row, cut, rule, order, prefix, shift, bits, first + 2, four.z);
        selection_add_token(row, cut, rule, order, prefix, shift, bits, first + 3, four.w);
    }
    simt_barrier();
}

/* The last number that is kept, as `digit`, and the measure of all smaller ones and of its own. */
SIMT_DEVICE struct selection_bin selection_find_number(const struct selection_row &row,
                                                       const struct selection_cut &cut,
                                                       struct selection_rule &rule,
                                                       const struct selection_order &order)
{
    struct selection_bin found = {true, 0, 0, 0};
    uint32_t prefix = 0, shift = 32;
    while (shift > 0 && found.exists) {
        uint32_t most = SELECTION_DIGIT_BITS, bits = shift < most ? shift : most;
        bool is_first = shift == 32;
        shift -= bits;
        selection_clear_bins();
        selection_fill_bins(row, cut, rule, order, prefix, shift, bits);
        found = selection_find_bin(rule, found.before, is_first);
        prefix = prefix << bits | found.digit;
    }
    found.digit = prefix;
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
    struct selection_order order = {false, 0};
    SIMT_NO_UNROLL
    for (;;) {
        const struct selection_bin found = selection_find_number(row, cut, rule, order);
        if (!found.exists)
            return selection_none();
        if (order.by_token)
            return {order.key, (int32_t)found.digit};
        order.key = ~found.digit;
        uint64_t unit = selection_measure(row, rule, head_value(order.key));
        uint64_t count = found.inside / unit;
        uint64_t kept = selection_keep_equal(rule, found.before, unit, count);
        if (kept == count)
            return {order.key, order.key == cut.key ? cut.last : INT32_MAX};
        order.by_token = true;
        rule = {false, 0, kept, 0};
    }
}

#endif

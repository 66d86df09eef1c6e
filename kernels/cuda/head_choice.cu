/*
 * What needs more than one look at a row's logits: top lists, and sampling with top_k, top_p or
 * min_p. One block takes one stored row; its logits are read a few times, from the cache where they
 * fit.
 */
#include "kernels/cuda/head_selection.h"

/* Raises with min_p the cut of a row: kept as long as the weight in double is not below it. */
SIMT_DEVICE struct selection_cut cut_by_min_p(const struct head_row &row, float best,
                                              const struct selection_cut &cut)
{
    struct selection_shared *shared = selection_shared_memory();
    if (simt_thread() == 0) {
        double temperature = row.temperature, scaled = (double)best / temperature;
        /* -infinity is below it and what lies above the best one is not; it rises between them. */
        uint32_t below = HEAD_KEY_OF_NOTHING, above = head_key_of_logit(best) + 1;
        while (above - below > 1) {
            uint32_t middle = below + (above - below) / 2;
            double weight = exp((double)head_logit_of_key(middle) / temperature - scaled);
            if (weight < (double)row.min_p)
                below = middle;
            else
                above = middle;
        }
        shared->count = below;
    }
    simt_barrier();
    uint32_t below = shared->count;
    return below >= cut.key ? (struct selection_cut){below, -1} : cut;
}

/* The cut of a sampled row. */
SIMT_DEVICE struct selection_cut cut_of_row(const struct selection_row &selection,
                                            const struct head_row &row)
{
    struct selection_cut cut = selection_all();
    SIMT_NO_UNROLL
    for (int i = 0; i < 2; i++) {
        bool by_mass = i == 1;
        if (by_mass ? row.top_p < 1 : row.top_k > 0)
            cut = selection_cut_by(selection, cut, {by_mass, row.top_p, (uint64_t)row.top_k, 0});
    }
    if (row.min_p > 0)
        cut = cut_by_min_p(row, selection.best, cut);
    return cut;
}

/* Four neighbours, whose noise comes from one group of words. */
struct choice_group {
    float logits[4];
    uint32_t words[4];
    uint32_t kept; /* one bit each */
};

SIMT_DEVICE struct choice_group load_group(const struct selection_row &selection,
                                           const struct selection_cut &cut,
                                           const struct head_noise &noise, int32_t first)
{
    const struct four_floats four = *(const struct four_floats *)(selection.logits + first);
    struct choice_group group = {{four.x, four.y, four.z, four.w}, {}, 0};
    SIMT_UNROLL
    for (int i = 0; i < 4; i++)
        group.kept |= selection_has(selection, cut, first + i, group.logits[i]) ? 1u << i : 0;
    head_noise_words(group.words, noise, (uint32_t)first / 4);
    return group;
}

/* One bit for each group of the batch of which a token is kept and can reach `floor`. */
SIMT_DEVICE uint32_t find_groups(const struct four_floats (&batch)[SELECTION_BATCH],
                                 const struct selection_row &selection,
                                 const struct selection_cut &cut, const struct head_noise &noise,
                                 int32_t first, float floor)
{
    uint32_t groups = 0;
    SIMT_UNROLL
    for (int i = 0; i < SELECTION_BATCH; i++) {
        const float logits[4] = {batch[i].x, batch[i].y, batch[i].z, batch[i].w};
        SIMT_UNROLL
        for (int j = 0; j < 4; j++) {
            if (selection_has(selection, cut, first + i * SELECTION_STEP + j, logits[j]) &&
                !(logits[j] * noise.inverse + HEAD_NOISE_MAX < floor))
                groups |= 1u << i;
        }
    }
    return groups;
}

/* The largest near score of what is kept, in every thread. */
SIMT_DEVICE float find_largest(const struct selection_row &selection,
                               const struct selection_cut &cut, const struct head_noise &noise)
{
    struct selection_shared *shared = selection_shared_memory();
    float largest = -INFINITY;
    for (int32_t first = (int32_t)simt_thread() * 4; first < selection.end;
         first += SELECTION_BATCH * SELECTION_STEP) {
        struct four_floats batch[SELECTION_BATCH];
        float floor = largest - head_near_margin(largest);
        selection_load(batch, selection, first);
        uint32_t groups = find_groups(batch, selection, cut, noise, first, floor);
        SIMT_NO_UNROLL
        for (; groups != 0; groups &= groups - 1) {
            int32_t at = first + (int32_t)simt_first_bit(groups) * SELECTION_STEP;
            const struct choice_group group = load_group(selection, cut, noise, at);
            SIMT_UNROLL
            for (int i = 0; i < 4; i++) {
                float near = head_near_score(noise, group.logits[i], group.words[i]);
                if ((group.kept >> i & 1) != 0)
                    largest = fmaxf(largest, near);
            }
        }
    }
    if (simt_thread() == 0)
        shared->largest = shared->token = 0;
    if (simt_thread() == 0)
        shared->score = 0;
    simt_barrier();
    simt_atomic_max(&shared->largest, head_key_of_logit(largest));
    simt_barrier();
    return head_logit_of_key(shared->largest);
}

/* The best token so far of a thread. */
struct choice_best {
    uint64_t key; /* of its score; 0: none */
    int32_t token;
};

/* Enters the tokens of a group that come near enough to the best one. */
SIMT_DEVICE void enter_group(struct choice_best &best, const struct choice_group &group,
                             const struct head_noise &noise, int32_t first, float floor)
{
    SIMT_NO_UNROLL
    for (uint32_t rest = group.kept; rest != 0; rest &= rest - 1) {
        uint32_t i = simt_first_bit(rest);
        float logit = i == 0 ? group.logits[0] : i == 1 ? group.logits[1] : group.logits[2];
        uint32_t word = i == 0 ? group.words[0] : i == 1 ? group.words[1] : group.words[2];
        logit = i == 3 ? group.logits[3] : logit;
        word = i == 3 ? group.words[3] : word;
        if (head_near_score(noise, logit, word) < floor)
            continue;
        uint64_t key = head_key_of_score(head_exact_score(noise, logit, word));
        if (key > best.key)
            best = {key, first + (int32_t)i};
    }
}

/* The token with the best score of what is kept, in every thread; -1: nothing is. */
SIMT_DEVICE int32_t choose(const struct selection_row &selection, const struct selection_cut &cut,
                           const struct head_noise &noise)
{
    struct selection_shared *shared = selection_shared_memory();
    float largest = find_largest(selection, cut, noise);
    float floor = largest - head_near_margin(largest);
    struct choice_best best = {0, -1};
    for (int32_t first = (int32_t)simt_thread() * 4; first < selection.end;
         first += SELECTION_BATCH * SELECTION_STEP) {
        struct four_floats batch[SELECTION_BATCH];
        selection_load(batch, selection, first);
        uint32_t groups = find_groups(batch, selection, cut, noise, first, floor);
        SIMT_NO_UNROLL
        for (; groups != 0; groups &= groups - 1) {
            int32_t at = first + (int32_t)simt_first_bit(groups) * SELECTION_STEP;
            enter_group(best, load_group(selection, cut, noise, at), noise, at, floor);
        }
    }
    if (best.key > 0)
        simt_atomic_max(&shared->score, best.key);
    simt_barrier();
    if (best.key > 0 && best.key == shared->score)
        simt_atomic_max(&shared->token, ~(uint32_t)best.token);
    simt_barrier();
    return shared->score > 0 ? (int32_t)~shared->token : -1;
}

/* Which list of tokens, and where it goes. */
struct list_target {
    int32_t *tokens; /* [entries] */
    float *logprobs; /* [entries] */
    int32_t wanted, entries;
    double logsumexp;
};

/* What a cut keeps, in any order. */
SIMT_DEVICE void collect_list(const struct selection_row &selection,
                              const struct selection_cut &cut)
{
    struct selection_shared *shared = selection_shared_memory();
    selection_visit(selection, cut, [&](int32_t token, float logit) {
        shared->list[simt_atomic_add(&shared->count, 1)] =
            (uint64_t)~head_key_of_logit(logit) << 32 | (uint32_t)token;
    });
}

/* Collects the best tokens, then every one finds its place. */
SIMT_DEVICE void write_list(const struct list_target &target, const struct selection_row &selection)
{
    struct selection_shared *shared = selection_shared_memory();
    uint32_t entries = (uint32_t)target.entries;
    uint32_t wanted = (uint32_t)target.wanted < entries ? (uint32_t)target.wanted : entries;
    const struct selection_cut cut =
        selection_cut_by(selection, selection_all(), {false, 0, wanted, 0});
    if (simt_thread() == 0)
        shared->count = 0;
    simt_barrier();
    collect_list(selection, cut);
    simt_barrier();
    uint32_t own = simt_thread(), count = shared->count, at = 0;
    for (uint32_t i = 0; i < count && own < count; i++)
        at += shared->list[i] < shared->list[own];
    if (own < count) {
        target.tokens[at] = (int32_t)(uint32_t)shared->list[own];
        target.logprobs[at] = head_log_probability(
            head_logit_of_key(~(uint32_t)(shared->list[own] >> 32)), target.logsumexp);
    } else if (own < entries) {
        target.tokens[own] = -1;
        target.logprobs[own] = -INFINITY;
    }
    simt_barrier();
}

SIMT_DEVICE void write_lists(const struct head_arguments &arguments, int32_t place, int32_t index,
                             struct selection_row selection, int64_t at)
{
    struct head_lists *lists = &arguments.lists[place];
    const struct head_row &row = head_row_at(arguments.tables, index)->row;
    const struct head_judgement &judgement = arguments.judgements[index];
    SIMT_NO_UNROLL
    for (int i = 0; i < 2; i++) {
        bool raw = i == 1;
        if ((raw ? row.raw_top : row.top) <= 0)
            continue;
        selection.logits = (raw ? arguments.raw : arguments.adjusted) + at;
        write_list({raw ? lists->raw_top_token : lists->top_token,
                    raw ? lists->raw_top_logprob : lists->top_logprob, raw ? row.raw_top : row.top,
                    raw ? HEAD_RAW_TOP_MAX : HEAD_TOP_MAX,
                    raw ? judgement.raw_logsumexp : judgement.logsumexp},
                   selection);
    }
}

SIMT_KERNEL(SELECTION_THREADS, 1) void head_choice_of_row(const struct head_arguments arguments)
{
    simt_begin();
    const struct head_tables *tables = arguments.tables;
    int32_t place = arguments.slice * arguments.slice_rows + (int32_t)simt_block_x();
    if (place >= tables->stored)
        return;
    int32_t index = ((const int32_t *)head_table_at(tables, tables->stored_at))[place];
    const struct head_row &row = head_row_at(tables, index)->row;
    const struct head_judgement &judgement = arguments.judgements[index];
    int64_t at = (int64_t)simt_block_x() * arguments.blocks * HEAD_BLOCK_COLUMNS;
    const struct selection_row selection = {arguments.adjusted + at, head_candidate_end(arguments),
                                            tables->mask_token, judgement.best_logit,
                                            SIMT_LOG2_E / row.temperature};
    write_lists(arguments, place, index, selection, at);
    if (!(row.temperature > 0) || judgement.token < 0)
        return;
    int32_t token = choose(selection, cut_of_row(selection, row), head_noise_of(row));
    if (simt_thread() != 0)
        return;
    struct head_statistics *statistics = &arguments.statistics[index];
    statistics->token = token;
    statistics->logprob = statistics->raw_logprob = -INFINITY;
    if (token >= 0) {
        statistics->logprob = head_log_probability(selection.logits[token], judgement.logsumexp);
        statistics->raw_logprob =
            head_log_probability(arguments.raw[at + token], judgement.raw_logsumexp);
    }
}

extern "C" void head_launch_choice(struct simt_queue *queue, const struct head_arguments *arguments,
                                   int32_t stored)
{
    const struct simt_grid grid = {(uint32_t)stored, 1, SELECTION_THREADS,
                                   sizeof(struct selection_shared)};
    simt_launch(queue, head_choice_of_row, grid, *arguments);
}

/* The best candidates of a row, and sampling by the Gumbel trick. */
#include <math.h>
#include "common/rng.h"
#include "kernels/cpu/cpu.h"

/* Above the largest value that rng_gumbel can return, -log(-log(1 - 2^-33)) = 22.87. */
static const double GUMBEL_MAX = 23;

static int64_t candidate_end(const struct head_batch *batch, int64_t vocabulary)
{
    return batch->token_limit < vocabulary ? batch->token_limit : vocabulary;
}

void cpu_head_top(struct head_choice *choice, const struct cpu_elementwise *elementwise,
                  const float *logits, int32_t wanted, const struct head_batch *batch,
                  int64_t vocabulary)
{
    int64_t end = candidate_end(batch, vocabulary);
    float threshold = -INFINITY;
    int32_t count = 0;
    choice->top_count = 0;
    if (wanted <= 0)
        return;
    /* Ids rise and only a greater logit displaces one: ties stay with the lower id. */
    for (int64_t token = 0; token < end; token++) {
        token = elementwise->find_greater(logits, token, end, threshold);
        if (token >= end)
            break;
        if (token == batch->mask_token)
            continue;
        int32_t at = count < wanted ? count++ : count - 1;
        for (; at > 0 && choice->top_logit[at - 1] < logits[token]; at--) {
            choice->top_logit[at] = choice->top_logit[at - 1];
            choice->top_token[at] = choice->top_token[at - 1];
        }
        choice->top_logit[at] = logits[token];
        choice->top_token[at] = (int32_t)token;
        if (count == wanted)
            threshold = choice->top_logit[count - 1];
    }
    choice->top_count = count;
}

/* The winner so far of logit / T + g. */
struct contest {
    const struct head_row *row;
    double temperature, score;
    int32_t token;
    uint32_t group; /* whose words are at hand; no token has the group UINT32_MAX */
    uint32_t words[4];
};

static struct contest contest_begin(const struct head_row *row)
{
    return (struct contest){.row = row,
                            .temperature = row->temperature,
                            .score = -INFINITY,
                            .token = -1,
                            .group = UINT32_MAX};
}

static void contest_enter(struct contest *contest, int32_t token, float logit)
{
    const struct head_row *row = contest->row;
    uint32_t group = (uint32_t)token >> 2;
    if (group != contest->group) {
        const uint32_t counter[4] = {group, row->position, row->round, RNG_GUMBEL};
        const uint32_t key[2] = {(uint32_t)row->seed, (uint32_t)(row->seed >> 32)};
        rng_philox(contest->words, counter, key);
        contest->group = group;
    }
    uint32_t word = contest->words[token & 3];
    double scaled = (double)logit / contest->temperature;
    /*
     * Two logarithms are saved where the token cannot win: with v = 1 - u and z leading ones in the
     * word, g = -log(-log(1 - v)) <= -log v <= (z + 1) ln 2.
     */
    int ones = word == UINT32_MAX ? 32 : __builtin_clz(~word);
    if (scaled + (ones + 1) * 0.69315 < contest->score)
        return;
    double score = scaled + rng_gumbel(word);
    if (score > contest->score || (score == contest->score && token < contest->token)) {
        contest->score = score;
        contest->token = token;
    }
}

bool cpu_head_needs_order(const struct head_row *row)
{
    return row->temperature > 0 && (row->top_p < 1 || row->top_k > HEAD_TOP_MAX);
}

static bool passes_min_p(const struct head_row *row, float logit, float best)
{
    double temperature = row->temperature;
    return !(exp(logit / temperature - best / temperature) < row->min_p);
}

/* top_k within the top list. */
static int32_t choose_from_top(const struct head_choice *choice, const struct head_row *row)
{
    struct contest contest = contest_begin(row);
    for (int32_t i = 0; i < choice->top_count && i < row->top_k; i++) {
        if (passes_min_p(row, choice->top_logit[i], choice->top_logit[0]))
            contest_enter(&contest, choice->top_token[i], choice->top_logit[i]);
    }
    return contest.token;
}

/* A float32 that is surely not above `limit`. */
static float float_below(double limit)
{
    return nextafterf(nextafterf((float)limit, -INFINITY), -INFINITY);
}

/* Every candidate, but for those that even the largest noise could not help. */
static int32_t choose_from_all(const struct head_choice *choice,
                               const struct cpu_elementwise *elementwise,
                               const struct head_row *row, const float *logits,
                               const struct head_batch *batch, int64_t end)
{
    struct contest contest = contest_begin(row);
    contest_enter(&contest, choice->top_token[0], choice->top_logit[0]);
    for (int64_t token = 0; token < end; token++) {
        float floor = float_below((contest.score - GUMBEL_MAX) * contest.temperature);
        token = elementwise->find_greater(logits, token, end, floor);
        if (token < end && token != batch->mask_token &&
            (row->min_p <= 0 || passes_min_p(row, logits[token], choice->top_logit[0])))
            contest_enter(&contest, (int32_t)token, logits[token]);
    }
    return contest.token;
}

static bool comes_before(const float *logits, int32_t a, int32_t b)
{
    return logits[a] > logits[b] || (logits[a] == logits[b] && a < b);
}

/* Restores the heap, whose best token is at 0, below `at`. */
static void sift_down(int32_t *heap, int32_t count, int32_t at, const float *logits)
{
    int32_t token = heap[at];
    for (int32_t child; (child = 2 * at + 1) < count; at = child) {
        if (child + 1 < count && comes_before(logits, heap[child + 1], heap[child]))
            child++;
        if (!comes_before(logits, heap[child], token))
            break;
        heap[at] = heap[child];
    }
    heap[at] = token;
}

/* Moves the best of the heap behind its end and returns it. */
static int32_t pop_best(int32_t *heap, int32_t *count, const float *logits)
{
    int32_t best = heap[0];
    heap[0] = heap[--*count];
    heap[*count] = best;
    if (*count > 0)
        sift_down(heap, *count, 0, logits);
    return best;
}

/* top_p, or a large top_k: candidates in falling order, of which only what is kept gets sorted. */
static int32_t choose_in_order(const struct head_row *row, const float *logits, int32_t *order,
                               const struct head_batch *batch, int64_t end)
{
    int32_t candidates = 0;
    for (int32_t token = 0; token < end; token++) {
        if (token != batch->mask_token && logits[token] > -INFINITY)
            order[candidates++] = token;
    }
    if (candidates == 0)
        return -1;
    for (int32_t at = candidates / 2 - 1; at >= 0; at--)
        sift_down(order, candidates, at, logits);

    double temperature = row->temperature, best = logits[order[0]] / temperature, total = 0;
    int32_t kept = row->top_k > 0 && row->top_k < candidates ? row->top_k : candidates;
    int32_t heap = candidates;
    if (kept < candidates) {
        for (int32_t i = 0; i < kept; i++)
            total += exp(logits[pop_best(order, &heap, logits)] / temperature - best);
    } else if (row->top_p < 1) {
        for (int32_t i = 0; i < candidates; i++)
            total += exp(logits[order[i]] / temperature - best);
    }

    struct contest contest = contest_begin(row);
    double before = 0;
    for (int32_t i = 0; i < kept; i++) {
        /* What was popped lies from the end of the array down. */
        int32_t token =
            kept < candidates ? order[candidates - 1 - i] : pop_best(order, &heap, logits);
        double weight = exp(logits[token] / temperature - best);
        if ((row->top_p < 1 && before / total > row->top_p) || weight < row->min_p)
            break;
        before += weight;
        contest_enter(&contest, token, logits[token]);
    }
    return contest.token;
}

void cpu_head_choose(struct head_choice *choice, const struct cpu_elementwise *elementwise,
                     const struct head_row *row, const float *logits, int32_t *order,
                     const struct head_batch *batch, int64_t vocabulary)
{
    int64_t end = candidate_end(batch, vocabulary);
    if (choice->top_count == 0)
        choice->token = -1;
    else if (!(row->temperature > 0))
        choice->token = choice->top_token[0];
    else if (cpu_head_needs_order(row))
        choice->token = choose_in_order(row, logits, order, batch, end);
    else if (row->top_k > 0)
        choice->token = choose_from_top(choice, row);
    else
        choice->token = choose_from_all(choice, elementwise, row, logits, batch, end);
}

/*
 * The head: logits of a slice of rows into a bounded scratch, then every row is judged by one
 * thread. A NaN logit counts as -INFINITY.
 */
#include <assert.h>
#include <math.h>
#include "kernels/cpu/cpu.h"

/* Columns judged by one range: below it a fork costs more than it gains. */
enum { GRAIN_LOGITS = 1 << 15 };

struct head_job {
    struct cpu_backend *cpu;
    struct head_result *result;
    const struct head_batch *batch;
    int64_t vocabulary;
};

static bool is_adjusted(const struct head_row *row)
{
    return row->counts_end > row->counts_begin || row->biases_end > row->biases_begin ||
           row->allowed >= 0;
}

static float logit_at(const float *logits, int64_t token)
{
    return isnan(logits[token]) ? -INFINITY : logits[token];
}

/*
 * Lays rows from `first` on into the scratch until it is full, computes their logits and returns
 * how many slots that made.
 */
static int32_t fill_slice(const struct head_job *job, const char *gathered,
                          const struct cpu_weight *weight, int32_t first)
{
    struct cpu_backend *cpu = job->cpu;
    size_t hidden_bytes = (size_t)weight->columns * dtype_size(cpu->host.base.dtype);
    int64_t used = 0, products = 0;
    int32_t slots = 0;

    for (int32_t i = first; i < job->batch->rows; i++) {
        const struct head_row *row = &job->batch->row[i];
        bool second = row->partner >= 0 || is_adjusted(row), order = cpu_head_needs_order(row);
        if (used + 1 + second + order > cpu->head_scratch_lines)
            break;
        struct head_slot *slot = &cpu->slots[slots++];
        slot->row = i;
        slot->raw = cpu->head_scratch + used++ * job->vocabulary;
        slot->second = second ? cpu->head_scratch + used++ * job->vocabulary : NULL;
        slot->order = order ? (int32_t *)(cpu->head_scratch + used++ * job->vocabulary) : NULL;
        cpu->in_lines[products] = gathered + (size_t)row->hidden * hidden_bytes;
        cpu->out_lines[products++] = slot->raw;
        if (row->partner >= 0) {
            cpu->in_lines[products] = gathered + (size_t)row->partner * hidden_bytes;
            cpu->out_lines[products++] = slot->second;
        }
    }
    cpu_linear_lines(cpu, weight, products, DTYPE_FLOAT32);
    return slots;
}

/* Penalties, biases, bans and allowed sets, in place. */
static void adjust(float *logits, const struct head_row *row, const struct head_batch *batch,
                   int64_t vocabulary)
{
    for (int32_t i = row->counts_begin; i < row->counts_end; i++) {
        const struct token_count *count = &batch->counts[i];
        float logit = logits[count->token];
        if (count->in_answer > 0 || count->in_prompt > 0)
            logit = logit > 0 ? logit / row->repetition_penalty : logit * row->repetition_penalty;
        if (count->in_answer > 0)
            logit -= row->presence_penalty + row->frequency_penalty * (float)count->in_answer;
        logits[count->token] = logit;
    }
    for (int32_t i = row->biases_begin; i < row->biases_end; i++)
        logits[batch->biases[i].token] += batch->biases[i].bias;
    if (row->allowed < 0)
        return;
    const uint32_t *allowed = batch->allowed + row->allowed * ((vocabulary + 31) / 32);
    for (int64_t begin = 0; begin < vocabulary; begin += 32) {
        uint32_t bits = allowed[begin / 32];
        for (int64_t token = begin; token < begin + 32 && token < vocabulary && bits != UINT32_MAX;
             token++) {
            if ((bits >> (token - begin) & 1) == 0)
                logits[token] = -INFINITY;
        }
    }
}

/* The softmax of one row: log(sum of exp), and the entropy in nats. */
static void measure(float *logsumexp, float *entropy, const struct cpu_elementwise *elementwise,
                    const float *logits, int64_t vocabulary)
{
    float maximum = elementwise->row_max(logits, vocabulary);
    *logsumexp = -INFINITY;
    *entropy = 0;
    if (maximum == -INFINITY)
        return;
    double sum, weighted;
    elementwise->row_exp_sums(&sum, &weighted, logits, vocabulary, maximum);
    *logsumexp = (float)(maximum + log(sum));
    *entropy = (float)(log(sum) - weighted / sum);
}

static float log_probability(float logit, float logsumexp)
{
    return logit == -INFINITY ? -INFINITY : logit - logsumexp;
}

static void write_top(int32_t *tokens, float *logprobs, int32_t wanted, int32_t entries,
                      const struct head_choice *choice, float logsumexp)
{
    for (int32_t i = 0; i < entries; i++) {
        bool used = i < wanted && i < choice->top_count;
        tokens[i] = used ? choice->top_token[i] : -1;
        logprobs[i] = used ? log_probability(choice->top_logit[i], logsumexp) : -INFINITY;
    }
}

static void judge_slot(const struct head_job *job, const struct head_slot *slot)
{
    const struct cpu_elementwise *elementwise = job->cpu->instructions.elementwise;
    const struct head_row *row = &job->batch->row[slot->row];
    struct head_statistics *statistics = &job->result->row[slot->row];
    int64_t vocabulary = job->vocabulary;
    float *adjusted = slot->raw;
    struct head_choice choice;

    if (row->partner >= 0) {
        for (int64_t token = 0; token < vocabulary; token++)
            slot->raw[token] = slot->second[token] +
                               (row->guidance + 1) * (slot->raw[token] - slot->second[token]);
    }
    measure(&statistics->raw_logsumexp, &statistics->entropy, elementwise, slot->raw, vocabulary);
    cpu_head_top(&choice, elementwise, slot->raw, row->raw_top, job->batch, vocabulary);
    write_top(job->result->raw_top_token + (int64_t)slot->row * HEAD_RAW_TOP_MAX,
              job->result->raw_top_logprob + (int64_t)slot->row * HEAD_RAW_TOP_MAX, row->raw_top,
              HEAD_RAW_TOP_MAX, &choice, statistics->raw_logsumexp);

    statistics->logsumexp = statistics->raw_logsumexp;
    if (is_adjusted(row)) {
        adjusted = slot->second;
        memcpy(adjusted, slot->raw, (size_t)vocabulary * sizeof *adjusted);
        adjust(adjusted, row, job->batch, vocabulary);
        measure(&statistics->logsumexp, &statistics->entropy, elementwise, adjusted, vocabulary);
    }
    int32_t wanted = row->top > 1 ? row->top : 1;
    if (row->temperature > 0 && row->top_k > wanted && row->top_k <= HEAD_TOP_MAX)
        wanted = row->top_k;
    cpu_head_top(&choice, elementwise, adjusted, wanted, job->batch, vocabulary);
    write_top(job->result->top_token + (int64_t)slot->row * HEAD_TOP_MAX,
              job->result->top_logprob + (int64_t)slot->row * HEAD_TOP_MAX, row->top, HEAD_TOP_MAX,
              &choice, statistics->logsumexp);
    cpu_head_choose(&choice, elementwise, row, adjusted, slot->order, job->batch, vocabulary);

    int32_t token = choice.token;
    statistics->token = token;
    statistics->logprob = statistics->raw_logprob = -INFINITY;
    if (token >= 0) {
        statistics->logprob = log_probability(adjusted[token], statistics->logsumexp);
        statistics->raw_logprob =
            log_probability(logit_at(slot->raw, token), statistics->raw_logsumexp);
    }
    statistics->given_logprob =
        row->given < 0 ? 0 : log_probability(logit_at(adjusted, row->given), statistics->logsumexp);
}

static void judge_range(void *context, int64_t begin, int64_t end)
{
    const struct head_job *job = context;
    for (int64_t i = begin; i < end; i++)
        judge_slot(job, &job->cpu->slots[i]);
}

void cpu_head(struct backend *backend, struct head_result *result, const void *gathered,
              const struct weight *opaque, const struct head_batch *batch)
{
    const struct cpu_weight *weight = (const struct cpu_weight *)opaque;
    struct head_job job = {cpu_self(backend), result, batch, weight->rows};
    assert(weight->rows <= job.cpu->limits.vocabulary &&
           batch->rows <= job.cpu->limits.max_head_rows);
    for (int32_t first = 0; first < batch->rows;) {
        int32_t slots = fill_slice(&job, gathered, weight, first);
        cpu_run_ranges(job.cpu, judge_range, &job, slots, GRAIN_LOGITS / job.vocabulary + 1);
        first += slots;
    }
}

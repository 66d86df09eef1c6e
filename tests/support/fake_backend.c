#include "tests/support/fake_backend.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/rng.h"

struct fake_backend {
    struct backend base;
    struct fake_options options;
    struct backend_limits limits;
    const struct step_rows *rows; /* of the step under way */
    int64_t step;
    int32_t *stored;       /* [kv_pages, KV_PAGE_POSITIONS] token at the position */
    int64_t *written_step; /* [kv_pages] last step that wrote to the page */
    int32_t *written_line; /* [kv_pages] and for which line */
    int64_t *hashed_step;  /* [max_sequences] step of the line's hash */
    uint64_t *hash;        /* [max_sequences] of the line's stored canvas */
    int64_t violations;
    int32_t largest_step;
};

static struct fake_backend *fake_of(struct backend *backend)
{
    return (struct fake_backend *)backend;
}

/* The finaliser of SplitMix64. */
static uint64_t mix(uint64_t x)
{
    x += 0x9E3779B97F4A7C15u;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}

/* ---- steps ----------------------------------------------------------------------------------- */

static int32_t page_of(const struct step_rows *rows, int32_t line, int32_t position)
{
    return rows->page_table[(int64_t)line * rows->page_table_stride + position / KV_PAGE_POSITIONS];
}

static bool row_is_valid(const struct fake_backend *fake, const struct step_rows *rows, int32_t row)
{
    if (rows->sequence[row] < 0 || rows->sequence[row] >= fake->limits.max_sequences ||
        rows->position[row] < 0 || rows->position[row] >= rows->kv_end[row] ||
        rows->kv_end[row] > fake->limits.max_positions || rows->token[row] < 0 ||
        rows->token[row] >= FAKE_VOCABULARY || rows->shadow[row] != 0)
        return false;
    int32_t page = page_of(rows, rows->sequence[row], rows->position[row]);
    return page >= 0 && page < fake->limits.kv_pages;
}

static void store_row(struct fake_backend *fake, const struct step_rows *rows, int32_t row)
{
    int32_t line = rows->sequence[row], position = rows->position[row];
    int32_t page = page_of(rows, line, position);
    if (fake->written_step[page] == fake->step && fake->written_line[page] != line)
        fake->violations++;
    fake->written_step[page] = fake->step;
    fake->written_line[page] = line;
    fake->stored[(int64_t)page * KV_PAGE_POSITIONS + position % KV_PAGE_POSITIONS] =
        rows->token[row];
}

static bool fake_step_begin(struct backend *backend, const struct step_rows *rows)
{
    struct fake_backend *fake = fake_of(backend);
    fake->rows = rows;
    fake->step++;
    if (rows->rows > fake->largest_step)
        fake->largest_step = rows->rows;
    fake->violations += rows->rows > fake->limits.max_rows;
    for (int32_t i = 0; i < rows->rows; i++) {
        if (row_is_valid(fake, rows, i))
            store_row(fake, rows, i);
        else
            fake->violations++;
    }
    return true;
}

static int fake_step_end(struct backend *backend, struct error *err)
{
    const struct fake_backend *fake = fake_of(backend);
    if (fake->options.lose_device_at > 0 && fake->step >= fake->options.lose_device_at)
        return error_set(err, ERROR_DEVICE_LOST, "the fake device is lost: this is a test");
    return 0;
}

/* ---- head ------------------------------------------------------------------------------------ */

/* Of all tokens that a row attends to; the same for all rows of a sequence, so kept for the step.
 */
static uint64_t canvas_hash(struct fake_backend *fake, int32_t row)
{
    const struct step_rows *rows = fake->rows;
    int32_t line = rows->sequence[row];
    if (fake->hashed_step[line] == fake->step)
        return fake->hash[line];
    uint64_t hash = (uint64_t)rows->kv_end[row];
    for (int32_t i = 0; i < rows->kv_end[row]; i++) {
        int32_t page = page_of(rows, line, i);
        hash = hash * 0x100000001B3u +
               (uint64_t)fake->stored[(int64_t)page * KV_PAGE_POSITIONS + i % KV_PAGE_POSITIONS];
    }
    fake->hashed_step[line] = fake->step;
    fake->hash[line] = mix(hash);
    return fake->hash[line];
}

static bool head_row_is_valid(const struct fake_backend *fake, const struct head_row *row)
{
    const struct step_rows *rows = fake->rows;
    if (row->hidden < 0 || row->hidden >= rows->gathered || row->partner >= rows->gathered)
        return false;
    int32_t own = rows->gather[row->hidden];
    if (rows->position[own] != (int32_t)row->position || rows->token[own] != FAKE_MASK_TOKEN)
        return false;
    if (row->partner < 0)
        return true;
    /* The partner's answer is the sequence's, so both lie equally far from the canvas end. */
    int32_t partner = rows->gather[row->partner];
    return rows->kv_end[partner] - rows->position[partner] ==
               rows->kv_end[own] - rows->position[own] &&
           rows->token[partner] == FAKE_MASK_TOKEN &&
           rows->sequence[partner] != rows->sequence[own];
}

/* What the model knows at a row. */
static uint64_t row_hash(struct fake_backend *fake, const struct head_row *row)
{
    uint64_t hash = canvas_hash(fake, fake->rows->gather[row->hidden]) ^ mix(row->position);
    if (row->partner >= 0)
        hash ^= mix(canvas_hash(fake, fake->rows->gather[row->partner]) + 1);
    return hash;
}

/* A row that nothing adjusts or looks into, in the cheapest way. */
static struct head_statistics judge_plain_row(uint64_t hash, const struct head_row *row)
{
    if (row->temperature > 0)
        hash ^= mix(row->seed ^ mix(row->round));
    hash = mix(hash);
    int32_t token = hash % 16 == 0 ? FAKE_STOP_TOKEN : (int32_t)(hash >> 8 & 63);
    if (token == FAKE_MASK_TOKEN)
        token++;
    float logprob = (float)log((double)((hash >> 32) + 1) / 0x1p32);
    return (struct head_statistics){.token = token, .logprob = logprob, .raw_logprob = logprob - 1};
}

/* ---- rows with logits ------------------------------------------------------------------------ */

static void make_logits(double *logits, uint64_t hash)
{
    for (int32_t i = 0; i < FAKE_VOCABULARY; i++)
        logits[i] = 8 * rng_uniform((uint32_t)(mix(hash + (uint64_t)i) >> 32)) - 4;
    if (mix(hash) % 16 == 0)
        logits[FAKE_STOP_TOKEN] = 6;
}

static void adjust_logits(double *logits, const struct head_row *row,
                          const struct head_batch *batch)
{
    for (int32_t i = row->counts_begin; i < row->counts_end; i++) {
        const struct token_count *count = &batch->counts[i];
        double *logit = &logits[count->token];
        double repetition = (double)row->repetition_penalty;
        *logit = *logit > 0 ? *logit / repetition : *logit * repetition;
        if (count->in_answer > 0)
            *logit -=
                (double)row->presence_penalty + (double)row->frequency_penalty * count->in_answer;
    }
    for (int32_t i = row->biases_begin; i < row->biases_end; i++)
        logits[batch->biases[i].token] += (double)batch->biases[i].bias;
    for (int32_t i = 0; i < FAKE_VOCABULARY && row->allowed >= 0; i++) {
        const uint32_t *line = batch->allowed + (size_t)row->allowed * (FAKE_VOCABULARY / 32);
        if ((line[i / 32] >> (i % 32) & 1) == 0)
            logits[i] = -INFINITY;
    }
}

static double log_sum_exp(const double *logits)
{
    double sum = 0;
    for (int32_t i = 0; i < FAKE_VOCABULARY; i++)
        sum += exp(logits[i]);
    return log(sum);
}

/* The best `wanted` tokens in falling order. */
static void write_top(int32_t *tokens, float *logprobs, int32_t wanted, int32_t entries,
                      const double *logits, double sum, const struct head_batch *batch)
{
    int32_t count = 0;
    for (int32_t i = 0; i < batch->token_limit && wanted > 0; i++) {
        if (i == batch->mask_token || !(logits[i] > -INFINITY))
            continue;
        int32_t at = count < wanted ? count++ : wanted;
        for (; at > 0 && logits[tokens[at - 1]] < logits[i]; at--) {
            if (at < wanted)
                tokens[at] = tokens[at - 1];
        }
        if (at < wanted)
            tokens[at] = i;
    }
    for (int32_t k = 0; k < entries; k++) {
        tokens[k] = k < count ? tokens[k] : -1;
        logprobs[k] = k < count ? (float)(logits[tokens[k]] - sum) : -INFINITY;
    }
}

/* Temperature alone: no test of schedules needs the other filters. */
static int32_t choose(const double *logits, const struct head_row *row,
                      const struct head_batch *batch)
{
    int32_t best = -1;
    double best_score = -INFINITY;
    for (int32_t i = 0; i < batch->token_limit; i++) {
        if (i == batch->mask_token || !(logits[i] > -INFINITY))
            continue;
        double score = logits[i];
        if (row->temperature > 0)
            score =
                score / (double)row->temperature +
                rng_gumbel(rng_word(row->seed, row->position, row->round, RNG_GUMBEL, (uint32_t)i));
        if (score > best_score) {
            best_score = score;
            best = i;
        }
    }
    return best;
}

static struct head_statistics judge_adjusted_row(struct head_result *result, int32_t index,
                                                 uint64_t hash, const struct head_row *row,
                                                 const struct head_batch *batch)
{
    double raw[FAKE_VOCABULARY], adjusted[FAKE_VOCABULARY];
    make_logits(raw, hash);
    memcpy(adjusted, raw, sizeof raw);
    adjust_logits(adjusted, row, batch);
    size_t top = (size_t)index * HEAD_TOP_MAX, raw_top = (size_t)index * HEAD_RAW_TOP_MAX;
    double sum = log_sum_exp(adjusted), raw_sum = log_sum_exp(raw);
    write_top(result->top_token + top, result->top_logprob + top, row->top, HEAD_TOP_MAX, adjusted,
              sum, batch);
    write_top(result->raw_top_token + raw_top, result->raw_top_logprob + raw_top, row->raw_top,
              HEAD_RAW_TOP_MAX, raw, raw_sum, batch);
    int32_t token = choose(adjusted, row, batch);
    return (struct head_statistics){
        .token = token,
        .logprob = token < 0 ? -INFINITY : (float)(adjusted[token] - sum),
        .raw_logprob = token < 0 ? -INFINITY : (float)(raw[token] - raw_sum),
        .logsumexp = (float)sum,
        .raw_logsumexp = (float)raw_sum,
    };
}

static struct head_statistics judge_row(struct fake_backend *fake, struct head_result *result,
                                        int32_t index, const struct head_batch *batch)
{
    const struct head_row *row = &batch->row[index];
    uint64_t hash = row_hash(fake, row);
    if (fake->options.bad_position > 0 && (int32_t)row->position == fake->options.bad_position)
        return (struct head_statistics){.token = -1, .logprob = NAN};
    bool plain = row->counts_begin == row->counts_end && row->biases_begin == row->biases_end &&
                 row->allowed < 0 && row->top == 0 && row->raw_top == 0;
    return plain ? judge_plain_row(hash, row) : judge_adjusted_row(result, index, hash, row, batch);
}

static void fake_head(struct backend *backend, struct head_result *result, const void *gathered,
                      const struct weight *weight, const struct head_batch *batch)
{
    (void)gathered;
    (void)weight;
    struct fake_backend *fake = fake_of(backend);
    for (int32_t i = 0; i < batch->rows; i++) {
        if (head_row_is_valid(fake, &batch->row[i]))
            result->row[i] = judge_row(fake, result, i, batch);
        else
            fake->violations++;
    }
}

/* ---- operations without effect --------------------------------------------------------------- */

static void fake_embed(struct backend *backend, float *residual, const struct weight *table)
{
    (void)backend, (void)residual, (void)table;
}

static void fake_add_rmsnorm(struct backend *backend, void *out, float *residual, const void *delta,
                             const float *scale, float epsilon, int32_t columns)
{
    (void)backend, (void)out, (void)residual, (void)delta, (void)scale, (void)epsilon,
        (void)columns;
}

static void fake_linear(struct backend *backend, void *out, const void *in,
                        const struct weight *weight, int32_t lines)
{
    (void)backend, (void)out, (void)in, (void)weight, (void)lines;
}

static void fake_rope_store(struct backend *backend, void *qkv, const float *q_scale,
                            const float *k_scale, int32_t layer)
{
    (void)backend, (void)qkv, (void)q_scale, (void)k_scale, (void)layer;
}

static void fake_attention(struct backend *backend, void *out, const void *qkv, int32_t layer)
{
    (void)backend, (void)out, (void)qkv, (void)layer;
}

static void fake_swiglu(struct backend *backend, void *out, const void *gate_up, int32_t width)
{
    (void)backend, (void)out, (void)gate_up, (void)width;
}

static void fake_gather(struct backend *backend, void *out, const void *in, int32_t columns)
{
    (void)backend, (void)out, (void)in, (void)columns;
}

/* ---- life ------------------------------------------------------------------------------------ */

static int fake_reserve(struct backend *backend, const struct backend_limits *limits,
                        struct error *err)
{
    struct fake_backend *fake = fake_of(backend);
    size_t pages = (size_t)limits->kv_pages, lines = (size_t)limits->max_sequences;
    fake->limits = *limits;
    fake->stored = calloc(pages * KV_PAGE_POSITIONS, sizeof *fake->stored);
    fake->written_step = calloc(pages, sizeof *fake->written_step);
    fake->written_line = calloc(pages, sizeof *fake->written_line);
    fake->hashed_step = calloc(lines, sizeof *fake->hashed_step);
    fake->hash = calloc(lines, sizeof *fake->hash);
    if (fake->stored == NULL || fake->written_step == NULL || fake->written_line == NULL ||
        fake->hashed_step == NULL || fake->hash == NULL)
        return error_set(err, ERROR_MEMORY, "out of memory for the fake backend");
    return 0;
}

static void fake_destroy(struct backend *backend)
{
    struct fake_backend *fake = fake_of(backend);
    free(fake->stored);
    free(fake->written_step);
    free(fake->written_line);
    free(fake->hashed_step);
    free(fake->hash);
    free(fake);
}

static int fake_memory_create(struct backend *backend, void **out, size_t size, struct error *err)
{
    (void)backend;
    *out = calloc(1, size == 0 ? 1 : size);
    return *out == NULL ? error_set(err, ERROR_MEMORY, "out of memory for the fake backend") : 0;
}

static void fake_memory_destroy(struct backend *backend, void *memory)
{
    (void)backend;
    free(memory);
}

static void fake_weight_destroy(struct backend *backend, struct weight *weight)
{
    (void)backend, (void)weight;
}

static const struct backend_ops FAKE_OPS = {
    .name = "fake",
    .destroy = fake_destroy,
    .reserve = fake_reserve,
    .memory_create = fake_memory_create,
    .memory_destroy = fake_memory_destroy,
    .weight_destroy = fake_weight_destroy,
    .step_begin = fake_step_begin,
    .embed = fake_embed,
    .add_rmsnorm = fake_add_rmsnorm,
    .linear = fake_linear,
    .rope_store = fake_rope_store,
    .attention = fake_attention,
    .swiglu = fake_swiglu,
    .gather = fake_gather,
    .head = fake_head,
    .step_end = fake_step_end,
};

struct model *fake_model_create(const struct fake_options *options)
{
    struct fake_backend *fake = calloc(1, sizeof *fake);
    struct model *model = calloc(1, sizeof *model);
    struct layer_weights *layers = calloc(1, sizeof *layers);
    if (fake == NULL || model == NULL || layers == NULL) {
        free(fake);
        free(model);
        free(layers);
        return NULL;
    }
    fake->base = (struct backend){.ops = &FAKE_OPS, .dtype = DTYPE_FLOAT32};
    fake->options = *options;
    model->backend = &fake->base;
    model->weights.layers = layers;
    model->config = (struct model_config){
        .family = MODEL_LLADA,
        .model_type = "fake",
        .attention = ATTENTION_FULL,
        .layers = 1,
        .width = 2,
        .heads = 1,
        .kv_heads = 1,
        .head_dim = 2,
        .rotary_dim = 2,
        .ffn_width = 2,
        .vocabulary = FAKE_VOCABULARY,
        .embedding_rows = FAKE_VOCABULARY,
        .max_positions = options->max_positions,
        .mask_token = FAKE_MASK_TOKEN,
        .bos_token = -1,
        .stop_tokens = {FAKE_STOP_TOKEN},
        .stop_token_count = 1,
    };
    return model;
}

int64_t fake_model_violations(const struct model *model)
{
    return fake_of(model->backend)->violations;
}

int32_t fake_model_largest_step(const struct model *model)
{
    return fake_of(model->backend)->largest_step;
}

#include "server/engine/step_batch.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"

int step_batch_create(struct step_batch *batch, const struct step_batch_limits *limits,
                      struct error *err)
{
    size_t rows = (size_t)limits->max_rows, slots = (size_t)limits->slots;
    *batch = (struct step_batch){
        .limits = *limits,
        .token = calloc(rows, sizeof *batch->token),
        .line = calloc(rows, sizeof *batch->line),
        .position = calloc(rows, sizeof *batch->position),
        .kv_end = calloc(rows, sizeof *batch->kv_end),
        .gather = calloc(rows, sizeof *batch->gather),
        .shadow = calloc(rows, sizeof *batch->shadow),
        .head = calloc(rows, sizeof *batch->head),
        .counts = calloc((size_t)limits->positions, sizeof *batch->counts),
        .biases = calloc(slots * SEQUENCE_BIASES_MAX, sizeof *batch->biases),
        .allowed = calloc(slots * decode_allowed_words(limits->vocabulary), sizeof *batch->allowed),
        .count_place = calloc((size_t)limits->vocabulary, sizeof *batch->count_place),
    };
    if (batch->token != NULL && batch->line != NULL && batch->position != NULL &&
        batch->kv_end != NULL && batch->gather != NULL && batch->shadow != NULL &&
        batch->head != NULL && batch->counts != NULL && batch->biases != NULL &&
        batch->allowed != NULL && batch->count_place != NULL)
        return 0;
    step_batch_free(batch);
    return error_set(err, ERROR_MEMORY,
                     "out of memory for a batch of %d rows: lower max_rows_per_tick or "
                     "max_sequences",
                     limits->max_rows);
}

void step_batch_free(struct step_batch *batch)
{
    free(batch->token);
    free(batch->line);
    free(batch->position);
    free(batch->kv_end);
    free(batch->gather);
    free(batch->shadow);
    free(batch->head);
    free(batch->counts);
    free(batch->biases);
    free(batch->allowed);
    free(batch->count_place);
    *batch = (struct step_batch){0};
}

void step_batch_clear(struct step_batch *batch)
{
    batch->rows = 0;
    batch->gathered = 0;
    batch->head_rows = 0;
    batch->count_count = 0;
    batch->bias_count = 0;
    batch->allowed_lines = 0;
}

/* ---- rows ------------------------------------------------------------------------------------ */

static void add_row(struct step_batch *batch, int32_t token, int32_t line, int32_t position,
                    int32_t kv_end)
{
    int32_t row = batch->rows++;
    batch->token[row] = token;
    batch->line[row] = line;
    batch->position[row] = position;
    batch->kv_end[row] = kv_end;
}

/* Returns the row of the canvas's position 0, as if the window began there. */
static int32_t add_window(struct step_batch *batch, const struct sequence *sequence, int32_t line)
{
    const struct canvas *canvas = &sequence->canvas;
    int32_t origin = batch->rows - sequence->window.begin;
    for (int32_t i = sequence->window.begin; i < sequence->window.end; i++)
        add_row(batch, canvas->tokens[i], line, i, canvas->length);
    return origin;
}

/* The same for the guidance partner, whose answer is the sequence's. */
static int32_t add_partner_window(struct step_batch *batch, const struct sequence *sequence,
                                  int32_t line)
{
    const struct canvas *canvas = &sequence->canvas;
    const int32_t *prompt = sequence->request->params.negative_prompt;
    const struct window window = sequence_partner_window(sequence);
    int32_t shift = sequence_partner_shift(sequence);
    int32_t prompt_length = canvas->prompt_length + shift;
    int32_t origin = batch->rows - window.begin;
    for (int32_t i = window.begin; i < window.end; i++) {
        int32_t token = canvas->mask_token;
        if (i >= prompt_length)
            token = canvas->tokens[i - shift];
        else if (prompt != NULL)
            token = prompt[i];
        add_row(batch, token, line, i, canvas->length + shift);
    }
    return origin;
}

static int32_t add_gather(struct step_batch *batch, int32_t row)
{
    batch->gather[batch->gathered] = row;
    return batch->gathered++;
}

/* ---- adjustments ----------------------------------------------------------------------------- */

static struct token_count *count_of(struct step_batch *batch, int32_t token)
{
    int32_t *place = &batch->count_place[token];
    if (*place == 0) {
        batch->counts[batch->count_count++] = (struct token_count){.token = token};
        *place = batch->count_count;
    }
    return &batch->counts[*place - 1];
}

/* How often each token stands in the answer and, for the repetition penalty, in the prompt. */
static void add_counts(struct step_batch *batch, const struct sequence *sequence)
{
    const struct canvas *canvas = &sequence->canvas;
    const struct decode_params *params = &sequence->request->params;
    if (!decode_counts_tokens(params))
        return;
    int32_t begin = batch->count_count;
    bool with_prompt = params->repetition_penalty != 1;
    for (int32_t i = 0; with_prompt && i < canvas->prompt_length; i++)
        count_of(batch, canvas->tokens[i])->in_prompt++;
    for (int32_t i = canvas->prompt_length; i < canvas->length; i++) {
        if (canvas->tokens[i] != canvas->mask_token)
            count_of(batch, canvas->tokens[i])->in_answer++;
    }
    for (int32_t i = begin; i < batch->count_count; i++)
        batch->count_place[batch->counts[i].token] = 0;
}

/* Every token has one bias at most: a ban replaces the request's own. */
static int32_t add_bans(struct token_bias *biases, int32_t count, const int32_t *tokens,
                        int32_t token_count)
{
    for (int32_t i = 0; i < token_count; i++) {
        int32_t at = 0;
        while (at < count && biases[at].token != tokens[i])
            at++;
        biases[at] = (struct token_bias){tokens[i], -INFINITY};
        if (at == count)
            count++;
    }
    return count;
}

/* What is added to a request's rows, [SEQUENCE_BIASES_MAX]; returns how many. */
static int32_t collect_biases(struct token_bias *biases, const struct step_batch_limits *limits,
                              const struct decode_params *params)
{
    int32_t count = params->bias_count;
    if (count > 0)
        memcpy(biases, params->biases, (size_t)count * sizeof *biases);
    if (params->ignore_eos)
        count = add_bans(biases, count, params->stop_tokens, params->stop_token_count);
    if (params->logits_eos_inf)
        count = add_bans(biases, count, limits->eos_tokens, limits->eos_token_count);
    return count;
}

/* The line of the request's allowed set, or -1. */
static int32_t add_allowed(struct step_batch *batch, const struct request *request)
{
    if (request->allowed == NULL)
        return -1;
    size_t words = decode_allowed_words(batch->limits.vocabulary);
    memcpy(batch->allowed + (size_t)batch->allowed_lines * words, request->allowed,
           words * sizeof *request->allowed);
    return batch->allowed_lines++;
}

static bool is_allowed(const struct request *request, int32_t token)
{
    return request->allowed == NULL || (request->allowed[token / 32] >> (token % 32) & 1) != 0;
}

bool step_batch_can_choose(const struct step_batch_limits *limits, const struct request *request)
{
    struct token_bias biases[SEQUENCE_BIASES_MAX];
    int32_t bias_count = collect_biases(biases, limits, &request->params);
    int32_t banned = 0; /* of the allowed ones */
    for (int32_t i = 0; i < bias_count; i++) {
        int32_t token = biases[i].token;
        banned += isinf(biases[i].bias) && token != limits->mask_token &&
                  token < limits->token_limit && is_allowed(request, token);
    }
    int32_t allowed = 0;
    for (int32_t token = 0; token < limits->token_limit && allowed <= banned; token++)
        allowed += token != limits->mask_token && is_allowed(request, token);
    return allowed > banned;
}

/* A head row without its position and hidden lines: what all masks of a sequence have in common. */
static struct head_row add_common(struct step_batch *batch, const struct sequence *sequence)
{
    const struct request *request = sequence->request;
    const struct decode_params *params = &request->params;
    int32_t counts_begin = batch->count_count, biases_begin = batch->bias_count;
    add_counts(batch, sequence);
    batch->bias_count += collect_biases(batch->biases + biases_begin, &batch->limits, params);
    return (struct head_row){
        .partner = -1,
        .guidance = params->cfg_scale,
        .given = -1,
        .temperature = params->temperature,
        .top_k = params->top_k,
        .top_p = params->top_p,
        .min_p = params->min_p,
        .seed = params->seed,
        .round = (uint32_t)sequence->rounds_done + 1,
        .presence_penalty = params->presence_penalty,
        .frequency_penalty = params->frequency_penalty,
        .repetition_penalty = params->repetition_penalty,
        .counts_begin = counts_begin,
        .counts_end = batch->count_count,
        .biases_begin = biases_begin,
        .biases_end = batch->bias_count,
        .allowed = add_allowed(batch, request),
        /* A token that would complete a banned word is replaced by the next one. */
        .top = params->banned_word_count > 0 ? HEAD_TOP_MAX : 0,
        .raw_top = params->top_logprobs,
    };
}

/* ---- one sequence ---------------------------------------------------------------------------- */

void step_batch_add(struct step_batch *batch, struct sequence *sequence, int32_t slot,
                    int32_t partner_line)
{
    assert(sequence_rows(sequence) <= batch->limits.max_rows - batch->rows);
    const struct canvas *canvas = &sequence->canvas;
    bool guided = sequence_is_guided(sequence);
    int32_t origin = add_window(batch, sequence, slot);
    int32_t partner_origin = guided ? add_partner_window(batch, sequence, partner_line) : 0;
    int32_t shift = sequence_partner_shift(sequence);

    const struct head_row common = add_common(batch, sequence);
    sequence->head_begin = batch->head_rows;
    for (int32_t i = sequence->region.begin; i < sequence->region.end; i++) {
        if (canvas->tokens[i] != canvas->mask_token)
            continue;
        struct head_row *head = &batch->head[batch->head_rows++];
        *head = common;
        head->position = (uint32_t)i;
        head->hidden = add_gather(batch, origin + i);
        if (guided)
            head->partner = add_gather(batch, partner_origin + i + shift);
    }
    sequence->head_end = batch->head_rows;
}

struct step_rows step_batch_rows(const struct step_batch *batch, const int32_t *page_table,
                                 int32_t page_table_stride)
{
    return (struct step_rows){
        .rows = batch->rows,
        .token = batch->token,
        .sequence = batch->line,
        .position = batch->position,
        .kv_end = batch->kv_end,
        .shadow = batch->shadow,
        .page_table_stride = page_table_stride,
        .page_table = page_table,
        .gathered = batch->gathered,
        .gather = batch->gather,
    };
}

struct head_batch step_batch_head(const struct step_batch *batch)
{
    return (struct head_batch){
        .rows = batch->head_rows,
        .row = batch->head,
        .counts = batch->counts,
        .biases = batch->biases,
        .allowed = batch->allowed,
        .mask_token = batch->limits.mask_token,
        .token_limit = batch->limits.token_limit,
    };
}

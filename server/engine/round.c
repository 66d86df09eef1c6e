#include "server/engine/round.h"

#include <assert.h>
#include <math.h>

#include "common/error.h"
#include "server/engine/banned_words.h"
#include "server/engine/next_choice.h"

static struct word_check word_check_of(const struct sequence *sequence,
                                       const struct round_context *context)
{
    return (struct word_check){&sequence->request->params, context->token_text, context->text};
}

static bool has_banned_words(const struct sequence *sequence)
{
    return sequence->request->params.banned_word_count > 0;
}

static void commit(struct sequence *sequence, const struct round_context *context,
                   const struct candidate *candidate)
{
    struct canvas *canvas = &sequence->canvas;
    size_t tops = (size_t)candidate->row * HEAD_RAW_TOP_MAX;
    canvas_commit(canvas, candidate->position, candidate->token, candidate->confidence,
                  candidate->raw_logprob);
    canvas_set_tops(canvas, candidate->position, context->result->raw_top_token + tops,
                    context->result->raw_top_logprob + tops);
}

/* ---- banned words ---------------------------------------------------------------------------- */

static bool would_complete(const struct sequence *sequence, const struct round_context *context,
                           int32_t position, int32_t token)
{
    const struct word_check check = word_check_of(sequence, context);
    return banned_words_would_complete(&check, &sequence->canvas, position, token);
}

/* Replaces a token that would complete a banned word now; false when the row has no other. */
static bool evade_banned_words(const struct sequence *sequence, const struct round_context *context,
                               struct candidate *candidate)
{
    if (!would_complete(sequence, context, candidate->position, candidate->token))
        return true;
    struct next_choice choice;
    next_choice_begin(&choice, context->batch, context->result, candidate->row);
    do {
        next_choice_refuse(&choice);
        if (choice.token < 0)
            return false;
    } while (would_complete(sequence, context, candidate->position, choice.token));
    candidate->token = choice.token;
    candidate->confidence = (float)choice.confidence;
    candidate->raw_logprob = next_choice_raw_logprob(&choice);
    return true;
}

static bool row_bans(const struct round_context *context, int32_t index, int32_t token)
{
    const struct head_row *row = &context->batch->row[index];
    for (int32_t i = row->biases_begin; i < row->biases_end; i++) {
        const struct token_bias *bias = &context->batch->biases[i];
        if (bias->token == token && isinf(bias->bias))
            return true;
    }
    return false;
}

static bool fits(const struct sequence *sequence, const struct round_context *context,
                 const struct candidate *candidate, int32_t token)
{
    const uint32_t *allowed = sequence->request->allowed;
    return token != sequence->canvas.mask_token &&
           (allowed == NULL || (allowed[token / 32] >> (token % 32) & 1) != 0) &&
           !would_complete(sequence, context, candidate->position, token) &&
           !row_bans(context, candidate->row, token);
}

/* What OpenAI's API says of a token that is too improbable to have a number. */
static const float VERY_UNLIKELY = -9999;

/* A token for a position whose whole top list is refused; -1 when none fits. */
static int32_t find_any_token(const struct sequence *sequence, const struct round_context *context,
                              const struct candidate *candidate)
{
    const struct decode_params *params = &sequence->request->params;
    for (int32_t token = 0; token < context->batch->token_limit; token++) {
        if (context->token_text[token].length > 0 && fits(sequence, context, candidate, token))
            return token;
    }
    for (int32_t i = 0; i < params->stop_token_count; i++) {
        int32_t token = params->stop_tokens[i];
        if (token < context->batch->token_limit && fits(sequence, context, candidate, token))
            return token;
    }
    return -1;
}

/* Commits a candidate with a token that completes nothing, whatever it takes. */
static int commit_surely(struct sequence *sequence, const struct round_context *context,
                         struct candidate *candidate, struct error *err)
{
    if (!evade_banned_words(sequence, context, candidate)) {
        int32_t token = find_any_token(sequence, context, candidate);
        if (token < 0)
            return error_set(err, ERROR_INVALID,
                             "answer position %d has no token that would not complete a banned "
                             "word: ban fewer words, or allow more tokens",
                             candidate->position - sequence->canvas.prompt_length);
        candidate->token = token;
        candidate->confidence = 0;
        candidate->raw_logprob = VERY_UNLIKELY;
    }
    commit(sequence, context, candidate);
    return 0;
}

/* ---- one round ------------------------------------------------------------------------------- */

/* What the head proposes for every mask of the region, in rising position; false when it proposes
 * nothing somewhere. */
static bool collect_candidates(const struct sequence *sequence, const struct round_context *context)
{
    const struct canvas *canvas = &sequence->canvas;
    int32_t row = sequence->head_begin;
    for (int32_t i = sequence->region.begin; i < sequence->region.end; i++) {
        if (canvas->tokens[i] != canvas->mask_token)
            continue;
        const struct head_statistics *statistics = &context->result->row[row];
        if (statistics->token < 0 || !isfinite(statistics->logprob))
            return false;
        context->candidates[row - sequence->head_begin] = (struct candidate){
            .position = i,
            .token = statistics->token,
            .confidence = (float)exp((double)statistics->logprob),
            .raw_logprob = statistics->raw_logprob,
            .row = row,
        };
        row++;
    }
    assert(row == sequence->head_end);
    return true;
}

/* Leaves out the candidates that would complete a banned word; returns how many are left. */
static int32_t drop_refused(const struct sequence *sequence, const struct round_context *context,
                            int32_t count)
{
    int32_t kept = 0;
    for (int32_t i = 0; i < count; i++) {
        struct candidate candidate = context->candidates[i];
        if (evade_banned_words(sequence, context, &candidate))
            context->candidates[kept++] = candidate;
    }
    return kept;
}

static void select_and_commit(struct sequence *sequence, const struct round_context *context,
                              int32_t count, int32_t withheld)
{
    const struct decode_params *params = &sequence->request->params;
    struct candidate *candidates = context->candidates;
    const struct selection_rule rule = {
        .selection = params->selection,
        .threshold = params->threshold,
        .factor = params->factor,
        .rounds_left = sequence->region.rounds - sequence->region_rounds_done,
        .withheld = withheld,
        .seed = params->seed,
        .round = sequence->rounds_done + 1,
    };
    for (int32_t i = 0; params->confidence_eos_eot_inf && i < count; i++)
        candidates[i].last = decode_is_stop_token(params, candidates[i].token);
    int32_t commits = policy_select(candidates, count, &rule);
    for (int32_t i = 0; i < commits; i++) {
        /* Together with what this round has committed already. */
        if (has_banned_words(sequence) &&
            would_complete(sequence, context, candidates[i].position, candidates[i].token))
            continue;
        commit(sequence, context, &candidates[i]);
    }
}

static int commit_without_banned_words(struct sequence *sequence,
                                       const struct round_context *context, int32_t count,
                                       struct error *err)
{
    bool last_round = sequence->region.rounds - sequence->region_rounds_done == 1;
    struct candidate first = context->candidates[0];
    int32_t kept = last_round ? 0 : drop_refused(sequence, context, count);
    if (kept > 0) {
        select_and_commit(sequence, context, kept, count - kept);
        return 0;
    }
    if (!last_round) /* one position, so that the round gets on */
        return commit_surely(sequence, context, &first, err);
    int rc = 0;
    for (int32_t i = 0; rc == 0 && i < count; i++)
        rc = commit_surely(sequence, context, &context->candidates[i], err);
    return rc;
}

int round_finish(struct sequence *sequence, enum finish *finish,
                 const struct round_context *context, int64_t now_us, struct error *err)
{
    int32_t count = sequence->head_end - sequence->head_begin;
    if (!collect_candidates(sequence, context))
        return error_set(err, ERROR_INTERNAL,
                         "the model proposes no token in round %d: its logits are not finite; "
                         "check the checkpoint's files",
                         sequence->rounds_done + 1);
    if (has_banned_words(sequence)) {
        int rc = commit_without_banned_words(sequence, context, count, err);
        if (rc != 0)
            return rc;
    } else {
        select_and_commit(sequence, context, count, 0);
    }
    *finish = sequence_end_round(sequence, now_us);
    return 0;
}

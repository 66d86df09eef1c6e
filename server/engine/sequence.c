#include "server/engine/sequence.h"

#include <assert.h>
#include <math.h>

#include "common/error.h"

void sequence_begin(struct sequence *sequence, struct request *request, int32_t choice,
                    int32_t mask_token, int64_t now_us)
{
    struct canvas canvas = sequence->canvas;
    const struct decode_params *params = &request->params;
    canvas_begin(&canvas, request->prompt, request->prompt_length, params->max_tokens, mask_token);
    canvas.answer.admitted_us = now_us;
    *sequence = (struct sequence){
        .request = request,
        .choice = choice,
        .seed = params->seed + (uint64_t)choice,
        .canvas = canvas,
    };
}

bool sequence_is_guided(const struct sequence *sequence)
{
    return sequence->request->params.cfg_scale > 0;
}

int32_t sequence_rows(const struct sequence *sequence)
{
    int32_t positions = sequence->window.end - sequence->window.begin;
    return sequence_is_guided(sequence) ? 2 * positions : positions;
}

/* Rounds that the step budget leaves. A round commits at least one token, so it never runs out. */
static int32_t rounds_left(const struct sequence *sequence)
{
    int32_t steps = sequence->request->params.steps;
    return steps > 0 ? steps - sequence->rounds_done : POLICY_NO_BUDGET;
}

static bool region_is_done(const struct sequence *sequence)
{
    const struct canvas *canvas = &sequence->canvas;
    for (int32_t i = sequence->region.begin; i < sequence->region.end; i++) {
        if (canvas->tokens[i] == canvas->mask_token)
            return false;
    }
    return true;
}

void sequence_plan_round(struct sequence *sequence)
{
    const struct canvas *canvas = &sequence->canvas;
    const struct decode_params *params = &sequence->request->params;
    if (region_is_done(sequence)) {
        sequence->region =
            policy_plan_region(canvas->tokens, canvas->prompt_length, canvas->length,
                               canvas->mask_token, params->block_length, rounds_left(sequence));
        sequence->region_rounds_done = 0;
    }
    sequence->window = policy_window(params->cache, params->refresh_interval, &sequence->region,
                                     sequence->region_rounds_done, canvas->length);
}

/* What the head proposes for every mask of the region; false when it proposes nothing somewhere. */
static bool collect_candidates(const struct sequence *sequence, struct candidate *candidates,
                               const struct head_statistics *statistics)
{
    const struct canvas *canvas = &sequence->canvas;
    int32_t count = 0;
    for (int32_t i = sequence->region.begin; i < sequence->region.end; i++) {
        if (canvas->tokens[i] != canvas->mask_token)
            continue;
        const struct head_statistics *row = &statistics[count];
        if (row->token < 0 || !isfinite(row->logprob))
            return false;
        candidates[count++] = (struct candidate){
            .position = i,
            .token = row->token,
            .confidence = (float)exp((double)row->logprob),
            .raw_logprob = row->raw_logprob,
        };
    }
    assert(count == sequence->head_end - sequence->head_begin);
    return true;
}

/* What the draft says about the round that just ended. */
static void describe_round(struct sequence *sequence, int64_t now_us)
{
    struct draft *answer = &sequence->canvas.answer;
    int32_t prompt_length = sequence->canvas.prompt_length;
    int32_t left = answer->masked;
    if (left > rounds_left(sequence))
        left = rounds_left(sequence);
    answer->round = sequence->rounds_done;
    answer->of = sequence->rounds_done + left;
    answer->block_begin = sequence->region.begin - prompt_length;
    answer->block_end = sequence->region.end - prompt_length;
    answer->forward_passes++;
    answer->updated_us = now_us;
}

static enum finish find_finish(const struct sequence *sequence)
{
    const struct draft *answer = &sequence->canvas.answer;
    bool stopped = answer->text_tokens < answer->settled;
    if (stopped && (answer->masked == 0 || sequence->request->params.eos_early_stop))
        return FINISH_STOP;
    return answer->masked == 0 ? FINISH_LENGTH : FINISH_NONE;
}

int sequence_finish_round(struct sequence *sequence, enum finish *finish,
                          const struct head_statistics *statistics, struct candidate *scratch,
                          int64_t now_us, struct error *err)
{
    const struct decode_params *params = &sequence->request->params;
    if (!collect_candidates(sequence, scratch, statistics))
        return error_set(err, ERROR_INVALID,
                         "the model proposes no token in round %d: its logits are not finite; "
                         "check the checkpoint's files",
                         sequence->rounds_done + 1);
    const struct selection_rule rule = {
        .selection = params->selection,
        .threshold = params->threshold,
        .factor = params->factor,
        .rounds_left = sequence->region.rounds - sequence->region_rounds_done,
        .seed = sequence->seed,
        .round = sequence->rounds_done + 1,
    };
    int32_t commits = policy_select(scratch, sequence->head_end - sequence->head_begin, &rule);
    for (int32_t i = 0; i < commits; i++)
        canvas_commit(&sequence->canvas, scratch[i].position, scratch[i].token,
                      scratch[i].confidence, scratch[i].raw_logprob);
    sequence->rounds_done++;
    sequence->region_rounds_done++;
    canvas_settle(&sequence->canvas, params->stop_tokens, params->stop_token_count);
    describe_round(sequence, now_us);
    *finish = find_finish(sequence);
    sequence->canvas.answer.finish = *finish;
    return 0;
}

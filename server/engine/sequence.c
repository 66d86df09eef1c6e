#include "server/engine/sequence.h"

#include <stddef.h>

void sequence_begin(struct sequence *sequence, struct request *request, int32_t mask_token,
                    int64_t now_us)
{
    struct canvas canvas = sequence->canvas;
    const struct decode_params *params = &request->params;
    canvas_begin(&canvas, request->prompt, request->prompt_length, params->max_tokens, mask_token);
    canvas.answer.admitted_us = now_us;
    canvas_keep_tops(&canvas, params->top_logprobs);
    *sequence = (struct sequence){.request = request, .canvas = canvas};
}

bool sequence_is_guided(const struct sequence *sequence)
{
    return sequence->request->params.cfg_scale > 0;
}

int32_t sequence_rows(const struct sequence *sequence)
{
    int32_t rows = sequence->window.end - sequence->window.begin;
    if (sequence_is_guided(sequence)) {
        const struct window partner = sequence_partner_window(sequence);
        rows += partner.end - partner.begin;
    }
    return rows;
}

int32_t sequence_partner_shift(const struct sequence *sequence)
{
    const struct decode_params *params = &sequence->request->params;
    if (params->negative_prompt == NULL)
        return 0;
    return params->negative_prompt_length - sequence->canvas.prompt_length;
}

struct window sequence_partner_window(const struct sequence *sequence)
{
    int32_t shift = sequence_partner_shift(sequence);
    /* A window begins at 0 or in the answer: a prompt has at least one token. */
    int32_t begin = sequence->window.begin;
    return (struct window){begin == 0 ? 0 : begin + shift, sequence->window.end + shift};
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

enum finish sequence_end_round(struct sequence *sequence, int64_t now_us)
{
    sequence->rounds_done++;
    sequence->region_rounds_done++;
    canvas_settle(&sequence->canvas, &sequence->request->params);
    describe_round(sequence, now_us);
    return sequence->canvas.answer.finish = find_finish(sequence);
}

#include "server/engine/canvas.h"

#include <assert.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"

int canvas_create(struct canvas *canvas, int32_t limit, struct error *err)
{
    size_t count = (size_t)limit;
    *canvas = (struct canvas){.limit = limit};
    canvas->tokens = calloc(count, sizeof *canvas->tokens);
    canvas->answer.confidence = calloc(count, sizeof *canvas->answer.confidence);
    canvas->answer.raw_logprob = calloc(count, sizeof *canvas->answer.raw_logprob);
    canvas->top_token = malloc(count * HEAD_RAW_TOP_MAX * sizeof *canvas->top_token);
    canvas->top_logprob = malloc(count * HEAD_RAW_TOP_MAX * sizeof *canvas->top_logprob);
    if (canvas->tokens != NULL && canvas->answer.confidence != NULL &&
        canvas->answer.raw_logprob != NULL && canvas->top_token != NULL &&
        canvas->top_logprob != NULL)
        return 0;
    canvas_free(canvas);
    return error_set(err, ERROR_MEMORY,
                     "out of memory for a canvas of %d positions: lower max_sequences", limit);
}

void canvas_free(struct canvas *canvas)
{
    free(canvas->tokens);
    free(canvas->answer.confidence);
    free(canvas->answer.raw_logprob);
    free(canvas->top_token);
    free(canvas->top_logprob);
    *canvas = (struct canvas){0};
}

void canvas_begin(struct canvas *canvas, const int32_t *prompt, int32_t prompt_length,
                  int32_t max_tokens, int32_t mask_token)
{
    assert(max_tokens <= canvas->limit && prompt_length <= canvas->limit - max_tokens);
    canvas->prompt_length = prompt_length;
    canvas->length = prompt_length + max_tokens;
    canvas->mask_token = mask_token;
    memcpy(canvas->tokens, prompt, (size_t)prompt_length * sizeof *prompt);
    for (int32_t i = prompt_length; i < canvas->length; i++)
        canvas->tokens[i] = mask_token;

    size_t count = (size_t)max_tokens;
    float *confidence = canvas->answer.confidence;
    float *raw_logprob = canvas->answer.raw_logprob;
    memset(confidence, 0, count * sizeof *confidence);
    memset(raw_logprob, 0, count * sizeof *raw_logprob);
    canvas->answer = (struct draft){
        .length = max_tokens,
        .tokens = canvas->tokens + prompt_length,
        .confidence = confidence,
        .raw_logprob = raw_logprob,
        .of = -1,
        .masked = max_tokens,
    };
}

void canvas_keep_tops(struct canvas *canvas, int32_t top_count)
{
    struct draft *answer = &canvas->answer;
    assert(top_count >= 0 && top_count <= HEAD_RAW_TOP_MAX);
    answer->top_count = top_count;
    answer->top_token = canvas->top_token;
    answer->top_logprob = canvas->top_logprob;
    for (int64_t i = 0; i < (int64_t)answer->length * top_count; i++) {
        answer->top_token[i] = -1;
        answer->top_logprob[i] = -INFINITY;
    }
}

void canvas_commit(struct canvas *canvas, int32_t position, int32_t token, float confidence,
                   float raw_logprob)
{
    int32_t index = position - canvas->prompt_length;
    struct draft *answer = &canvas->answer;
    assert(index >= 0 && index < answer->length && answer->tokens[index] == canvas->mask_token);
    answer->tokens[index] = token;
    answer->confidence[index] = confidence;
    answer->raw_logprob[index] = raw_logprob;
    answer->masked--;
}

void canvas_set_tops(struct canvas *canvas, int32_t position, const int32_t *top_token,
                     const float *top_logprob)
{
    struct draft *answer = &canvas->answer;
    size_t count = (size_t)answer->top_count;
    size_t begin = (size_t)(position - canvas->prompt_length) * count;
    memcpy(answer->top_token + begin, top_token, count * sizeof *top_token);
    memcpy(answer->top_logprob + begin, top_logprob, count * sizeof *top_logprob);
}

void canvas_settle(struct canvas *canvas, const struct decode_params *params)
{
    struct draft *answer = &canvas->answer;
    /* The text grows with the settled prefix until a stop id is met; then it stays behind. */
    bool ended = answer->text_tokens < answer->settled;
    while (answer->settled < answer->length &&
           answer->tokens[answer->settled] != canvas->mask_token) {
        ended = ended || decode_is_stop_token(params, answer->tokens[answer->settled]);
        answer->settled++;
        answer->text_tokens += !ended;
    }
}

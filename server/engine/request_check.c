/* What a request must be so that it can run at all; on the submitter's thread. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "common/error.h"
#include "server/engine/banned_words.h"
#include "server/engine/engine_internal.h"

/* ---- size ------------------------------------------------------------------------------------ */

static int check_length(const struct engine *engine, const char *what, int32_t prompt_length,
                        int32_t max_tokens, struct error *err)
{
    int64_t length = (int64_t)prompt_length + max_tokens;
    int32_t context = engine->model->config.max_positions;
    if (length <= context)
        return 0;
    return error_set(err, ERROR_INVALID,
                     "the canvas has %lld positions (%s %d + max_tokens %d), the context %d: "
                     "shorten the %s or lower max_tokens",
                     (long long)length, what, prompt_length, max_tokens, context, what);
}

static int64_t pages_of(int64_t length, int64_t partner)
{
    return (int64_t)kv_pages_needed(length) + kv_pages_needed(partner);
}

static int check_canvas(const struct engine *engine, const struct request *request,
                        struct error *err)
{
    const struct decode_params *params = &request->params;
    int64_t length = request_canvas_length(request), partner = request_partner_length(request);
    int rc = check_length(engine, "prompt", request->prompt_length, params->max_tokens, err);
    if (rc == 0 && partner > 0 && params->negative_prompt != NULL)
        rc = check_length(engine, "negative prompt", params->negative_prompt_length,
                          params->max_tokens, err);
    if (rc != 0)
        return rc;

    char guided[64] = "";
    if (partner > 0)
        snprintf(guided, sizeof guided, " and its guidance partner of %lld", (long long)partner);
    const char *need = partner > 0 ? "need" : "needs";
    int64_t pages = pages_of(length, partner);
    if (pages > engine->kv_pages)
        return error_set(err, ERROR_INVALID,
                         "the canvas of %lld positions%s %s %lld KV pages, the pool has %d: "
                         "shorten the prompt, lower max_tokens, or have kv_cache_tokens raised",
                         (long long)length, guided, need, (long long)pages, engine->kv_pages);
    int64_t rows = length + partner;
    if (rows > engine->options.max_rows_per_tick)
        return error_set(err, ERROR_INVALID,
                         "the canvas of %lld positions%s %s %lld rows, a tick has %d: shorten "
                         "the prompt, lower max_tokens, or have max_rows_per_tick raised",
                         (long long)length, guided, need, (long long)rows,
                         engine->options.max_rows_per_tick);
    return 0;
}

int32_t engine_answer_limit(const struct engine *engine, int32_t prompt_length,
                            int32_t partner_prompt_length)
{
    int32_t context = engine->model->config.max_positions;
    int32_t longest = prompt_length > partner_prompt_length ? prompt_length : partner_prompt_length;
    int32_t low = 0, high = longest < context ? context - longest : 0; /* low fits, or is 0 */
    while (low < high) {
        int32_t middle = low + (high - low + 1) / 2;
        int64_t length = (int64_t)prompt_length + middle;
        int64_t partner = partner_prompt_length < 0 ? 0 : (int64_t)partner_prompt_length + middle;
        bool fits = pages_of(length, partner) <= engine->kv_pages &&
                    length + partner <= engine->options.max_rows_per_tick;
        low = fits ? middle : low;
        high = fits ? high : middle - 1;
    }
    return low;
}

/* ---- parameters ------------------------------------------------------------------------------ */

static int check_count(const char *what, int32_t count, int32_t limit, struct error *err)
{
    if (count >= 0 && count <= limit)
        return 0;
    return error_set(err, ERROR_INVALID, "%d %s were given, at most %d are possible: give fewer",
                     count, what, limit);
}

static int check_token(const struct engine *engine, const char *what, int32_t token,
                       struct error *err)
{
    int32_t rows = engine->model->config.embedding_rows;
    if (token >= 0 && token < rows)
        return 0;
    return error_set(err, ERROR_INVALID, "%s name token %d, the model has the tokens 0 to %d", what,
                     token, rows - 1);
}

static int check_penalties(const struct engine *engine, const struct request *request,
                           struct error *err)
{
    (void)engine;
    const struct decode_params *params = &request->params;
    if (isfinite(params->presence_penalty) && isfinite(params->frequency_penalty) &&
        isfinite(params->repetition_penalty) && params->repetition_penalty > 0)
        return 0;
    return error_set(err, ERROR_INVALID,
                     "presence_penalty %g, frequency_penalty %g, repetition_penalty %g: the first "
                     "two must be numbers, the third a number over 0",
                     (double)params->presence_penalty, (double)params->frequency_penalty,
                     (double)params->repetition_penalty);
}

static int check_stop_tokens(const struct engine *engine, const struct request *request,
                             struct error *err)
{
    const struct decode_params *params = &request->params;
    int rc = check_count("stop ids", params->stop_token_count, DECODE_STOP_TOKENS_MAX, err);
    for (int32_t i = 0; rc == 0 && i < params->stop_token_count; i++)
        rc = check_token(engine, "stop ids", params->stop_tokens[i], err);
    return rc;
}

static int check_biases(const struct engine *engine, const struct request *request,
                        struct error *err)
{
    const struct decode_params *params = &request->params;
    int rc = check_count("biases", params->bias_count, DECODE_BIASES_MAX, err);
    for (int32_t i = 0; rc == 0 && i < params->bias_count; i++) {
        const struct token_bias *bias = &params->biases[i];
        rc = check_token(engine, "biases", bias->token, err);
        if (rc == 0 && (isnan(bias->bias) || (isinf(bias->bias) && bias->bias > 0)))
            rc = error_set(err, ERROR_INVALID,
                           "the bias of token %d is %g: it must be a number or -infinity",
                           bias->token, (double)bias->bias);
        for (int32_t k = 0; rc == 0 && k < i; k++) {
            if (params->biases[k].token == bias->token)
                rc =
                    error_set(err, ERROR_INVALID, "token %d has two biases: give one", bias->token);
        }
    }
    return rc;
}

static int check_banned_words(const struct engine *engine, const struct request *request,
                              struct error *err)
{
    const struct decode_params *params = &request->params;
    int rc = check_count("banned words", params->banned_word_count, DECODE_BANNED_WORDS_MAX, err);
    if (rc == 0 && params->banned_word_count > 0 && engine->options.token_text == NULL)
        rc = error_set(err, ERROR_UNSUPPORTED,
                       "banned words need the text of tokens, which this engine does not know");
    for (int32_t i = 0; rc == 0 && i < params->banned_word_count; i++) {
        int32_t length = params->banned_words[i].length;
        if (length < 1 || length > BANNED_WORD_BYTES_MAX)
            rc = error_set(err, ERROR_INVALID,
                           "banned word %d has %d bytes: it must have between 1 and %d", i, length,
                           BANNED_WORD_BYTES_MAX);
    }
    return rc;
}

int request_check(const struct engine *engine, struct request *request, struct error *err)
{
    static const struct {
        int (*check)(const struct engine *engine, const struct request *request, struct error *err);
        enum request_fault fault;
    } checks[] = {
        {check_canvas, REQUEST_FAULT_LENGTH},
        {check_penalties, REQUEST_FAULT_PENALTIES},
        {check_stop_tokens, REQUEST_FAULT_STOP_TOKENS},
        {check_biases, REQUEST_FAULT_BIASES},
        {check_banned_words, REQUEST_FAULT_BANNED_WORDS},
    };
    if (request->first != NULL)
        return 0; /* what holds of that one holds of this one */
    for (size_t i = 0; i < sizeof checks / sizeof checks[0]; i++) {
        int rc = checks[i].check(engine, request, err);
        if (rc != 0) {
            request->fault = checks[i].fault;
            return rc;
        }
    }
    return 0;
}

/* ---- what may be chosen ---------------------------------------------------------------------- */

/* The allowed set without the tokens that hold a banned word themselves. */
static int exclude_banned_words(const struct engine *engine, struct request *request,
                                struct error *err)
{
    const struct decode_params *params = &request->params;
    size_t words = decode_allowed_words(engine->model->config.embedding_rows);
    uint32_t *allowed = arena_alloc(&request->arena, words * sizeof *allowed);
    if (allowed == NULL)
        return error_set(err, ERROR_MEMORY,
                         "out of memory for the tokens that banned words leave: try again later");
    if (params->allowed != NULL)
        memcpy(allowed, params->allowed, words * sizeof *allowed);
    else
        memset(allowed, 0xFF, words * sizeof *allowed);
    banned_words_exclude_tokens(allowed, params, engine->options.token_text,
                                engine->batch.limits.token_limit);
    request->allowed = allowed;
    return 0;
}

int request_prepare(const struct engine *engine, struct request *request, struct error *err)
{
    if (request->first != NULL) {
        request->allowed = request->first->allowed;
        return 0;
    }
    request->allowed = request->params.allowed;
    int rc = 0;
    if (request->params.banned_word_count > 0)
        rc = exclude_banned_words(engine, request, err);
    if (rc != 0 || step_batch_can_choose(&engine->batch.limits, request))
        return rc;
    request->fault = REQUEST_FAULT_NO_TOKEN;
    return error_set(err, ERROR_INVALID,
                     "the biases, allowed tokens and banned words leave no token that could be "
                     "chosen: allow more");
}

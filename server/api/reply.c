#include "server/api/reply.h"

#include <math.h>
#include <string.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/log.h"
#include "common/utf8.h"
#include "server/api/json_writer.h"

void reply_set_rules(struct reply *reply)
{
    const struct api_parameters *parameters = &reply->parameters;
    reply->rules = (struct answer_rules){
        .tokenizer = reply->api->tokenizer,
        .mask_token = reply->api->config.mask_token,
        .stop_tokens = parameters->decode.stop_tokens,
        .stop_token_count = parameters->decode.stop_token_count,
        .stops = parameters->stops,
        .stop_count = parameters->stop_count,
        .mask_text = parameters->mask_text,
        .mask_length = parameters->mask_length,
    };
}

int reply_create_choices(struct reply *reply, int32_t count, struct arena *arena)
{
    reply->choices = arena_alloc(arena, (size_t)count * sizeof *reply->choices);
    reply->choice_count = reply->choices ? count : 0;
    return reply->choices ? 0 : ERROR_MEMORY;
}

int choice_open(struct reply *reply, int32_t index, struct stream *stream,
                const struct decode_params *params, const int32_t *prompt, int32_t prompt_length,
                struct arena *arena)
{
    struct choice *choice = &reply->choices[index];
    *choice = (struct choice){.index = index,
                              .stream = stream,
                              .params = params,
                              .prompt = prompt,
                              .prompt_length = prompt_length};
    int32_t mask_token = reply->api->config.mask_token;
    int code = draft_create(&choice->draft, arena, params->max_tokens, params->top_logprobs,
                            mask_token, NULL);
    if (!code && reply->parameters.stream && reply->parameters.diffusing) {
        size_t size = (size_t)params->max_tokens * sizeof *choice->delivered;
        choice->delivered = arena_alloc(arena, size);
        if (!choice->delivered) {
            return ERROR_MEMORY;
        }
        memcpy(choice->delivered, choice->draft.tokens, size); /* all masked */
    }
    return code;
}

void reply_free(struct reply *reply)
{
    buffer_free(&reply->text.bytes);
    buffer_free(&reply->scratch);
}

static bool draft_complete(const struct draft *draft)
{
    return draft->finish == FINISH_STOP || draft->finish == FINISH_LENGTH;
}

static bool was_cancelled(const struct reply *reply, const struct choice *choice)
{
    return choice->draft.finish == FINISH_CANCELLED && atomic_load(&reply->cancelled);
}

void choice_read_text(struct reply *reply, const struct choice *choice)
{
    const struct draft *draft = &choice->draft;
    bool full = draft_complete(draft);
    answer_text_read(&reply->text, &reply->rules, draft->tokens,
                     full ? draft->length : draft->settled,
                     full                           ? ANSWER_LENGTH
                     : was_cancelled(reply, choice) ? ANSWER_CANCELLED
                                                    : ANSWER_OPEN);
}

bool choice_refresh(struct reply *reply, struct choice *choice)
{
    if (choice->done) {
        return false;
    }
    uint64_t version = stream_read(choice->stream, &choice->draft);
    if (version == choice->version) {
        return false;
    }
    choice->version = version;
    choice_read_text(reply, choice);
    choice->tokens = reply->text.tokens;
    choice->ended = reply->text.ended;
    /* Who wants the whole canvas waits for it even when a stop string has ended the text. */
    choice->done = choice->draft.finish != FINISH_NONE ||
                   (choice->ended == ANSWER_STOP_STRING && choice->params->eos_early_stop);
    return true;
}

const char *choice_finish_reason(const struct choice *choice)
{
    bool stopped = choice->ended == ANSWER_STOP_TOKEN || choice->ended == ANSWER_STOP_STRING;
    return stopped ? "stop" : "length";
}

bool choice_failed(const struct reply *reply, const struct choice *choice)
{
    return choice->draft.finish == FINISH_FAILED ||
           (choice->draft.finish == FINISH_CANCELLED && !was_cancelled(reply, choice));
}

/* What the client is not told. */
static void log_failure(const struct reply *reply, const struct error *cause)
{
    struct buffer message = {0};
    log_append_json_string(&message, cause->message, strlen(cause->message));
    log_line(LOG_ERROR, "request failed", "\"id\":\"%s\",\"cause\":%s", reply->id,
             message.failed ? "null" : message.data);
    buffer_free(&message);
}

void choice_failure(const struct reply *reply, const struct choice *choice, struct api_error *err)
{
    /* Cancelled by no client: the server stops. */
    struct error cause = {.code = ERROR_UNAVAILABLE};
    if (choice->draft.finish == FINISH_FAILED) {
        cause = choice->stream->error; /* written before the draft turned final, never again */
    }
    api_error_from(err, &cause, NULL);
    if (err->status == 500) {
        log_failure(reply, &cause);
    }
}

bool reply_done(const struct reply *reply)
{
    for (int32_t i = 0; i < reply->choice_count; i++) {
        if (!reply->choices[i].done) {
            return false;
        }
    }
    return true;
}

void reply_times(const struct reply *reply, double *queue_ms, double *compute_ms)
{
    int64_t first = INT64_MAX, last_admitted = 0, last = 0;
    for (int32_t i = 0; i < reply->choice_count; i++) {
        const struct draft *draft = &reply->choices[i].draft;
        if (draft->admitted_us == 0) {
            continue;
        }
        first = draft->admitted_us < first ? draft->admitted_us : first;
        last_admitted = draft->admitted_us > last_admitted ? draft->admitted_us : last_admitted;
        last = draft->updated_us > last ? draft->updated_us : last;
    }
    bool began = first != INT64_MAX;
    *queue_ms = began ? fmax(0, (double)(last_admitted - reply->arrival_us) / 1e3) : -1;
    *compute_ms = began ? fmax(0, (double)(last - first) / 1e3) : -1;
}

void reply_append_identity(struct buffer *out, const struct reply *reply, const char *object)
{
    buffer_append_text(out, "\"id\":");
    json_write_text(out, reply->id);
    buffer_append_text(out, ",\"object\":");
    json_write_text(out, object);
    buffer_append_text(out, ",\"created\":");
    json_write_integer(out, reply->created);
    buffer_append_text(out, ",\"model\":");
    json_write_text(out, reply->api->model_name);
    buffer_append_text(out, ",\"system_fingerprint\":");
    json_write_text(out, reply->api->system_fingerprint);
}

static int64_t completion_tokens(const struct reply *reply, int32_t first, int32_t count)
{
    int64_t tokens = 0;
    for (int32_t i = first; i < first + count; i++) {
        tokens += reply->choices[i].tokens;
    }
    return tokens;
}

void reply_append_usage(struct buffer *out, const struct reply *reply)
{
    int64_t completion = completion_tokens(reply, 0, reply->choice_count);
    buffer_append_text(out, "\"usage\":{\"prompt_tokens\":");
    json_write_integer(out, reply->prompt_tokens);
    buffer_append_text(out, ",\"completion_tokens\":");
    json_write_integer(out, completion);
    buffer_append_text(out, ",\"total_tokens\":");
    json_write_integer(out, reply->prompt_tokens + completion);
    buffer_append_text(out, ",\"prompt_tokens_details\":{\"cached_tokens\":0},"
                            "\"completion_tokens_details\":{\"reasoning_tokens\":0}}");
}

/* The finer reason; of several choices with different ones "mixed". */
static const char *finish_details(const struct reply *reply, int32_t first, int32_t count)
{
    static const char *const names[] = {[ANSWER_OPEN] = "open",
                                        [ANSWER_STOP_TOKEN] = "stop_token",
                                        [ANSWER_STOP_STRING] = "stop_string",
                                        [ANSWER_LENGTH] = "length",
                                        [ANSWER_CANCELLED] = "cancelled"};
    enum answer_end ended = reply->choices[first].ended;
    for (int32_t i = first + 1; i < first + count; i++) {
        if (reply->choices[i].ended != ended) {
            return "mixed";
        }
    }
    return names[ended];
}

/* Of the tokens that the texts are made of. */
static void append_confidence(struct buffer *out, const struct reply *reply, int32_t first,
                              int32_t count)
{
    double least = INFINITY, sum = 0;
    for (int32_t i = first; i < first + count; i++) {
        const struct choice *choice = &reply->choices[i];
        for (int32_t position = 0; position < choice->tokens; position++) {
            least = fmin(least, choice->draft.confidence[position]);
            sum += choice->draft.confidence[position];
        }
    }
    int64_t tokens = completion_tokens(reply, first, count);
    buffer_append_text(out, "\"confidence\":{\"min\":");
    json_write_number(out, least, 6); /* no token: null */
    buffer_append_text(out, ",\"mean\":");
    json_write_number(out, tokens ? sum / (double)tokens : NAN, 6);
    buffer_append_text(out, ",\"threshold\":null,\"met\":null}");
}

void reply_append_summary(struct buffer *out, const struct reply *reply, int32_t first,
                          int32_t count)
{
    int32_t rounds = 0;
    int64_t passes = 0, revised = 0, updated_us = reply->arrival_us;
    for (int32_t i = first; i < first + count; i++) {
        const struct draft *draft = &reply->choices[i].draft;
        rounds = draft->round > rounds ? draft->round : rounds;
        passes += draft->forward_passes;
        revised += draft->revised;
        updated_us = draft->updated_us > updated_us ? draft->updated_us : updated_us;
    }
    int64_t tokens = completion_tokens(reply, first, count);
    buffer_append_text(out, "\"rounds\":");
    json_write_integer(out, rounds);
    buffer_append_text(out, ",\"forward_passes\":");
    json_write_integer(out, passes);
    buffer_append_text(out, ",\"revised\":");
    json_write_integer(out, revised);
    buffer_append_text(out, ",\"tokens_per_round\":");
    json_write_number(out, rounds ? (double)tokens / rounds : 0, 3);
    buffer_append_char(out, ',');
    append_confidence(out, reply, first, count);
    buffer_append_text(out, ",\"timeout\":{\"asked_ms\":null,\"used_ms\":");
    json_write_number(out, (double)(updated_us - reply->arrival_us) / 1e3, 1);
    buffer_append_text(out, ",\"met\":null},\"seed\":");
    json_write_integer(out, (int64_t)reply->choices[first].params->seed);
    buffer_append_text(out, ",\"cache\":");
    json_write_text(out, cache_mode_name(reply->choices[first].params->cache));
    buffer_append_text(out, ",\"finish_details\":");
    json_write_text(out, finish_details(reply, first, count));
}

void reply_append_times(struct buffer *out, const struct reply *reply)
{
    double queue_ms, compute_ms;
    reply_times(reply, &queue_ms, &compute_ms);
    if (queue_ms < 0) { /* it was ended while it waited */
        queue_ms = (double)(clock_now_us() - reply->arrival_us) / 1e3;
        compute_ms = 0;
    }
    buffer_append_text(out, "\"queue_ms\":");
    json_write_number(out, queue_ms, 1);
    buffer_append_text(out, ",\"compute_ms\":");
    json_write_number(out, compute_ms, 1);
}

void choice_append_extras(struct buffer *out, const struct reply *reply,
                          const struct choice *choice)
{
    /*
     * With eos_early_stop off the client has asked for the whole canvas: where one was ended before
     * it was full, the rest is masks, which are no part of an answer.
     */
    bool whole = !choice->params->eos_early_stop && choice->draft.masked == 0;
    int32_t count = whole ? choice->draft.length : choice->tokens;
    if (reply->parameters.return_token_ids) {
        buffer_append_text(out, ",\"token_ids\":");
        json_write_tokens(out, choice->draft.tokens, count);
        buffer_append_text(out, ",\"prompt_token_ids\":");
        json_write_tokens(out, choice->prompt, choice->prompt_length);
    }
    if (reply->parameters.return_confidences) {
        buffer_append_text(out, ",\"confidences\":");
        json_write_confidences(out, choice->draft.confidence, count);
    }
}

void choice_append_echo(struct buffer *out, const struct choice *choice)
{
    if (choice->echo_length > 0) {
        utf8_append_repaired(out, choice->echo, choice->echo_length);
    }
}

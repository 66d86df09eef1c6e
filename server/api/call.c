/* A call's life after its preparation: waiting, answer or events, cancelling. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/rng.h"
#include "server/api/call_internal.h"

static const char out_of_memory_body[] =
    "{\"error\":{\"message\":\"the server is out of memory; ask again later\","
    "\"type\":\"server_error\",\"param\":null,\"code\":null}}";

struct api_call *api_call_create(const struct api *api, enum api_endpoint endpoint,
                                 int64_t arrival_us, uint64_t owner)
{
    struct api_call *call = calloc(1, sizeof *call);
    if (!call) {
        return NULL;
    }
    if (pthread_mutex_init(&call->gate, NULL) != 0) {
        free(call);
        return NULL;
    }
    arena_init(&call->arena);
    if (endpoint == API_COMPLETIONS || endpoint == API_CHAT_COMPLETIONS) {
        snprintf(call->id, sizeof call->id, "%s-%014" PRIx64 "%014" PRIx64,
                 endpoint == API_CHAT_COMPLETIONS ? "chatcmpl" : "cmpl", rng_random_seed(),
                 rng_random_seed());
    }
    call->owner = owner;
    atomic_init(&call->reply.cancelled, false);
    call->state = API_STATE_WAITING;
    call->reply.api = api;
    call->reply.endpoint = endpoint;
    call->reply.id = call->id;
    call->reply.created = clock_wall_us() / 1000000;
    call->reply.arrival_us = arrival_us;
    return call;
}

void call_set_answer(struct api_call *call)
{
    call->body = call->output.failed ? out_of_memory_body : call->output.data;
    call->body_length = call->output.failed ? strlen(out_of_memory_body) : call->output.length;
    if (call->output.failed && call->error.status == 0) {
        api_error_out_of_memory(&call->error);
    }
    call->state = API_STATE_ANSWER;
}

void call_set_error_answer(struct api_call *call)
{
    buffer_clear(&call->output);
    api_error_append(&call->output, &call->error);
    call_set_answer(call);
}

/* A choice whose text a stop string has ended needs no more rounds. */
static void end_satisfied_choices(struct api_call *call)
{
    for (int32_t i = 0; call->reply.rules.stop_count > 0 && i < call->reply.choice_count; i++) {
        const struct choice *choice = &call->reply.choices[i];
        if (choice->done && choice->draft.finish == FINISH_NONE) {
            request_end(call->requests[i], REQUEST_SATISFIED);
        }
    }
}

enum api_state api_call_poll(struct api_call *call)
{
    struct reply *reply = &call->reply;
    if (call->state != API_STATE_WAITING || reply->choice_count == 0) {
        return call->state; /* without choices: it was never prepared, its client has gone */
    }
    for (int32_t i = 0; i < reply->choice_count; i++) {
        struct choice *choice = &reply->choices[i];
        choice_refresh(reply, choice);
        if (choice_failed(reply, choice)) {
            choice_failure(reply, choice, &call->error);
            api_call_cancel(call);
            call_set_error_answer(call);
            return call->state;
        }
    }
    end_satisfied_choices(call);
    if (reply_done(reply)) {
        answer_append(&call->output, reply);
        call_set_answer(call);
    }
    return call->state;
}

static void suspend_nothing(void *context)
{
    (void)context;
}

bool api_call_wait(struct api_call *call, void (*suspend)(void *context), void *context)
{
    pthread_mutex_lock(&call->gate);
    call->notified = false;
    pthread_mutex_unlock(&call->gate);
    for (int32_t i = 0; i < call->reply.choice_count; i++) {
        struct choice *choice = &call->reply.choices[i];
        if (!choice->done && !stream_wait(choice->stream, choice->version, suspend_nothing, NULL)) {
            return false;
        }
    }
    pthread_mutex_lock(&call->gate);
    bool suspended = !call->notified;
    if (suspended) {
        call->suspended = true;
        suspend(context);
    }
    pthread_mutex_unlock(&call->gate);
    return suspended;
}

struct api_answer api_call_answer(const struct api_call *call)
{
    struct api_answer answer = {
        .status = call->error.status ? call->error.status : 200,
        .body = call->body,
        .length = call->body_length,
        .retry_after_s = call->error.retry_after_s,
    };
    reply_times(&call->reply, &answer.queue_ms, &answer.compute_ms);
    return answer;
}

ptrdiff_t api_call_read(struct api_call *call, char *out, size_t max)
{
    if (call->output_read == call->output.length) {
        buffer_clear(&call->output);
        call->output_read = 0;
        int state = events_next(&call->reply, &call->output);
        end_satisfied_choices(call);
        if (state < 0 || call->output.failed) {
            call->reply.ended = true;
            api_call_cancel(call);
            buffer_free(&call->output);
            return -1;
        }
    }
    size_t left = call->output.length - call->output_read;
    size_t length = left < max ? left : max;
    if (length > 0) {
        memcpy(out, call->output.data + call->output_read, length);
        call->output_read += length;
    }
    return (ptrdiff_t)length;
}

static void cancel_submitted(struct api_call *call)
{
    for (int32_t i = 0; i < call->submitted; i++) {
        request_cancel(call->requests[i]);
    }
}

void api_call_cancel(struct api_call *call)
{
    pthread_mutex_lock(&call->gate);
    call->cancelled = true;
    cancel_submitted(call);
    pthread_mutex_unlock(&call->gate);
}

void api_call_free(struct api_call *call)
{
    if (!call) {
        return;
    }
    call_registry_remove(call->reply.api->calls, call); /* from here on nobody finds it */
    api_call_cancel(call);
    for (int32_t i = 0; call->requests && i < call->reply.choice_count; i++) {
        if (call->requests[i]) {
            /* Takes the stream's lock: afterwards the engine cannot reach this call. */
            stream_set_wake(&call->requests[i]->stream, NULL, NULL);
            request_release(call->requests[i]);
        }
    }
    reply_free(&call->reply);
    buffer_free(&call->output);
    arena_free(&call->arena);
    pthread_mutex_destroy(&call->gate);
    free(call);
}

struct api_call_summary api_call_summarise(const struct api_call *call)
{
    struct api_call_summary summary = {.id = call->id, .prompt_tokens = call->reply.prompt_tokens};
    for (int32_t i = 0; i < call->reply.choice_count; i++) {
        const struct choice *choice = &call->reply.choices[i];
        summary.completion_tokens += choice->tokens;
        summary.rounds =
            choice->draft.round > summary.rounds ? choice->draft.round : summary.rounds;
    }
    reply_times(&call->reply, &summary.queue_ms, &summary.compute_ms);
    return summary;
}

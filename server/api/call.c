/* One HTTP request's way: body → engine requests → answer or events. */
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <stdio.h>

#include "common/arena.h"
#include "common/clock.h"
#include "common/rng.h"
#include "server/api/api.h"
#include "server/api/api_error.h"
#include "server/api/fields.h"
#include "server/api/parameters.h"
#include "server/api/prompts.h"
#include "server/api/reply.h"
#include "server/engine/request.h"

/* What the engine wakes: one choice of a call. */
struct choice_waker {
    struct api_call *call;
    struct stream *stream;
    bool final_only; /* nobody looks before the choice is final */
};

/*
 * Every choice is an engine request of its own, so that a stop string frees the rows of its choice
 * alone. Each has a stream with a lock of its own; `gate` turns them into one thing to wait for.
 * Lock order: a stream's lock, then the gate.
 */
struct api_call {
    struct reply reply;
    struct arena arena;
    char id[64];
    enum api_state state;
    struct api_error error; /* status 0 while nothing failed */
    struct buffer output;   /* the answer, or the events not read yet */
    size_t output_read;
    const char *body; /* of the answer */
    size_t body_length;

    struct request **requests; /* [reply.choice_count] */
    struct choice_waker *wakers;
    void (*wake)(void *context);
    void *wake_context;

    pthread_mutex_t gate; /* guards what follows */
    bool cancelled;       /* by the client */
    int32_t submitted;    /* requests that cancel has to reach */
    bool notified;        /* something was posted since the reader armed the streams */
    bool suspended;       /* wake has to be called */
};

static const char out_of_memory_body[] =
    "{\"error\":{\"message\":\"the server is out of memory; ask again later\","
    "\"type\":\"server_error\",\"param\":null,\"code\":null}}";

struct api_call *api_call_create(const struct api *api, enum api_endpoint endpoint,
                                 int64_t arrival_us)
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
    snprintf(call->id, sizeof call->id, "%s-%014" PRIx64 "%014" PRIx64,
             endpoint == API_CHAT_COMPLETIONS ? "chatcmpl" : "cmpl", rng_random_seed(),
             rng_random_seed());
    call->state = API_STATE_WAITING;
    call->reply.api = api;
    call->reply.endpoint = endpoint;
    call->reply.id = call->id;
    call->reply.created = clock_wall_us() / 1000000;
    call->reply.arrival_us = arrival_us;
    return call;
}

static void set_answer(struct api_call *call)
{
    call->body = call->output.failed ? out_of_memory_body : call->output.data;
    call->body_length = call->output.failed ? strlen(out_of_memory_body) : call->output.length;
    if (call->output.failed && call->error.status == 0) {
        api_error_out_of_memory(&call->error);
    }
    call->state = API_STATE_ANSWER;
}

static void set_error_answer(struct api_call *call)
{
    buffer_clear(&call->output);
    api_error_append(&call->output, &call->error);
    set_answer(call);
}

static int parse(json_t **out, const char *body, size_t length, struct api_error *err)
{
    json_error_t cause;
    *out = json_loadb(body ? body : "", length, JSON_ALLOW_NUL | JSON_REJECT_DUPLICATES, &cause);
    if (!*out) {
        return api_error_refuse(err, "invalid_json", NULL,
                                "the body is no JSON object: %s (line %d, column %d)", cause.text,
                                cause.line, cause.column);
    }
    if (!json_is_object(*out)) {
        return api_error_refuse(err, "invalid_json", NULL,
                                "the body is an array, but it must be an object (line 1, column "
                                "1)");
    }
    return 0;
}

static int check_model(const struct api *api, const json_t *body, struct api_error *err)
{
    const json_t *asked = fields_get(body, "model");
    const char *model = json_string_value(asked);
    size_t length = strlen(api->model_name);
    if (!asked ||
        (json_string_length(asked) == length && memcmp(model, api->model_name, length) == 0)) {
        return 0;
    }
    int code = api_error_refuse(err, "model_not_found", "model",
                                "the model %.128s is not served here; leave it out or ask for "
                                "%.128s",
                                model, api->model_name);
    err->status = 404;
    return code;
}

/* Called by the engine with the stream's lock held. */
static void wake_call(void *context)
{
    const struct choice_waker *waker = context;
    struct api_call *call = waker->call;
    if (waker->final_only && waker->stream->drafts[0].finish == FINISH_NONE) {
        waker->stream->waiting = true; /* spares the reader a round trip for every round */
        return;
    }
    pthread_mutex_lock(&call->gate);
    call->notified = true;
    if (call->suspended) {
        call->suspended = false;
        call->wake(call->wake_context);
    }
    pthread_mutex_unlock(&call->gate);
}

/* The request of one choice; `offset` is the choice's place among those of its prompt. */
static int create_choice(struct api_call *call, int32_t index, const struct token_list *prompt,
                         const struct decode_params *fitted, int32_t offset)
{
    struct reply *reply = &call->reply;
    struct decode_params params = *fitted;
    params.seed += (uint64_t)offset;
    struct error cause = {0};
    struct request *request = NULL;
    int code = request_create(&request, prompt->ids, (int32_t)prompt->count, &params, 1,
                              reply->api->config.mask_token, &cause);
    if (code) {
        return api_error_from(&call->error, &cause, NULL);
    }
    call->requests[index] = request;
    request->arrival_us = reply->arrival_us;
    request->deadline_us = INT64_MAX;
    const struct api_parameters *parameters = &reply->parameters;
    call->wakers[index] =
        (struct choice_waker){.call = call,
                              .stream = &request->stream,
                              .final_only = !parameters->stream && parameters->stop_count == 0};
    stream_set_wake(&request->stream, wake_call, &call->wakers[index]);
    code = choice_open(reply, index, &request->stream, &request->params, request->prompt,
                       request->prompt_length, &call->arena);
    return code ? api_error_out_of_memory(&call->error) : 0;
}

static int create_choices(struct api_call *call, const struct prompt_list *prompts)
{
    struct reply *reply = &call->reply;
    int32_t each = reply->parameters.choices;
    int32_t count = each * (int32_t)prompts->count;
    call->requests = arena_alloc(&call->arena, (size_t)count * sizeof *call->requests);
    call->wakers = arena_alloc(&call->arena, (size_t)count * sizeof *call->wakers);
    if (!call->requests || !call->wakers || reply_create_choices(reply, count, &call->arena)) {
        return api_error_out_of_memory(&call->error);
    }
    for (int32_t i = 0; i < count; i++) {
        const struct token_list *prompt = &prompts->items[i / each];
        struct decode_params params;
        int code = parameters_fit(&params, &reply->parameters, reply->api, (int32_t)prompt->count,
                                  &call->error);
        if (!code) {
            code = create_choice(call, i, prompt, &params, i % each);
        }
        if (code) {
            return code;
        }
        reply->prompt_tokens += i % each == 0 ? (int32_t)prompt->count : 0;
    }
    return 0;
}

/* Everything before the engine sees it. */
static int prepare(struct api_call *call, const json_t *body)
{
    struct reply *reply = &call->reply;
    const struct api *api = reply->api;
    int code = fields_check(body, reply->endpoint, api->strict, &call->error);
    if (!code) {
        code = check_model(api, body, &call->error);
    }
    if (!code) {
        code = parameters_read(&reply->parameters, api, body, &call->arena, &call->error);
    }
    if (code) {
        return code;
    }
    reply_set_rules(reply);
    int32_t each = reply->parameters.choices;
    if (each > api->max_choices) {
        return api_error_refuse(&call->error, "invalid_value", "n",
                                "n is %" PRId32 ", but this server gives at most %" PRId32
                                " choices; ask for fewer",
                                each, api->max_choices);
    }
    struct prompt_list prompts = {0};
    code = reply->endpoint == API_CHAT_COMPLETIONS
               ? prompts_read_messages(&prompts, api, body, &call->error)
               : prompts_read_raw(&prompts, api, body, (size_t)(api->max_choices / each),
                                  &call->error);
    if (!code) {
        code = create_choices(call, &prompts);
    }
    prompt_list_free(&prompts);
    return code;
}

static void cancel_submitted(struct api_call *call)
{
    for (int32_t i = 0; i < call->submitted; i++) {
        request_cancel(call->requests[i]);
    }
}

static int submit(struct api_call *call)
{
    struct engine *engine = call->reply.api->engine;
    struct engine_counters counters = engine_counters_read(engine);
    if (call->reply.choice_count > counters.max_sequences + counters.queue_limit) {
        return api_error_refuse(&call->error, "invalid_value", "n",
                                "n times the prompts is %" PRId32 ", but at most %" PRId32
                                " answers can run and wait here; ask for fewer",
                                call->reply.choice_count,
                                counters.max_sequences + counters.queue_limit);
    }
    for (int32_t i = 0; i < call->reply.choice_count; i++) {
        pthread_mutex_lock(&call->gate);
        bool cancelled = call->cancelled;
        call->submitted += cancelled ? 0 : 1;
        pthread_mutex_unlock(&call->gate);
        struct error cause = {.code = ERROR_UNAVAILABLE};
        int code = cancelled ? ERROR_UNAVAILABLE : engine_submit(engine, call->requests[i], &cause);
        if (code) {
            counters = engine_counters_read(engine);
            api_error_from(&call->error, &cause, &counters);
            if (code == ERROR_INVALID) { /* the canvas does not fit, all else was checked here */
                call->error.code = "context_length_exceeded";
            }
            return code;
        }
    }
    return 0;
}

void api_call_prepare(struct api_call *call, const char *body, size_t length,
                      void (*wake)(void *context), void *context)
{
    call->wake = wake;
    call->wake_context = context;
    json_t *json = NULL;
    int code = parse(&json, body, length, &call->error);
    if (!code) {
        code = prepare(call, json);
    }
    json_decref(json);
    if (!code) {
        code = submit(call);
    }
    if (code) {
        api_call_cancel(call);
        set_error_answer(call);
    } else if (call->reply.parameters.stream) {
        call->state = API_STATE_STREAM;
    }
}

/* A choice whose text a stop string has ended needs no more rounds. */
static void cancel_ended_choices(struct api_call *call)
{
    for (int32_t i = 0; call->reply.rules.stop_count > 0 && i < call->reply.choice_count; i++) {
        const struct choice *choice = &call->reply.choices[i];
        if (choice->done && choice->draft.finish == FINISH_NONE) {
            request_cancel(call->requests[i]);
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
        if (choice_failed(choice)) {
            choice_failure(choice, &call->error);
            api_call_cancel(call);
            set_error_answer(call);
            return call->state;
        }
    }
    cancel_ended_choices(call);
    if (reply_done(reply)) {
        answer_append(&call->output, reply);
        set_answer(call);
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
        cancel_ended_choices(call);
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

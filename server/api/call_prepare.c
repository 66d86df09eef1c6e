/* From a body to engine requests. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <jansson.h>

#include "common/error.h"
#include "server/api/adjustments.h"
#include "server/api/call_internal.h"
#include "server/api/fields.h"
#include "server/api/parameters.h"
#include "server/api/prompts.h"
#include "server/api/tokens.h"

static int parse(json_t **out, const char *body, size_t length, struct api_error *err)
{
    json_error_t cause;
    *out = json_loadb(body ? body : "", length, JSON_ALLOW_NUL | JSON_REJECT_DUPLICATES, &cause);
    if (!*out && json_error_code(&cause) == json_error_out_of_memory) {
        return api_error_out_of_memory(err);
    }
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
    if (waker->final_only && waker->stream->draft.finish == FINISH_NONE) {
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

/* The request of a prompt's first choice. */
static int create_first(struct api_call *call, int32_t index, const struct token_list *prompt,
                        const struct decode_params *params)
{
    const struct api *api = call->reply.api;
    struct error cause = {0};
    int code = request_create(&call->requests[index], prompt->ids, (int32_t)prompt->count, params,
                              api->config.mask_token, &cause);
    if (code) {
        return api_error_from(&call->error, &cause, NULL);
    }
    /* The engine may look at the request when the call is long gone. */
    struct request *request = call->requests[index];
    code = adjustments_copy(&request->params, api, &request->arena);
    return code ? api_error_out_of_memory(&call->error) : 0;
}

/* The request of the choice with this place among those of its prompt. */
static int create_sibling(struct api_call *call, int32_t index, int32_t place)
{
    struct request *first = call->requests[index - place];
    struct error cause = {0};
    int code =
        request_create_sibling(&call->requests[index], first, first->params.seed + (uint64_t)place,
                               call->reply.api->config.mask_token, &cause);
    return code ? api_error_from(&call->error, &cause, NULL) : 0;
}

/* What its request posts becomes the choice's draft, and wakes the call. */
static int open_choice(struct api_call *call, int32_t index)
{
    struct reply *reply = &call->reply;
    struct request *request = call->requests[index];
    request->arrival_us = reply->arrival_us;
    request->deadline_us = INT64_MAX;
    const struct api_parameters *parameters = &reply->parameters;
    call->wakers[index] =
        (struct choice_waker){.call = call,
                              .stream = &request->stream,
                              .final_only = !parameters->stream && parameters->stop_count == 0};
    stream_set_wake(&request->stream, wake_call, &call->wakers[index]);
    int code = choice_open(reply, index, &request->stream, &request->params, request->prompt,
                           request->prompt_length, &call->arena);
    return code ? api_error_out_of_memory(&call->error) : 0;
}

/* The prompt's text as it was sent; of ids, their text; of a sibling, what the first has. */
static int set_echo(struct api_call *call, int32_t index, int32_t place, const json_t *sent)
{
    struct choice *choice = &call->reply.choices[index];
    if (place > 0) {
        choice->echo = call->reply.choices[index - place].echo;
        choice->echo_length = call->reply.choices[index - place].echo_length;
        return 0;
    }
    struct buffer text = {0};
    const char *bytes = json_string_value(sent);
    size_t length = json_string_length(sent);
    if (!sent) {
        tokenizer_append_bytes(call->reply.api->tokenizer, choice->prompt,
                               (size_t)choice->prompt_length, false, &text);
        bytes = text.data;
        length = text.length;
    }
    choice->echo = text.failed ? NULL : arena_copy(&call->arena, bytes, length);
    choice->echo_length = length;
    buffer_free(&text);
    return choice->echo ? 0 : api_error_out_of_memory(&call->error);
}

static const char *prompt_field(const struct api_call *call)
{
    return call->reply.endpoint == API_CHAT_COMPLETIONS ? "messages" : "prompt";
}

/* parameters_fit, and the prompt by its field where it is too long. */
static int fit(struct decode_params *out, struct api_call *call, const struct prompt_list *prompts,
               size_t index)
{
    struct api_error *err = &call->error;
    int code = parameters_fit(out, &call->reply.parameters, call->reply.api,
                              (int32_t)prompts->items[index].count, err);
    if (code && !err->param[0]) {
        snprintf(err->param, sizeof err->param, prompts->count > 1 ? "%s[%zu]" : "%s",
                 prompt_field(call), index);
    }
    return code;
}

/* Before anything is made for each of them: more can never run and wait. */
static int check_count(struct api_call *call, int32_t count)
{
    if (!call->reply.api->engine) {
        return 0;
    }
    struct engine_counters counters = engine_counters_read(call->reply.api->engine);
    int32_t most = counters.max_sequences + counters.queue_limit;
    if (count <= most) {
        return 0;
    }
    return api_error_refuse(&call->error, "invalid_value", "n",
                            "n times the prompts is %" PRId32 ", but at most %" PRId32
                            " answers can run and wait here; ask for fewer",
                            count, most);
}

/* A prompt's first choice, with parameters that fit the prompt. */
static int create_prompt(struct api_call *call, int32_t index, const struct prompt_list *prompts,
                         size_t number)
{
    const struct token_list *prompt = &prompts->items[number];
    struct decode_params params;
    int code = fit(&params, call, prompts, number);
    if (!code) {
        code = create_first(call, index, prompt, &params);
    }
    call->reply.prompt_tokens += code ? 0 : (int32_t)prompt->count;
    return code;
}

static int create_choices(struct api_call *call, const struct prompt_list *prompts,
                          const json_t *body)
{
    struct reply *reply = &call->reply;
    int32_t each = reply->parameters.choices;
    int32_t count = each * (int32_t)prompts->count;
    int code = check_count(call, count);
    if (code) {
        return code;
    }
    call->requests = arena_alloc(&call->arena, (size_t)count * sizeof *call->requests);
    call->wakers = arena_alloc(&call->arena, (size_t)count * sizeof *call->wakers);
    if (!call->requests || !call->wakers || reply_create_choices(reply, count, &call->arena)) {
        return api_error_out_of_memory(&call->error);
    }
    for (int32_t i = 0; !code && i < count; i++) {
        code = i % each == 0 ? create_prompt(call, i, prompts, (size_t)(i / each))
                             : create_sibling(call, i, i % each);
        if (!code) {
            code = open_choice(call, i);
        }
        if (!code && reply->parameters.echo) {
            code = set_echo(call, i, i % each, prompts_text(body, (size_t)(i / each)));
        }
    }
    return code;
}

static int read_negative_prompt(struct api_call *call, const json_t *body)
{
    struct decode_params *params = &call->reply.parameters.decode;
    if (params->cfg_scale <= 0) { /* without guidance nobody looks at it */
        return 0;
    }
    struct token_list ids = {0};
    int code =
        prompts_read_negative(&ids, call->reply.api, call->reply.endpoint, body, &call->error);
    if (!code && ids.count > 0) {
        params->negative_prompt = (const int32_t *)(const void *)arena_copy(
            &call->arena, (const char *)ids.ids, ids.count * sizeof *ids.ids);
        params->negative_prompt_length = (int32_t)ids.count;
        code = params->negative_prompt ? 0 : api_error_out_of_memory(&call->error);
    }
    token_list_free(&ids);
    return code;
}

/* The prompts of a checked body, and a request for each of their choices. */
static int read_prompts(struct api_call *call, const json_t *body)
{
    const struct api *api = call->reply.api;
    int32_t each = call->reply.parameters.choices;
    if (each > api->max_choices) {
        return api_error_refuse(&call->error, "invalid_value", "n",
                                "n is %" PRId32 ", but this server gives at most %" PRId32
                                " choices; ask for fewer",
                                each, api->max_choices);
    }
    struct prompt_list prompts = {0};
    int code =
        call->reply.endpoint == API_CHAT_COMPLETIONS
            ? prompts_read_messages(&prompts, api, body, api->config.max_positions, &call->error)
            : prompts_read_raw(&prompts, api, body, (size_t)(api->max_choices / each),
                               &call->error);
    if (!code) {
        code = read_negative_prompt(call, body);
    }
    if (!code) {
        code = create_choices(call, &prompts, body);
    }
    prompt_list_free(&prompts);
    return code;
}

static int read_checked(struct api_call *call, const json_t *body)
{
    struct reply *reply = &call->reply;
    if (reply->endpoint == API_TOKENIZE) {
        return tokens_append_encoded(&call->output, reply->api, body, &call->error);
    }
    if (reply->endpoint == API_DETOKENIZE) {
        return tokens_append_decoded(&call->output, reply->api, body, &call->error);
    }
    int code = parameters_read(&reply->parameters, reply->api, body, &call->arena, &call->error);
    if (code) {
        return code;
    }
    reply_set_rules(reply);
    return read_prompts(call, body);
}

int call_read_body(struct api_call *call, const char *body, size_t length)
{
    const struct api *api = call->reply.api;
    json_t *json = NULL;
    int code = parse(&json, body, length, &call->error);
    if (!code) {
        code = fields_check(json, call->reply.endpoint, api->strict, &call->error);
    }
    if (!code) {
        code = check_model(api, json, &call->error);
    }
    if (!code) {
        code = read_checked(call, json);
    }
    json_decref(json);
    return code;
}

/* The field that holds what the engine refused; "" where no field does. */
static const char *faulty_field(const struct api_call *call, const struct request *request)
{
    const struct decode_params *params = &request->params;
    switch (request->fault) {
    case REQUEST_FAULT_LENGTH:
        return call->reply.parameters.max_tokens_asked ? "max_tokens" : prompt_field(call);
    case REQUEST_FAULT_CHOICES:
        return "n";
    case REQUEST_FAULT_PENALTIES:
        return "repetition_penalty";
    case REQUEST_FAULT_BIASES:
        return "logit_bias";
    case REQUEST_FAULT_BANNED_WORDS:
        return "bad_words";
    case REQUEST_FAULT_NO_TOKEN:
        return params->allowed                 ? "allowed_token_ids"
               : params->banned_word_count > 0 ? "bad_words"
                                               : "logit_bias";
    case REQUEST_FAULT_NONE:
    case REQUEST_FAULT_STOP_TOKENS: /* they are the model's, not the client's */
        break;
    }
    return "";
}

static void name_fault(struct api_call *call)
{
    for (int32_t i = 0; i < call->reply.choice_count; i++) {
        const struct request *request = call->requests[i];
        if (request->fault == REQUEST_FAULT_NONE) {
            continue;
        }
        snprintf(call->error.param, sizeof call->error.param, "%s", faulty_field(call, request));
        if (request->fault == REQUEST_FAULT_LENGTH) {
            call->error.code = "context_length_exceeded";
        }
        return;
    }
}

/* All choices or none: a client never gets a 429 while some of its choices already run. */
static int submit(struct api_call *call)
{
    struct engine *engine = call->reply.api->engine;
    pthread_mutex_lock(&call->gate);
    bool cancelled = call->cancelled;
    call->submitted = cancelled ? 0 : call->reply.choice_count;
    pthread_mutex_unlock(&call->gate);
    struct error cause = {.code = ERROR_UNAVAILABLE};
    int code = cancelled
                   ? ERROR_UNAVAILABLE
                   : engine_submit_all(engine, call->requests, call->reply.choice_count, &cause);
    if (code) {
        struct engine_counters counters = engine_counters_read(engine);
        api_error_from(&call->error, &cause, &counters);
        name_fault(call);
    }
    return code;
}

void api_call_prepare(struct api_call *call, const char *body, size_t length,
                      void (*wake)(void *context), void *context)
{
    call->wake = wake;
    call->wake_context = context;
    int code = call_read_body(call, body, length);
    if (!code && call->reply.choice_count > 0) {
        code = submit(call);
    }
    if (code) {
        api_call_cancel(call);
        call_set_error_answer(call);
    } else if (call->reply.choice_count == 0) {
        call_set_answer(call);
    } else {
        call->state = call->reply.parameters.stream ? API_STATE_STREAM : API_STATE_WAITING;
        call_registry_add(call->reply.api->calls, call);
    }
}

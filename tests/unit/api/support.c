#include "tests/unit/api/support.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "server/api/fields.h"

struct api *support_api(void)
{
    static struct tokenizer *tokenizer;
    static struct chat_template *chat_template;
    static struct api api;
    struct error err = {0};
    if (!tokenizer) {
        const char *reason = NULL;
        cr_assert_eq(tokenizer_load(&tokenizer, "models/tiny/tokenizer.json", &err), 0, "%s",
                     err.message);
        cr_assert_eq(chat_template_load(&chat_template, &reason, "models/tiny", &err), 0, "%s",
                     err.message);
        cr_assert_not_null(chat_template, "%s", reason);
    }
    api = (struct api){
        .tokenizer = tokenizer,
        .chat_template = chat_template,
        .config = {.family = MODEL_LLADA,
                   .vocabulary = 4096,
                   .embedding_rows = 4096,
                   .max_positions = CONTEXT,
                   .mask_token = MASK,
                   .stop_tokens = {END_OF_TEXT, END_OF_TURN},
                   .stop_token_count = 2},
        .generation = generation_defaults_none,
        .settings = {-1, -1, -1, -1, NAN, NAN, NAN, NULL, NULL},
        .model_name = "tiny",
        .system_fingerprint = "denoised-test-tiny",
        .version = "test",
        .device = "cpu",
        .device_description = "cpu, scalar, 1 thread",
        .dtype = "float32",
        .created = 1700000000,
        .max_choices = CHOICES_MAX,
    };
    return &api;
}

static void wake_nobody(void *context)
{
    (void)context;
}

struct refused support_refuse_bytes(enum api_endpoint endpoint, const char *body, size_t length)
{
    static struct api *api;
    api = api ? api : support_api();
    struct api_call *call = api_call_create(api, endpoint, 0, 0);
    api_call_prepare(call, body, length, wake_nobody, NULL);
    cr_assert_eq(api_call_poll(call), API_STATE_ANSWER);
    struct api_answer answer = api_call_answer(call);
    json_t *json = json_loadb(answer.body, answer.length, 0, NULL);
    cr_assert_not_null(json, "%.*s", (int)answer.length, answer.body);
    struct refused refused = {answer.status, json, json_object_get(json, "error")};
    cr_assert_not_null(refused.error);
    api_call_free(call);
    return refused;
}

struct refused support_refuse(enum api_endpoint endpoint, const char *body)
{
    return support_refuse_bytes(endpoint, body, strlen(body));
}

const char *refused_text(const struct refused *refused, const char *member)
{
    const char *text = json_string_value(json_object_get(refused->error, member));
    return text ? text : "";
}

static void read_parameters(struct api_parameters *out, enum api_endpoint endpoint,
                            const struct api *api, const char *body, struct arena *arena)
{
    json_t *json = json_loads(body, JSON_ALLOW_NUL, NULL);
    cr_assert_not_null(json, "%s", body);
    struct api_error err = {0};
    int code = fields_check(json, endpoint, false, &err);
    if (!code) {
        code = parameters_read(out, api, json, arena, &err);
    }
    cr_assert_eq(code, 0, "%s: %s", body, err.message);
    json_decref(json);
}

struct api_parameters support_parameters(const char *body)
{
    static struct arena arena; /* lives as long as the test */
    static struct api *api;
    api = api ? api : support_api();
    struct api_parameters parameters;
    read_parameters(&parameters, API_COMPLETIONS, api, body, &arena);
    return parameters;
}

void live_create(struct live *live, enum api_endpoint endpoint, const char *body, int32_t choices,
                 int32_t length)
{
    static const int32_t prompt[] = {BOS, 100, 101};
    memset(live, 0, sizeof *live);
    arena_init(&live->arena);
    live->length = length;
    struct reply *reply = &live->reply;
    reply->api = support_api();
    reply->endpoint = endpoint;
    reply->id = "cmpl-test";
    reply->created = 1700000000;
    reply->arrival_us = 1000;
    reply->prompt_tokens = 3;
    read_parameters(&reply->parameters, endpoint, reply->api, body, &live->arena);
    reply_set_rules(reply);
    live->params = reply->parameters.decode;
    live->params.max_tokens = length;
    cr_assert_eq(reply_create_choices(reply, choices, &live->arena), 0);
    for (int32_t i = 0; i < choices; i++) {
        cr_assert_eq(stream_init(&live->streams[i], &live->arena, length, live->params.top_logprobs,
                                 MASK, NULL),
                     0);
        cr_assert_eq(
            choice_open(reply, i, &live->streams[i], &live->params, prompt, 3, &live->arena), 0);
    }
}

void live_free(struct live *live)
{
    for (int32_t i = 0; i < live->reply.choice_count; i++) {
        stream_destroy(&live->streams[i]);
    }
    reply_free(&live->reply);
    arena_free(&live->arena);
}

int32_t live_top_token(int32_t position, int32_t rank)
{
    return 6 + (position * 31 + rank * 5) % 256; /* tokens of one byte */
}

void live_post(struct live *live, int32_t choice, int32_t round, const int32_t *tokens,
               enum finish finish)
{
    struct draft draft;
    struct arena arena;
    arena_init(&arena);
    int32_t top_count = live->params.top_logprobs;
    cr_assert_eq(draft_create(&draft, &arena, live->length, top_count, MASK, NULL), 0);
    draft.masked = 0;
    for (int32_t i = 0; i < live->length; i++) {
        draft.tokens[i] = tokens[i];
        draft.confidence[i] = tokens[i] == MASK ? 0 : 0.5f;
        draft.raw_logprob[i] = tokens[i] == MASK ? 0 : -0.25f * (float)(i + 1);
        for (int32_t k = 0; k < top_count && tokens[i] != MASK; k++) {
            draft.top_token[i * top_count + k] = live_top_token(i, k);
            draft.top_logprob[i * top_count + k] = -0.5f * (float)(k + 1);
        }
        draft.masked += tokens[i] == MASK;
        draft.settled += draft.settled == i && tokens[i] != MASK;
    }
    draft.round = round;
    draft.of = live->length;
    draft.block_end = live->length;
    draft.forward_passes = round;
    draft.admitted_us = 3500;
    draft.updated_us = 3500 + 1000 * round;
    draft.finish = finish;
    stream_post(&live->streams[choice], &draft);
    arena_free(&arena);
}

json_t *live_answer(struct live *live)
{
    for (int32_t i = 0; i < live->reply.choice_count; i++) {
        choice_refresh(&live->reply, &live->reply.choices[i]);
    }
    cr_assert(reply_done(&live->reply));
    struct buffer body = {0};
    answer_append(&body, &live->reply);
    cr_assert_not(body.failed);
    json_t *json = json_loadb(body.data, body.length, JSON_ALLOW_NUL, NULL);
    cr_assert_not_null(json, "%s", body.data);
    buffer_free(&body);
    return json;
}

json_t *parse_events(const char *text)
{
    json_t *events = json_array();
    for (const char *line = text; *line;) {
        const char *end = strstr(line, "\n\n");
        cr_assert_not_null(end);
        cr_assert_eq(strncmp(line, "data: ", 6), 0, "%.40s", line);
        size_t length = (size_t)(end - line) - 6;
        json_error_t cause;
        json_t *event = length == 6 && memcmp(line + 6, "[DONE]", 6) == 0
                            ? json_string("[DONE]")
                            : json_loadb(line + 6, length, JSON_ALLOW_NUL, &cause);
        cr_assert_not_null(event, "%s in %.*s", cause.text, (int)length, line + 6);
        json_array_append_new(events, event);
        line = end + 2;
    }
    return events;
}

json_t *live_events(struct live *live)
{
    struct buffer out = {0};
    while (events_next(&live->reply, &out) > 0) {
    }
    cr_assert_not(out.failed);
    json_t *events = parse_events(out.data ? out.data : "");
    buffer_free(&out);
    return events;
}

int32_t support_byte_token(unsigned char byte)
{
    const struct tokenizer *tokenizer = support_api()->tokenizer;
    for (int32_t id = 6; id < 6 + 256; id++) {
        size_t length;
        const char *bytes = tokenizer_token_bytes(tokenizer, id, &length);
        if (length == 1 && (unsigned char)bytes[0] == byte) {
            return id;
        }
    }
    cr_assert(false, "no token for byte %d", byte);
    return -1;
}

int32_t support_spell(int32_t *tokens, const char *text)
{
    int32_t count = 0;
    for (; text[count]; count++) {
        tokens[count] = support_byte_token((unsigned char)text[count]);
    }
    return count;
}

const json_t *json_at(const json_t *value, const char *path)
{
    while (value && *path) {
        if (*path == '[') {
            char *end;
            value = json_array_get(value, strtoul(path + 1, &end, 10));
            path = end + 1;
        } else {
            path += *path == '.';
            char key[64];
            size_t length = strcspn(path, ".[");
            memcpy(key, path, length);
            key[length] = '\0';
            value = json_object_get(value, key);
            path += length;
        }
    }
    return value;
}

const char *text_at(const json_t *value, const char *path)
{
    return json_string_value(json_at(value, path));
}

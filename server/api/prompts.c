#include "server/api/prompts.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/arena.h"
#include "common/error.h"
#include "server/api/api.h"
#include "server/api/api_error.h"
#include "server/api/fields.h"
#include "server/model/chat_template.h"
#include "server/model/tokenizer.h"

void prompt_list_free(struct prompt_list *list)
{
    for (size_t i = 0; i < list->count; i++) {
        token_list_free(&list->items[i]);
    }
    free(list->items);
    *list = (struct prompt_list){0};
}

static int list_create(struct prompt_list *out, size_t count, struct api_error *err)
{
    out->items = calloc(count, sizeof *out->items);
    out->count = out->items ? count : 0;
    return out->items ? 0 : api_error_out_of_memory(err);
}

static int check_token(const struct api *api, int64_t id, const char *param, struct api_error *err)
{
    if (id >= 0 && id < api->config.embedding_rows &&
        tokenizer_has_id(api->tokenizer, (int32_t)id)) {
        return 0;
    }
    return api_error_refuse(err, "invalid_value", param,
                            "%s is %" PRId64 ", which is no token of this model (ids are 0 to "
                            "%" PRId32 ")",
                            param, id, tokenizer_size(api->tokenizer) - 1);
}

int prompts_check_id(const struct api *api, int64_t id, const char *param, struct api_error *err)
{
    if (id == api->config.mask_token) {
        return api_error_refuse(err, "invalid_value", param,
                                "%s holds the mask token (id %" PRId64
                                "), which stands for text that is not there yet; take it out",
                                param, id);
    }
    return check_token(api, id, param, err);
}

/* The ids of an encoded text. */
static int check_encoded(const struct api *api, const struct token_list *ids, const char *param,
                         struct api_error *err)
{
    if (ids->failed) {
        return api_error_out_of_memory(err);
    }
    for (size_t i = 0; i < ids->count; i++) {
        int code = prompts_check_id(api, ids->ids[i], param, err);
        if (code) {
            return code;
        }
    }
    if (ids->count == 0) {
        return api_error_refuse(err, "invalid_value", param,
                                "%s is empty, and this model's tokenizer puts no token before it; "
                                "send at least one character",
                                param);
    }
    return 0;
}

int prompts_encode_failed(struct api_error *err, const struct error *cause, const char *param)
{
    int code = api_error_from(err, cause, NULL);
    if (err->status == 400) {
        snprintf(err->param, sizeof err->param, "%s", param);
    }
    return code;
}

/* Refuses a text of so many bytes without encoding it where no text of this length would fit. */
static int check_least(const struct api *api, size_t bytes, unsigned flags, int32_t context,
                       const char *param, struct api_error *err)
{
    size_t least = tokenizer_least_tokens(api->tokenizer, bytes, flags);
    if (least < (size_t)context) {
        return 0;
    }
    return api_error_refuse(
        err, "context_length_exceeded", param,
        "%s has %zu bytes, which are at least %zu tokens, but the context holds "
        "%" PRId32 ", answer included; shorten it",
        param, bytes, least, context);
}

/* More than a token of running text has, and a number of tokens that no cut can halve. */
enum { SAMPLE_BYTES_PER_TOKEN = 16, SAMPLE_CONTEXTS = 2 };

/*
 * For texts within that bound, and tokenizers without one: refuses a text whose beginning alone is
 * far too long. Where it is not, the whole decides.
 */
static int check_sample(const struct api *api, const char *text, size_t length, unsigned flags,
                        int32_t context, const char *param, struct api_error *err)
{
    size_t sample = (size_t)context * SAMPLE_BYTES_PER_TOKEN;
    if (length / 2 < sample) {
        return 0;
    }
    while (sample > 0 && ((unsigned char)text[sample] & 0xC0) == 0x80) {
        sample--; /* to a character's begin */
    }
    struct token_list ids = {0};
    int code = tokenizer_encode(api->tokenizer, text, sample, flags, &ids, NULL);
    size_t count = code || ids.failed ? 0 : ids.count;
    token_list_free(&ids);
    if (count < (size_t)context * SAMPLE_CONTEXTS) {
        return 0;
    }
    return api_error_refuse(err, "context_length_exceeded", param,
                            "%s has %zu bytes, of which the first %zu are %zu tokens, but the "
                            "context holds %" PRId32 ", answer included; shorten it",
                            param, length, sample, count, context);
}

static int read_text(struct token_list *out, const struct api *api, const json_t *text,
                     unsigned flags, const char *param, struct api_error *err)
{
    size_t length = json_string_length(text);
    int32_t context = api->config.max_positions;
    int code = check_least(api, length, flags, context, param, err);
    if (!code) {
        code = check_sample(api, json_string_value(text), length, flags & TOKENIZER_MATCH_ADDED,
                            context, param, err);
    }
    if (code) {
        return code;
    }
    struct error cause = {0};
    code = tokenizer_encode(api->tokenizer, json_string_value(text), length, flags, out, &cause);
    return code ? prompts_encode_failed(err, &cause, param) : check_encoded(api, out, param, err);
}

/* `check` is one of the two above. */
static int read_element(int32_t *out, const struct api *api, const json_t *array, size_t index,
                        const char *param,
                        int (*check)(const struct api *api, int64_t id, const char *param,
                                     struct api_error *err),
                        struct api_error *err)
{
    const json_t *item = json_array_get(array, index);
    char item_param[64];
    snprintf(item_param, sizeof item_param, "%s[%zu]", param, index);
    *out = -1;
    if (!json_is_integer(item)) {
        return api_error_value(err, item_param, item, "a token id");
    }
    int code = check(api, json_integer_value(item), item_param, err);
    if (!code) {
        *out = (int32_t)json_integer_value(item);
    }
    return code;
}

int prompts_read_token(int32_t *out, const struct api *api, const json_t *array, size_t index,
                       const char *param, struct api_error *err)
{
    return read_element(out, api, array, index, param, check_token, err);
}

int prompts_read_id(int32_t *out, const struct api *api, const json_t *array, size_t index,
                    const char *param, struct api_error *err)
{
    return read_element(out, api, array, index, param, prompts_check_id, err);
}

static int read_ids(struct token_list *out, const struct api *api, const json_t *array,
                    const char *param, struct api_error *err)
{
    if (json_array_size(array) == 0) {
        return api_error_refuse(err, "invalid_value", param,
                                "%s is an empty array; send at least one token id", param);
    }
    if (json_array_size(array) >= (size_t)api->config.max_positions) {
        return api_error_refuse(err, "context_length_exceeded", param,
                                "%s has %zu tokens, but the context holds %" PRId32
                                ", answer included; shorten it",
                                param, json_array_size(array), api->config.max_positions);
    }
    for (size_t i = 0; i < json_array_size(array); i++) {
        int32_t id;
        int code = prompts_read_id(&id, api, array, i, param, err);
        if (code) {
            return code;
        }
        token_list_append(out, id);
    }
    return out->failed ? api_error_out_of_memory(err) : 0;
}

static int read_one(struct token_list *out, const struct api *api, const json_t *prompt,
                    const char *param, struct api_error *err)
{
    if (json_is_string(prompt)) {
        return read_text(out, api, prompt, TOKENIZER_MATCH_ADDED | TOKENIZER_POST_PROCESS, param,
                         err);
    }
    if (json_is_array(prompt)) {
        return read_ids(out, api, prompt, param, err);
    }
    return api_error_value(err, param, prompt, "a string or an array of token ids");
}

int prompts_read_raw(struct prompt_list *out, const struct api *api, const json_t *body,
                     size_t max_prompts, struct api_error *err)
{
    const json_t *prompt = fields_get(body, "prompt");
    if (!prompt) {
        return api_error_refuse(err, "invalid_value", "prompt",
                                "prompt is missing; it must be a string, an array of token ids, "
                                "or an array of these");
    }
    const json_t *first = json_array_get(prompt, 0);
    if (!json_is_array(prompt) || !first || json_is_integer(first)) {
        int code = list_create(out, 1, err);
        return code ? code : read_one(&out->items[0], api, prompt, "prompt", err);
    }
    if (json_array_size(prompt) > max_prompts) {
        return api_error_refuse(err, "invalid_value", "prompt",
                                "prompt holds %zu prompts, but with n there may be at most %zu; "
                                "send them in several requests",
                                json_array_size(prompt), max_prompts);
    }
    int code = list_create(out, json_array_size(prompt), err);
    for (size_t i = 0; !code && i < out->count; i++) {
        char param[32];
        snprintf(param, sizeof param, "prompt[%zu]", i);
        code = read_one(&out->items[i], api, json_array_get(prompt, i), param, err);
    }
    return code;
}

const json_t *prompts_text(const json_t *body, size_t index)
{
    const json_t *prompt = fields_get(body, "prompt");
    const json_t *item = json_is_array(prompt) ? json_array_get(prompt, index) : prompt;
    return json_is_string(item) ? item : NULL;
}

static int read_role(enum chat_role *out, const json_t *role, const char *param,
                     struct api_error *err)
{
    static const struct {
        const char *name;
        enum chat_role role;
    } roles[] = {{"system", CHAT_SYSTEM},
                 {"developer", CHAT_SYSTEM},
                 {"user", CHAT_USER},
                 {"assistant", CHAT_ASSISTANT}};
    const char *name = json_string_value(role);
    for (size_t i = 0; name && i < sizeof roles / sizeof roles[0]; i++) {
        if (strcmp(name, roles[i].name) == 0) {
            *out = roles[i].role;
            return 0;
        }
    }
    if (name && (strcmp(name, "tool") == 0 || strcmp(name, "function") == 0)) {
        return api_error_unsupported(err, param, role);
    }
    if (!role) {
        return api_error_refuse(err, "invalid_value", param, "%s is missing", param);
    }
    return api_error_value(err, param, role, "one of system, developer, user, assistant");
}

/* Why part `index` is none that join_parts takes. */
static int refuse_part(const json_t *part, const char *param, size_t index, struct api_error *err)
{
    const json_t *type = json_object_get(part, "type");
    char part_param[96];
    snprintf(part_param, sizeof part_param, "%s[%zu]", param, index);
    if (!json_is_string(type)) {
        return api_error_value(err, part_param, part,
                               "an object with a type, for example {\"type\":\"text\",...}");
    }
    if (strcmp(json_string_value(type), "text") != 0) {
        return api_error_refuse(err, "invalid_value", part_param,
                                "%s has type %.64s; this model takes parts of type text only",
                                part_param, json_string_value(type));
    }
    return api_error_refuse(err, "invalid_value", part_param, "%s.text is missing or no string",
                            part_param);
}

/* The text of an array of content parts, joined, in the arena. */
static int join_parts(struct chat_message *out, const json_t *parts, const char *param,
                      struct arena *arena, struct api_error *err)
{
    size_t length = 0;
    for (size_t i = 0; i < json_array_size(parts); i++) {
        const json_t *part = json_array_get(parts, i);
        const char *type = json_string_value(json_object_get(part, "type"));
        const json_t *text = json_object_get(part, "text");
        if (!type || strcmp(type, "text") != 0 || !json_is_string(text)) {
            return refuse_part(part, param, i, err);
        }
        length += json_string_length(text);
    }
    char *joined = arena_alloc(arena, length + 1);
    if (!joined) {
        return api_error_out_of_memory(err);
    }
    out->content = joined;
    out->length = length;
    for (size_t i = 0; i < json_array_size(parts); i++) {
        const json_t *text = json_object_get(json_array_get(parts, i), "text");
        memcpy(joined, json_string_value(text), json_string_length(text));
        joined += json_string_length(text);
    }
    return 0;
}

static int read_message(struct chat_message *out, const json_t *message, size_t index,
                        struct arena *arena, struct api_error *err)
{
    char param[64];
    snprintf(param, sizeof param, "messages[%zu]", index);
    if (!json_is_object(message)) {
        return api_error_value(err, param, message, "an object with role and content");
    }
    snprintf(param, sizeof param, "messages[%zu].role", index);
    int code = read_role(&out->role, fields_get(message, "role"), param, err);
    if (code) {
        return code;
    }
    static const char *const calls[] = {"tool_calls", "function_call"};
    for (size_t i = 0; i < sizeof calls / sizeof calls[0]; i++) {
        const json_t *call = fields_get(message, calls[i]);
        if (call && !(json_is_array(call) && json_array_size(call) == 0)) {
            snprintf(param, sizeof param, "messages[%zu].%s", index, calls[i]);
            return api_error_unsupported(err, param, call);
        }
    }
    const json_t *content = fields_get(message, "content");
    snprintf(param, sizeof param, "messages[%zu].content", index);
    if (json_is_string(content)) {
        out->content = json_string_value(content);
        out->length = json_string_length(content);
        return 0;
    }
    if (json_is_array(content)) {
        return join_parts(out, content, param, arena, err);
    }
    if (!content) {
        return api_error_refuse(err, "invalid_value", param,
                                "%s is missing; it must be a string or an array of text parts",
                                param);
    }
    return api_error_value(err, param, content, "a string or an array of text parts");
}

/* Bytes of a rendered chat that its messages said; the rest is the template's. */
static size_t count_said(const struct text_segment_list *segments)
{
    size_t bytes = 0;
    for (size_t i = 0; i < segments->count; i++) {
        const struct text_segment *segment = &segments->items[i];
        bytes += segment->trusted ? 0 : segment->end - segment->begin;
    }
    return bytes;
}

static int render(struct token_list *out, const struct api *api,
                  const struct chat_message *messages, size_t count, int32_t context,
                  const char *param, struct api_error *err)
{
    struct buffer text = {0};
    struct text_segment_list segments = {0};
    struct error cause = {0};
    int code =
        chat_template_render(api->chat_template, messages, count, true, &text, &segments, &cause);
    if (code) {
        prompts_encode_failed(err, &cause, param);
    } else {
        code = check_least(api, count_said(&segments), 0, context, param, err);
    }
    if (!code) { /* matching added tokens in all of it gives no more tokens than there are */
        code =
            check_sample(api, text.data, text.length, TOKENIZER_MATCH_ADDED, context, param, err);
    }
    if (!code) {
        code = tokenizer_encode_segments(api->tokenizer, text.data ? text.data : "", text.length,
                                         segments.items, segments.count, out, &cause);
        code =
            code ? prompts_encode_failed(err, &cause, param) : check_encoded(api, out, param, err);
    }
    buffer_free(&text);
    text_segment_list_free(&segments);
    return code;
}

int prompts_read_messages(struct prompt_list *out, const struct api *api, const json_t *body,
                          int32_t context, struct api_error *err)
{
    const json_t *array = fields_get(body, "messages");
    if (!array) {
        return api_error_refuse(err, "invalid_value", "messages",
                                "messages is missing; it must be an array of at least one message");
    }
    if (!api->chat_template) {
        return api_error_refuse(err, "unsupported_parameter", "messages",
                                "this model cannot chat: %s; use /v1/completions",
                                api->chat_template_reason ? api->chat_template_reason
                                                          : "it has no chat template");
    }
    struct arena arena;
    arena_init(&arena);
    size_t count = json_array_size(array);
    struct chat_message *messages = arena_alloc(&arena, count * sizeof *messages);
    if (!messages) {
        return api_error_out_of_memory(err);
    }
    int code = list_create(out, 1, err);
    for (size_t i = 0; !code && i < count; i++) {
        code = read_message(&messages[i], json_array_get(array, i), i, &arena, err);
    }
    if (!code) {
        code = render(&out->items[0], api, messages, count, context, "messages", err);
    }
    arena_free(&arena);
    return code;
}

int prompts_read_negative(struct token_list *out, const struct api *api, enum api_endpoint endpoint,
                          const json_t *body, struct api_error *err)
{
    static const char param[] = "negative_prompt";
    const json_t *text = fields_get(body, param);
    if (json_string_length(text) == 0) {
        return 0;
    }
    if (endpoint == API_COMPLETIONS) {
        return read_text(out, api, text, TOKENIZER_POST_PROCESS, param, err);
    }
    struct chat_message message = {CHAT_USER, json_string_value(text), json_string_length(text)};
    return render(out, api, &message, 1, api->config.max_positions, param, err);
}

#include "server/api/tokens.h"

#include <inttypes.h>

#include "common/buffer.h"
#include "common/error.h"
#include "common/log.h"
#include "server/api/api.h"
#include "server/api/api_error.h"
#include "server/api/fields.h"
#include "server/api/json_writer.h"
#include "server/api/prompts.h"
#include "server/model/tokenizer.h"

/* The name of the one of the three that the body has; NULL with `err` where it has not one. */
static const char *find_source(const json_t *body, struct api_error *err)
{
    static const char *const names[] = {"prompt", "content", "messages"};
    const char *found = NULL;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (!fields_get(body, names[i])) {
            continue;
        }
        if (found) {
            api_error_refuse(err, "invalid_value", names[i],
                             "%s and %s are both there; send one of them", found, names[i]);
            return NULL;
        }
        found = names[i];
    }
    if (!found) {
        api_error_refuse(err, "invalid_value", "prompt",
                         "prompt is missing; send the text as prompt or content, or a "
                         "conversation as messages");
    }
    return found;
}

static void append_pieces(struct buffer *out, const struct tokenizer *tokenizer,
                          const struct token_list *ids)
{
    for (size_t i = 0; i < ids->count; i++) {
        size_t length;
        const char *bytes = tokenizer_token_bytes(tokenizer, ids->ids[i], &length);
        buffer_format(out, "%s{\"id\":%" PRId32 ",\"text\":", i ? "," : "", ids->ids[i]);
        log_append_json_string(out, bytes, length);
        buffer_append_text(out, ",\"bytes\":");
        json_write_bytes(out, bytes, length);
        buffer_append_char(out, '}');
    }
}

static void append_list(struct buffer *out, const struct api *api, const struct token_list *ids)
{
    buffer_append_text(out, "{\"tokens\":");
    json_write_tokens(out, ids->ids, (int32_t)ids->count);
    buffer_append_text(out, ",\"count\":");
    json_write_integer(out, (int64_t)ids->count);
    buffer_append_text(out, ",\"max_model_len\":");
    json_write_integer(out, api->config.max_positions);
    buffer_append_text(out, ",\"pieces\":[");
    append_pieces(out, api->tokenizer, ids);
    buffer_append_text(out, "]}");
}

static int encode_text(struct token_list *out, const struct api *api, const json_t *body,
                       const char *source, struct api_error *err)
{
    const json_t *text = fields_get(body, source);
    bool special = fields_boolean(body, "add_special_tokens", true);
    struct error cause = {0};
    int code = tokenizer_encode(
        api->tokenizer, json_string_value(text), json_string_length(text),
        TOKENIZER_MATCH_ADDED | (special ? (unsigned)TOKENIZER_POST_PROCESS : 0u), out, &cause);
    return code ? prompts_encode_failed(err, &cause, source) : 0;
}

int tokens_append_encoded(struct buffer *out, const struct api *api, const json_t *body,
                          struct api_error *err)
{
    const char *source = find_source(body, err);
    if (!source) {
        return ERROR_INVALID;
    }
    if (source[0] == 'm') {
        struct prompt_list prompts = {0};
        int code = prompts_read_messages(&prompts, api, body, PROMPTS_ANY_LENGTH, err);
        if (!code) {
            append_list(out, api, &prompts.items[0]);
        }
        prompt_list_free(&prompts);
        return code;
    }
    struct token_list ids = {0};
    int code = encode_text(&ids, api, body, source, err);
    if (!code && ids.failed) {
        code = api_error_out_of_memory(err);
    }
    if (!code) {
        append_list(out, api, &ids);
    }
    token_list_free(&ids);
    return code;
}

int tokens_append_decoded(struct buffer *out, const struct api *api, const json_t *body,
                          struct api_error *err)
{
    const json_t *array = fields_get(body, "tokens");
    if (!array) {
        return api_error_refuse(err, "invalid_value", "tokens",
                                "tokens is missing; it must be an array of token ids");
    }
    struct token_list ids = {0};
    int code = 0;
    for (size_t i = 0; !code && i < json_array_size(array); i++) {
        int32_t id;
        code = prompts_read_token(&id, api, array, i, "tokens", err);
        if (!code) {
            token_list_append(&ids, id);
        }
    }
    struct buffer text = {0};
    if (!code) {
        tokenizer_decode(api->tokenizer, ids.ids, ids.count, false, &text);
        code = ids.failed || text.failed ? api_error_out_of_memory(err) : 0;
    }
    if (!code) {
        buffer_append_text(out, "{\"prompt\":");
        log_append_json_string(out, text.data, text.length);
        buffer_append_text(out, ",\"content\":");
        log_append_json_string(out, text.data, text.length);
        buffer_append_char(out, '}');
    }
    token_list_free(&ids);
    buffer_free(&text);
    return code;
}

/* Server-sent events: plain deltas, or drafts after every round. */
#include <string.h>

#include "common/buffer.h"
#include "common/log.h"
#include "common/utf8.h"
#include "server/api/json_writer.h"
#include "server/api/logprobs.h"
#include "server/api/reply.h"

/* One chunk of one choice. */
struct chunk {
    struct choice *choice;
    bool role;        /* chat: names the role */
    const char *text; /* [length] raw bytes; NULL: none */
    size_t length;
    int32_t begin, end; /* tokens whose log-probabilities it brings; none where equal */
    bool closing;       /* the choice's last event */
};

static bool diffusing(const struct reply *reply)
{
    return reply->parameters.diffusing;
}

static void append_opening(struct buffer *out, const struct reply *reply)
{
    bool chat = reply->endpoint == API_CHAT_COMPLETIONS;
    buffer_append_text(out, "data: {");
    reply_append_identity(out, reply, chat ? "chat.completion.chunk" : "text_completion");
}

static void append_delta(struct buffer *out, const struct reply *reply, const struct chunk *chunk)
{
    if (reply->endpoint == API_COMPLETIONS) {
        buffer_append_text(out, ",\"text\":");
        log_append_json_string(out, chunk->text, chunk->length);
        return;
    }
    buffer_append_text(out, ",\"delta\":{");
    if (chunk->role) {
        buffer_append_text(out, "\"role\":\"assistant\"");
        buffer_append_text(out, chunk->text ? "," : "");
    }
    if (chunk->text) {
        buffer_append_text(out, "\"content\":");
        log_append_json_string(out, chunk->text, chunk->length);
    }
    buffer_append_char(out, '}');
}

static void append_token_text(struct buffer *out, struct reply *reply, int32_t id)
{
    buffer_clear(&reply->scratch);
    answer_text_append_token(&reply->scratch, &reply->rules, id);
    out->failed |= reply->scratch.failed;
    log_append_json_string(out, reply->scratch.data, reply->scratch.length);
}

/* The positions that differ from the last delivered event, which this one then is. */
static void append_changes(struct buffer *out, struct reply *reply, struct choice *choice)
{
    const struct draft *draft = &choice->draft;
    int32_t mask = reply->rules.mask_token;
    bool first = true;
    for (int32_t i = 0; i < draft->length; i++) {
        int32_t id = draft->tokens[i];
        int32_t old = choice->delivered[i];
        if (id == old) {
            continue;
        }
        buffer_format(out, "%s{\"p\":%d,\"id\":%d,\"t\":", first ? "" : ",", (int)i, (int)id);
        if (id == mask) {
            buffer_append_text(out, "null");
        } else {
            append_token_text(out, reply, id);
        }
        buffer_append_text(out, ",\"c\":");
        json_write_number(out, draft->confidence[i], 6);
        if (old != mask) {
            buffer_append_text(out, ",\"old\":");
            append_token_text(out, reply, old);
        }
        buffer_append_char(out, '}');
        first = false;
    }
    memcpy(choice->delivered, draft->tokens, (size_t)draft->length * sizeof *choice->delivered);
}

/* Members of `denoised` in a draft's event. */
static void append_draft_state(struct buffer *out, struct reply *reply, struct choice *choice,
                               bool final)
{
    const struct draft *draft = &choice->draft;
    int32_t skipped = draft->round - choice->delivered_round - 1;
    buffer_format(out, "\"index\":%d,\"round\":%d,\"of\":", (int)choice->index, (int)draft->round);
    if (draft->of < 0) {
        buffer_append_text(out, "null");
    } else {
        json_write_integer(out, draft->of);
    }
    buffer_format(out, ",\"masked\":%d,\"committed\":%d,\"revised\":%d,\"block\":[%d,%d]",
                  (int)draft->masked, (int)(draft->length - draft->masked), (int)draft->revised,
                  (int)draft->block_begin, (int)draft->block_end);
    buffer_append_text(out, ",\"elapsed_ms\":");
    json_write_number(out, (double)(draft->updated_us - reply->arrival_us) / 1e3, 1);
    buffer_format(out, ",\"skipped\":%d,\"final\":", skipped > 0 ? (int)skipped : 0);
    json_write_bool(out, final);
    buffer_append_text(out, ",\"tokens\":[");
    append_changes(out, reply, choice);
    buffer_append_char(out, ']');
    choice->delivered_round = draft->round;
}

/* Whether this is the stream's last chunk of all choices, so that it is followed by [DONE]. */
static bool is_last_event(const struct reply *reply, const struct chunk *chunk)
{
    if (!chunk->closing || reply->parameters.include_usage || diffusing(reply)) {
        return false;
    }
    for (int32_t i = 0; i < reply->choice_count; i++) {
        if (!reply->choices[i].closed && &reply->choices[i] != chunk->choice) {
            return false;
        }
    }
    return true;
}

static void append_chunk(struct buffer *out, struct reply *reply, const struct chunk *chunk)
{
    struct choice *choice = chunk->choice;
    append_opening(out, reply);
    buffer_append_text(out, ",\"choices\":[{\"index\":");
    json_write_integer(out, choice->index);
    append_delta(out, reply, chunk);
    if (chunk->begin < chunk->end) {
        logprobs_append(out, reply, choice, chunk->begin, chunk->end);
    } else {
        buffer_append_text(out, ",\"logprobs\":null");
    }
    buffer_append_text(out, ",\"finish_reason\":");
    if (chunk->closing) {
        json_write_text(out, choice_finish_reason(choice));
        choice_append_extras(out, reply, choice);
    } else {
        buffer_append_text(out, "null");
    }
    buffer_append_text(out, "}]");
    if (reply->parameters.include_usage) {
        buffer_append_text(out, ",\"usage\":null");
    }
    if (diffusing(reply)) {
        buffer_append_text(out, ",\"denoised\":{");
        append_draft_state(out, reply, choice, chunk->closing);
        buffer_append_char(out, '}');
    } else if (is_last_event(reply, chunk)) {
        buffer_append_text(out, ",\"denoised\":{");
        reply_append_summary(out, reply, 0, reply->choice_count);
        buffer_append_char(out, ',');
        reply_append_times(out, reply);
        buffer_append_char(out, '}');
    }
    buffer_append_text(out, "}\n\n");
}

/* The role, or the echoed prompt. */
static void append_first_delta(struct buffer *out, struct reply *reply, struct choice *choice)
{
    if (reply->endpoint == API_CHAT_COMPLETIONS) {
        struct chunk role = {.choice = choice, .role = true, .text = ""};
        append_chunk(out, reply, &role);
    } else if (reply->parameters.echo) {
        struct chunk echo = {.choice = choice,
                             .text = choice->echo,
                             .length = choice->echo_length,
                             .begin = logprobs_begin(reply, choice)};
        append_chunk(out, reply, &echo);
    }
}

/* Moves on to the first token that does not begin before this byte of the text. */
static void list_tokens(const struct reply *reply, struct choice *choice, size_t before)
{
    while (choice->listed < choice->tokens && choice->listed_bytes < before) {
        choice->listed_bytes +=
            answer_token_length(&reply->rules, choice->draft.tokens[choice->listed++]);
    }
}

static void append_deltas(struct buffer *out, struct reply *reply, struct choice *choice)
{
    if (!choice->opened) {
        choice->opened = true;
        append_first_delta(out, reply, choice);
    }
    if (!choice_refresh(reply, choice)) {
        return;
    }
    out->failed |= reply->text.bytes.failed;
    if (reply->text.safe > choice->sent) {
        struct chunk delta = {.choice = choice,
                              .text = reply->text.bytes.data + choice->sent,
                              .length = reply->text.safe - choice->sent,
                              .begin = choice->listed};
        list_tokens(reply, choice, reply->text.safe);
        delta.end = choice->listed;
        append_chunk(out, reply, &delta);
        choice->sent = reply->text.safe;
    }
    if (choice->done && !choice_failed(reply, choice)) {
        /* Tokens without text at the end are listed here. */
        struct chunk last = {
            .choice = choice, .begin = choice->listed, .end = choice->tokens, .closing = true};
        append_chunk(out, reply, &last);
        choice->closed = true;
    }
}

/*
 * The last draft shows the answer's text, cut where it ends; the others show what is there. Only a
 * round that the client has not seen makes an event.
 */
static void append_drafts(struct buffer *out, struct reply *reply, struct choice *choice)
{
    bool news = choice_refresh(reply, choice);
    bool fresh = choice->draft.round > choice->delivered_round || choice->done;
    if (!news || !fresh || choice_failed(reply, choice)) {
        return;
    }
    struct buffer text = {0};
    choice_append_echo(&text, choice);
    if (choice->done && reply->text.end > 0) {
        utf8_append_repaired(&text, reply->text.bytes.data, reply->text.end);
    } else if (!choice->done) {
        answer_text_append_draft(&text, &reply->rules, choice->draft.tokens, choice->draft.length,
                                 &reply->scratch);
    }
    struct chunk chunk = {.choice = choice,
                          .role = !choice->opened,
                          .text = text.data ? text.data : "",
                          .length = text.length,
                          .begin = choice->done ? logprobs_begin(reply, choice) : 0,
                          .end = choice->done ? choice->tokens : 0,
                          .closing = choice->done};
    choice->opened = true;
    append_chunk(out, reply, &chunk);
    out->failed |= text.failed || reply->text.bytes.failed;
    choice->closed = choice->done;
    buffer_free(&text);
}

static void append_end(struct buffer *out, struct reply *reply)
{
    if (reply->parameters.include_usage || diffusing(reply)) {
        append_opening(out, reply);
        buffer_append_text(out, ",\"choices\":[],");
        reply_append_usage(out, reply);
        buffer_append_text(out, ",\"denoised\":{");
        reply_append_summary(out, reply, 0, reply->choice_count);
        buffer_append_char(out, ',');
        reply_append_times(out, reply);
        buffer_append_text(out, "}}\n\n");
    }
    buffer_append_text(out, "data: [DONE]\n\n");
    reply->ended = true;
}

static bool all_closed(const struct reply *reply)
{
    for (int32_t i = 0; i < reply->choice_count; i++) {
        if (!reply->choices[i].closed) {
            return false;
        }
    }
    return true;
}

int events_next(struct reply *reply, struct buffer *out)
{
    if (reply->ended) {
        return -1;
    }
    size_t before = out->length;
    for (int32_t seen = 0; seen < reply->choice_count && out->length == before; seen++) {
        struct choice *choice = &reply->choices[reply->cursor];
        reply->cursor = (reply->cursor + 1) % reply->choice_count;
        if (choice->closed) {
            continue;
        }
        if (diffusing(reply)) {
            append_drafts(out, reply, choice);
        } else {
            append_deltas(out, reply, choice);
        }
        if (choice_failed(reply, choice)) {
            struct api_error failure;
            choice_failure(reply, choice, &failure);
            buffer_append_text(out, "data: ");
            api_error_append(out, &failure);
            buffer_append_text(out, "\n\n");
            reply->ended = true;
            return 1;
        }
    }
    if (out->length > before && all_closed(reply)) {
        append_end(out, reply);
    }
    return out->length > before ? 1 : 0;
}

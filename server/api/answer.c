/* The body of an answer that is no stream. */
#include "common/buffer.h"
#include "common/log.h"
#include "common/utf8.h"
#include "server/api/json_writer.h"
#include "server/api/logprobs.h"
#include "server/api/reply.h"

/* The prompt where it is echoed, then the answer: repaired one by one, as a stream sends them. */
static void append_text(struct buffer *out, struct reply *reply, const struct choice *choice)
{
    struct buffer *text = &reply->scratch;
    buffer_clear(text);
    choice_append_echo(text, choice);
    if (reply->text.end > 0) {
        utf8_append_repaired(text, reply->text.bytes.data, reply->text.end);
    }
    log_append_json_string(out, text->data, text->length);
    out->failed |= text->failed;
}

static void append_choice(struct buffer *out, struct reply *reply, struct choice *choice)
{
    choice_read_text(reply, choice);
    out->failed |= reply->text.bytes.failed;
    bool chat = reply->endpoint == API_CHAT_COMPLETIONS;
    buffer_append_text(out, "{\"index\":");
    json_write_integer(out, choice->index);
    buffer_append_text(out,
                       chat ? ",\"message\":{\"role\":\"assistant\",\"content\":" : ",\"text\":");
    append_text(out, reply, choice);
    buffer_append_text(out, chat ? ",\"refusal\":null}" : "");
    logprobs_append(out, reply, choice, logprobs_begin(reply, choice), choice->tokens);
    buffer_append_text(out, ",\"finish_reason\":");
    json_write_text(out, choice_finish_reason(choice));
    choice_append_extras(out, reply, choice);
    buffer_append_text(out, ",\"denoised\":{");
    reply_append_summary(out, reply, choice->index, 1);
    buffer_append_text(out, "}}");
}

void answer_append(struct buffer *out, struct reply *reply)
{
    bool chat = reply->endpoint == API_CHAT_COMPLETIONS;
    buffer_append_char(out, '{');
    reply_append_identity(out, reply, chat ? "chat.completion" : "text_completion");
    buffer_append_text(out, ",\"choices\":[");
    for (int32_t i = 0; i < reply->choice_count; i++) {
        if (i) {
            buffer_append_char(out, ',');
        }
        append_choice(out, reply, &reply->choices[i]);
    }
    buffer_append_text(out, "],");
    reply_append_usage(out, reply);
    buffer_append_text(out, ",\"denoised\":{");
    reply_append_summary(out, reply, 0, reply->choice_count);
    buffer_append_text(out, "}}");
}

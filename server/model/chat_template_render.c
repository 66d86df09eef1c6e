/*
 * The families' templates as C. Each function writes what Jinja writes for the same messages, and
 * notes which bytes are the template's own.
 */
#include "server/model/chat_template_internal.h"

#include <stdlib.h>
#include <string.h>

#include "common/utf8.h"

struct slice {
    const char *text;
    size_t length;
};

void text_segment_list_free(struct text_segment_list *list)
{
    free(list->items);
    *list = (struct text_segment_list){0};
}

/* Opens a segment, unless the last one goes on. */
static bool extend_segments(struct text_segment_list *list, size_t begin, size_t end, bool trusted)
{
    if (list->count > 0 && list->items[list->count - 1].trusted == trusted) {
        list->items[list->count - 1].end = end;
        return true;
    }
    if (list->count == list->capacity) {
        size_t capacity = list->capacity == 0 ? 16 : 2 * list->capacity;
        struct text_segment *grown = realloc(list->items, capacity * sizeof *grown);
        if (grown == NULL) {
            return false;
        }
        list->items = grown;
        list->capacity = capacity;
    }
    list->items[list->count++] =
        (struct text_segment){.begin = begin, .end = end, .trusted = trusted};
    return true;
}

static void put(struct rendering *rendering, struct slice piece, bool trusted)
{
    if (piece.length == 0 || rendering->failed) {
        return;
    }
    size_t begin = rendering->text->length;
    buffer_append(rendering->text, piece.text, piece.length);
    rendering->failed =
        rendering->text->failed ||
        !extend_segments(rendering->segments, begin, rendering->text->length, trusted);
}

static void put_template(struct rendering *rendering, const char *text)
{
    put(rendering, (struct slice){text, strlen(text)}, true);
}

static void put_content(struct rendering *rendering, struct slice content)
{
    put(rendering, content, false);
}

static struct slice content_of(const struct chat_message *message)
{
    return (struct slice){message->content, message->length};
}

static const char *role_name(enum chat_role role)
{
    static const char *const names[] = {"system", "user", "assistant"};
    return names[role];
}

static bool begins_with_system(const struct rendering *rendering)
{
    return rendering->messages[0].role == CHAT_SYSTEM;
}

/* ---- Python's string methods ---- */

/* str.strip() takes the four separators U+001C to U+001F beside White_Space. */
static bool is_python_space(uint32_t code_point)
{
    return (code_point >= 0x1c && code_point <= 0x1f) || utf8_is_white_space(code_point);
}

static struct slice strip(struct slice s)
{
    uint32_t code_point;
    while (s.length > 0) {
        int size = utf8_next(s.text, s.length, &code_point);
        if (size < 0 || !is_python_space(code_point)) {
            break;
        }
        s.text += size;
        s.length -= (size_t)size;
    }
    while (s.length > 0) {
        size_t last = s.length - 1;
        while (last > 0 && ((uint8_t)s.text[last] & 0xc0) == 0x80) {
            last--;
        }
        int size = utf8_next(s.text + last, s.length - last, &code_point);
        if (size < 0 || !is_python_space(code_point)) {
            break;
        }
        s.length = last;
    }
    return s;
}

static struct slice strip_newlines_before(struct slice s)
{
    while (s.length > 0 && s.text[0] == '\n') {
        s.text++;
        s.length--;
    }
    return s;
}

static struct slice strip_newlines_behind(struct slice s)
{
    while (s.length > 0 && s.text[s.length - 1] == '\n') {
        s.length--;
    }
    return s;
}

/* Splits at the first mark; false where there is none. */
static bool partition(struct slice s, const char *mark, struct slice *before, struct slice *after)
{
    size_t mark_length = strlen(mark);
    const char *found = s.length > 0 ? memmem(s.text, s.length, mark, mark_length) : NULL;
    if (found == NULL) {
        return false;
    }
    size_t at = (size_t)(found - s.text);
    *before = (struct slice){s.text, at};
    *after = (struct slice){found + mark_length, s.length - at - mark_length};
    return true;
}

/* What follows the last mark: split(mark)[-1]. */
static struct slice after_last(struct slice s, const char *mark)
{
    struct slice before;
    while (partition(s, mark, &before, &s)) {
    }
    return s;
}

static bool begins_and_ends_with(struct slice s, const char *begin, const char *end)
{
    size_t begin_length = strlen(begin);
    size_t end_length = strlen(end);
    return s.length >= begin_length && s.length >= end_length &&
           memcmp(s.text, begin, begin_length) == 0 &&
           memcmp(s.text + s.length - end_length, end, end_length) == 0;
}

/* ---- thinking, as in Qwen3's template and those made after it ---- */

/* Cuts "<think>reasoning</think>answer"; the whole is the answer where nothing was thought. */
static void split_thinking(struct slice content, struct slice *reasoning, struct slice *answer)
{
    struct slice before, after;
    *reasoning = (struct slice){"", 0};
    *answer = content;
    if (partition(content, "</think>", &before, &after)) {
        *answer = strip_newlines_before(after_last(after, "</think>"));
        *reasoning = strip_newlines_before(after_last(strip_newlines_behind(before), "<think>"));
    }
}

/* The last message that a user wrote rather than a tool; the last of all where there is none. */
static size_t last_query(const struct rendering *rendering)
{
    for (size_t i = rendering->count; i-- > 0;) {
        const struct chat_message *message = &rendering->messages[i];
        if (message->role == CHAT_USER &&
            !begins_and_ends_with(content_of(message), "<tool_response>", "</tool_response>")) {
            return i;
        }
    }
    return rendering->count - 1;
}

static void put_thinking(struct rendering *rendering, struct slice reasoning, struct slice answer)
{
    put_template(rendering, "<think>\n");
    put_content(rendering, strip_newlines_behind(strip_newlines_before(reasoning)));
    put_template(rendering, "\n</think>\n\n");
    put_content(rendering, strip_newlines_before(answer));
}

/* ---- families ---- */

static void put_llada_header(struct rendering *rendering, enum chat_role role)
{
    put_template(rendering, "<|start_header_id|>");
    put_template(rendering, role_name(role));
    put_template(rendering, "<|end_header_id|>\n\n");
}

int chat_render_llada(struct rendering *rendering)
{
    const struct chat_template *chat_template = rendering->chat_template;
    if (chat_template->bos_token == NULL) {
        return error_set(rendering->err, ERROR_INVALID,
                         "the chat template needs a bos_token: add it to tokenizer_config.json");
    }
    put_template(rendering, chat_template->bos_token);
    for (size_t i = 0; i < rendering->count; i++) {
        put_llada_header(rendering, rendering->messages[i].role);
        put_content(rendering, strip(content_of(&rendering->messages[i])));
        put_template(rendering, "<|eot_id|>");
    }
    if (chat_template->family->always_prompts || rendering->add_generation_prompt) {
        put_llada_header(rendering, CHAT_ASSISTANT);
    }
    return 0;
}

static void put_chatml_header(struct rendering *rendering, enum chat_role role)
{
    put_template(rendering, "<|im_start|>");
    put_template(rendering, role_name(role));
    put_template(rendering, "\n");
}

int chat_render_chatml(struct rendering *rendering)
{
    const char *system_prompt = rendering->chat_template->family->system_prompt;
    if (system_prompt != NULL && !begins_with_system(rendering)) {
        put_chatml_header(rendering, CHAT_SYSTEM);
        put_template(rendering, system_prompt);
        put_template(rendering, "<|im_end|>\n");
    }
    for (size_t i = 0; i < rendering->count; i++) {
        put_chatml_header(rendering, rendering->messages[i].role);
        put_content(rendering, content_of(&rendering->messages[i]));
        put_template(rendering, "<|im_end|>\n");
    }
    if (rendering->add_generation_prompt) {
        put_chatml_header(rendering, CHAT_ASSISTANT);
    }
    return 0;
}

int chat_render_chatml_qwen3(struct rendering *rendering)
{
    size_t query = last_query(rendering);
    for (size_t i = 0; i < rendering->count; i++) {
        const struct chat_message *message = &rendering->messages[i];
        put_chatml_header(rendering, message->role);
        if (message->role == CHAT_ASSISTANT) {
            struct slice reasoning, answer;
            split_thinking(content_of(message), &reasoning, &answer);
            bool last = i + 1 == rendering->count;
            if (i > query && (last || reasoning.length > 0)) {
                put_thinking(rendering, reasoning, answer);
            } else {
                put_content(rendering, answer);
            }
        } else {
            put_content(rendering, content_of(message));
        }
        put_template(rendering, "<|im_end|>\n");
    }
    if (rendering->add_generation_prompt) {
        put_chatml_header(rendering, CHAT_ASSISTANT);
    }
    return 0;
}

static void put_llada2_assistant(struct rendering *rendering, size_t index, size_t query)
{
    struct slice reasoning, answer;
    split_thinking(content_of(&rendering->messages[index]), &reasoning, &answer);
    put_template(rendering, "<role>ASSISTANT</role>");
    if (index > query && reasoning.length > 0) {
        put_template(rendering, "\n");
        put_thinking(rendering, reasoning, answer);
    } else {
        put_content(rendering, answer);
    }
}

int chat_render_llada2(struct rendering *rendering)
{
    put_template(rendering, "<role>SYSTEM</role>");
    size_t first = 0;
    if (begins_with_system(rendering)) {
        put_content(rendering, content_of(&rendering->messages[0]));
        put_template(rendering, "\n");
        first = 1;
    }
    put_template(rendering, "detailed thinking off<|role_end|>");
    size_t query = last_query(rendering);
    for (size_t i = first; i < rendering->count; i++) {
        const struct chat_message *message = &rendering->messages[i];
        if (message->role == CHAT_ASSISTANT) {
            put_llada2_assistant(rendering, i, query);
        } else {
            put_template(rendering,
                         message->role == CHAT_USER ? "<role>HUMAN</role>" : "<role>SYSTEM</role>");
            put_content(rendering, content_of(message));
        }
        put_template(rendering, "<|role_end|>");
    }
    if (rendering->add_generation_prompt) {
        put_template(rendering, "<role>ASSISTANT</role>");
    }
    return 0;
}

int chat_template_render(const struct chat_template *chat_template,
                         const struct chat_message *messages, size_t count,
                         bool add_generation_prompt, struct buffer *text,
                         struct text_segment_list *segments, struct error *err)
{
    if (count == 0) {
        return error_set(err, ERROR_INVALID, "the chat template needs at least one message");
    }
    struct rendering rendering = {
        .chat_template = chat_template,
        .messages = messages,
        .count = count,
        .add_generation_prompt = add_generation_prompt,
        .text = text,
        .segments = segments,
        .err = err,
    };
    int result = chat_template->family->render(&rendering);
    if (result == 0 && rendering.failed) {
        result = error_set(err, ERROR_MEMORY, "chat template: no memory to render the messages");
    }
    return result;
}

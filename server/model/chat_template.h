/*
 * Chat templates, rendered by family: the template text of a checkpoint is recognised, never
 * interpreted and never guessed. Immutable after load; any thread.
 */
#ifndef SERVER_MODEL_CHAT_TEMPLATE_H
#define SERVER_MODEL_CHAT_TEMPLATE_H

#include <stdbool.h>
#include <stddef.h>

#include "server/model/tokenizer.h"

struct buffer;
struct error;

enum chat_role { CHAT_SYSTEM, CHAT_USER, CHAT_ASSISTANT };

struct chat_message {
    enum chat_role role;
    const char *content; /* [length] UTF-8, may hold NUL */
    size_t length;
};

struct chat_template; /* family, BOS text; owned by the caller */

/*
 * Reads tokenizer_config.json and chat_template.jinja of a model directory (both optional; the
 * jinja file wins). *out is NULL, without error, when there is no template or an unknown one; then
 * *reason (static text) says which. ERROR_INVALID only for files that cannot be read.
 */
int chat_template_load(struct chat_template **out, const char **reason, const char *directory,
                       struct error *err);

/* The same from texts; NULL for a template of no known family. */
struct chat_template *chat_template_recognise(const char *template_text, const char *bos_token);
void chat_template_free(struct chat_template *chat_template); /* NULL is fine */

/* "llada", "llada_gen", "chatml_plain", ... as in the fixtures. */
const char *chat_template_family(const struct chat_template *chat_template);
/* The token text that ends a turn: "<|eot_id|>", "<|im_end|>", "<|role_end|>". */
const char *chat_template_end_of_turn(const struct chat_template *chat_template);

/* Segments of a rendered text, ascending and gapless. The owner frees it. */
struct text_segment_list {
    struct text_segment *items;
    size_t count, capacity;
};
void text_segment_list_free(struct text_segment_list *list);

/*
 * Appends the rendered text to `text` (empty before) and fills `segments`: template parts are
 * trusted, what a user or assistant wrote is not. ERROR_INVALID where the template itself refuses
 * the messages; ERROR_MEMORY.
 */
int chat_template_render(const struct chat_template *chat_template,
                         const struct chat_message *messages, size_t count,
                         bool add_generation_prompt, struct buffer *text,
                         struct text_segment_list *segments, struct error *err);

#endif

/* What chat_template.c (recognising) and chat_template_render.c (rendering) share. */
#ifndef SERVER_MODEL_CHAT_TEMPLATE_INTERNAL_H
#define SERVER_MODEL_CHAT_TEMPLATE_INTERNAL_H

#include <stdint.h>

#include "common/buffer.h"
#include "common/error.h"
#include "server/model/chat_template.h"

/* A rendering in progress. */
struct rendering {
    const struct chat_template *chat_template;
    const struct chat_message *messages; /* [count], count > 0 */
    size_t count;
    bool add_generation_prompt;
    struct buffer *text;
    struct text_segment_list *segments;
    bool failed; /* for want of memory */
    struct error *err;
};

/*
 * A template is known by its length and hash instead of its text, up to 4 kB each: no two of a
 * handful of fixed lengths and 64-bit values meet by accident, and who forges a match gains
 * nothing, since the text is only recognised and never run.
 */
struct chat_family {
    const char *name;
    size_t length;             /* bytes of the text without white space at its end */
    uint64_t hash;             /* FNV-1a of these */
    const char *end_of_turn;   /* the token text */
    const char *system_prompt; /* rendered where the first message is no system message, or NULL */
    bool always_prompts;       /* ends with the assistant's header whatever is asked */
    int (*render)(struct rendering *rendering);
};

struct chat_template {
    const struct chat_family *family;
    char *bos_token; /* NULL where the model names none */
};

int chat_render_llada(struct rendering *rendering);
int chat_render_chatml(struct rendering *rendering);
int chat_render_chatml_qwen3(struct rendering *rendering);
int chat_render_llada2(struct rendering *rendering);

#endif

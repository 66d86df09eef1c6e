/*
 * Prompts of a request as token ids: `prompt` of completions (text or ids, one or several) and
 * `messages` of a chat. The list owns its ids; the caller frees it.
 */
#ifndef SERVER_API_PROMPTS_H
#define SERVER_API_PROMPTS_H

#include <stddef.h>
#include <jansson.h>

#include "common/buffer.h"

struct api;
struct api_error;

struct prompt_list {
    struct token_list *items; /* [count] none of them empty */
    size_t count;
};

void prompt_list_free(struct prompt_list *list);

/*
 * `prompt`: at most max_prompts of them. Added tokens are matched in text and the post-processor
 * applies. The mask id and ids that tokenizer or model lack are refused.
 */
int prompts_read_raw(struct prompt_list *out, const struct api *api, const json_t *body,
                     size_t max_prompts, struct api_error *err);

/* `messages` through the chat template; what they say never becomes a special token. */
int prompts_read_messages(struct prompt_list *out, const struct api *api, const json_t *body,
                          struct api_error *err);

#endif

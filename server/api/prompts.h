/*
 * Prompts of a request as token ids: `prompt` of completions (text or ids, one or several) and
 * `messages` of a chat. The list owns its ids; the caller frees it.
 */
#ifndef SERVER_API_PROMPTS_H
#define SERVER_API_PROMPTS_H

#include <stddef.h>
#include <stdint.h>
#include <jansson.h>

#include "common/buffer.h"
#include "server/api/api.h"

struct api_error;
struct error;

struct prompt_list {
    struct token_list *items; /* [count] none of them empty */
    size_t count;
};

void prompt_list_free(struct prompt_list *list);

/*
 * `prompt`: at most max_prompts of them. Added tokens are matched in text and the post-processor
 * applies. The mask id and ids that tokenizer or model lack are refused, and so is what is surely
 * too long for the context, before it is encoded.
 */
int prompts_read_raw(struct prompt_list *out, const struct api *api, const json_t *body,
                     size_t max_prompts, struct api_error *err);

/* Prompt `index` of a body that prompts_read_raw has read, where it is text; NULL: it is ids. */
const json_t *prompts_text(const json_t *body, size_t index);

/*
 * `messages` through the chat template; what they say never becomes a special token. Where it is
 * surely too long for `context` tokens with an answer it is refused before it is encoded.
 */
int prompts_read_messages(struct prompt_list *out, const struct api *api, const json_t *body,
                          int32_t context, struct api_error *err);
enum { PROMPTS_ANY_LENGTH = INT32_MAX }; /* as context */

/*
 * `negative_prompt`, which takes the prompt's place in guidance: as a raw prompt, or of a chat as
 * the only user message, but what it says never becomes a special token. Nothing is appended where
 * it is absent or empty.
 */
int prompts_read_negative(struct token_list *out, const struct api *api, enum api_endpoint endpoint,
                          const json_t *body, struct api_error *err);

/* Whether this is an id that the model may be shown; `param` names where it stands. */
int prompts_check_id(const struct api *api, int64_t id, const char *param, struct api_error *err);

/* Element `index` of an array of ids called `param`: any token, or one that the model may be
 * shown. */
int prompts_read_token(int32_t *out, const struct api *api, const json_t *array, size_t index,
                       const char *param, struct api_error *err);
int prompts_read_id(int32_t *out, const struct api *api, const json_t *array, size_t index,
                    const char *param, struct api_error *err);

/* What the tokenizer said about the text of `param`. */
int prompts_encode_failed(struct api_error *err, const struct error *cause, const char *param);

#endif

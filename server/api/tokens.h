/* /tokenize and /detokenize: text to ids and back. Pure functions, preparation thread. */
#ifndef SERVER_API_TOKENS_H
#define SERVER_API_TOKENS_H

#include <jansson.h>

struct api;
struct api_error;
struct buffer;

/* Appends the answer to a checked body of /tokenize: {"tokens", "count", ...}. */
int tokens_append_encoded(struct buffer *out, const struct api *api, const json_t *body,
                          struct api_error *err);

/* Appends the answer to a checked body of /detokenize: {"prompt", "content"}. */
int tokens_append_decoded(struct buffer *out, const struct api *api, const json_t *body,
                          struct api_error *err);

#endif

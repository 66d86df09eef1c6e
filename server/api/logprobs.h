/*
 * Log-probabilities in OpenAI's two forms: of the raw row when the token was committed. Positions
 * count from the answer's first; negative ones are those of the echoed prompt. Pure functions.
 */
#ifndef SERVER_API_LOGPROBS_H
#define SERVER_API_LOGPROBS_H

#include <stdint.h>

struct buffer;
struct choice;
struct reply;

/*
 * Appends ,"logprobs":... for the tokens [begin, end) of the choice whose text reply->text holds:
 * an object where the request asked for it (with empty lists for no tokens), else null.
 */
void logprobs_append(struct buffer *out, const struct reply *reply, const struct choice *choice,
                     int32_t begin, int32_t end);

/* Where the whole list of a choice begins: 0, or before the echoed prompt. */
int32_t logprobs_begin(const struct reply *reply, const struct choice *choice);

#endif

/*
 * The end of a round: what the head proposes for the region's masks, which of it commits, and the
 * draft. Engine thread only.
 */
#ifndef SERVER_ENGINE_ROUND_H
#define SERVER_ENGINE_ROUND_H

#include <stdint.h>

#include "kernels/backend.h"
#include "server/engine/sequence.h"

struct error;

/* What the rounds of all sequences share. */
struct round_context {
    const struct head_batch *batch; /* of the tick */
    const struct head_result *result;
    const struct token_text *token_text; /* NULL: no request has banned words */
    struct candidate *candidates;        /* [longest canvas] scratch */
    char *text;                          /* scratch of struct word_check */
};

/*
 * Commits what the policy selects of the sequence's head rows, [head_begin, head_end) of the
 * result, and ends the round.
 *
 * With banned words a row whose token would complete one with committed neighbours proposes the
 * next token of its top list; where that has none left the position waits. Where two commits of the
 * round would complete one together, the less confident position stays masked. In the last round of
 * a region everything commits from left to right, each position with its best token that completes
 * nothing; where the top list has none, with the lowest id that has text and completes nothing,
 * else with a stop id (confidence 0, log-probability -9999). So every round commits something and
 * the plan holds.
 *
 * ERROR_INVALID when the model proposes no token at all (its numbers are no numbers), or when every
 * token would complete a banned word.
 */
int round_finish(struct sequence *sequence, enum finish *finish,
                 const struct round_context *context, int64_t now_us, struct error *err);

#endif

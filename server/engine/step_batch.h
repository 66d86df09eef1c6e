/*
 * The packed rows of one tick: windows of many sequences as the backend wants them. All memory is
 * taken at start. Engine thread only.
 */
#ifndef SERVER_ENGINE_STEP_BATCH_H
#define SERVER_ENGINE_STEP_BATCH_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/backend.h"
#include "server/engine/sequence.h"

struct error;

struct step_batch_limits {
    int32_t max_rows;
    int32_t slots;             /* sequences that can run at once */
    int64_t positions;         /* of their canvases together, guidance partners left out */
    int32_t vocabulary;        /* columns of the head */
    int32_t token_limit;       /* ids from here on are never chosen; at most the vocabulary */
    int32_t mask_token;        /* never chosen */
    const int32_t *eos_tokens; /* [eos_token_count] what logits_eos_inf bans; outlives the batch */
    int32_t eos_token_count;
};

enum {
    /* A request's own, the stop ids that it ignores, the model's EOS ids. */
    SEQUENCE_BIASES_MAX = DECODE_BIASES_MAX + DECODE_STOP_TOKENS_MAX + MODEL_STOP_TOKENS_MAX,
};
_Static_assert((int)SEQUENCE_BIASES_MAX <= (int)MODEL_BIASES_MAX,
               "the backend has no room for so many");

struct step_batch {
    struct step_batch_limits limits;
    /* Packed so far. */
    int32_t rows, gathered, head_rows, count_count, bias_count, allowed_lines;
    /* Each [max_rows]; see struct step_rows. */
    int32_t *token, *line, *position, *kv_end, *gather;
    uint8_t *shadow;       /* all 0: no revision yet measures committed tokens */
    struct head_row *head; /* [max_rows] */
    /* What the rows of a sequence share. No sequence has more different tokens than positions. */
    struct token_count *counts; /* [positions] */
    struct token_bias *biases;  /* [slots, SEQUENCE_BIASES_MAX] */
    uint32_t *allowed;          /* [slots, (vocabulary + 31) / 32] */
    int32_t *count_place;       /* [vocabulary] scratch: 1 + place of the token's count, else 0 */
};

int step_batch_create(struct step_batch *batch, const struct step_batch_limits *limits,
                      struct error *err);
void step_batch_free(struct step_batch *batch);

void step_batch_clear(struct step_batch *batch);

/*
 * Appends the rows of the planned round of the sequence in a slot; there must be room for
 * sequence_rows. Its line of the page table is the slot; partner_line is its guidance partner's.
 * Sets the sequence's head rows.
 */
void step_batch_add(struct step_batch *batch, struct sequence *sequence, int32_t slot,
                    int32_t partner_line);

/* True where the sequence's rows can choose some token. Any thread. */
bool step_batch_can_choose(const struct step_batch_limits *limits, const struct request *request);

/* What model_forward takes; valid until the batch is cleared. */
struct step_rows step_batch_rows(const struct step_batch *batch, const int32_t *page_table,
                                 int32_t page_table_stride);
struct head_batch step_batch_head(const struct step_batch *batch);

#endif

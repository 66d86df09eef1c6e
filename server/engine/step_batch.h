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

struct step_batch {
    int32_t max_rows;
    int32_t rows, gathered, head_rows; /* packed so far */
    int32_t mask_token, token_limit;
    /* Each [max_rows]; see struct step_rows. */
    int32_t *token, *line, *position, *kv_end, *gather;
    uint8_t *shadow;           /* all 0: no revision yet measures committed tokens */
    struct head_row *head;     /* [max_rows] */
    struct token_bias *biases; /* [slots, MODEL_STOP_TOKENS_MAX] */
};

/* Slots: sequences that can run at once. */
int step_batch_create(struct step_batch *batch, int32_t max_rows, int32_t slots, int32_t mask_token,
                      int32_t token_limit, struct error *err);
void step_batch_free(struct step_batch *batch);

void step_batch_clear(struct step_batch *batch);

/*
 * Appends the rows of the planned round of the sequence in a slot; there must be room for
 * sequence_rows. Its line of the page table is the slot; partner_line is its guidance partner's.
 * Sets the sequence's head rows.
 */
void step_batch_add(struct step_batch *batch, struct sequence *sequence, int32_t slot,
                    int32_t partner_line);

/* What model_forward takes; valid until the batch is cleared. */
struct step_rows step_batch_rows(const struct step_batch *batch, const int32_t *page_table,
                                 int32_t page_table_stride);
struct head_batch step_batch_head(const struct step_batch *batch);

#endif

/*
 * What a head row chooses next when its choice is refused, from the row's top list: the result is
 * the row's with the refused tokens at -infinity before the softmax, but that top_p looks at the
 * list alone and that the choices end with the list. Pure functions.
 */
#ifndef SERVER_ENGINE_NEXT_CHOICE_H
#define SERVER_ENGINE_NEXT_CHOICE_H

#include <stdint.h>

#include "kernels/backend.h"

struct next_choice {
    const struct head_batch *batch;
    const struct head_row *row;
    const struct head_statistics *statistics;
    int32_t count; /* entries of the list that were not refused */
    int32_t top_token[HEAD_TOP_MAX];
    float top_logprob[HEAD_TOP_MAX];
    double refused; /* probability of all refused tokens together */
    /* The choice now. */
    int32_t token;     /* -1: nothing is left */
    double confidence; /* its probability among what was not refused */
    float logprob;     /* in the adjusted row, refused tokens included */
};

/* Begins with the choice of head row `index` of a result. */
void next_choice_begin(struct next_choice *choice, const struct head_batch *batch,
                       const struct head_result *result, int32_t index);

/* Refuses the choice and takes the next one. */
void next_choice_refuse(struct next_choice *choice);

/* Log-probability of the choice in the raw row. */
float next_choice_raw_logprob(const struct next_choice *choice);

#endif

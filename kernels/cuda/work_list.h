/*
 * What attention has to do in a step, as a list that its blocks read from device memory: the grid
 * depends on the row bucket alone. Pure functions of the step and the limits, on the host.
 *
 * A tile is up to TILE_LINES lines of one matrix product against the keys of one kv head; a line is
 * one row with one of the query heads that share that kv head. Its rows are neighbours of the same
 * sequence and the same kv_end, so that nothing behind kv_end is ever read. Long canvases are cut
 * into nearly equal chunks, as many as the limits and kv_end say. Therefore a row's result depends
 * on its own kv_end alone, whatever else is in the step.
 */
#ifndef KERNELS_CUDA_WORK_LIST_H
#define KERNELS_CUDA_WORK_LIST_H

#include "kernels/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    TILE_LINES = 64,
    CHUNK_POSITIONS_MIN = 512, /* fewer are not worth the merging */
    CHUNKS_MAX = 8,            /* of one canvas; bounds the memory of the parts */
};

/* One tile and chunk of one kv head. */
struct attention_item {
    int32_t first, rows; /* of the step */
    int32_t kv_head;
    int32_t group_first, group_count; /* query heads of the kv head; rows * group_count lines */
    int32_t kv_begin, kv_end;         /* positions of the chunk; equal: the output is zero */
    int32_t chunk;                    /* of this row's parts; -1: the only one, not to be merged */
};

/* The list and its tables; the caller's memory, of the sizes that work_list_room_for gives. */
struct work_list {
    struct attention_item *items;
    int32_t item_count;
    int32_t *part_first; /* [rows] of a row's parts in the scratch, -1 where it has one chunk */
    int32_t *part_count; /* [rows] */
    int32_t parts;
};

struct work_list_room {
    int64_t items; /* most items of a step with so many rows */
    int64_t parts; /* most parts */
};
struct work_list_room work_list_room_for(const struct backend_limits *limits, int32_t rows);

/*
 * The length that chunks come near to, between 3/4 and 3/2 of it where there are several: fixed by
 * the limits, a multiple of KV_PAGE_POSITIONS.
 */
int32_t work_list_chunk_positions(const struct backend_limits *limits);

void work_list_fill(struct work_list *list, const struct step_rows *step,
                    const struct backend_limits *limits);

#ifdef __cplusplus
}
#endif

#endif

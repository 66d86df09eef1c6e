/*
 * The tables of a step: what the kernels read besides activations, weights and pages. They are
 * filled in host memory and copied to the device, where each has a fixed address, so that a
 * recording of a step is never patched. Kernels take the number of rows from here as well: grids
 * are those of the row bucket, and what lies behind the last row is left alone.
 */
#ifndef KERNELS_CUDA_STEP_TABLES_H
#define KERNELS_CUDA_STEP_TABLES_H

#include "kernels/cuda/work_list.h"

#ifdef __cplusplus
extern "C" {
#endif

struct step_counts {
    int32_t rows, gathered, items;
};

/* One set of pointers into host memory, and one into the device's. */
struct step_tables {
    struct step_counts *counts;
    int32_t *token, *position, *kv_end; /* [max_rows] */
    int32_t *shadow;                    /* [max_rows] 0 or 1 */
    int32_t *line;                      /* [max_rows] of page_table: of the row's sequence */
    int32_t *part_first, *part_count;   /* [max_rows] struct work_list */
    int32_t *gather;                    /* [backend_lines_max] */
    int32_t *page_table;                /* [lines of this step, pages_per_line] */
    int32_t pages_per_line;
    struct attention_item *items; /* [counts->items] */
};

/* Bytes from the start that a step has to copy, and of the items, which lie far behind; parts of
 * attention that there are to merge. */
struct step_extent {
    size_t tables, items;
    int32_t parts;
};

/* Points into a block at `base` (NULL: only to learn its size), which is returned in bytes. */
size_t step_tables_place(struct step_tables *tables, char *base,
                         const struct backend_limits *limits);

/*
 * Fills the host's tables. `line_of_sequence` [max_sequences] is scratch of the caller, at first
 * all -1, and is so again afterwards. Only page table lines of sequences that have rows are read.
 */
struct step_extent step_tables_fill(struct step_tables *tables, const struct step_rows *step,
                                    const struct backend_limits *limits, int32_t *line_of_sequence);

#ifdef __cplusplus
}
#endif

#endif

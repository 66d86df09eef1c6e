/*
 * What the LM head shares with its kernels. Logits come from a product, a chunk of the vocabulary
 * at a time, and are judged while they are in the device's cache: every block of HEAD_BLOCK_COLUMNS
 * columns of a row gives one struct head_partial, and the partials of a row are put together in the
 * order of the blocks. Blocks lie at fixed columns, so a row's result depends on that row alone.
 *
 * Rows that need more than one look at their logits (top lists, top_k, top_p, min_p) are stored:
 * their logits go into a bounded scratch, and one block each finds in them what is asked for. Where
 * there are more of them than the scratch holds, the product is done once more for each slice.
 */
#ifndef KERNELS_CUDA_HEAD_KERNELS_H
#define KERNELS_CUDA_HEAD_KERNELS_H

#include "kernels/backend.h"
#include "kernels/cuda/queue.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    HEAD_BLOCK_COLUMNS = 2048,
    HEAD_CHUNK_BYTES = 24 << 20,   /* of logits of all lines: half of the L2 cache of an H100 */
    HEAD_STORED_ROWS_MAX = 256,    /* of one slice, */
    HEAD_STORED_ROWS_MIN = 32,     /* and so many at least, */
    HEAD_STORED_BYTES = 256 << 20, /* else what fits into this */
};

/* ---- what a step uploads --------------------------------------------------------------------- */

/* One block of memory: this, the rows, and the rest packed behind them. Offsets in bytes. */
struct head_tables {
    int32_t rows, stored;
    int32_t mask_token, token_limit;
    uint32_t rows_at;    /* [rows] struct head_table_row */
    uint32_t stored_at;  /* [stored] int32_t: the row of a place */
    uint32_t counts_at;  /* struct head_count */
    uint32_t biases_at;  /* struct head_bias */
    uint32_t allowed_at; /* [lines, (vocabulary + 31) / 32] */
};

struct head_table_row {
    struct head_row row;
    int32_t place; /* among the stored rows, or -1 */
};

/*
 * Entries of one token form a chain through the whole list, so that threads may take entries in any
 * order: who has the first one of a row's range goes on to the next ones.
 */
struct head_count {
    int32_t token;
    int32_t times;          /* in the answer; 0: in the prompt alone, -1: nowhere */
    int32_t previous, next; /* entry of the same token, or -1 */
};
struct head_bias {
    int32_t token;
    float bias;
    int32_t previous, next;
};

/* Bytes that the tables of a step take at most. SIZE_MAX where that overflows. */
size_t head_tables_bytes(const struct backend_limits *limits);

/*
 * Fills the block for a batch and returns its size. *lists: whether any row asks for top lists.
 * last_of_token [vocabulary] is scratch of the caller, at first all -1, and is so again afterwards.
 */
size_t head_tables_fill(struct head_tables *tables, bool *lists, const struct head_batch *batch,
                        int32_t vocabulary, int32_t *last_of_token);

/* ---- what the kernels keep ------------------------------------------------------------------- */

/* One row in one block of columns. */
struct head_partial {
    float largest, sum, weighted; /* adjusted: sum of e = exp(x - largest), of e (x - largest) */
    float raw_largest, raw_sum;
    /* The best token, or the one that wins with noise; -1 where none may be chosen. */
    int32_t token;
    float logit, raw_logit; /* of the token */
    double score;
};

/* One row over all blocks, for the kernel of the stored rows. */
struct head_judgement {
    double logsumexp, raw_logsumexp;
    float best_logit;
    int32_t token;
};

/* What is downloaded for a stored row. */
struct head_lists {
    int32_t top_token[HEAD_TOP_MAX];
    float top_logprob[HEAD_TOP_MAX];
    int32_t raw_top_token[HEAD_RAW_TOP_MAX];
    float raw_top_logprob[HEAD_RAW_TOP_MAX];
};

/* Of all kernels of the head. */
struct head_arguments {
    const struct head_tables *tables;
    const float *logits; /* [lines, stride] of this chunk */
    const float *bias;   /* [vocabulary] or NULL */
    int64_t stride;
    int32_t vocabulary, blocks;
    int32_t first_block;       /* of this chunk */
    int32_t slice, slice_rows; /* of stored rows */
    float *raw, *adjusted;     /* [slice_rows, blocks * HEAD_BLOCK_COLUMNS] of the stored rows */
    struct head_partial *partials; /* [rows, blocks] */
    float *given_logits;           /* [rows] */
    struct head_judgement *judgements;
    struct head_statistics *statistics; /* [rows] */
    struct head_lists *lists;           /* [stored] */
};

/* Grids: rows of the bucket, blocks of the chunk; rows of the bucket; stored rows of the slice. */
void head_launch_statistics(struct simt_queue *queue, const struct head_arguments *arguments,
                            int32_t rows, int32_t blocks);
void head_launch_rows(struct simt_queue *queue, const struct head_arguments *arguments,
                      int32_t rows);
void head_launch_choice(struct simt_queue *queue, const struct head_arguments *arguments,
                        int32_t stored);

#ifdef __cplusplus
}
#endif

#endif

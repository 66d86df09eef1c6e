/* What a step uploads for the head: rows, and what adjusts them, packed into one block. */
#include <string.h>

#include "kernels/cuda/head_kernels.h"
#include "kernels/memory_block.h"

enum { TABLE_ALIGNMENT = 256 };

static size_t align(size_t size)
{
    return (size + TABLE_ALIGNMENT - 1) / TABLE_ALIGNMENT * TABLE_ALIGNMENT;
}

static size_t allowed_words(int32_t vocabulary)
{
    return ((size_t)vocabulary + 31) / 32;
}

size_t head_tables_bytes(const struct backend_limits *limits)
{
    size_t rows = (size_t)limits->max_head_rows;
    size_t allowed = memory_block_product((size_t)limits->max_allowed,
                                          allowed_words(limits->vocabulary) * sizeof(uint32_t));
    size_t small = sizeof(struct head_tables) +
                   rows * (sizeof(struct head_table_row) + sizeof(int32_t)) +
                   (size_t)limits->max_counts * sizeof(struct head_count) +
                   (size_t)limits->max_biases * sizeof(struct head_bias);
    /* Each of the six parts is rounded up. */
    return memory_block_sum(allowed, small + (size_t)6 * TABLE_ALIGNMENT);
}

bool head_row_is_stored(const struct head_row *row)
{
    bool filters = row->top_k > 0 || row->top_p < 1 || row->min_p > 0;
    return row->top > 0 || row->raw_top > 0 || (row->temperature > 0 && filters);
}

static void *table_at(struct head_tables *tables, uint32_t offset)
{
    return (char *)tables + offset;
}

/* Behind the last entry that a row uses. */
struct batch_extent {
    int32_t counts, biases, allowed;
};

static int32_t larger(int32_t a, int32_t b)
{
    return a > b ? a : b;
}

static struct batch_extent extent_of(const struct head_batch *batch)
{
    struct batch_extent extent = {0, 0, 0};
    for (int32_t i = 0; i < batch->rows; i++) {
        const struct head_row *row = &batch->row[i];
        if (row->counts_end > row->counts_begin)
            extent.counts = larger(extent.counts, row->counts_end);
        if (row->biases_end > row->biases_begin)
            extent.biases = larger(extent.biases, row->biases_end);
        extent.allowed = larger(extent.allowed, row->allowed + 1);
    }
    return extent;
}

/* Entry i of a chain: the last one of its token before it becomes its previous one. */
static int32_t join_chain(int32_t *last_of_token, int32_t token, int32_t i)
{
    int32_t previous = last_of_token[token];
    last_of_token[token] = i;
    return previous;
}

static void fill_counts(struct head_count *counts, const struct token_count *from, int32_t count,
                        int32_t *last_of_token)
{
    for (int32_t i = 0; i < count; i++) {
        int32_t previous = join_chain(last_of_token, from[i].token, i);
        int32_t times = from[i].in_prompt > 0 ? 0 : -1;
        if (from[i].in_answer > 0)
            times = from[i].in_answer;
        counts[i] = (struct head_count){from[i].token, times, previous, -1};
        if (previous >= 0)
            counts[previous].next = i;
    }
    for (int32_t i = 0; i < count; i++)
        last_of_token[from[i].token] = -1;
}

static void fill_biases(struct head_bias *biases, const struct token_bias *from, int32_t count,
                        int32_t *last_of_token)
{
    for (int32_t i = 0; i < count; i++) {
        int32_t previous = join_chain(last_of_token, from[i].token, i);
        biases[i] = (struct head_bias){from[i].token, from[i].bias, previous, -1};
        if (previous >= 0)
            biases[previous].next = i;
    }
    for (int32_t i = 0; i < count; i++)
        last_of_token[from[i].token] = -1;
}

static void fill_rows(struct head_tables *tables, const struct head_batch *batch)
{
    struct head_table_row *rows = table_at(tables, tables->rows_at);
    int32_t *stored = table_at(tables, tables->stored_at);
    for (int32_t i = 0; i < batch->rows; i++) {
        rows[i] = (struct head_table_row){batch->row[i], -1};
        if (!head_row_is_stored(&batch->row[i]))
            continue;
        rows[i].place = tables->stored;
        stored[tables->stored++] = i;
    }
}

/* Takes the next part of the block. */
static uint32_t place(size_t *size, size_t bytes)
{
    size_t at = *size;
    *size = align(at + bytes);
    return (uint32_t)at;
}

size_t head_tables_fill(struct head_tables *tables, const struct head_batch *batch,
                        int32_t vocabulary, int32_t *last_of_token)
{
    size_t size = align(sizeof *tables), rows = (size_t)batch->rows;
    const struct batch_extent extent = extent_of(batch);
    size_t allowed = (size_t)extent.allowed * allowed_words(vocabulary) * sizeof(uint32_t);
    *tables = (struct head_tables){
        .rows = batch->rows,
        .mask_token = batch->mask_token,
        .token_limit = batch->token_limit,
        .rows_at = place(&size, rows * sizeof(struct head_table_row)),
        .stored_at = place(&size, rows * sizeof(int32_t)),
        .counts_at = place(&size, (size_t)extent.counts * sizeof(struct head_count)),
        .biases_at = place(&size, (size_t)extent.biases * sizeof(struct head_bias)),
        .allowed_at = place(&size, allowed),
    };
    fill_rows(tables, batch);
    fill_counts(table_at(tables, tables->counts_at), batch->counts, extent.counts, last_of_token);
    fill_biases(table_at(tables, tables->biases_at), batch->biases, extent.biases, last_of_token);
    if (allowed > 0)
        memcpy(table_at(tables, tables->allowed_at), batch->allowed, allowed);
    return size;
}

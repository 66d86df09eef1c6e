/* What a step uploads for the head: rows, and what adjusts them, packed into one block. */
#include <string.h>

#include "kernels/cuda/head_kernels.h"
#include "kernels/cuda/table_layout.h"
#include "kernels/memory_block.h"

/* Of so many lines. */
static size_t allowed_bytes(int32_t lines, int32_t vocabulary)
{
    return memory_block_product((size_t)lines, ((size_t)vocabulary + 31) / 32 * sizeof(uint32_t));
}

/* Sets where all of them lie, and returns where the last one, that of what is allowed, begins. */
static size_t place_all(struct head_tables *tables, int32_t rows, int32_t counts, int32_t biases)
{
    size_t size = sizeof *tables;
    tables->rows_at = (uint32_t)table_place(&size, (size_t)rows * sizeof(struct head_table_row));
    tables->stored_at = (uint32_t)table_place(&size, (size_t)rows * sizeof(int32_t));
    tables->counts_at = (uint32_t)table_place(&size, (size_t)counts * sizeof(struct head_count));
    tables->biases_at = (uint32_t)table_place(&size, (size_t)biases * sizeof(struct head_bias));
    size_t allowed_at = table_place(&size, 0);
    tables->allowed_at = (uint32_t)allowed_at;
    return allowed_at;
}

size_t head_tables_bytes(const struct backend_limits *limits)
{
    struct head_tables tables;
    size_t allowed_at =
        place_all(&tables, limits->max_head_rows, limits->max_counts, limits->max_biases);
    return memory_block_sum(allowed_at, allowed_bytes(limits->max_allowed, limits->vocabulary));
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

static bool filters_tokens(const struct head_row *row)
{
    return row->temperature > 0 && (row->top_k > 0 || row->top_p < 1 || row->min_p > 0);
}

/* The rows, and those of them whose logits are stored. Returns whether any row asks for lists. */
static bool fill_rows(struct head_tables *tables, const struct head_batch *batch)
{
    struct head_table_row *rows = table_at(tables, tables->rows_at);
    int32_t *stored = table_at(tables, tables->stored_at);
    bool any_lists = false;
    for (int32_t i = 0; i < batch->rows; i++) {
        const struct head_row *row = &batch->row[i];
        bool lists = row->top > 0 || row->raw_top > 0;
        rows[i] = (struct head_table_row){*row, -1};
        any_lists |= lists;
        if (!lists && !filters_tokens(row))
            continue;
        rows[i].place = tables->stored;
        stored[tables->stored++] = i;
    }
    return any_lists;
}

size_t head_tables_fill(struct head_tables *tables, bool *lists, const struct head_batch *batch,
                        int32_t vocabulary, int32_t *last_of_token)
{
    const struct batch_extent extent = extent_of(batch);
    size_t allowed = allowed_bytes(extent.allowed, vocabulary);
    *tables = (struct head_tables){
        .rows = batch->rows,
        .mask_token = batch->mask_token,
        .token_limit = batch->token_limit,
    };
    size_t size = place_all(tables, batch->rows, extent.counts, extent.biases) + allowed;
    *lists = fill_rows(tables, batch);
    fill_counts(table_at(tables, tables->counts_at), batch->counts, extent.counts, last_of_token);
    fill_biases(table_at(tables, tables->biases_at), batch->biases, extent.biases, last_of_token);
    if (allowed > 0)
        memcpy(table_at(tables, tables->allowed_at), batch->allowed, allowed);
    return size;
}

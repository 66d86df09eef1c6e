/* The host's side of the LM head: memory, and what is enqueued for a batch. */
#include "kernels/cuda/head.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "common/error.h"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/head_kernels.h"
#include "kernels/cuda/products.h"
#include "kernels/cuda/row_buckets.h"
#include "kernels/cuda/table_layout.h"
#include "kernels/memory_block.h"

/* Bits of cuda_head_shape.kinds; from the shift on: how many slices the stored rows take. */
enum { CUDA_HEAD_LISTS = 1, CUDA_HEAD_SLICES_SHIFT = 8 };

struct cuda_head_state {
    void *staging, *tables; /* struct head_tables, on the host and on the device */
    int32_t *last_of_token; /* [vocabulary] -1 */
    void *logits;           /* [lines of the bucket, columns of its chunk] */
    void *stored;           /* raw rows, then adjusted ones: [2, slice_rows, padded vocabulary] */
    void *partials, *given_logits, *judgements;
    void *results, *downloaded; /* statistics of all rows, then lists of the stored ones */
    int32_t slice_rows;
    size_t lists_at; /* of results */

    /* Of this step; NULL: no head was enqueued. */
    struct head_result *result;
    int32_t rows;
};

/* ---- sizes ----------------------------------------------------------------------------------- */

static int32_t blocks_of(int32_t vocabulary)
{
    return (vocabulary - 1) / HEAD_BLOCK_COLUMNS + 1;
}

static int32_t most_lines(const struct backend_limits *limits)
{
    return 2 * limits->max_head_rows;
}

/* Blocks of a chunk for so many lines: a power of two, unless the vocabulary ends before. */
static int32_t chunk_blocks(int32_t lines, int32_t vocabulary)
{
    int64_t block_bytes = (int64_t)lines * HEAD_BLOCK_COLUMNS * (int64_t)sizeof(float);
    int32_t blocks = 1, all = blocks_of(vocabulary);
    while (blocks < all && 2 * blocks * block_bytes <= HEAD_CHUNK_BYTES)
        blocks *= 2;
    return blocks < all ? blocks : all;
}

static size_t logits_bytes(const struct backend_limits *limits)
{
    int32_t most = most_lines(limits), lines = 0;
    size_t largest = 0;
    do {
        lines = row_bucket(lines + 1, most);
        size_t columns = (size_t)chunk_blocks(lines, limits->vocabulary) * HEAD_BLOCK_COLUMNS;
        size_t bytes = memory_block_product((size_t)lines, columns * sizeof(float));
        largest = bytes > largest ? bytes : largest;
    } while (lines < most);
    return largest;
}

static int32_t slice_rows_for(const struct backend_limits *limits)
{
    int64_t row_bytes =
        2 * (int64_t)blocks_of(limits->vocabulary) * HEAD_BLOCK_COLUMNS * (int64_t)sizeof(float);
    int64_t rows = HEAD_STORED_BYTES / row_bytes;
    if (rows > HEAD_STORED_ROWS_MAX)
        rows = HEAD_STORED_ROWS_MAX;
    if (rows < HEAD_STORED_ROWS_MIN)
        rows = HEAD_STORED_ROWS_MIN;
    return rows < limits->max_head_rows ? (int32_t)rows : limits->max_head_rows;
}

struct head_sizes {
    size_t tables, logits, stored, partials, given_logits, judgements, results, lists_at;
};

static struct head_sizes sizes_for(const struct backend_limits *limits)
{
    size_t rows = (size_t)limits->max_head_rows, blocks = (size_t)blocks_of(limits->vocabulary);
    size_t columns = blocks * HEAD_BLOCK_COLUMNS, results = rows * sizeof(struct head_statistics);
    size_t lists_at = table_place(&results, rows * sizeof(struct head_lists));
    return (struct head_sizes){
        .tables = head_tables_bytes(limits),
        .logits = logits_bytes(limits),
        .stored = memory_block_product(2 * (size_t)slice_rows_for(limits), columns * sizeof(float)),
        .partials = memory_block_product(rows, blocks * sizeof(struct head_partial)),
        .given_logits = rows * sizeof(float),
        .judgements = rows * sizeof(struct head_judgement),
        .results = results,
        .lists_at = lists_at,
    };
}

size_t cuda_head_bytes(const struct backend_limits *limits)
{
    const struct head_sizes sizes = sizes_for(limits);
    size_t large = memory_block_sum(memory_block_sum(sizes.tables, sizes.logits),
                                    memory_block_sum(sizes.stored, sizes.partials));
    return memory_block_sum(large, sizes.given_logits + sizes.judgements + sizes.results);
}

/* ---- memory ---------------------------------------------------------------------------------- */

static int reserve_host(struct cuda_head_state *head, const struct head_sizes *sizes,
                        int32_t vocabulary, struct error *err)
{
    int status = device_staging_create(&head->staging, sizes->tables, "head rows", err);
    if (status == 0)
        status = device_staging_create(&head->downloaded, sizes->results, "head results", err);
    if (status != 0)
        return status;
    head->last_of_token = malloc((size_t)vocabulary * sizeof *head->last_of_token);
    if (head->last_of_token == NULL)
        return error_set(err, ERROR_MEMORY, "cannot allocate the head's tables; free some memory");
    for (int32_t i = 0; i < vocabulary; i++)
        head->last_of_token[i] = -1;
    return 0;
}

int cuda_head_reserve(struct cuda_backend *cuda, struct error *err)
{
    const struct head_sizes sizes = sizes_for(&cuda->limits);
    struct cuda_head_state *head = calloc(1, sizeof *head);
    if (head == NULL)
        return error_set(err, ERROR_MEMORY, "cannot allocate the head; free some memory");
    cuda->head = head;
    head->slice_rows = slice_rows_for(&cuda->limits);
    head->lists_at = sizes.lists_at;
    const struct {
        void **out;
        size_t size;
        const char *what;
    } blocks[] = {
        {&head->tables, sizes.tables, "head rows"},
        {&head->logits, sizes.logits, "logits"},
        {&head->stored, sizes.stored, "logits of stored rows"},
        {&head->partials, sizes.partials, "statistics of the head"},
        {&head->given_logits, sizes.given_logits, "logits of given tokens"},
        {&head->judgements, sizes.judgements, "statistics of the head"},
        {&head->results, sizes.results, "head results"},
    };
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++) {
        int status = device_memory_create(blocks[i].out, blocks[i].size, blocks[i].what, err);
        if (status != 0)
            return status;
        cuda->other_bytes += blocks[i].size;
    }
    return reserve_host(head, &sizes, cuda->limits.vocabulary, err);
}

void cuda_head_close(struct cuda_backend *cuda)
{
    struct cuda_head_state *head = cuda->head;
    if (head == NULL)
        return;
    device_memory_destroy(head->tables);
    device_memory_destroy(head->logits);
    device_memory_destroy(head->stored);
    device_memory_destroy(head->partials);
    device_memory_destroy(head->given_logits);
    device_memory_destroy(head->judgements);
    device_memory_destroy(head->results);
    device_staging_destroy(head->staging);
    device_staging_destroy(head->downloaded);
    free(head->last_of_token);
    free(head);
}

/* ---- a batch --------------------------------------------------------------------------------- */

static int32_t line_count(const struct head_batch *batch)
{
    int32_t lines = 0;
    for (int32_t i = 0; i < batch->rows; i++) {
        const struct head_row *row = &batch->row[i];
        int32_t last = row->hidden > row->partner ? row->hidden : row->partner;
        lines = last + 1 > lines ? last + 1 : lines;
    }
    return lines;
}

static void check_batch(const struct cuda_backend *cuda, const struct head_batch *batch)
{
    const struct backend_limits *limits = &cuda->limits;
    assert(batch->rows <= limits->max_head_rows);
    for (int32_t i = 0; i < batch->rows; i++) {
        assert(batch->row[i].counts_end <= limits->max_counts);
        assert(batch->row[i].biases_end <= limits->max_biases);
        assert(batch->row[i].allowed < limits->max_allowed);
    }
    (void)limits;
}

struct cuda_head_shape cuda_head_prepare(struct cuda_backend *cuda, struct head_result *result,
                                         const struct weight *weight,
                                         const struct head_batch *batch)
{
    struct cuda_head_state *head = cuda->head;
    struct head_tables *tables = head->staging;
    int32_t vocabulary = (int32_t)((const struct cuda_weight *)weight)->rows;
    struct cuda_head_shape shape = {.lines = line_count(batch)};
    bool lists;
    check_batch(cuda, batch);
    assert(vocabulary <= cuda->limits.vocabulary && shape.lines <= most_lines(&cuda->limits));
    head->result = result;
    head->rows = batch->rows;
    if (batch->rows <= 0)
        return shape;
    size_t size = head_tables_fill(tables, &lists, batch, vocabulary, head->last_of_token);
    device_enqueue_upload(&cuda->queue, head->tables, tables, size);
    int32_t slices = (tables->stored + head->slice_rows - 1) / head->slice_rows;
    shape.rows = row_bucket(batch->rows, cuda->limits.max_head_rows);
    shape.kinds = (lists ? CUDA_HEAD_LISTS : 0) | (uint32_t)slices << CUDA_HEAD_SLICES_SHIFT;
    return shape;
}

/* ---- what is enqueued ------------------------------------------------------------------------ */

static struct head_arguments arguments_of(const struct cuda_head_state *head,
                                          const struct cuda_weight *weight,
                                          const struct cuda_head_shape *shape,
                                          const struct backend_limits *limits)
{
    int32_t vocabulary = (int32_t)weight->rows, blocks = blocks_of(vocabulary);
    int32_t bucket = row_bucket(shape->lines, most_lines(limits));
    float *raw = head->stored;
    return (struct head_arguments){
        .tables = head->tables,
        .logits = head->logits,
        .bias = weight->bias,
        .stride = (int64_t)chunk_blocks(bucket, vocabulary) * HEAD_BLOCK_COLUMNS,
        .vocabulary = vocabulary,
        .blocks = blocks,
        .slice_rows = head->slice_rows,
        .raw = raw,
        .adjusted = raw + (int64_t)head->slice_rows * blocks * HEAD_BLOCK_COLUMNS,
        .partials = head->partials,
        .given_logits = head->given_logits,
        .judgements = head->judgements,
        .statistics = head->results,
        .lists = (struct head_lists *)((char *)head->results + head->lists_at),
    };
}

/* Logits of the whole vocabulary, each chunk judged before the next one takes its place. */
static void enqueue_logits(struct cuda_backend *cuda, const void *gathered,
                           const struct cuda_weight *weight, const struct cuda_head_shape *shape,
                           struct head_arguments arguments)
{
    float *logits = cuda->head->logits;
    int32_t in_chunk = (int32_t)(arguments.stride / HEAD_BLOCK_COLUMNS);
    for (int32_t first = 0; first < arguments.blocks; first += in_chunk) {
        int64_t column = (int64_t)first * HEAD_BLOCK_COLUMNS, rows = weight->rows - column;
        int32_t blocks = arguments.blocks - first < in_chunk ? arguments.blocks - first : in_chunk;
        arguments.first_block = first;
        cuda_logits(cuda, logits, arguments.stride, gathered, weight, column,
                    rows < arguments.stride ? rows : arguments.stride, shape->lines);
        head_launch_statistics(&cuda->queue, &arguments, shape->rows, blocks);
    }
}

void cuda_head_enqueue(struct cuda_backend *cuda, const void *gathered, const struct weight *opaque,
                       const struct cuda_head_shape *shape)
{
    struct cuda_head_state *head = cuda->head;
    const struct cuda_weight *weight = (const struct cuda_weight *)opaque;
    struct head_arguments arguments = arguments_of(head, weight, shape, &cuda->limits);
    int32_t slices = (int32_t)(shape->kinds >> CUDA_HEAD_SLICES_SHIFT);
    size_t rows = (size_t)shape->rows;
    if (shape->rows == 0)
        return;
    enqueue_logits(cuda, gathered, weight, shape, arguments);
    head_launch_rows(&cuda->queue, &arguments, shape->rows);
    for (int32_t slice = 0; slice < slices; slice++) {
        arguments.slice = slice;
        if (slice > 0)
            enqueue_logits(cuda, gathered, weight, shape, arguments);
        head_launch_choice(&cuda->queue, &arguments,
                           shape->rows < head->slice_rows ? shape->rows : head->slice_rows);
    }
    size_t size = rows * sizeof(struct head_statistics);
    if ((shape->kinds & CUDA_HEAD_LISTS) != 0)
        size = head->lists_at + rows * sizeof(struct head_lists);
    device_enqueue_download(&cuda->queue, head->downloaded, head->results, size);
}

/* ---- results --------------------------------------------------------------------------------- */

void cuda_head_clear_lists(struct cuda_backend *cuda)
{
    const struct cuda_head_state *head = cuda->head;
    if (head == NULL || head->result == NULL)
        return;
    const struct head_result *result = head->result;
    for (int64_t i = 0; i < (int64_t)head->rows * HEAD_TOP_MAX; i++) {
        result->top_token[i] = -1;
        result->top_logprob[i] = -INFINITY;
    }
    for (int64_t i = 0; i < (int64_t)head->rows * HEAD_RAW_TOP_MAX; i++) {
        result->raw_top_token[i] = -1;
        result->raw_top_logprob[i] = -INFINITY;
    }
}

/* The lists that row i has asked for. */
static void copy_lists(const struct head_result *result, int64_t i, const struct head_row *row,
                       const struct head_lists *own)
{
    if (row->top > 0) {
        memcpy(result->top_token + i * HEAD_TOP_MAX, own->top_token, sizeof own->top_token);
        memcpy(result->top_logprob + i * HEAD_TOP_MAX, own->top_logprob, sizeof own->top_logprob);
    }
    if (row->raw_top > 0) {
        memcpy(result->raw_top_token + i * HEAD_RAW_TOP_MAX, own->raw_top_token,
               sizeof own->raw_top_token);
        memcpy(result->raw_top_logprob + i * HEAD_RAW_TOP_MAX, own->raw_top_logprob,
               sizeof own->raw_top_logprob);
    }
}

void cuda_head_finish(struct cuda_backend *cuda)
{
    struct cuda_head_state *head = cuda->head;
    if (head == NULL || head->result == NULL)
        return;
    const struct head_result *result = head->result;
    const struct head_tables *tables = head->staging;
    const struct head_table_row *rows =
        (const struct head_table_row *)((const char *)head->staging + tables->rows_at);
    const struct head_lists *lists =
        (const struct head_lists *)((const char *)head->downloaded + head->lists_at);
    int32_t count = head->rows;
    head->result = NULL;
    if (count > 0)
        memcpy(result->row, head->downloaded, (size_t)count * sizeof *result->row);
    for (int64_t i = 0; i < count; i++) {
        if (rows[i].place >= 0)
            copy_lists(result, i, &rows[i].row, &lists[rows[i].place]);
    }
}

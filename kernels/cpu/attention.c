/* Rotary embedding, the KV pages, and attention over them by online softmax. */
#include <math.h>
#include "common/thread_pool.h"
#include "kernels/cpu/cpu.h"
#include "kernels/memory_block.h"
#include "kernels/rope.h"

enum {
    HEAD_DIM_MAX = 256,
    GRAIN_ROTATED = 1 << 14, /* elements of a range: neighbours share cache lines of the K pages */
    SMALL_ATTENTION = 1 << 18, /* multiply-adds that are not worth waking a thread */
    PARTS_PER_THREAD = 8,      /* so that uneven ones balance */
};

static char *key_page(const struct cpu_backend *cpu, int32_t layer, int32_t page, int32_t kv_head)
{
    size_t index = ((size_t)layer * (size_t)cpu->limits.kv_pages + (size_t)page) *
                       (size_t)cpu->limits.attention.kv_heads +
                   (size_t)kv_head;
    return cpu->keys + index * cpu->key_page_bytes;
}

static char *value_page(const struct cpu_backend *cpu, int32_t layer, int32_t page, int32_t kv_head)
{
    size_t index = (size_t)(key_page(cpu, layer, page, kv_head) - cpu->keys) / cpu->key_page_bytes;
    return cpu->values + index * cpu->value_page_bytes;
}

static int32_t page_of(const struct step_rows *step, int32_t row, int32_t position)
{
    return step->page_table[(int64_t)step->sequence[row] * step->page_table_stride +
                            position / KV_PAGE_POSITIONS];
}

int cpu_rope_reserve(struct cpu_backend *cpu, struct error *err)
{
    const struct attention_shape *shape = &cpu->limits.attention;
    size_t size = memory_block_product((size_t)cpu->limits.max_positions,
                                       (size_t)shape->rotary_dim * sizeof(float));
    int status = host_reserve(&cpu->rope_table, &cpu->host.other_bytes, size, "RoPE table", err);
    if (status == 0)
        rope_table_fill(cpu->rope_table, cpu->limits.max_positions, shape->rotary_dim,
                        shape->rope_theta);
    return status;
}

/* Writes K and V of one position and kv head into a pair of pages. */
static void store_position(const struct cpu_backend *cpu, char *key_to, char *value_to,
                           const char *key, const char *value, int64_t column)
{
    int64_t head_dim = cpu->limits.attention.head_dim;
    if (cpu->host.base.dtype == DTYPE_FLOAT32) {
        for (int64_t i = 0; i < head_dim; i++)
            memcpy(key_to + (size_t)(i * PANEL_COLUMNS + column) * 4, key + 4 * i, 4);
        memcpy(value_to + (size_t)(column * cpu->value_stride) * 4, value, (size_t)head_dim * 4);
        return;
    }
    for (int64_t i = 0; i < head_dim; i += 2)
        memcpy(key_to + (size_t)(i / 2 * PANEL_COLUMNS + column) * 4, key + 2 * i, 4);
    char *pair = value_to + (size_t)(column / 2 * cpu->value_stride) * 4 + column % 2 * 2;
    for (int64_t i = 0; i < head_dim; i++)
        memcpy(pair + 4 * i, value + 2 * i, 2);
}

struct rope_job {
    const struct cpu_backend *cpu;
    char *qkv;
    const float *q_scale, *k_scale;
    int32_t layer;
};

static void rope_range(void *context, int64_t begin, int64_t end)
{
    const struct rope_job *job = context;
    const struct cpu_backend *cpu = job->cpu;
    const struct attention_shape *shape = &cpu->limits.attention;
    const struct step_rows *step = &cpu->step;
    size_t head_bytes = (size_t)shape->head_dim * dtype_size(cpu->host.base.dtype);
    int32_t rotated = shape->heads + shape->kv_heads;

    for (int32_t row = (int32_t)begin; row < end; row++) {
        char *line = job->qkv + (size_t)row * (size_t)(rotated + shape->kv_heads) * head_bytes;
        int32_t position = step->position[row];
        const float *cosines = cpu->rope_table + (int64_t)position * shape->rotary_dim;
        for (int32_t head = 0; head < rotated; head++)
            cpu->instructions.elementwise->rope(
                line + (size_t)head * head_bytes, head < shape->heads ? job->q_scale : job->k_scale,
                shape->qk_norm_epsilon, cosines, cosines + shape->rotary_dim / 2, shape->head_dim,
                shape->rotary_dim);
        if (step->shadow[row] || step->kv_end[row] == 0)
            continue;
        int32_t page = page_of(step, row, position);
        for (int32_t head = 0; head < shape->kv_heads; head++) {
            const char *key = line + (size_t)(shape->heads + head) * head_bytes;
            store_position(
                cpu, key_page(cpu, job->layer, page, head), value_page(cpu, job->layer, page, head),
                key, key + (size_t)shape->kv_heads * head_bytes, position % KV_PAGE_POSITIONS);
        }
    }
}

void cpu_rope_store(struct backend *backend, void *qkv, const float *q_scale, const float *k_scale,
                    int32_t layer)
{
    struct cpu_backend *cpu = cpu_self(backend);
    const struct attention_shape *shape = &cpu->limits.attention;
    struct rope_job job = {cpu, qkv, q_scale, k_scale, layer};
    int64_t elements = (int64_t)(shape->heads + shape->kv_heads) * shape->head_dim;
    cpu_run_ranges(cpu, rope_range, &job, cpu->step.rows, GRAIN_ROTATED / elements + 1);
}

static bool same_tile(const struct step_rows *step, int32_t row, int32_t other)
{
    return step->sequence[row] == step->sequence[other] &&
           step->kv_end[row] == step->kv_end[other] && !step->shadow[row] && !step->shadow[other];
}

void cpu_attention_plan(struct cpu_backend *cpu)
{
    const struct step_rows *step = &cpu->step;
    cpu->tile_count = 0;
    for (int32_t row = 0; row < step->rows; row++) {
        struct attention_tile *last = cpu->tile_count > 0 ? &cpu->tiles[cpu->tile_count - 1] : NULL;
        if (last != NULL && last->rows < ATTENTION_TILE_ROWS && same_tile(step, last->first, row))
            last->rows++;
        else
            cpu->tiles[cpu->tile_count++] = (struct attention_tile){row, 1};
    }
}

struct attention_job {
    const struct cpu_backend *cpu;
    char *out;
    const char *qkv;
    int32_t layer;
    int32_t heads_per_part, parts_per_tile;
};

/* A page that a shadow row sees in place of the cached one. */
struct page_copy {
    int32_t index; /* of the row's pages; -1: none */
    char *keys, *values;
};

/* One query head of one tile. Queries lie side by side: in their rows some would evict others. */
struct attention_state {
    const void *query[ATTENTION_TILE_ROWS];
    char queries[ATTENTION_TILE_ROWS * HEAD_DIM_MAX * sizeof(float)] __attribute__((aligned(64)));
    float maximum[ATTENTION_TILE_ROWS];
    float sum[ATTENTION_TILE_ROWS][16] __attribute__((aligned(64)));
    float sums[ATTENTION_TILE_ROWS * HEAD_DIM_MAX] __attribute__((aligned(64)));
};

/* K and V of one page; NULL behind the last one. */
struct page {
    const char *keys, *values;
};
static const struct page NO_PAGE = {NULL, NULL};

/* Asks for block `index` of `blocks` of a page, which comes while others are computed. */
static void prefetch_block(const struct cpu_backend *cpu, struct page page, int32_t index,
                           int32_t blocks)
{
    size_t keys = cpu->key_page_bytes, values = cpu->value_page_bytes;
    size_t block = (size_t)index, count = (size_t)blocks;
    for (size_t i = keys * block / count; i < keys * (block + 1) / count; i += 64)
        __builtin_prefetch(page.keys + i, 0, 2);
    for (size_t i = values * block / count; i < values * (block + 1) / count; i += 64)
        __builtin_prefetch(page.values + i, 0, 2);
}

static void attend_page(const struct cpu_backend *cpu, struct attention_state *state, int32_t rows,
                        struct page page, int64_t count, struct page next)
{
    float scores[TILE_ROWS * PANEL_COLUMNS] __attribute__((aligned(64)));
    float correction[16] __attribute__((aligned(64)));
    int64_t head_dim = cpu->limits.attention.head_dim;
    float scale = 1.0f / sqrtf((float)head_dim);

    for (int32_t first = 0; first < rows; first += TILE_ROWS) {
        int32_t lines = rows - first < TILE_ROWS ? rows - first : TILE_ROWS;
        if (next.keys != NULL)
            prefetch_block(cpu, next, first / TILE_ROWS, (rows + TILE_ROWS - 1) / TILE_ROWS);
        cpu->instructions.product(scores, state->query + first, lines, head_dim, page.keys);
        cpu->instructions.softmax(
            scores, lines, count, scale,
            (struct softmax_state){state->maximum + first, state->sum + first}, correction);
        cpu->instructions.accumulate(state->sums + first * cpu->value_stride, cpu->value_stride,
                                     correction, scores, lines, count, page.values);
    }
}

/* The page of position `begin` as the row sees it. */
static struct page page_at(const struct attention_job *job, int32_t row, int32_t kv_head,
                           int32_t begin, const struct page_copy *copy)
{
    if (begin >= job->cpu->step.kv_end[row])
        return NO_PAGE;
    if (begin / KV_PAGE_POSITIONS == copy->index)
        return (struct page){copy->keys, copy->values};
    int32_t page = page_of(&job->cpu->step, row, begin);
    return (struct page){key_page(job->cpu, job->layer, page, kv_head),
                         value_page(job->cpu, job->layer, page, kv_head)};
}

static int32_t kv_head_of(const struct cpu_backend *cpu, int32_t head)
{
    const struct attention_shape *shape = &cpu->limits.attention;
    return head / (shape->heads / shape->kv_heads);
}

/* The sum of 16 numbers. */
static float sum_parts(const float *parts)
{
    float sums[16];
    memcpy(sums, parts, sizeof sums);
    for (int width = 8; width > 0; width /= 2) {
        for (int i = 0; i < width; i++)
            sums[i] += sums[i + width];
    }
    return sums[0];
}

/* after: the page that will be wanted next. */
static void attend(const struct attention_job *job, struct attention_tile tile, int32_t head,
                   const struct page_copy *copy, struct page after)
{
    const struct cpu_backend *cpu = job->cpu;
    const struct attention_shape *shape = &cpu->limits.attention;
    size_t head_bytes = (size_t)shape->head_dim * dtype_size(cpu->host.base.dtype);
    size_t line_bytes = (size_t)(shape->heads + 2 * shape->kv_heads) * head_bytes;
    int32_t kv_head = kv_head_of(cpu, head), kv_end = cpu->step.kv_end[tile.first];
    struct attention_state state;

    for (int32_t i = 0; i < tile.rows; i++) {
        const char *line = job->qkv + (size_t)(tile.first + i) * line_bytes;
        state.query[i] = memcpy(state.queries + (size_t)i * head_bytes,
                                line + (size_t)head * head_bytes, head_bytes);
        state.maximum[i] = -INFINITY;
    }
    memset(state.sum, 0, (size_t)tile.rows * sizeof *state.sum);
    memset(state.sums, 0, (size_t)(tile.rows * cpu->value_stride) * sizeof *state.sums);
    struct page next = page_at(job, tile.first, kv_head, 0, copy);
    for (int32_t begin = 0; begin < kv_end; begin += KV_PAGE_POSITIONS) {
        struct page page = next;
        int32_t left = kv_end - begin;
        next = page_at(job, tile.first, kv_head, begin + KV_PAGE_POSITIONS, copy);
        attend_page(cpu, &state, tile.rows, page,
                    left < KV_PAGE_POSITIONS ? left : KV_PAGE_POSITIONS,
                    next.keys != NULL ? next : after);
    }
    for (int32_t i = 0; i < tile.rows; i++) {
        char *out = job->out +
                    ((size_t)(tile.first + i) * (size_t)shape->heads + (size_t)head) * head_bytes;
        cpu->instructions.elementwise->store_scaled(out, state.sums + i * cpu->value_stride,
                                                    kv_end > 0 ? 1 / sum_parts(state.sum[i]) : 0,
                                                    shape->head_dim);
    }
}

/*
 * A shadow row works on a copy of the page of its position, with its own K and V in it: the very
 * arithmetic of a row whose K and V are cached.
 */
static void attend_shadow(const struct attention_job *job, struct attention_tile tile, int32_t head)
{
    const struct cpu_backend *cpu = job->cpu;
    const struct attention_shape *shape = &cpu->limits.attention;
    char keys[PANEL_COLUMNS * HEAD_DIM_MAX * sizeof(float)] __attribute__((aligned(64)));
    char values[PANEL_COLUMNS * HEAD_DIM_MAX * sizeof(float)] __attribute__((aligned(64)));
    int32_t position = cpu->step.position[tile.first];
    int32_t kv_head = kv_head_of(cpu, head);
    struct page_copy copy = {-1, keys, values};

    if (position < cpu->step.kv_end[tile.first]) {
        int32_t page = page_of(&cpu->step, tile.first, position);
        size_t head_bytes = (size_t)shape->head_dim * dtype_size(cpu->host.base.dtype);
        size_t line_bytes = (size_t)(shape->heads + 2 * shape->kv_heads) * head_bytes;
        const char *key = job->qkv + (size_t)tile.first * line_bytes +
                          (size_t)(shape->heads + kv_head) * head_bytes;
        copy.index = position / KV_PAGE_POSITIONS;
        memcpy(keys, key_page(cpu, job->layer, page, kv_head), cpu->key_page_bytes);
        memcpy(values, value_page(cpu, job->layer, page, kv_head), cpu->value_page_bytes);
        store_position(cpu, keys, values, key, key + (size_t)shape->kv_heads * head_bytes,
                       position % KV_PAGE_POSITIONS);
    }
    attend(job, tile, head, &copy, NO_PAGE);
}

/* Some heads of a tile; while the last page of one is worked on, the first of the next comes. */
static void attend_part(void *context, int64_t part)
{
    const struct attention_job *job = context;
    const struct page_copy none = {-1, NULL, NULL};
    struct attention_tile tile = job->cpu->tiles[part / job->parts_per_tile];
    int32_t first = (int32_t)(part % job->parts_per_tile) * job->heads_per_part;
    int32_t heads = job->cpu->limits.attention.heads;
    int32_t end = first + job->heads_per_part < heads ? first + job->heads_per_part : heads;

    for (int32_t head = first; head < end; head++) {
        if (job->cpu->step.shadow[tile.first]) {
            attend_shadow(job, tile, head);
            continue;
        }
        struct page after = NO_PAGE;
        if (head + 1 < end)
            after = page_at(job, tile.first, kv_head_of(job->cpu, head + 1), 0, &none);
        attend(job, tile, head, &none, after);
    }
}

void cpu_attention(struct backend *backend, void *out, const void *qkv, int32_t layer)
{
    struct cpu_backend *cpu = cpu_self(backend);
    const struct attention_shape *shape = &cpu->limits.attention;
    int64_t wanted = PARTS_PER_THREAD * thread_pool_threads(cpu->pool), work = 0;
    int64_t per_part = (int64_t)cpu->tile_count * shape->heads / wanted;
    struct attention_job job = {cpu, out, qkv, layer, 1, shape->heads};

    if (per_part > 1) {
        job.heads_per_part = (int32_t)(per_part < shape->heads ? per_part : shape->heads);
        job.parts_per_tile = (shape->heads + job.heads_per_part - 1) / job.heads_per_part;
    }
    int64_t parts = (int64_t)cpu->tile_count * job.parts_per_tile;
    for (int32_t i = 0; i < cpu->tile_count; i++)
        work += (int64_t)cpu->tiles[i].rows * cpu->step.kv_end[cpu->tiles[i].first];
    if (work * shape->heads * shape->head_dim * 2 > SMALL_ATTENTION) {
        thread_pool_run(cpu->pool, attend_part, &job, parts);
        return;
    }
    for (int64_t part = 0; part < parts; part++)
        attend_part(&job, part);
}

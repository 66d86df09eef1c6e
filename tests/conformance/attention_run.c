#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "attention.h"

struct rows *rows_create(const struct attention_case *shape, enum page_order order)
{
    struct rows *rows = calloc(1, sizeof *rows);
    int32_t pages = shape->sequences * PAGES_PER_LINE;
    cr_assert_not_null(rows);
    cr_assert(pages % (int)order != 0, "the order would give a page twice");
    rows->step = (struct step_rows){.token = rows->token,
                                    .sequence = rows->sequence,
                                    .position = rows->position,
                                    .kv_end = rows->kv_end,
                                    .shadow = rows->shadow,
                                    .page_table = rows->page_table,
                                    .page_table_stride = TABLE_STRIDE};
    /* Page 0 stays out: no row of a test may touch it. */
    for (int32_t i = 0; i < shape->sequences * TABLE_STRIDE; i++)
        rows->page_table[i] = INT32_MIN;
    for (int32_t i = 0; i < pages; i++)
        rows->page_table[i / PAGES_PER_LINE * TABLE_STRIDE + i % PAGES_PER_LINE] =
            1 + (i * (int32_t)order + 3) % pages;
    return rows;
}

void rows_add(struct rows *rows, int32_t sequence, int32_t position, int32_t kv_end, bool shadow)
{
    int32_t row = rows->step.rows++;
    cr_assert_lt(row, ROWS_MAX);
    rows->sequence[row] = sequence;
    rows->position[row] = position;
    rows->kv_end[row] = kv_end;
    rows->shadow[row] = shadow;
}

/* A step of no rows with the pages of another one. */
static struct rows *rows_with_pages(const struct rows *rows)
{
    struct rows *other = malloc(sizeof *other);
    cr_assert_not_null(other);
    *other = *rows;
    other->step.token = other->token;
    other->step.sequence = other->sequence;
    other->step.position = other->position;
    other->step.kv_end = other->kv_end;
    other->step.shadow = other->shadow;
    other->step.page_table = other->page_table;
    other->step.rows = 0;
    return other;
}

static void add_row_of(struct rows *to, const struct rows *from, int32_t row)
{
    rows_add(to, from->sequence[row], from->position[row], from->kv_end[row], from->shadow[row]);
}

struct rows *rows_alone(const struct rows *rows, int32_t row)
{
    struct rows *alone = rows_with_pages(rows);
    add_row_of(alone, rows, row);
    return alone;
}

struct rows *rows_shuffled(const struct rows *rows, int32_t *order)
{
    struct rows *shuffled = rows_with_pages(rows);
    int32_t count = rows->step.rows, stride = count % 37 == 0 ? 41 : 37;
    for (int32_t i = 0; i < count; i++) {
        order[i] = (i * stride + 5) % count;
        add_row_of(shuffled, rows, order[i]);
    }
    return shuffled;
}

struct rows *prefill_rows(const struct attention_case *shape, enum page_order order)
{
    struct rows *rows = rows_create(shape, order);
    for (int32_t sequence = 0; sequence < shape->sequences; sequence++) {
        for (int32_t i = 0; i < shape->lengths[sequence]; i++)
            rows_add(rows, sequence, i, shape->lengths[sequence], false);
    }
    return rows;
}

size_t qkv_width(const struct attention_case *shape)
{
    return (size_t)(shape->heads + 2 * shape->kv_heads) * (size_t)shape->head_dim;
}

size_t out_width(const struct attention_case *shape)
{
    return (size_t)shape->heads * (size_t)shape->head_dim;
}

static void reserve_for(struct backend *backend, const struct attention_case *shape)
{
    struct backend_limits limits = plain_limits(ROWS_MAX, 16);
    limits.attention = (struct attention_shape){
        LAYERS, shape->heads, shape->kv_heads, shape->head_dim, shape->rotary_dim, 10000, 1e-6f};
    limits.max_positions = PAGES_PER_LINE * KV_PAGE_POSITIONS;
    limits.max_sequences = shape->sequences;
    limits.kv_pages = shape->sequences * PAGES_PER_LINE + 1;
    reserve(backend, &limits);
}

struct backend *open_for(const struct subject *subject, int threads,
                         const struct attention_case *shape)
{
    struct backend *backend = subject_open(subject, threads);
    reserve_for(backend, shape);
    return backend;
}

struct backend *reference_for(const struct subject *subject, const struct attention_case *shape)
{
    struct backend *reference = reference_open(subject);
    reserve_for(reference, shape);
    return reference;
}

void free_attended(struct attended *attended)
{
    free(attended->qkv);
    free(attended->out);
}

static struct attended run(struct backend *backend, const struct attention_case *shape,
                           const struct rows *rows, const void *qkv, const float *scales,
                           int32_t layer, bool attention)
{
    size_t element = dtype_size(backend->dtype), count = (size_t)rows->step.rows;
    size_t head_dim = (size_t)shape->head_dim;
    struct guarded input = guarded_create(backend, qkv, count * qkv_width(shape) * element);
    struct guarded output = guarded_create(backend, NULL, count * out_width(shape) * element);
    const float *k_scales = scales != NULL ? scales + head_dim : NULL;
    struct guarded q_scale = guarded_create(backend, scales, head_dim * sizeof *scales);
    struct guarded k_scale = guarded_create(backend, k_scales, head_dim * sizeof *scales);
    begin_step(backend, &rows->step);
    backend->ops->rope_store(backend, input.data, shape->normed ? q_scale.data : NULL,
                             shape->normed ? k_scale.data : NULL, layer);
    if (attention)
        backend->ops->attention(backend, output.data, input.data, layer);
    end_step(backend);
    guarded_drop(&q_scale, scales);
    guarded_drop(&k_scale, k_scales);
    struct attended attended = {guarded_take(&input), guarded_take(&output)};
    if (!attention) {
        free(attended.out);
        attended.out = NULL;
    }
    return attended;
}

struct attended run_step(struct backend *backend, const struct attention_case *shape,
                         const struct rows *rows, const void *qkv, const float *scales,
                         int32_t layer)
{
    return run(backend, shape, rows, qkv, scales, layer, true);
}

struct attended run_store(struct backend *backend, const struct attention_case *shape,
                          const struct rows *rows, const void *qkv, const float *scales,
                          int32_t layer)
{
    return run(backend, shape, rows, qkv, scales, layer, false);
}

/* What a dead row comes to is nobody's business. */
static void clear_dead_rows(struct attended *attended, const struct attention_case *shape,
                            const struct rows *rows, enum dtype dtype)
{
    size_t qkv = qkv_width(shape) * dtype_size(dtype), out = out_width(shape) * dtype_size(dtype);
    for (size_t row = 0; row < (size_t)rows->step.rows; row++) {
        if (rows->kv_end[row] > 0)
            continue;
        memset((char *)attended->qkv + row * qkv, 0, qkv);
        if (attended->out != NULL)
            memset((char *)attended->out + row * out, 0, out);
    }
}

void expect_attended(struct attended *actual, struct attended *expected,
                     const struct attention_case *shape, const struct rows *rows, enum dtype dtype)
{
    size_t count = (size_t)rows->step.rows;
    char what[100];
    clear_dead_rows(actual, shape, rows, dtype);
    clear_dead_rows(expected, shape, rows, dtype);
    snprintf(what, sizeof what, "rope_store of %d/%d heads of %d", shape->heads, shape->kv_heads,
             shape->head_dim);
    expect_result(OPERATION_ROPE_STORE, actual->qkv, expected->qkv, count * qkv_width(shape), dtype,
                  what);
    if (actual->out == NULL)
        return;
    snprintf(what, sizeof what, "attention of %d/%d heads of %d", shape->heads, shape->kv_heads,
             shape->head_dim);
    expect_result(OPERATION_ATTENTION, actual->out, expected->out, count * out_width(shape), dtype,
                  what);
}

/* Running rope_store and attention on rows of paged canvases. */
#ifndef TESTS_CONFORMANCE_ATTENTION_H
#define TESTS_CONFORMANCE_ATTENTION_H

#include "conformance.h"

enum {
    SEQUENCES_MAX = 40,
    PAGES_PER_LINE = 4,
    TABLE_STRIDE = PAGES_PER_LINE + 1, /* behind the last page of a line is none */
    LAYERS = 2,
    ROWS_MAX = 480
};

struct attention_case {
    int32_t heads, kv_heads, head_dim, rotary_dim;
    bool normed;
    int32_t sequences;
    int32_t lengths[SEQUENCES_MAX]; /* positions of each canvas */
};

/* Orders in which sequences take pages from the pool: results must not depend on it. */
enum page_order { PAGES_BY_SEVENS = 7, PAGES_BY_ELEVENS = 11 };

/* The rows of a step, built one by one. */
struct rows {
    struct step_rows step;
    int32_t token[ROWS_MAX], sequence[ROWS_MAX], position[ROWS_MAX], kv_end[ROWS_MAX];
    uint8_t shadow[ROWS_MAX];
    int32_t page_table[SEQUENCES_MAX * TABLE_STRIDE];
};
struct rows *rows_create(const struct attention_case *shape, enum page_order order);
void rows_add(struct rows *rows, int32_t sequence, int32_t position, int32_t kv_end, bool shadow);
/* A step of one row of another one; `rows` has its page order. */
struct rows *rows_alone(const struct rows *rows, int32_t row);
/* The same rows in another order, and where each comes from: order [rows]. */
struct rows *rows_shuffled(const struct rows *rows, int32_t *order);
/* Every position of every canvas, full attention: what fills the cache. */
struct rows *prefill_rows(const struct attention_case *shape, enum page_order order);

size_t qkv_width(const struct attention_case *shape);
size_t out_width(const struct attention_case *shape);

/* A backend, or ref, with room for the case. */
struct backend *open_for(const struct subject *subject, int threads,
                         const struct attention_case *shape);
struct backend *reference_for(const struct subject *subject, const struct attention_case *shape);

struct attended {
    void *qkv, *out; /* out is NULL where attention was not run */
};
void free_attended(struct attended *attended);

/* One layer's rope_store and attention. `scales` [2, head_dim] of q and k, or NULL. */
struct attended run_step(struct backend *backend, const struct attention_case *shape,
                         const struct rows *rows, const void *qkv, const float *scales,
                         int32_t layer);
/* rope_store alone. */
struct attended run_store(struct backend *backend, const struct attention_case *shape,
                          const struct rows *rows, const void *qkv, const float *scales,
                          int32_t layer);

/* Rows that are not dead, against ref's. */
void expect_attended(struct attended *actual, struct attended *expected,
                     const struct attention_case *shape, const struct rows *rows, enum dtype dtype);

#endif

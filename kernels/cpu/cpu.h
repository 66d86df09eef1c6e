/*
 * The CPU backend: packed weights, a fork-join pool, and inner loops for several instruction sets
 * that are chosen by cpuid at start. A result depends on the instruction set, but not on the number
 * of threads, nor on the other rows of the batch.
 *
 * Layout shared by every instruction set, so that packing and the KV cache know none of them:
 *
 * panel   PANEL_COLUMNS output columns of a matrix over its whole depth. float32: [depth, 64].
 *         bfloat16: [(depth + 1) / 2, 64, 2], two neighbours of the depth side by side, as the
 *         dot-product instructions want them. int8: struct int8_panel, four neighbours of the depth
 *         side by side. Missing columns and depth are filled with 0.
 * weight  [panels] panels; panel i holds the matrix's rows 64 i .. 64 i + 63.
 * K page  of one layer and kv head: a panel whose columns are the page's 64 positions and whose
 *         depth is head_dim. Scores of a page are one product.
 * V page  of one layer and kv head. float32: [64, value_stride], one position after the other;
 *         bfloat16: [32, value_stride, 2], two neighbouring positions side by side. value_stride is
 *         head_dim rounded up to 16 elements.
 */
#ifndef KERNELS_CPU_CPU_H
#define KERNELS_CPU_CPU_H

#include "kernels/backend.h"
#include "kernels/host_backend.h"
#include "kernels/cpu/instructions.h"

struct thread_pool;

enum { ATTENTION_TILE_ROWS = 32 };

enum { INT8_GROUP = 4 /* neighbours of the depth that lie side by side */ };

/* A panel of int8. */
struct int8_panel {
    float scale[PANEL_COLUMNS];
    int32_t offset[PANEL_COLUMNS]; /* -128 * sum of the column: the inputs come with 128 added */
    int8_t weights[];              /* [(depth + 3) / 4, 64, 4] */
};

/* Neighbouring rows of one sequence with equal kv_end; K and V are read once for all of them. */
struct attention_tile {
    int32_t first, rows;
};

/* One head row of the slice that is in the scratch. */
struct head_slot {
    int32_t row;    /* of the batch */
    float *raw;     /* [vocabulary] */
    float *second;  /* [vocabulary] the partner's logits, then the adjusted row; or NULL */
    int32_t *order; /* [vocabulary] candidates of top_p and of a large top_k; or NULL */
};

struct cpu_backend {
    struct host_backend host;
    struct thread_pool *pool;
    struct cpu_instructions instructions;
    struct backend_limits limits;
    struct step_rows step;

    /* KV pool: [layers, kv_pages, kv_heads] pages of key_page_bytes and value_page_bytes */
    char *keys, *values;
    size_t key_page_bytes, value_page_bytes;
    int64_t value_stride; /* elements */
    float *rope_table;    /* [max_positions, 2, rotary_dim / 2]: cosines, then sines */

    struct attention_tile *tiles; /* [max_rows] of this step */
    int32_t tile_count;
    const void **in_lines; /* [backend_lines_max] */
    void **out_lines;      /* the same */
    /* Where weights are int8: the input lines of a product, q + 128, and their scales. */
    uint8_t *quantised;      /* [the same, quantised_stride] */
    float *quantised_scales; /* [the same] */
    int64_t quantised_stride;

    float *head_scratch; /* [head_scratch_lines, vocabulary] */
    int64_t head_scratch_lines;
    struct head_slot *slots; /* [max_head_rows] */
};

/* What struct weight is here. */
struct cpu_weight {
    int64_t rows, columns;
    size_t panel_bytes;
    char *panels; /* [(rows + 63) / 64] panels */
    float *bias;  /* [panels * 64], zero behind the last row; or NULL */
};

int cpu_backend_create(struct backend **out, const struct backend_options *options,
                       struct error *err);
bool cpu_prefers_bfloat16(void);
bool cpu_computes(enum dtype dtype, enum dtype weight_dtype);

/* Behind backend_reserved_bytes and backend_weight_bytes. */
void cpu_reserved_bytes(size_t *kv_pool, size_t *scratch, const struct backend_limits *limits,
                        enum dtype dtype, enum dtype weight_dtype);
size_t cpu_weight_bytes(int64_t rows, int64_t columns, bool bias, enum dtype weight_dtype);

static inline struct cpu_backend *cpu_self(struct backend *backend)
{
    return (struct cpu_backend *)backend;
}

/*
 * Runs work(context, begin, end) over [0, count) in ranges of at least `grain` items; small counts
 * stay on the calling thread, because waking the others costs microseconds.
 */
void cpu_run_ranges(struct cpu_backend *cpu,
                    void (*work)(void *context, int64_t begin, int64_t end), void *context,
                    int64_t count, int64_t grain);

/* Sizes of a panel that is `depth` deep. */
size_t cpu_panel_bytes(int64_t depth, enum dtype dtype);

int cpu_weight_create(struct backend *backend, struct weight **out,
                      const struct tensor_source *sources, int count, const float *bias,
                      struct error *err);
void cpu_weight_destroy(struct backend *backend, struct weight *weight);

/*
 * cpu->out_lines[i] = weight * cpu->in_lines[i] (+ bias) for i in [0, lines); in_lines are
 * activations, out_lines of out_dtype: the backend's, or float32 for logits.
 */
void cpu_linear_lines(struct cpu_backend *cpu, const struct cpu_weight *weight, int64_t lines,
                      enum dtype out_dtype);

/* The panel of int8 weights: columns [0, count) from row `first` of the sources on. */
void cpu_int8_pack_panel(struct int8_panel *panel, const struct cpu_instructions *instructions,
                         const struct tensor_source *sources, int64_t first, int64_t count);

/* Quantises cpu->in_lines [lines] of `columns` activations, over the threads. */
void cpu_int8_quantise_lines(struct cpu_backend *cpu, int64_t lines, int64_t columns);

/* sums [rows, PANEL_COLUMNS] = the product of quantised lines from `line` on with a panel. */
void cpu_int8_multiply(int32_t *sums, const struct cpu_backend *cpu, int64_t line, int64_t rows,
                       int64_t columns, const struct int8_panel *panel);

/* out [columns] = one column of a panel: a row of the weight. */
void cpu_int8_read_column(float *out, const struct int8_panel *panel, int64_t column,
                          int64_t columns);

/* The work list of attention for cpu->step. */
void cpu_attention_plan(struct cpu_backend *cpu);
int cpu_rope_reserve(struct cpu_backend *cpu, struct error *err);

/* The operations, as struct backend_ops describes them. */
void cpu_embed(struct backend *backend, float *residual, const struct weight *table);
void cpu_add_rmsnorm(struct backend *backend, void *out, float *residual, const void *delta,
                     const float *scale, float epsilon, int32_t columns);
void cpu_linear(struct backend *backend, void *out, const void *in, const struct weight *weight,
                int32_t lines);
void cpu_swiglu(struct backend *backend, void *out, const void *gate_up, int32_t width);
void cpu_gather(struct backend *backend, void *out, const void *in, int32_t columns);
void cpu_rope_store(struct backend *backend, void *qkv, const float *q_scale, const float *k_scale,
                    int32_t layer);
void cpu_attention(struct backend *backend, void *out, const void *qkv, int32_t layer);
void cpu_head(struct backend *backend, struct head_result *result, const void *gathered,
              const struct weight *weight, const struct head_batch *batch);

/* Steps (4) and (5) for the slots of one slice; see head_choose.c. */
struct head_choice {
    int32_t token; /* -1: none */
    /* The best candidates, best first. */
    int32_t top_count;
    int32_t top_token[HEAD_TOP_MAX];
    float top_logit[HEAD_TOP_MAX];
};

/* The `wanted` best candidates of a row, ties to the lower id. */
void cpu_head_top(struct head_choice *choice, const struct cpu_elementwise *elementwise,
                  const float *logits, int32_t wanted, const struct head_batch *batch,
                  int64_t vocabulary);

/*
 * Sets choice->token by the row's temperature, top_k, top_p and min_p. `order` is scratch
 * [vocabulary] where cpu_head_needs_order(row), else NULL.
 */
void cpu_head_choose(struct head_choice *choice, const struct cpu_elementwise *elementwise,
                     const struct head_row *row, const float *logits, int32_t *order,
                     const struct head_batch *batch, int64_t vocabulary);
bool cpu_head_needs_order(const struct head_row *row);

#endif

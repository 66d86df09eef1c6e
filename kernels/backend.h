/*
 * The numeric contract: one table of operations, implemented by kernels/ref (plain C, double sums,
 * the oracle), kernels/cpu (SIMD and threads) and kernels/cuda (NVIDIA GPUs). It knows tensors
 * only.
 *
 * Threads: one owner thread calls everything. Operations between step_begin and step_end enqueue
 * and cannot fail; a device fault is sticky and appears at step_end. Nothing in a step allocates.
 *
 * Rows of many sequences are packed into one ragged batch. A row knows its sequence, its position
 * and kv_end: it attends to the cached positions [0, kv_end). That one number expresses full
 * bidirectional attention (kv_end = canvas length), block-causal attention (end of the row's
 * block) and causal attention (position + 1).
 *
 * Batch invariance: a row's result depends on that row's inputs only, not on its neighbours, the
 * batch size or the thread count: tile shapes may differ, the order of summation may not. ref and
 * cpu keep this bit for bit, and cuda with the option deterministic.
 */
#ifndef KERNELS_BACKEND_H
#define KERNELS_BACKEND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "kernels/dtype.h"

struct error;

enum {
    KV_PAGE_POSITIONS = 64, /* positions of one KV cache page */
    HEAD_TOP_MAX = 64,      /* most top tokens of the adjusted row that a head row can ask for */
    HEAD_RAW_TOP_MAX = 20,  /* the same of the raw row (API logprobs) */
};

/* ---- what is fixed at start ------------------------------------------------------------------ */

struct backend_options {
    enum dtype dtype; /* of activations and KV: DTYPE_FLOAT32 or DTYPE_BFLOAT16 */
    /*
     * Of the matrices of weight_create: the same, DTYPE_INT8 or DTYPE_FP8. Then each is held as
     * bytes with one scale a row (a source of that dtype as it is, others quantised), and products
     * quantise each of their input lines: kernels/quantise.h has the exact definition. int8 sums
     * are integers, and every backend gives the same bits. fp8 is that of ref and of cuda where the
     * device has it; ref sums in double, cuda as the device does.
     */
    enum dtype weight_dtype;
    int threads; /* CPU backends: 0 takes the CPUs this process may use */
    /*
     * cpu: NULL the best there is, or "scalar", "avx2", "avx512", "avx512vnni", "avx512bf16". cuda:
     * NULL the fastest, or "library", every product by cuBLASLt and each kernel behind the one
     * before it, or "own", every product but logits by the kernel for few lines,
     * as far as that can.
     */
    const char *instructions;
    /* cuda: a row's result depends on nothing but its inputs, bit for bit, as it does elsewhere. */
    bool deterministic;
};

struct attention_shape {
    int32_t layers;
    int32_t heads, kv_heads; /* heads % kv_heads == 0 */
    int32_t head_dim;        /* even, at most 256 */
    int32_t rotary_dim;      /* even, at most head_dim: the leading dimensions that are rotated */
    double rope_theta;
    float qk_norm_epsilon; /* of the q and k norms, where a layer has them */
};

/* Everything a backend reserves, once. */
struct backend_limits {
    struct attention_shape attention;
    int32_t max_rows;      /* rows of one step */
    int32_t max_head_rows; /* head rows of one step, guidance partners not counted */
    int32_t max_positions; /* positions of one canvas */
    int32_t max_sequences; /* lines of the page table */
    int32_t kv_pages;      /* pages of the pool; page ids are [0, kv_pages) */
    int32_t vocabulary;    /* columns of the head */
    /*
     * Most entries of the lists of a head_batch, and most lines of its allowed sets. A backend that
     * copies them to a device reserves room for so many; elsewhere 0 is fine.
     */
    int32_t max_counts, max_biases, max_allowed;
    /*
     * Most columns of a weight that linear and head take: input lines are quantised in scratch of
     * this width. Needed where weights are int8 or fp8; else 0 is fine.
     */
    int32_t weight_columns;
};

/* Most lines that linear is given: the rows of a step, or head rows with their partners. */
static inline int32_t backend_lines_max(const struct backend_limits *limits)
{
    int32_t pairs = 2 * limits->max_head_rows;
    return limits->max_rows > pairs ? limits->max_rows : pairs;
}

/*
 * A matrix in host memory as it lies in a checkpoint, read during weight_create only; or one of
 * random numbers, made where it is needed (kernels/random_matrix.h says which).
 */
struct tensor_source {
    const void *data;    /* [rows, columns], row after row; NULL: random numbers */
    const float *scales; /* [rows] for int8 and fp8 (weight = data * scale), else NULL */
    enum dtype dtype;    /* of random numbers: DTYPE_BFLOAT16 */
    int64_t rows, columns;
    uint64_t seed; /* of random numbers, which lie evenly between -spread and spread */
    float spread;
};

struct backend; /* one device with its memory; each implementation embeds it first */
struct weight;  /* a matrix packed in the backend's own layout, in weight_dtype */

/* ---- one step -------------------------------------------------------------------------------- */

/* The rows of one step; host memory of the caller, unchanged until step_end. */
struct step_rows {
    int32_t rows;
    const int32_t *token;    /* [rows] the id that is embedded */
    const int32_t *sequence; /* [rows] line of the page table */
    const int32_t *position; /* [rows] position in the canvas */
    const int32_t *kv_end; /* [rows] attends to [0, kv_end); 0: a dead row, its output is unused */
    /*
     * [rows] 1: a shadow row. It stores no K and V; in its own attention its own K and V stand in
     * for the cached ones at its position. It may share sequence and position with a plain row.
     */
    const uint8_t *shadow;
    int32_t page_table_stride; /* pages per line */
    const int32_t
        *page_table; /* [sequences, stride]: page of position p is entry p / KV_PAGE_POSITIONS */
    int32_t gathered;
    const int32_t *gather; /* [gathered] rows whose hidden state the head reads */
    /*
     * 0, or the number of a program (positive): all steps of one number issue the same operations,
     * with the same buffers, which hold max_rows lines, and weights; linear has `rows` lines. The
     * head may be left out. A backend may record the operations and replay the recording in later
     * steps.
     */
    int32_t program;
    /*
     * Nobody waits for this step and nothing of it matters: a backend may take its time to choose
     * how steps of so many rows are computed. The one kind of step that may allocate.
     */
    bool rehearsal;
};

/* A token that was counted for penalties, or has a bias. */
struct token_count {
    int32_t token;
    int32_t in_answer; /* times committed in the answer */
    int32_t in_prompt; /* times in the prompt (repetition penalty alone) */
};
struct token_bias {
    int32_t token;
    float bias;
};

/*
 * One row of logits to judge. Order of operations: (1) guidance gives the raw row; (2) penalties,
 * (3) biases, (4) bans and allowed sets give the adjusted row; (5) the best or sampled token.
 * head_row_greedy below gives a row without adjustments.
 */
struct head_row {
    int32_t hidden;    /* line of the gathered hidden states */
    int32_t partner;   /* line of the unconditional partner, or -1 */
    float guidance;    /* s: raw = partner + (s + 1) * (own - partner) */
    int32_t given;     /* token whose adjusted log-probability is wanted, or -1 */
    float temperature; /* 0: argmax */
    int32_t top_k;     /* 0: off */
    float top_p;       /* 1: off */
    float min_p;       /* 0: off */
    uint64_t seed;
    uint32_t position, round;                  /* counter of the Gumbel noise (common/rng.h) */
    float presence_penalty, frequency_penalty; /* subtracted: presence + frequency * in_answer */
    float repetition_penalty; /* logit > 0 is divided by it, else multiplied; in answer or prompt */
    int32_t counts_begin, counts_end; /* of head_batch.counts */
    int32_t biases_begin, biases_end; /* of head_batch.biases; -INFINITY bans */
    int32_t allowed;                  /* line of head_batch.allowed, or -1 */
    int32_t top, raw_top;             /* how many top entries are wanted */
};

/* Argmax of the raw row itself, and nothing else is wanted. */
static inline struct head_row head_row_greedy(int32_t hidden)
{
    struct head_row row;
    memset(&row, 0, sizeof row);
    row.hidden = hidden;
    row.partner = row.given = row.allowed = -1;
    row.top_p = row.repetition_penalty = 1;
    return row;
}

struct head_batch {
    int32_t rows;
    const struct head_row *row; /* [rows] */
    const struct token_count *counts;
    const struct token_bias *biases;
    const uint32_t *allowed; /* [lines, (vocabulary + 31) / 32], bit set: allowed */
    int32_t mask_token;      /* never chosen, though it counts in every sum */
    int32_t token_limit;     /* ids from here on are padding: never chosen, counted likewise */
};

struct head_statistics {
    int32_t token;       /* chosen; -1 where nothing may be chosen */
    float logprob;       /* of the chosen token in the softmax of the adjusted row */
    float raw_logprob;   /* of the chosen token in the softmax of the raw row */
    float given_logprob; /* of row.given, adjusted; 0 where none was given */
    float logsumexp;     /* of the adjusted row */
    float raw_logsumexp;
    float entropy; /* of the adjusted row, nats */
};

/*
 * What a step returns. Ties go to the lower token id everywhere. Top lists fall by log-probability,
 * unused entries have token -1; they leave out the mask token and padding ids.
 */
struct head_result {
    struct head_statistics *row; /* [max_head_rows] */
    int32_t *top_token;          /* [max_head_rows, HEAD_TOP_MAX] */
    float *top_logprob;          /* the same, of the adjusted row */
    int32_t *raw_top_token;      /* [max_head_rows, HEAD_RAW_TOP_MAX] */
    float *raw_top_logprob;
};

/* ---- the table ------------------------------------------------------------------------------- */

/*
 * Matrices named "activation" hold the backend's dtype; "residual" is float32 in every dtype (the
 * sum over the layers is kept exact; it is a small part of the memory traffic).
 */
struct backend_ops {
    const char *name;                                          /* "ref", "cpu", "cuda" */
    const char *(*description)(const struct backend *backend); /* instruction set, threads */
    void (*destroy)(struct backend *backend);

    /* Reserves KV pool, row tables and scratch; once, before the first step. */
    int (*reserve)(struct backend *backend, const struct backend_limits *limits, struct error *err);

    /* Plain device memory, zeroed. Sizes in bytes. */
    int (*memory_create)(struct backend *backend, void **out, size_t size, struct error *err);
    void (*memory_destroy)(struct backend *backend, void *memory);
    void (*memory_write)(struct backend *backend, void *memory, const void *source, size_t size);
    void (*memory_read)(struct backend *backend, void *destination, const void *memory,
                        size_t size);

    /*
     * Packs the rows of `count` sources, one after the other, as one matrix [sum of rows, columns];
     * bias is NULL or float32 [sum of rows]. ERROR_INVALID where int8 or fp8 has more columns than
     * QUANTISE_COLUMNS_MAX, ERROR_UNSUPPORTED for a size that the backend cannot hold.
     */
    int (*weight_create)(struct backend *backend, struct weight **out,
                         const struct tensor_source *sources, int count, const float *bias,
                         struct error *err);
    void (*weight_destroy)(struct backend *backend, struct weight *weight); /* NULL is fine */

    /*
     * Returns false where the backend replays a recording of the step's program: then the caller
     * issues the head alone. Always true for program 0.
     */
    bool (*step_begin)(struct backend *backend, const struct step_rows *rows);

    /* residual [rows, columns] = rows of the table for step_rows.token */
    void (*embed)(struct backend *backend, float *residual, const struct weight *table);

    /*
     * residual += delta where delta is not NULL; out = residual / rms(residual) * scale, with
     * rms = sqrt(mean of squares + epsilon).
     * residual [rows, columns] float32; delta, out [rows, columns] activation; scale [columns]
     * float32 device memory.
     */
    void (*add_rmsnorm)(struct backend *backend, void *out, float *residual, const void *delta,
                        const float *scale, float epsilon, int32_t columns);

    /* out [lines, N] = in [lines, K] weight^T (+ bias); activations. lines may be any number
     * up to backend_lines_max. */
    void (*linear)(struct backend *backend, void *out, const void *in, const struct weight *weight,
                   int32_t lines);

    /*
     * In place on qkv [rows, (heads + 2 * kv_heads) * head_dim] activation: RMSNorm of every q and
     * k head where q_scale/k_scale ([head_dim] float32 device memory) are not NULL, then rotation
     * of halves in float32 by the row's position; K and V of rows that are no shadow rows are
     * stored in the layer's pages.
     */
    void (*rope_store)(struct backend *backend, void *qkv, const float *q_scale,
                       const float *k_scale, int32_t layer);

    /* out [rows, heads * head_dim] activation: softmax(q K^T / sqrt(head_dim)) V of every row. */
    void (*attention)(struct backend *backend, void *out, const void *qkv, int32_t layer);

    /* out [rows, width] = silu(gate) * up, gate_up [rows, 2 * width]: gate first; activations. */
    void (*swiglu)(struct backend *backend, void *out, const void *gate_up, int32_t width);

    /* out [gathered, columns] = lines step_rows.gather of in [rows, columns]; activations. */
    void (*gather)(struct backend *backend, void *out, const void *in, int32_t columns);

    /* Logits of the gathered lines and their statistics; the result is there after step_end. */
    void (*head)(struct backend *backend, struct head_result *result, const void *gathered,
                 const struct weight *weight, const struct head_batch *batch);

    /* Waits for the step. ERROR_DEVICE_LOST, sticky. */
    int (*step_end)(struct backend *backend, struct error *err);

    /* Bytes held for weights; for the KV pool; for everything else. */
    void (*memory_used)(const struct backend *backend, size_t *weights, size_t *kv, size_t *other);
};

struct backend {
    const struct backend_ops *ops;
    enum dtype dtype, weight_dtype;
    int64_t waited_ns; /* of step_end for a device, in all: the host had nothing to do; CPU: 0 */
};

/*
 * Makes a backend by name: "ref", "cpu", "cuda", or "auto" for the best device present. The one
 * place that lists the backends is kernels/backends.c. ERROR_NO_DEVICE for a name that this build
 * lacks or a device that is not there, ERROR_INVALID for a dtype or instruction set that the device
 * lacks (the message lists what it has).
 */
int backend_create(struct backend **out, const char *name, const struct backend_options *options,
                   struct error *err);
void backend_destroy(struct backend *backend); /* NULL is fine */

/* Whether there is such a device, before anything else is asked of it. ERROR_NO_DEVICE. */
int backend_check(const char *name, struct error *err);

/* The backend that backend_create takes for this name: itself, or what "auto" stands for here. */
const char *backend_best_name(const char *name);

/*
 * Why "auto" does not take a device that is there (ERROR_NO_DEVICE), for a note to the user; 0
 * where it takes it, where no device is there, and for every other name.
 */
int backend_passed_over(const char *name, struct error *err);

/* True where the device computes bfloat16 in hardware, so that "auto" should choose it. */
bool backend_prefers_bfloat16(const char *name);

/* What it computes in. False for an unknown name. */
bool backend_computes(const char *name, enum dtype dtype, enum dtype weight_dtype);

/* dtype_automatic, and bfloat16 where the backend lacks what that says. */
void backend_automatic_dtype(enum dtype *activations, enum dtype *weights, const char *name,
                             enum dtype checkpoint);

/* The memory that a backend of this name takes, as it is now; the host's for an unknown name. */
struct backend_memory {
    int64_t available; /* bytes that may be taken */
    int64_t total;     /* bytes of a device with memory of its own, else 0 */
};
struct backend_memory backend_memory_read(const char *name);

/*
 * Steps are computed as if they had one of a few numbers of rows: the first of these above `rows`.
 * 0 where every number is one of them.
 */
int32_t backend_next_bucket(const char *name, int32_t rows);

/*
 * What a device's memory can do at most, to compare kernels with: bytes a second, read and written
 * ones together, of copies of `size` bytes within it; the best of a few. Outside of steps. 0 where
 * operations compute on the CPU, whose rates kernels/cpu/peak.h has. `backend` is one of
 * backend_create.
 */
int backend_copy_rate(double *out, struct backend *backend, size_t size, struct error *err);

/*
 * What memory_used will count, before there is a backend: the KV pool and the scratch that reserve
 * takes for these limits, and one weight. SIZE_MAX where a size overflows, 0 for an unknown name.
 */
void backend_reserved_bytes(size_t *kv_pool, size_t *scratch, const char *name,
                            const struct backend_limits *limits, enum dtype dtype,
                            enum dtype weight_dtype);
size_t backend_weight_bytes(const char *name, int64_t rows, int64_t columns, bool bias,
                            enum dtype weight_dtype);

/* Bytes of K and V for one position over all layers. */
size_t backend_kv_bytes(const struct attention_shape *shape, enum dtype dtype);

#endif

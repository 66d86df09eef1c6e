/*
 * q and k norm, rotation and the KV pages in one pass over qkv (its bias is the linear
 * operation's): one warp for each head of each row, the heads of V included.
 */
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/products.h"
#include "kernels/cuda/simt.h"

enum {
    ROPE_THREADS = 128,
    ROPE_WARPS = ROPE_THREADS / SIMT_WARP,
    PAIRS = CUDA_HEAD_DIM_MAX / 2 / SIMT_WARP, /* of neighbouring dimensions, for each lane */
};

struct rope_arguments {
    const struct step_counts *counts;
    const int32_t *position, *kv_end, *shadow, *line, *page_table;
    const float *rope_table;        /* [max_positions, 2, rotary_dim / 2] */
    const float *q_scale, *k_scale; /* [head_dim] or NULL */
    uint16_t *qkv;                  /* [rows, heads + 2 kv_heads, head_dim] */
    uint16_t *keys, *values;        /* pages of this layer */
    int32_t pages_per_line, heads, kv_heads, head_dim, padded_head_dim, rotary_dim;
    float epsilon;
};

/* The head's line in the page of the row's position, or NULL where the row stores nothing. */
SIMT_DEVICE uint16_t *stored_line(const struct rope_arguments &arguments, int32_t row, int32_t head)
{
    int32_t position = arguments.position[row], kv_head = head - arguments.heads;
    if (kv_head < 0 || arguments.shadow[row] != 0 || arguments.kv_end[row] == 0)
        return NULL;
    bool is_key = kv_head < arguments.kv_heads;
    int64_t page = arguments.page_table[(int64_t)arguments.line[row] * arguments.pages_per_line +
                                        position / KV_PAGE_POSITIONS];
    int64_t line = ((page * arguments.kv_heads + kv_head % arguments.kv_heads) * KV_PAGE_POSITIONS +
                    position % KV_PAGE_POSITIONS) *
                   arguments.padded_head_dim;
    return (is_key ? arguments.keys : arguments.values) + line;
}

/* pairs = pairs / rms * scale, over the warp. */
SIMT_DEVICE void normalise_head(float (&pairs)[PAIRS][2], const struct rope_arguments &arguments,
                                const float *scale)
{
    float squares = 0;
    SIMT_UNROLL
    for (int i = 0; i < PAIRS; i++)
        squares += pairs[i][0] * pairs[i][0] + pairs[i][1] * pairs[i][1];
    squares = simt_warp_sum(squares);
    float inverse = 1.0f / sqrtf(squares / (float)arguments.head_dim + arguments.epsilon);
    SIMT_UNROLL
    for (int i = 0; i < PAIRS; i++) {
        int32_t dimension = ((int32_t)simt_lane() + i * SIMT_WARP) * 2;
        if (dimension < arguments.head_dim) {
            pairs[i][0] *= inverse * scale[dimension];
            pairs[i][1] *= inverse * scale[dimension + 1];
        }
    }
}

/* Dimension `i` of the head after rotation; `head` holds it before. */
SIMT_DEVICE float rotated(const float *head, int32_t i, int32_t rotary_dim, const float *cosines)
{
    int32_t half = rotary_dim / 2;
    const float *sines = cosines + half;
    if (i < half)
        return head[i] * cosines[i] - head[i + half] * sines[i];
    if (i < rotary_dim)
        return head[i] * cosines[i - half] + head[i - half] * sines[i - half];
    return head[i];
}

SIMT_DEVICE void rotate_head(const struct rope_arguments &arguments, int32_t row, int32_t head,
                             uint32_t *line, uint32_t *stored)
{
    const float *scale = head < arguments.heads ? arguments.q_scale : arguments.k_scale;
    const float *cosines =
        arguments.rope_table + (int64_t)arguments.position[row] * arguments.rotary_dim;
    float *shared = (float *)simt_shared() + simt_warp() * CUDA_HEAD_DIM_MAX;
    float pairs[PAIRS][2] = {};
    SIMT_UNROLL
    for (int i = 0; i < PAIRS; i++) {
        int32_t pair = (int32_t)simt_lane() + i * SIMT_WARP;
        if (pair * 2 < arguments.head_dim) {
            pairs[i][0] = simt_bfloat16_low(line[pair]);
            pairs[i][1] = simt_bfloat16_high(line[pair]);
        }
    }
    if (scale != NULL)
        normalise_head(pairs, arguments, scale);
    SIMT_UNROLL
    for (int i = 0; i < PAIRS; i++) {
        int32_t pair = (int32_t)simt_lane() + i * SIMT_WARP;
        shared[pair * 2] = pairs[i][0];
        shared[pair * 2 + 1] = pairs[i][1];
    }
    simt_warp_barrier(SIMT_ALL);
    for (int32_t pair = (int32_t)simt_lane(); pair * 2 < arguments.head_dim; pair += SIMT_WARP) {
        uint32_t packed = simt_pack(rotated(shared, pair * 2, arguments.rotary_dim, cosines),
                                    rotated(shared, pair * 2 + 1, arguments.rotary_dim, cosines));
        line[pair] = packed;
        if (stored != NULL)
            stored[pair] = packed;
    }
}

SIMT_KERNEL(ROPE_THREADS) void rope_store(const struct rope_arguments arguments)
{
    simt_begin();
    int32_t row = (int32_t)simt_block_x();
    int32_t head = (int32_t)(simt_block_y() * ROPE_WARPS + simt_warp());
    int32_t all_heads = arguments.heads + 2 * arguments.kv_heads;
    if (row >= arguments.counts->rows || head >= all_heads)
        return;
    int64_t at = ((int64_t)row * all_heads + head) * arguments.head_dim;
    uint32_t *line = (uint32_t *)(arguments.qkv + at);
    uint32_t *stored = (uint32_t *)stored_line(arguments, row, head);
    if (head < arguments.heads + arguments.kv_heads) {
        rotate_head(arguments, row, head, line, stored);
    } else if (stored != NULL) {
        for (int32_t pair = (int32_t)simt_lane(); pair * 2 < arguments.head_dim; pair += SIMT_WARP)
            stored[pair] = line[pair];
    }
}

extern "C" void cuda_rope_store(struct backend *backend, void *qkv, const float *q_scale,
                                const float *k_scale, int32_t layer)
{
    struct cuda_backend *cuda = cuda_self(backend);
    const struct attention_shape *shape = &cuda->limits.attention;
    const int64_t row_elements = (int64_t)(shape->heads + 2 * shape->kv_heads) * shape->head_dim;
    cuda_overwrites(cuda, qkv, (size_t)(cuda->step.rows * row_elements) * sizeof(uint16_t));
    struct rope_arguments arguments = {};
    arguments.counts = cuda->tables.counts;
    arguments.position = cuda->tables.position;
    arguments.kv_end = cuda->tables.kv_end;
    arguments.shadow = cuda->tables.shadow;
    arguments.line = cuda->tables.line;
    arguments.page_table = cuda->tables.page_table;
    arguments.pages_per_line = cuda->tables.pages_per_line;
    arguments.rope_table = cuda->rope_table;
    arguments.q_scale = q_scale;
    arguments.k_scale = k_scale;
    arguments.qkv = (uint16_t *)qkv;
    arguments.keys = cuda->keys + layer * cuda_layer_elements(cuda);
    arguments.values = cuda->values + layer * cuda_layer_elements(cuda);
    arguments.heads = shape->heads;
    arguments.kv_heads = shape->kv_heads;
    arguments.head_dim = shape->head_dim;
    arguments.padded_head_dim = cuda->padded_head_dim;
    arguments.rotary_dim = shape->rotary_dim;
    arguments.epsilon = shape->qk_norm_epsilon;
    uint32_t warps = (uint32_t)(shape->heads + 2 * shape->kv_heads);
    const struct simt_grid grid = {(uint32_t)cuda->row_bucket,
                                   (warps + ROPE_WARPS - 1) / ROPE_WARPS, ROPE_THREADS,
                                   ROPE_WARPS * CUDA_HEAD_DIM_MAX * sizeof(float)};
    simt_launch(&cuda->queue, rope_store, grid, arguments);
}

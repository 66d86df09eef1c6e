/*
 * Attention over a long canvas comes in parts, one for each chunk of its positions. Here the parts
 * of a row are put together, in the order of the chunks.
 */
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/simt.h"

enum { MERGE_THREADS = 128, MERGE_HEADS = MERGE_THREADS / SIMT_WARP };

struct merge_arguments {
    const struct step_counts *counts;
    const int32_t *part_first, *part_count;
    const float *part_sums, *part_norms; /* struct cuda_backend */
    uint16_t *out;                       /* [rows, heads, head_dim] */
    int32_t heads, head_dim, padded_head_dim;
};

/* The factor of each part's sums; behind `count` it is 0. */
SIMT_DEVICE void weigh_parts(float (&weights)[CHUNKS_MAX], const struct merge_arguments &arguments,
                             int64_t first, int32_t count)
{
    float largest = -INFINITY, total = 0;
    for (int32_t i = 0; i < count; i++)
        largest = fmaxf(largest, arguments.part_norms[(first + (int64_t)i * arguments.heads) * 2]);
    float base = largest == -INFINITY ? 0.0f : largest;
    SIMT_UNROLL
    for (int i = 0; i < CHUNKS_MAX; i++) {
        weights[i] = 0;
        if (i >= count)
            continue;
        const float *norms = arguments.part_norms + (first + (int64_t)i * arguments.heads) * 2;
        weights[i] = simt_exp2(norms[0] - base);
        total += norms[1] * weights[i];
    }
    SIMT_UNROLL
    for (int i = 0; i < CHUNKS_MAX; i++)
        weights[i] /= total;
}

/* One warp for each row and head that has parts. */
SIMT_KERNEL(MERGE_THREADS) void merge_parts(const struct merge_arguments arguments)
{
    simt_begin();
    int32_t row = (int32_t)simt_block_x();
    int32_t head = (int32_t)(simt_block_y() * MERGE_HEADS + simt_warp());
    if (row >= arguments.counts->rows || head >= arguments.heads || arguments.part_first[row] < 0)
        return;
    int32_t count = arguments.part_count[row];
    int64_t first = (int64_t)arguments.part_first[row] * arguments.heads + head;
    float weights[CHUNKS_MAX];
    weigh_parts(weights, arguments, first, count);
    uint16_t *out = arguments.out + ((int64_t)row * arguments.heads + head) * arguments.head_dim;
    for (int32_t i = (int32_t)simt_lane() * 2; i < arguments.head_dim; i += SIMT_WARP * 2) {
        float sums[2] = {};
        SIMT_UNROLL
        for (int j = 0; j < CHUNKS_MAX; j++) {
            if (j >= count)
                continue;
            const float *part = arguments.part_sums +
                                (first + (int64_t)j * arguments.heads) * arguments.padded_head_dim +
                                i;
            sums[0] += part[0] * weights[j];
            sums[1] += part[1] * weights[j];
        }
        *(uint32_t *)(out + i) = simt_pack(sums[0], sums[1]);
    }
}

extern "C" void cuda_merge_parts(struct cuda_backend *cuda, uint16_t *out)
{
    const struct attention_shape *shape = &cuda->limits.attention;
    const struct merge_arguments arguments = {
        cuda->tables.counts, cuda->tables.part_first, cuda->tables.part_count,
        cuda->part_sums,     cuda->part_norms,        out,
        shape->heads,        shape->head_dim,         cuda->padded_head_dim};
    const struct simt_grid grid = {(uint32_t)cuda->row_bucket,
                                   ((uint32_t)shape->heads + MERGE_HEADS - 1) / MERGE_HEADS,
                                   MERGE_THREADS, 0};
    simt_launch(&cuda->queue, merge_parts, grid, arguments);
}

#include <math.h>
#include "kernels/ref/ref.h"
#include "kernels/rope.h"

/* Offset of one position's K or V of one kv head in the caches. */
static size_t cache_offset(const struct ref_backend *ref, int32_t layer, int32_t row,
                           int32_t position, int32_t kv_head)
{
    const struct attention_shape *shape = &ref->limits.attention;
    int32_t page =
        ref->step.page_table[(int64_t)ref->step.sequence[row] * ref->step.page_table_stride +
                             position / KV_PAGE_POSITIONS];
    size_t line =
        ((size_t)layer * (size_t)ref->limits.kv_pages + (size_t)page) * KV_PAGE_POSITIONS +
        (size_t)(position % KV_PAGE_POSITIONS);
    return (line * (size_t)shape->kv_heads + (size_t)kv_head) * (size_t)shape->head_dim;
}

static void normalise_head(double *head, const float *scale, double epsilon, int32_t head_dim)
{
    double squares = 0;
    for (int32_t i = 0; i < head_dim; i++)
        squares += head[i] * head[i];
    double rms = sqrt(squares / head_dim + epsilon);
    for (int32_t i = 0; i < head_dim; i++)
        head[i] = head[i] / rms * scale[i];
}

/* Rotates (x1, x2), the halves of the leading rotary_dim dimensions. */
static void rotate_head(double *head, int32_t position, int32_t rotary_dim, double theta)
{
    int32_t half = rotary_dim / 2;
    for (int32_t i = 0; i < half; i++) {
        float angle = rope_angle(position, rope_inverse_frequency(i, rotary_dim, theta));
        float cosine = (float)cos(angle), sine = (float)sin(angle);
        double x1 = head[i], x2 = head[i + half];
        head[i] = x1 * cosine - x2 * sine;
        head[i + half] = x2 * cosine + x1 * sine;
    }
}

void ref_rope_store(struct backend *backend, void *qkv, const float *q_scale, const float *k_scale,
                    int32_t layer)
{
    struct ref_backend *ref = (struct ref_backend *)backend;
    const struct attention_shape *shape = &ref->limits.attention;
    const struct step_rows *step = &ref->step;
    int32_t head_dim = shape->head_dim, rotated = shape->heads + shape->kv_heads;
    int64_t stride = (int64_t)(rotated + shape->kv_heads) * head_dim;

    for (int32_t row = 0; row < step->rows; row++) {
        for (int32_t head = 0; head < rotated; head++) {
            int64_t at = row * stride + (int64_t)head * head_dim;
            const float *scale = head < shape->heads ? q_scale : k_scale;
            double values[256] = {0};
            for (int32_t i = 0; i < head_dim; i++)
                values[i] = ref_load(qkv, at + i, backend->dtype);
            if (scale != NULL)
                normalise_head(values, scale, shape->qk_norm_epsilon, head_dim);
            rotate_head(values, step->position[row], shape->rotary_dim, shape->rope_theta);
            for (int32_t i = 0; i < head_dim; i++)
                ref_store(qkv, at + i, values[i], backend->dtype);
        }
        if (step->shadow[row] || step->kv_end[row] == 0)
            continue;
        for (int32_t head = 0; head < shape->kv_heads; head++) {
            size_t to = cache_offset(ref, layer, row, step->position[row], head);
            int64_t key = row * stride + (int64_t)(shape->heads + head) * head_dim;
            int64_t value = key + (int64_t)shape->kv_heads * head_dim;
            for (int32_t i = 0; i < head_dim; i++) {
                ref->key_cache[to + (size_t)i] = ref_load(qkv, key + i, backend->dtype);
                ref->value_cache[to + (size_t)i] = ref_load(qkv, value + i, backend->dtype);
            }
        }
    }
}

/* K or V of one position as this row sees it: a shadow row sees its own at its own position. */
static double read_cached(const struct ref_backend *ref, const float *cache, const void *qkv,
                          int64_t own, size_t offset, int32_t row, int32_t position, int32_t i)
{
    if (ref->step.shadow[row] && position == ref->step.position[row])
        return ref_load(qkv, own + i, ref->host.base.dtype);
    return cache[offset + (size_t)i];
}

/* One query head of one row: out[at ..] = softmax(q K^T / sqrt(head_dim)) V. */
static void attend(struct ref_backend *ref, void *out, const void *qkv, int32_t layer, int32_t row,
                   int32_t head)
{
    const struct attention_shape *shape = &ref->limits.attention;
    enum dtype dtype = ref->host.base.dtype;
    int32_t head_dim = shape->head_dim, kv_end = ref->step.kv_end[row];
    int32_t kv_head = head / (shape->heads / shape->kv_heads);
    int64_t line = (int64_t)row * (shape->heads + 2 * shape->kv_heads) * head_dim;
    int64_t query = line + (int64_t)head * head_dim;
    int64_t own_key = line + (int64_t)(shape->heads + kv_head) * head_dim;
    int64_t own_value = own_key + (int64_t)shape->kv_heads * head_dim;
    double largest = -INFINITY, total = 0, sums[256] = {0};

    for (int32_t position = 0; position < kv_end; position++) {
        size_t offset = cache_offset(ref, layer, row, position, kv_head);
        double score = 0;
        for (int32_t i = 0; i < head_dim; i++)
            score += ref_load(qkv, query + i, dtype) *
                     read_cached(ref, ref->key_cache, qkv, own_key, offset, row, position, i);
        ref->scores[position] = score / sqrt(head_dim);
        largest = fmax(largest, ref->scores[position]);
    }
    for (int32_t position = 0; position < kv_end; position++) {
        size_t offset = cache_offset(ref, layer, row, position, kv_head);
        double weight = exp(ref->scores[position] - largest);
        total += weight;
        for (int32_t i = 0; i < head_dim; i++)
            sums[i] += weight *
                       read_cached(ref, ref->value_cache, qkv, own_value, offset, row, position, i);
    }
    for (int32_t i = 0; i < head_dim; i++)
        ref_store(out, ((int64_t)row * shape->heads + head) * head_dim + i,
                  kv_end > 0 ? sums[i] / total : 0, dtype);
}

void ref_attention(struct backend *backend, void *out, const void *qkv, int32_t layer)
{
    struct ref_backend *ref = (struct ref_backend *)backend;
    for (int32_t row = 0; row < ref->step.rows; row++) {
        for (int32_t head = 0; head < ref->limits.attention.heads; head++)
            attend(ref, out, qkv, layer, row, head);
    }
}

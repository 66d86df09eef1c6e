/*
 * The operations of a step as struct backend_ops has them, around those of the kernels: each runs,
 * and in a step that is being recorded is enqueued once more for the recording (recordings.h).
 */
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/row_buckets.h"

static bool exchange(struct cuda_backend *cuda)
{
    return recordings_exchange(cuda->recordings, &cuda->queue);
}

static bool step_begin(struct backend *backend, const struct step_rows *rows)
{
    struct cuda_backend *cuda = cuda_self(backend);
    cuda_upload_tables(cuda, rows);
    if (rows->program == 0)
        return true;
    return !recordings_begin(cuda->recordings, &cuda->queue,
                             body_key(rows->program, cuda->row_bucket));
}

static void embed(struct backend *backend, float *residual, const struct weight *table)
{
    struct cuda_backend *cuda = cuda_self(backend);
    cuda_embed(backend, residual, table);
    if (exchange(cuda)) {
        cuda_embed(backend, residual, table);
        exchange(cuda);
    }
}

static void add_rmsnorm(struct backend *backend, void *out, float *residual, const void *delta,
                        const float *scale, float epsilon, int32_t columns)
{
    struct cuda_backend *cuda = cuda_self(backend);
    cuda_add_rmsnorm(backend, out, residual, delta, scale, epsilon, columns);
    if (exchange(cuda)) {
        cuda_add_rmsnorm(backend, out, residual, delta, scale, epsilon, columns);
        exchange(cuda);
    }
}

/* A recording serves every number of rows of its bucket, so it multiplies all of the bucket's. */
static void linear(struct backend *backend, void *out, const void *in, const struct weight *weight,
                   int32_t lines)
{
    struct cuda_backend *cuda = cuda_self(backend);
    cuda_linear(backend, out, in, weight, lines);
    if (exchange(cuda)) {
        cuda_linear(backend, out, in, weight, cuda->row_bucket);
        exchange(cuda);
    }
}

static void rope_store(struct backend *backend, void *qkv, const float *q_scale,
                       const float *k_scale, int32_t layer)
{
    struct cuda_backend *cuda = cuda_self(backend);
    cuda_rope_store(backend, qkv, q_scale, k_scale, layer);
    if (exchange(cuda)) {
        cuda_rope_store(backend, qkv, q_scale, k_scale, layer);
        exchange(cuda);
    }
}

static void attention(struct backend *backend, void *out, const void *qkv, int32_t layer)
{
    struct cuda_backend *cuda = cuda_self(backend);
    cuda_attention(backend, out, qkv, layer);
    if (exchange(cuda)) {
        cuda_attention(backend, out, qkv, layer);
        exchange(cuda);
    }
}

static void swiglu(struct backend *backend, void *out, const void *gate_up, int32_t width)
{
    struct cuda_backend *cuda = cuda_self(backend);
    cuda_swiglu(backend, out, gate_up, width);
    if (exchange(cuda)) {
        cuda_swiglu(backend, out, gate_up, width);
        exchange(cuda);
    }
}

static void gather(struct backend *backend, void *out, const void *in, int32_t columns)
{
    struct cuda_backend *cuda = cuda_self(backend);
    cuda_gather(backend, out, in, columns);
    if (exchange(cuda)) {
        cuda_gather(backend, out, in, columns);
        exchange(cuda);
    }
}

static void head(struct backend *backend, struct head_result *result, const void *gathered,
                 const struct weight *weight, const struct head_batch *batch)
{
    recordings_end(cuda_self(backend)->recordings); /* that of the body */
    cuda_head(backend, result, gathered, weight, batch);
}

static int step_end(struct backend *backend, struct error *err)
{
    struct cuda_backend *cuda = cuda_self(backend);
    recordings_end(cuda->recordings);
    return device_wait(&cuda->queue, err);
}

void cuda_set_operations(struct backend_ops *ops)
{
    ops->step_begin = step_begin;
    ops->embed = embed;
    ops->add_rmsnorm = add_rmsnorm;
    ops->linear = linear;
    ops->rope_store = rope_store;
    ops->attention = attention;
    ops->swiglu = swiglu;
    ops->gather = gather;
    ops->head = head;
    ops->step_end = step_end;
}

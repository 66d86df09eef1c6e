/*
 * The operations that have no kernel to emulate, by the reference backend on the host: linear,
 * which is cuBLASLt's on a device, and the head.
 */
#include <stdlib.h>
#include <string.h>
#include "kernels/cuda/cuda.h"
#include "kernels/ref/ref.h"
#include "tests/simt/emulation.h"

int cuda_linear_open(struct cuda_backend *cuda, struct error *err)
{
    (void)cuda;
    (void)err;
    return 0;
}

void cuda_linear_close(struct cuda_backend *cuda)
{
    (void)cuda;
}

size_t cuda_linear_bytes(void)
{
    return 0;
}

static float *allocate_floats(int64_t count)
{
    float *floats = malloc((size_t)count * sizeof *floats + 1);
    if (floats == NULL)
        abort();
    return floats;
}

/* The caller frees it. */
static float *widen(const uint16_t *values, int64_t count)
{
    float *wide = allocate_floats(count);
    for (int64_t i = 0; i < count; i++)
        wide[i] = bfloat16_to_float(values[i]);
    return wide;
}

/* The weight as ref has it, without its bias; the caller frees values. */
static struct ref_weight widen_weight(const struct cuda_weight *weight)
{
    return (struct ref_weight){.rows = weight->rows,
                               .columns = weight->columns,
                               .values = widen(weight->values, weight->rows * weight->columns)};
}

/* As on a device: where there is a bias, a kernel adds it to float32 sums. */
static void multiply(struct backend *backend, void *out, const void *in,
                     const struct weight *opaque, int32_t lines)
{
    const struct cuda_weight *weight = (const struct cuda_weight *)opaque;
    struct ref_weight wide = widen_weight(weight);
    if (weight->bias == NULL) {
        ref_linear(backend, out, in, (const struct weight *)&wide, lines);
    } else {
        struct backend floats = {.dtype = DTYPE_FLOAT32, .weight_dtype = DTYPE_FLOAT32};
        float *sums = allocate_floats(lines * weight->rows);
        float *wide_in = widen(in, lines * weight->columns);
        ref_linear(&floats, sums, wide_in, (const struct weight *)&wide, lines);
        cuda_add_bias(cuda_self(backend), out, sums, weight->bias, lines, weight->rows);
        free(sums);
        free(wide_in);
    }
    free(wide.values);
}

struct linear_call {
    struct backend *backend;
    void *out;
    const void *in;
    const struct weight *weight;
    int32_t lines;
};

static void run_linear(const void *context)
{
    const struct linear_call *call = context;
    multiply(call->backend, call->out, call->in, call->weight, call->lines);
}

void cuda_linear(struct backend *backend, void *out, const void *in, const struct weight *weight,
                 int32_t lines)
{
    const struct linear_call call = {backend, out, in, weight, lines};
    simt_enqueue(&cuda_self(backend)->queue, run_linear, &call, sizeof call);
}

int cuda_head_reserve(struct cuda_backend *cuda, struct error *err)
{
    const struct backend_options options = {.dtype = cuda->base.dtype,
                                            .weight_dtype = cuda->base.weight_dtype};
    /* Rows of logits are all it needs. */
    struct backend_limits limits = cuda->limits;
    struct backend *ref;
    limits.attention = (struct attention_shape){
        .layers = 1, .heads = 1, .kv_heads = 1, .head_dim = 2, .rotary_dim = 2};
    limits.kv_pages = 1;
    int status = ref_backend_create(&ref, &options, err);
    if (status != 0)
        return status;
    cuda->head = ref;
    return ref->ops->reserve(ref, &limits, err);
}

void cuda_head_close(struct cuda_backend *cuda)
{
    struct backend *ref = cuda->head;
    if (ref != NULL)
        ref->ops->destroy(ref);
}

void cuda_head(struct backend *backend, struct head_result *result, const void *gathered,
               const struct weight *weight, const struct head_batch *batch)
{
    struct ref_weight wide = widen_weight((const struct cuda_weight *)weight);
    wide.bias = ((const struct cuda_weight *)weight)->bias;
    ref_head(cuda_self(backend)->head, result, gathered, (const struct weight *)&wide, batch);
    free(wide.values);
}

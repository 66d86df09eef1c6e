/*
 * The operations that have no kernel to emulate, by the reference backend on the host: linear,
 * which is cuBLASLt's on a device, and the head.
 */
#include <stdlib.h>
#include <string.h>
#include "kernels/cuda/cuda.h"
#include "kernels/ref/ref.h"

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

/* The weight as ref has it; the caller frees values. */
static struct ref_weight widen(const struct cuda_weight *weight)
{
    struct ref_weight wide = {weight->rows, weight->columns, NULL, weight->bias};
    size_t count = (size_t)(weight->rows * weight->columns);
    wide.values = malloc(count * sizeof *wide.values);
    if (wide.values == NULL)
        abort();
    for (size_t i = 0; i < count; i++)
        wide.values[i] = bfloat16_to_float(weight->values[i]);
    return wide;
}

void cuda_linear(struct backend *backend, void *out, const void *in, const struct weight *weight,
                 int32_t lines)
{
    struct ref_weight wide = widen((const struct cuda_weight *)weight);
    ref_linear(backend, out, in, (const struct weight *)&wide, lines);
    free(wide.values);
}

int cuda_head_reserve(struct cuda_backend *cuda, struct error *err)
{
    const struct backend_options options = {.dtype = cuda->base.dtype};
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
    struct ref_weight wide = widen((const struct cuda_weight *)weight);
    ref_head(cuda_self(backend)->head, result, gathered, (const struct weight *)&wide, batch);
    free(wide.values);
}

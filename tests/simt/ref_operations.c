/*
 * The operations that have no kernel to emulate: matrix products, which are cuBLASLt's on a device,
 * as plain loops on the host, and the head by the reference backend.
 */
#include <stdlib.h>
#include <string.h>
#include "kernels/cuda/cuda.h"
#include "kernels/quantise.h"
#include "kernels/ref/ref.h"
#include "tests/simt/emulation.h"

size_t cuda_product_bytes(void)
{
    return 0;
}

/* Little, so that products of a few hundred lines come in slices. */
size_t cuda_sums_bytes(void)
{
    return 512 << 10;
}

int cuda_product_open(struct cuda_backend *cuda, struct error *err)
{
    (void)cuda;
    (void)err;
    return 0;
}

void cuda_product_close(struct cuda_backend *cuda)
{
    (void)cuda;
}

/* One of the three devices of the emulation does not multiply the scales in, as those of 8.9. */
static bool multiplies_scales(const struct cuda_backend *cuda)
{
    return strcmp(cuda->facts.name, "descending") != 0;
}

static double element_at(const void *matrix, int64_t at, enum dtype dtype)
{
    if (dtype == DTYPE_BFLOAT16)
        return bfloat16_to_float(((const uint16_t *)matrix)[at]);
    return quantise_value(dtype, ((const uint8_t *)matrix)[at]);
}

/* In double, where the sums of int8 are exact, too. */
static double sum_of(const struct cuda_product *product, int64_t line, int64_t row)
{
    const struct cuda_weight *weight = product->weight;
    double sum = 0;
    for (int64_t i = 0; i < weight->stride; i++)
        sum += element_at(product->in, line * weight->stride + i, weight->dtype) *
               element_at(weight->values, row * weight->stride + i, weight->dtype);
    return sum;
}

static void store(const struct cuda_product *product, int64_t line, int64_t row, double sum)
{
    int64_t at = line * product->out_stride + row;
    const float *scales = product->in_scales;
    float result = (float)sum;
    if (scales != NULL)
        result *= scales[line] * product->weight->scales[product->first + row];
    if (scales != NULL || product->rounded)
        ((uint16_t *)product->out)[at] = bfloat16_from_float(result);
    else if (product->weight->dtype == DTYPE_INT8)
        ((int32_t *)product->out)[at] = (int32_t)sum;
    else
        ((float *)product->out)[at] = result;
}

static void run_product(const void *context)
{
    const struct cuda_product *product = context;
    for (int64_t line = 0; line < product->lines; line++) {
        for (int64_t row = 0; row < product->rows; row++)
            store(product, line, row, sum_of(product, line, product->first + row));
    }
}

bool cuda_multiply(struct cuda_backend *cuda, const struct cuda_product *product)
{
    if (product->in_scales != NULL && !multiplies_scales(cuda))
        return false;
    simt_enqueue(&cuda->queue, run_product, product, sizeof *product);
    return true;
}

int cuda_multiply_prepare(struct cuda_backend *cuda, const struct cuda_product *product,
                          struct error *err)
{
    (void)err;
    return product->in_scales != NULL && !multiplies_scales(cuda) ? 1 : 0;
}

static void *allocate(size_t size)
{
    void *memory = malloc(size + 1);
    if (memory == NULL)
        abort();
    return memory;
}

/* The weight as ref has it; the caller frees values and small. */
static struct ref_weight ref_weight_of(const struct cuda_weight *weight)
{
    size_t count = (size_t)(weight->rows * weight->columns);
    struct ref_weight made = {.rows = weight->rows,
                              .columns = weight->columns,
                              .scales = weight->scales,
                              .bias = weight->bias};
    if (dtype_has_scales(weight->dtype)) {
        made.small = allocate(count);
        for (int64_t row = 0; row < weight->rows; row++)
            memcpy(made.small + row * weight->columns,
                   (const uint8_t *)weight->values + row * weight->stride, (size_t)weight->columns);
        return made;
    }
    made.values = allocate(count * sizeof(float));
    for (size_t i = 0; i < count; i++)
        made.values[i] = bfloat16_to_float(((const uint16_t *)weight->values)[i]);
    return made;
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
    struct ref_weight made = ref_weight_of((const struct cuda_weight *)weight);
    ref_head(cuda_self(backend)->head, result, gathered, (const struct weight *)&made, batch);
    free(made.values);
    free(made.small);
}

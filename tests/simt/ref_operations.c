/*
 * The products, which are cuBLASLt's on a device and have no kernel to emulate, by the reference
 * backend on the host.
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
void cuda_linear(struct backend *backend, void *out, const void *in, const struct weight *opaque,
                 int32_t lines)
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

void cuda_logits(struct cuda_backend *cuda, float *out, int64_t stride, const void *in,
                 const struct cuda_weight *weight, int64_t first_row, int64_t rows, int32_t lines)
{
    struct backend floats = {.dtype = DTYPE_FLOAT32, .weight_dtype = DTYPE_FLOAT32};
    struct cuda_weight range = *weight;
    range.values += first_row * weight->columns;
    range.rows = rows;
    struct ref_weight wide = widen_weight(&range);
    float *products = allocate_floats(lines * rows);
    float *wide_in = widen(in, lines * weight->columns);
    (void)cuda;
    ref_linear(&floats, products, wide_in, (const struct weight *)&wide, lines);
    for (int64_t line = 0; line < lines; line++)
        memcpy(out + line * stride, products + line * rows, (size_t)rows * sizeof *out);
    free(products);
    free(wide_in);
    free(wide.values);
}

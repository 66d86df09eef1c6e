/*
 * linear around the library's products: which operand, which form, in which slices. Plain C, and so
 * the same in the emulation.
 *
 * bfloat16 without a bias, and fp8 where the library multiplies the scales in: the product itself
 * writes the results. All others leave sums (int8: int32, which are exact) in memory of a fixed
 * size, a slice of lines at a time, and a kernel scales them, adds the bias and rounds once.
 */
#include <assert.h>
#include "common/error.h"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/few_lines.h"
#include "kernels/cuda/products.h"
#include "kernels/cuda/row_buckets.h"
#include "kernels/memory_block.h"

enum { SLICE_LINES = 32 }; /* of a slice, a multiple of this where so many fit */

static int64_t operand_stride(const struct backend_limits *limits)
{
    return cuda_padded(limits->weight_columns);
}

size_t cuda_operand_bytes(const struct backend_limits *limits, enum dtype weight_dtype)
{
    size_t line = (size_t)operand_stride(limits) + sizeof(float);
    if (!dtype_has_scales(weight_dtype))
        return 0;
    return memory_block_product((size_t)backend_lines_max(limits), line);
}

int cuda_operand_reserve(struct cuda_backend *cuda, struct error *err)
{
    size_t size = cuda_operand_bytes(&cuda->limits, cuda->base.weight_dtype);
    void *block = NULL;
    if (size == 0)
        return 0;
    int status = device_memory_create(&block, size, "quantised inputs", err);
    if (status != 0)
        return status;
    cuda->other_bytes += size;
    /* Lines first: their size is a multiple of what scales are aligned to. */
    cuda->operand.lines.bytes = block;
    cuda->operand.lines.scales =
        (float *)((char *)block + backend_lines_max(&cuda->limits) * operand_stride(&cuda->limits));
    return 0;
}

bool cuda_operand_take(struct cuda_backend *cuda, struct quantised_lines *to, const void *of,
                       int32_t count, int64_t columns)
{
    struct cuda_operand *operand = &cuda->operand;
    operand->of = NULL;
    if (operand->lines.bytes == NULL || columns > cuda->limits.weight_columns ||
        count > backend_lines_max(&cuda->limits))
        return false;
    operand->of = of;
    operand->count = count;
    operand->columns = columns;
    operand->lines.stride = cuda_padded(columns);
    *to = operand->lines;
    return true;
}

void cuda_overwrites(struct cuda_backend *cuda, const void *out, size_t size)
{
    struct cuda_operand *operand = &cuda->operand;
    uintptr_t begin = (uintptr_t)operand->of, written = (uintptr_t)out;
    size_t held = (size_t)operand->count * (size_t)operand->columns * sizeof(uint16_t);
    if (operand->of != NULL && written < begin + held && begin < written + size)
        operand->of = NULL;
}

/* `in` as the weight's products take it: quantised, unless it is already. */
static void set_operand(struct cuda_backend *cuda, struct cuda_product *product, const void *in,
                        int32_t count)
{
    struct cuda_operand *operand = &cuda->operand;
    int64_t columns = product->weight->columns;
    struct quantised_lines to;
    product->in = in;
    if (!dtype_has_scales(product->weight->dtype))
        return;
    if (operand->of != in || operand->count < count || operand->columns != columns) {
        bool taken = cuda_operand_take(cuda, &to, in, count, columns);
        assert(taken); /* else the limits are not kept that were reserved for */
        (void)taken;
        cuda_quantise(cuda, &to, product->weight->dtype, in, DTYPE_BFLOAT16, product->lines,
                      columns);
    }
    product->in = operand->lines.bytes;
}

/* By the kernel for few lines, or by the library. False as cuda_multiply. */
static bool multiply(struct cuda_backend *cuda, const struct cuda_product *product)
{
    const struct device_facts *facts = &cuda->facts;
    bool wanted = facts->own_alone ? !product->ranged
                                   : cuda->way.own_products && product->lines <= FEW_LINES_MAX;
    if (!wanted || !cuda_few_lines_fits(cuda, product))
        return cuda_multiply(cuda, product);
    cuda_few_lines(cuda, product);
    return true;
}

/* Lines of which the sums fit into the memory for them. */
static int32_t slice_lines(const struct cuda_weight *weight, int32_t lines)
{
    int64_t room = (int64_t)(cuda_sums_bytes() / sizeof(float)) / weight->padded_rows;
    if (room >= lines)
        return lines;
    return (int32_t)(room < SLICE_LINES ? room : room / SLICE_LINES * SLICE_LINES);
}

/* The product itself writes the results; false where it cannot. */
static bool form_results(struct cuda_product *product, const struct cuda_backend *cuda)
{
    const struct cuda_weight *weight = product->weight;
    if (weight->bias != NULL || weight->dtype == DTYPE_INT8)
        return false;
    /* fp8 rows are written at multiples of 16 bytes alone. */
    if (weight->dtype == DTYPE_FP8 && weight->rows % 8 != 0)
        return false;
    product->rounded = true;
    product->rows = product->out_stride = weight->rows;
    product->in_scales = weight->dtype == DTYPE_FP8 ? cuda->operand.lines.scales : NULL;
    return true;
}

/* Sums of lines [first, first + slice) in the memory for them. */
static struct cuda_product form_sums(const struct cuda_product *all, struct cuda_backend *cuda,
                                     int32_t first, int32_t slice)
{
    struct cuda_product part = *all;
    size_t line = (size_t)all->weight->stride * dtype_size(all->weight->dtype);
    part.in = (const char *)all->in + (size_t)first * line;
    part.lines = slice < all->lines - first ? slice : all->lines - first;
    part.rows = part.out_stride = all->weight->padded_rows;
    part.out = cuda->sums;
    part.in_scales = NULL;
    part.rounded = false;
    return part;
}

static void finish_slice(struct cuda_backend *cuda, uint16_t *out, const struct cuda_product *part,
                         int32_t first)
{
    const struct cuda_weight *weight = part->weight;
    bool scaled = weight->scales != NULL;
    const struct cuda_epilogue epilogue = {
        .out = out + first * weight->rows,
        .dtype = DTYPE_BFLOAT16,
        .out_stride = weight->rows,
        .sums = part->out,
        .integers = weight->dtype == DTYPE_INT8,
        .stride = part->out_stride,
        .line_scales = scaled ? cuda->operand.lines.scales + first : NULL,
        .row_scales = weight->scales,
        .bias = weight->bias,
        .lines = part->lines,
        .rows = weight->rows,
    };
    cuda_finish_sums(cuda, &epilogue);
}

void cuda_linear(struct backend *backend, void *out, const void *in, const struct weight *opaque,
                 int32_t lines)
{
    struct cuda_backend *cuda = cuda_self(backend);
    const struct cuda_weight *weight = (const struct cuda_weight *)opaque;
    struct cuda_product product = {.weight = weight, .lines = lines};
    if (lines <= 0)
        return;
    set_operand(cuda, &product, in, lines);
    product.out = out;
    if (!form_results(&product, cuda) || !multiply(cuda, &product)) {
        int32_t slice = slice_lines(weight, product.lines);
        for (int32_t first = 0; first < product.lines; first += slice) {
            const struct cuda_product part = form_sums(&product, cuda, first, slice);
            multiply(cuda, &part);
            finish_slice(cuda, out, &part, first);
        }
    }
    cuda_overwrites(cuda, out, (size_t)product.lines * (size_t)weight->rows * sizeof(uint16_t));
}

/* Rows [first, first + rows) as float32; fp8 and int8 take whole words of 4 rows. */
static struct cuda_product form_logits(const struct cuda_backend *cuda,
                                       const struct cuda_weight *weight, int64_t first,
                                       int64_t rows, int64_t stride, int32_t lines)
{
    bool bytes = dtype_has_scales(weight->dtype);
    return (struct cuda_product){
        .weight = weight,
        .first = first,
        .rows = bytes ? (rows + 3) / 4 * 4 : rows,
        .lines = lines,
        .out_stride = stride,
        .in_scales = weight->dtype == DTYPE_FP8 ? cuda->operand.lines.scales : NULL,
        .ranged = true,
    };
}

void cuda_logits(struct cuda_backend *cuda, float *out, int64_t stride, const void *in,
                 const struct cuda_weight *weight, int64_t first_row, int64_t rows, int32_t lines)
{
    struct cuda_product product = form_logits(cuda, weight, first_row, rows, stride, lines);
    if (lines <= 0 || rows <= 0)
        return;
    set_operand(cuda, &product, in, lines);
    product.out = out;
    bool scaled = product.in_scales != NULL && multiply(cuda, &product);
    if (!scaled) {
        product.in_scales = NULL;
        multiply(cuda, &product);
    }
    if (!scaled && dtype_has_scales(weight->dtype)) {
        const struct cuda_epilogue epilogue = {
            .out = out,
            .dtype = DTYPE_FLOAT32,
            .out_stride = stride,
            .sums = out,
            .integers = weight->dtype == DTYPE_INT8,
            .stride = stride,
            .line_scales = cuda->operand.lines.scales,
            .row_scales = weight->scales + first_row,
            .lines = lines,
            .rows = rows,
        };
        cuda_finish_sums(cuda, &epilogue);
    }
    cuda_overwrites(cuda, out, (size_t)lines * (size_t)stride * sizeof(float));
}

size_t cuda_linear_bytes(void)
{
    return cuda_product_bytes() + cuda_sums_bytes() + cuda_few_lines_bytes();
}

int cuda_linear_open(struct cuda_backend *cuda, struct error *err)
{
    int status = cuda_product_open(cuda, err);
    if (status == 0)
        status = device_memory_create(&cuda->sums, cuda_sums_bytes(), "sums of products", err);
    if (status == 0)
        status = cuda_few_lines_open(cuda, err);
    return status;
}

void cuda_linear_close(struct cuda_backend *cuda)
{
    cuda_product_close(cuda);
    cuda_few_lines_close(cuda);
    device_memory_destroy(cuda->sums);
    device_memory_destroy(cuda->operand.lines.bytes);
}

/*
 * The products, which are cuBLASLt's on a device and have no kernel to emulate, as plain loops on
 * the host.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/products.h"
#include "kernels/quantise.h"
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

/* Rows of a weight, read once for all lines: values [stride, PANEL]. */
enum { PANEL = 32 };

static void read_panel(double *panel, const struct cuda_weight *weight, int64_t first, int64_t rows)
{
    for (int64_t row = 0; row < rows; row++) {
        for (int64_t i = 0; i < weight->stride; i++)
            panel[i * PANEL + row] =
                element_at(weight->values, (first + row) * weight->stride + i, weight->dtype);
    }
}

/*
 * In double, where the sums of int8 are exact, too. A line's numbers come from the device's memory
 * one at a time, where AddressSanitizer sees them; the loop over the panel is nothing to look at.
 */
__attribute__((no_sanitize("address", "undefined"))) static void
add_products(double *sums, double in, const double *panel_line)
{
    for (int row = 0; row < PANEL; row++)
        sums[row] += in * panel_line[row];
}

static void sum_panel(double *sums, const struct cuda_product *product, int64_t line,
                      const double *panel)
{
    const struct cuda_weight *weight = product->weight;
    memset(sums, 0, PANEL * sizeof *sums);
    for (int64_t i = 0; i < weight->stride; i++)
        add_products(sums, element_at(product->in, line * weight->stride + i, weight->dtype),
                     panel + i * PANEL);
}

static void store(const struct cuda_product *product, int64_t line, int64_t row, double sum)
{
    int64_t at = line * product->out_stride + row;
    const float *scales = product->in_scales;
    float result = (float)sum;
    if (scales != NULL)
        result *= scales[line] * product->weight->scales[product->first + row];
    if (product->rounded)
        ((uint16_t *)product->out)[at] = bfloat16_from_float(result);
    else if (product->weight->dtype == DTYPE_INT8)
        ((int32_t *)product->out)[at] = (int32_t)sum;
    else
        ((float *)product->out)[at] = result;
}

/*
 * What the library demands of int8 and fp8: both operands and the lines of results are whole groups
 * of 16 bytes, and begin at multiples of them.
 */
static void check_rules(const struct cuda_product *product)
{
    const struct cuda_weight *weight = product->weight;
    size_t element = product->rounded ? sizeof(uint16_t) : sizeof(float);
    uintptr_t rows = (uintptr_t)weight->values + (uintptr_t)(product->first * weight->stride);
    uintptr_t all = (uintptr_t)weight->stride | rows | (uintptr_t)product->in |
                    (uintptr_t)product->out | (uintptr_t)product->out_stride * element |
                    (uintptr_t)product->rows * element;
    bool inside = product->first + product->rows <= weight->padded_rows &&
                  product->rows <= product->out_stride;
    if (!inside || (dtype_has_scales(weight->dtype) && all % 16 != 0)) {
        fprintf(stderr,
                "cuda_multiply: a %s product of rows %lld + %lld that the library refuses\n",
                dtype_name(weight->dtype), (long long)product->first, (long long)product->rows);
        abort();
    }
}

static void run_product(const void *context)
{
    const struct cuda_product *product = context;
    double *panel = calloc((size_t)product->weight->stride * PANEL, sizeof *panel), sums[PANEL];
    if (panel == NULL) {
        fprintf(stderr, "simt: no memory for a product\n");
        abort();
    }
    for (int64_t first = 0; first < product->rows; first += PANEL) {
        int64_t rest = product->rows - first, rows = rest < PANEL ? rest : PANEL;
        read_panel(panel, product->weight, product->first + first, rows);
        for (int64_t line = 0; line < product->lines; line++) {
            sum_panel(sums, product, line, panel);
            for (int64_t row = 0; row < rows; row++)
                store(product, line, first + row, sums[row]);
        }
    }
    free(panel);
}

static int64_t products;

int64_t simt_library_products(void)
{
    return products;
}

bool cuda_multiply(struct cuda_backend *cuda, const struct cuda_product *product)
{
    products++;
    check_rules(product);
    if (product->in_scales != NULL && !multiplies_scales(cuda))
        return false;
    simt_enqueue(&cuda->queue, run_product, product, sizeof *product);
    return true;
}

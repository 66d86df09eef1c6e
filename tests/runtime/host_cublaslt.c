/*
 * A libcublasLt on the host: what linear_cublaslt.cu calls, with the library's documented demands.
 * It is moody, so that a plan has to look: its best algorithms do not compute every number of
 * lines, one proposal has a fault, and scales it multiplies in for a third of all sizes of weights,
 * for another third it refuses to when it is called. A call that the documentation forbids ends the
 * program. What it accepts proves nothing of the library.
 *
 * With the environment variable HOST_CUBLASLT_IDLE it looks at its matrices and computes nothing:
 * for shapes that would take hours.
 */
#include <cublasLt.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/dtype.h"
#include "kernels/quantise.h"
#include "tests/runtime/host_runtime.h"

enum { MAGIC = 0x4c54, PROPOSALS = 4, SPLIT_WORKSPACE = 4 << 20 };

struct product {
    int32_t compute, sums, transposed_a, transposed_b, modes[2];
    const float *scales[2];
};

struct layout {
    uint64_t rows, columns;
    int64_t stride;
    int32_t type;
};

struct preference {
    uint64_t workspace;
    uint32_t reductions, alignment[4];
};

/* What an algorithm was proposed for, and what it refuses. */
struct algorithm {
    int32_t magic, number;
    int32_t types[2], scaled; /* of the operands and of the results */
    uint32_t alignment[4];
    uint32_t lines_multiple; /* of lines that it computes */
    uint32_t workspace;
};

_Static_assert(sizeof(struct product) <= sizeof(cublasLtMatmulDescOpaque_t), "");
_Static_assert(sizeof(struct layout) <= sizeof(cublasLtMatrixLayoutOpaque_t), "");
_Static_assert(sizeof(struct preference) <= sizeof(cublasLtMatmulPreferenceOpaque_t), "");
_Static_assert(sizeof(struct algorithm) <= sizeof(cublasLtMatmulAlgo_t), "");

static _Noreturn void forbid(const char *why)
{
    fprintf(stderr, "host cuBLASLt: a product is forbidden: %s\n", why);
    abort();
}

static void demand(bool kept, const char *what)
{
    if (!kept)
        forbid(what);
}

static size_t size_of(int32_t type)
{
    return type == CUDA_R_16BF ? 2 : type == CUDA_R_32F || type == CUDA_R_32I ? 4 : 1;
}

/* ---- descriptors ----------------------------------------------------------------------------- */

cublasStatus_t cublasLtCreate(cublasLtHandle_t *handle)
{
    *handle = malloc(1);
    return *handle != NULL ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_ALLOC_FAILED;
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle)
{
    free(handle);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescInit_internal(cublasLtMatmulDesc_t opaque, size_t size,
                                               cublasComputeType_t compute, cudaDataType_t sums)
{
    memset(opaque, 0, size);
    *(struct product *)opaque = (struct product){.compute = compute, .sums = sums};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t opaque,
                                              cublasLtMatmulDescAttributes_t attribute,
                                              const void *value, size_t size)
{
    struct product *product = (struct product *)opaque;
    const struct {
        int attribute;
        void *to;
        size_t size;
    } known[] = {
        {CUBLASLT_MATMUL_DESC_TRANSA, &product->transposed_a, 4},
        {CUBLASLT_MATMUL_DESC_TRANSB, &product->transposed_b, 4},
        {CUBLASLT_MATMUL_DESC_A_SCALE_MODE, &product->modes[0], 4},
        {CUBLASLT_MATMUL_DESC_B_SCALE_MODE, &product->modes[1], 4},
        {CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &product->scales[0], sizeof(float *)},
        {CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &product->scales[1], sizeof(float *)},
    };
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        if (known[i].attribute != (int)attribute)
            continue;
        demand(size == known[i].size, "an attribute of another size");
        memcpy(known[i].to, value, size);
        return CUBLAS_STATUS_SUCCESS;
    }
    forbid("an attribute that tests/runtime/host_cublaslt.c does not know");
}

cublasStatus_t cublasLtMatrixLayoutInit_internal(cublasLtMatrixLayout_t opaque, size_t size,
                                                 cudaDataType type, uint64_t rows, uint64_t columns,
                                                 int64_t stride)
{
    memset(opaque, 0, size);
    *(struct layout *)opaque = (struct layout){rows, columns, stride, type};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t opaque,
                                                cublasLtMatrixLayoutAttribute_t attribute,
                                                const void *value, size_t size)
{
    demand(attribute == CUBLASLT_MATRIX_LAYOUT_COLS && size == sizeof(uint64_t),
           "an attribute of a matrix that tests/runtime/host_cublaslt.c does not know");
    memcpy(&((struct layout *)opaque)->columns, value, size);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceInit_internal(cublasLtMatmulPreference_t opaque, size_t size)
{
    memset(opaque, 0, size);
    *(struct preference *)opaque = (struct preference){.reductions = CUBLASLT_REDUCTION_SCHEME_MASK,
                                                       .alignment = {256, 256, 256, 256}};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t opaque,
                                                    cublasLtMatmulPreferenceAttributes_t attribute,
                                                    const void *value, size_t size)
{
    struct preference *preference = (struct preference *)opaque;
    if (attribute == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES) {
        demand(size == sizeof preference->workspace, "a preference of another size");
        memcpy(&preference->workspace, value, size);
        return CUBLAS_STATUS_SUCCESS;
    }
    demand(size == sizeof(uint32_t), "a preference of another size");
    if (attribute == CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK)
        memcpy(&preference->reductions, value, size);
    else if (attribute >= CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES &&
             attribute <= CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES)
        memcpy(&preference->alignment[attribute - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES],
               value, size);
    else
        forbid("a preference that tests/runtime/host_cublaslt.c does not know");
    return CUBLAS_STATUS_SUCCESS;
}

/* ---- what the documentation demands ---------------------------------------------------------- */

static bool scaled(const struct product *product)
{
    return product->modes[0] == CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F &&
           product->modes[1] == CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F;
}

enum mood { WITH_SCALES, REFUSES_LATE, WITHOUT_SCALES, MOODS };

static enum mood mood(const struct layout *weight)
{
    return (enum mood)(weight->columns / 8 % MOODS);
}

static bool has_types(const struct product *p, const struct layout *in, const struct layout *out)
{
    if (in->type == CUDA_R_8I)
        return p->compute == CUBLAS_COMPUTE_32I && p->sums == CUDA_R_32I && out->type == CUDA_R_32I;
    return p->compute == CUBLAS_COMPUTE_32F && p->sums == CUDA_R_32F &&
           (in->type == CUDA_R_16BF ||
            (in->type == CUDA_R_8F_E4M3 && host_runtime_capability() >= 89)) &&
           (out->type == CUDA_R_16BF || out->type == CUDA_R_32F);
}

/* Of int8 leading dimensions, m and k in fours; of fp8 all sides that lie in memory in 16 bytes. */
static bool has_sides(const struct layout *a, const struct layout *b, const struct layout *out)
{
    if (a->type == CUDA_R_8I)
        return a->stride % 4 == 0 && b->stride % 4 == 0 && out->stride % 4 == 0 &&
               a->rows % 4 == 0 && out->rows % 4 == 0;
    if (a->type == CUDA_R_8F_E4M3)
        return a->stride % 16 == 0 && b->stride % 16 == 0 && a->rows % 16 == 0 &&
               (size_t)out->stride * size_of(out->type) % 16 == 0 &&
               out->rows * size_of(out->type) % 16 == 0;
    return true;
}

static bool computes(const struct product *product, const struct layout *a, const struct layout *b,
                     const struct layout *out)
{
    demand(product->transposed_a == CUBLAS_OP_T && product->transposed_b == CUBLAS_OP_N,
           "another form than TN");
    demand(a->rows == b->rows && a->columns == out->rows && b->columns == out->columns,
           "sides that do not fit");
    demand(a->stride >= (int64_t)a->rows && out->stride >= (int64_t)out->rows, "a short stride");
    demand(a->type == b->type, "operands of two types");
    if (scaled(product) &&
        (a->type != CUDA_R_8F_E4M3 || host_runtime_capability() != 90 || mood(a) == WITHOUT_SCALES))
        return false;
    return a->rows > 0 && a->columns > 0 && b->columns > 0 && has_types(product, a, out) &&
           has_sides(a, b, out);
}

/* ---- algorithms ------------------------------------------------------------------------------ */

static bool takes(const struct algorithm *algorithm, const struct product *product,
                  const struct layout *a, const struct layout *b, const struct layout *out)
{
    demand(algorithm->magic == MAGIC, "an algorithm that was not proposed");
    return computes(product, a, b, out) && algorithm->types[0] == a->type &&
           algorithm->types[1] == out->type && algorithm->scaled == scaled(product) &&
           b->columns % algorithm->lines_multiple == 0;
}

/*
 * The best first: one that splits the depth where it may, of even numbers of lines; one that
 * computes whole tiles alone; one with a fault; one that computes everything.
 */
static cublasStatus_t propose(struct algorithm *algorithm, int number,
                              const struct preference *preference)
{
    algorithm->number = number;
    algorithm->lines_multiple = number == 0 ? 2 : number == 1 ? 16 : 1;
    algorithm->workspace = number == 0 ? SPLIT_WORKSPACE : 0;
    if (number == 0 && (preference->reductions & CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE) == 0)
        return CUBLAS_STATUS_NOT_SUPPORTED;
    return number == 2 ? CUBLAS_STATUS_NOT_SUPPORTED : CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t product,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t opaque, int most,
                                              cublasLtMatmulHeuristicResult_t results[], int *count)
{
    const struct preference *preference = (const struct preference *)opaque;
    const struct product *what = (const struct product *)product;
    const struct layout *weight = (const struct layout *)a, *in = (const struct layout *)b,
                        *out = (const struct layout *)d;
    demand(handle != NULL && most > 0 && c == d, "a heuristic of nothing");
    demand(preference->workspace > 0, "no workspace");
    *count = 0;
    if (!computes(what, weight, in, out))
        return CUBLAS_STATUS_NOT_SUPPORTED;
    for (int i = 0; i < PROPOSALS && *count < most; i++) {
        struct algorithm algorithm = {
            .magic = MAGIC, .types = {weight->type, out->type}, .scaled = scaled(what)};
        memcpy(algorithm.alignment, preference->alignment, sizeof algorithm.alignment);
        cublasStatus_t state = propose(&algorithm, i, preference);
        if (state == CUBLAS_STATUS_SUCCESS && in->columns % algorithm.lines_multiple != 0)
            continue;
        if (state != CUBLAS_STATUS_SUCCESS && most == 1)
            continue;
        cublasLtMatmulHeuristicResult_t *result = &results[(*count)++];
        memset(result, 0, sizeof *result);
        result->state = state;
        result->workspaceSize = algorithm.workspace;
        memcpy(&result->algo, &algorithm, sizeof algorithm);
    }
    return *count > 0 ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}

cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t handle, cublasLtMatmulDesc_t product,
                                       cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                       cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                       const cublasLtMatmulAlgo_t *opaque,
                                       cublasLtMatmulHeuristicResult_t *result)
{
    const struct algorithm *algorithm = (const struct algorithm *)opaque;
    demand(handle != NULL && c == d, "a check of nothing");
    memset(result, 0, sizeof *result);
    result->algo = *opaque;
    result->workspaceSize = algorithm->workspace;
    result->state = takes(algorithm, (const struct product *)product, (const struct layout *)a,
                          (const struct layout *)b, (const struct layout *)d)
                        ? CUBLAS_STATUS_SUCCESS
                        : CUBLAS_STATUS_NOT_SUPPORTED;
    return result->state;
}

/* ---- the product ----------------------------------------------------------------------------- */

struct call {
    struct product product;
    struct layout a, b, out;
    const void *weight, *in;
    void *to, *workspace;
    size_t workspace_size;
};

/* The numbers of one column. */
static void read_column(float *out, const void *matrix, const struct layout *layout,
                        uint64_t column)
{
    size_t at = column * (size_t)layout->stride;
    enum dtype dtype = layout->type == CUDA_R_8I ? DTYPE_INT8 : DTYPE_FP8;
    for (uint64_t i = 0; i < layout->rows; i++)
        out[i] = layout->type == CUDA_R_16BF
                     ? bfloat16_to_float(((const uint16_t *)matrix)[at + i])
                     : quantise_value(dtype, ((const uint8_t *)matrix)[at + i]);
}

static void store(const struct call *call, uint64_t line, uint64_t row, double sum)
{
    size_t at = line * (size_t)call->out.stride + row;
    float result = (float)sum;
    if (scaled(&call->product))
        result *= call->product.scales[0][row] * call->product.scales[1][line];
    if (call->out.type == CUDA_R_16BF)
        ((uint16_t *)call->to)[at] = bfloat16_from_float(result);
    else if (call->out.type == CUDA_R_32I)
        ((int32_t *)call->to)[at] = (int32_t)sum;
    else
        ((float *)call->to)[at] = result;
}

static bool in_device(const void *memory, const struct layout *layout)
{
    size_t elements = (layout->columns - 1) * (size_t)layout->stride + layout->rows;
    return host_runtime_has(memory, elements * size_of(layout->type));
}

static void run_product(const void *context)
{
    const struct call *call = context;
    demand(in_device(call->weight, &call->a) && in_device(call->in, &call->b) &&
               in_device(call->to, &call->out),
           "a matrix that leaves its allocation, or was freed");
    if (scaled(&call->product))
        demand(host_runtime_has(call->product.scales[0], call->a.columns * sizeof(float)) &&
                   host_runtime_has(call->product.scales[1], call->b.columns * sizeof(float)),
               "scales that leave their allocation, or were freed");
    if (call->workspace_size > 0) {
        demand(host_runtime_has(call->workspace, call->workspace_size), "a workspace that is none");
        memset(call->workspace, 0xff, 1 << 10);
    }
    if (getenv("HOST_CUBLASLT_IDLE") != NULL)
        return;
    const uint64_t depth = call->a.rows, lines = call->b.columns;
    float *in = malloc((lines + 1) * depth * sizeof *in), *weight = in + lines * depth;
    demand(in != NULL, "the host has no memory");
    for (uint64_t line = 0; line < lines; line++)
        read_column(in + line * depth, call->in, &call->b, line);
    for (uint64_t row = 0; row < call->a.columns; row++) {
        read_column(weight, call->weight, &call->a, row);
        for (uint64_t line = 0; line < lines; line++) {
            double sum = 0;
            for (uint64_t i = 0; i < depth; i++)
                sum += (double)in[line * depth + i] * (double)weight[i];
            store(call, line, row, sum);
        }
    }
    free(in);
}

static bool aligned(const void *memory, uint32_t alignment)
{
    return (uintptr_t)memory % alignment == 0;
}

static void check_alpha(const struct product *product, const void *alpha, const void *beta)
{
    bool whole = product->sums == CUDA_R_32I;
    demand(whole ? *(const int32_t *)alpha == 1 && *(const int32_t *)beta == 0
                 : *(const float *)alpha == 1 && *(const float *)beta == 0,
           "alpha or beta of another type");
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t product,
                              const void *alpha, const void *a, cublasLtMatrixLayout_t a_layout,
                              const void *b, cublasLtMatrixLayout_t b_layout, const void *beta,
                              const void *c, cublasLtMatrixLayout_t c_layout, void *d,
                              cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t *opaque,
                              void *workspace, size_t workspace_size, cudaStream_t stream)
{
    const struct algorithm *algorithm = (const struct algorithm *)opaque;
    struct call call = {*(struct product *)product,
                        *(struct layout *)a_layout,
                        *(struct layout *)b_layout,
                        *(struct layout *)d_layout,
                        a,
                        b,
                        d,
                        workspace,
                        algorithm->workspace};
    demand(handle != NULL && c == d && c_layout == d_layout, "two matrices of results");
    check_alpha(&call.product, alpha, beta);
    if (!takes(algorithm, &call.product, &call.a, &call.b, &call.out) ||
        (scaled(&call.product) && mood(&call.a) == REFUSES_LATE))
        return CUBLAS_STATUS_NOT_SUPPORTED;
    demand(aligned(a, algorithm->alignment[0]) && aligned(b, algorithm->alignment[1]) &&
               aligned(d, algorithm->alignment[3]),
           "a matrix that is not aligned as was promised");
    if (call.a.type != CUDA_R_16BF)
        demand(aligned(a, 16) && aligned(b, 16) && aligned(d, 16), "bytes not aligned to 16");
    demand(aligned(workspace, 256) && workspace_size >= algorithm->workspace,
           "a workspace that is too small or not aligned");
    host_runtime_enqueue(stream, run_product, &call, sizeof call);
    return CUBLAS_STATUS_SUCCESS;
}

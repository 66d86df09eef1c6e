/*
 * linear by cuBLASLt: out = in weight^T, sums in float32. Both matrices lie row after row; to the
 * library, which counts by columns, that is out^T [rows, lines] = (weight^T)^T in^T. An algorithm
 * is chosen once for each bucket of lines and size of weight, and then taken for every number of
 * lines in the bucket. With a bias the sums stay float32 until it is added, so that the result is
 * rounded once; the library's own epilogue would round the bias too.
 */
#include <cublasLt.h>
#include <cuda_runtime.h>
#include <stdlib.h>

#include "kernels/cuda/cuda.h"
#include "kernels/cuda/row_buckets.h"
#include "kernels/cuda/simt.h"

extern "C" {
#include "common/error.h"
#include "kernels/cuda/keyed_slots.h"
}

enum {
    PLANS = 512,                /* buckets times sizes of weights; more are made again */
    WORKSPACE_BYTES = 32 << 20, /* what NVIDIA advises for Hopper */
    SUMS_BYTES = 32 << 20,      /* of products with a bias, in slices of so much */
    SLICE_LINES = SUMS_BYTES / ((int)sizeof(float) * CUDA_BIASED_ROWS_MAX),
};

struct plan {
    cublasLtMatmulDesc_t product;
    cublasLtMatrixLayout_t weight, in, out;
    cublasLtMatmulAlgo_t algorithm;
};

struct cuda_linear_state {
    cublasLtHandle_t handle;
    void *workspace;
    float *sums; /* [lines of a slice, rows] */
    struct keyed_slots *slots;
    struct plan plans[PLANS];
};

static void plan_destroy(struct plan *plan)
{
    cublasLtMatmulDescDestroy(plan->product);
    cublasLtMatrixLayoutDestroy(plan->weight);
    cublasLtMatrixLayoutDestroy(plan->in);
    cublasLtMatrixLayoutDestroy(plan->out);
    *plan = {};
}

static cublasStatus_t choose_algorithm(struct plan *plan, cublasLtHandle_t handle)
{
    const size_t workspace = WORKSPACE_BYTES;
    cublasLtMatmulPreference_t preference;
    cublasLtMatmulHeuristicResult_t found = {};
    int count = 0;
    cublasStatus_t status = cublasLtMatmulPreferenceCreate(&preference);
    if (status != CUBLAS_STATUS_SUCCESS)
        return status;
    status = cublasLtMatmulPreferenceSetAttribute(
        preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof workspace);
    /* Split-K sums in an order of its own in every run; one sum, one order. */
    const uint32_t reductions = CUBLASLT_REDUCTION_SCHEME_NONE;
    if (status == CUBLAS_STATUS_SUCCESS)
        status = cublasLtMatmulPreferenceSetAttribute(
            preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &reductions, sizeof reductions);
    if (status == CUBLAS_STATUS_SUCCESS)
        status =
            cublasLtMatmulAlgoGetHeuristic(handle, plan->product, plan->weight, plan->in, plan->out,
                                           plan->out, preference, 1, &found, &count);
    cublasLtMatmulPreferenceDestroy(preference);
    if (status != CUBLAS_STATUS_SUCCESS)
        return status;
    plan->algorithm = found.algo;
    return count > 0 ? found.state : CUBLAS_STATUS_NOT_SUPPORTED;
}

/* out: the type of the results, whose lines are `stride` apart. */
static cublasStatus_t plan_create(struct plan *plan, cublasLtHandle_t handle, uint64_t lines,
                                  const struct cuda_weight *weight, cudaDataType_t out,
                                  int64_t stride)
{
    const cublasOperation_t transposed = CUBLAS_OP_T;
    const uint64_t rows = (uint64_t)weight->rows, columns = (uint64_t)weight->columns;
    *plan = {};
    cublasStatus_t status =
        cublasLtMatmulDescCreate(&plan->product, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    if (status == CUBLAS_STATUS_SUCCESS)
        status = cublasLtMatmulDescSetAttribute(plan->product, CUBLASLT_MATMUL_DESC_TRANSA,
                                                &transposed, sizeof transposed);
    if (status == CUBLAS_STATUS_SUCCESS)
        status =
            cublasLtMatrixLayoutCreate(&plan->weight, CUDA_R_16BF, columns, rows, (int64_t)columns);
    if (status == CUBLAS_STATUS_SUCCESS)
        status =
            cublasLtMatrixLayoutCreate(&plan->in, CUDA_R_16BF, columns, lines, (int64_t)columns);
    if (status == CUBLAS_STATUS_SUCCESS)
        status = cublasLtMatrixLayoutCreate(&plan->out, out, rows, lines, stride);
    if (status == CUBLAS_STATUS_SUCCESS)
        status = choose_algorithm(plan, handle);
    if (status != CUBLAS_STATUS_SUCCESS)
        plan_destroy(plan);
    return status;
}

/* The library's errors are not the runtime's: they end up as the nearest of those. */
static void note_status(struct cuda_backend *cuda, cublasStatus_t status)
{
    if (status != CUBLAS_STATUS_SUCCESS && cuda->queue.fault == 0)
        cuda->queue.fault = (int)cudaErrorNotSupported;
}

/* NULL, with the fault noted, where the library has no algorithm. stride 0: as long as a line. */
static struct plan *find_plan(struct cuda_backend *cuda, int32_t lines,
                              const struct cuda_weight *weight, int64_t stride)
{
    const cudaDataType_t out = weight->bias != NULL || stride > 0 ? CUDA_R_32F : CUDA_R_16BF;
    struct cuda_linear_state *linear = cuda->linear;
    int32_t bucket = row_bucket(lines, 1 << 24);
    bool is_new;
    const int32_t slot = keyed_slots_find(
        linear->slots,
        plan_key(bucket, weight->rows, weight->columns, weight->bias != NULL, stride), &is_new);
    struct plan *plan = &linear->plans[slot];
    if (is_new || plan->product == NULL) {
        plan_destroy(plan);
        note_status(cuda, plan_create(plan, linear->handle, (uint64_t)bucket, weight, out,
                                      stride > 0 ? stride : weight->rows));
    }
    return plan->product != NULL ? plan : NULL;
}

static void multiply(struct cuda_backend *cuda, void *out, const void *in,
                     const struct cuda_weight *weight, int32_t lines, int64_t stride)
{
    const float one = 1, zero = 0;
    const uint64_t exact = (uint64_t)lines;
    struct plan *plan = find_plan(cuda, lines, weight, stride);
    if (plan == NULL)
        return;
    cublasStatus_t status = cublasLtMatrixLayoutSetAttribute(plan->in, CUBLASLT_MATRIX_LAYOUT_COLS,
                                                             &exact, sizeof exact);
    if (status == CUBLAS_STATUS_SUCCESS)
        status = cublasLtMatrixLayoutSetAttribute(plan->out, CUBLASLT_MATRIX_LAYOUT_COLS, &exact,
                                                  sizeof exact);
    if (status == CUBLAS_STATUS_SUCCESS)
        status = cublasLtMatmul(cuda->linear->handle, plan->product, &one, weight->values,
                                plan->weight, in, plan->in, &zero, out, plan->out, out, plan->out,
                                &plan->algorithm, cuda->linear->workspace, WORKSPACE_BYTES,
                                (cudaStream_t)cuda->queue.stream);
    note_status(cuda, status);
}

void cuda_linear(struct backend *backend, void *out, const void *in, const struct weight *opaque,
                 int32_t lines)
{
    struct cuda_backend *cuda = cuda_self(backend);
    const struct cuda_weight *weight = (const struct cuda_weight *)opaque;
    if (weight->bias == NULL) {
        if (lines > 0)
            multiply(cuda, out, in, weight, lines, 0);
        return;
    }
    /* Whole groups of lines, so that a slice begins as aligned as the plan expects. */
    int64_t slice =
        SUMS_BYTES / (weight->rows * (int64_t)sizeof(float)) / SLICE_LINES * SLICE_LINES;
    for (int64_t first = 0; first < lines; first += slice) {
        int32_t count = (int32_t)(lines - first < slice ? lines - first : slice);
        uint16_t *to = (uint16_t *)out + first * weight->rows;
        multiply(cuda, cuda->linear->sums, (const uint16_t *)in + first * weight->columns, weight,
                 count, 0);
        cuda_add_bias(cuda, to, cuda->linear->sums, weight->bias, count, weight->rows);
    }
}

void cuda_logits(struct cuda_backend *cuda, float *out, int64_t stride, const void *in,
                 const struct cuda_weight *weight, int64_t first_row, int64_t rows, int32_t lines)
{
    const struct cuda_weight range = {rows, weight->columns,
                                      weight->values + first_row * weight->columns, NULL};
    if (lines > 0)
        multiply(cuda, out, in, &range, lines, stride);
}

size_t cuda_linear_bytes(void)
{
    return (size_t)WORKSPACE_BYTES + SUMS_BYTES;
}

int cuda_linear_open(struct cuda_backend *cuda, struct error *err)
{
    void *sums = NULL;
    struct cuda_linear_state *linear = (struct cuda_linear_state *)calloc(1, sizeof *linear);
    if (linear == NULL)
        return error_set(err, ERROR_MEMORY, "cannot allocate the cuda backend; free some memory");
    cuda->linear = linear;
    if (cublasLtCreate(&linear->handle) != CUBLAS_STATUS_SUCCESS)
        return error_set(err, ERROR_NO_DEVICE,
                         "device \"cuda\": cuBLASLt cannot be started; check that its version "
                         "suits the driver, or use device cpu");
    int status = keyed_slots_create(&linear->slots, PLANS, err);
    if (status == 0)
        status =
            device_memory_create(&linear->workspace, WORKSPACE_BYTES, "cuBLASLt workspace", err);
    if (status == 0)
        status = device_memory_create(&sums, SUMS_BYTES, "sums before a bias", err);
    linear->sums = (float *)sums;
    return status;
}

void cuda_linear_close(struct cuda_backend *cuda)
{
    struct cuda_linear_state *linear = cuda->linear;
    if (linear == NULL)
        return;
    for (int32_t i = 0; linear->slots != NULL && i < keyed_slots_used(linear->slots); i++)
        plan_destroy(&linear->plans[i]);
    keyed_slots_destroy(linear->slots);
    device_memory_destroy(linear->workspace);
    device_memory_destroy(linear->sums);
    if (linear->handle != NULL)
        cublasLtDestroy(linear->handle);
    free(linear);
}

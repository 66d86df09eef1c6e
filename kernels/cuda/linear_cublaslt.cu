/*
 * Products by cuBLASLt: out = in weight^T. Both matrices lie row after row; to the library, which
 * counts by columns, that is out^T [rows, lines] = (weight^T)^T in^T, its form "TN", the one that
 * it has for int8 and fp8. Sums are float32, of int8 int32. fp8 promotes its partial sums to
 * float32 as often as the library offers (fast accumulation stays off).
 *
 * A plan is an algorithm for one bucket of lines, one size of weight and one form of result, and is
 * taken for every number of lines in the bucket. In a rehearsal, which nobody waits for, all that
 * the library proposes is tried on the device, and the fastest is kept; in any other step, where
 * nothing waits, the library's first proposal is taken.
 *
 * What the library promises: the same call on the same kind of device gives the same bits in every
 * run, as long as one stream uses the workspace. Sums over parts of the depth (split-K) are allowed
 * where the parts stay in the type of the sums and are added behind each other: also the same bits
 * in every run. It does not promise that a line's bits are the same among more or fewer lines:
 * another bucket may have another algorithm. With `deterministic` there is no split-K, and one
 * algorithm, with its tile, stages and cluster, for all buckets of a size, and for all chunks of
 * logits. Such an algorithm adds up the depth of one result in an order that is a property of its
 * tile, wherever the tile lies. That is how these kernels work, not a promise of the library
 * either: the conformance suite demands it of a deterministic backend, bit for bit. Sums of int8
 * are exact in every order, so their algorithms are chosen alike with and without it.
 */
#include <cublasLt.h>
#include <cuda_runtime.h>
#include <stdlib.h>

#include "kernels/cuda/cuda.h"
#include "kernels/cuda/products.h"
#include "kernels/cuda/row_buckets.h"

extern "C" {
#include "common/error.h"
#include "common/log.h"
#include "kernels/cuda/keyed_slots.h"
}

enum {
    PLANS = 512,                /* buckets times sizes of weights; more are made again */
    WORKSPACE_BYTES = 32 << 20, /* what NVIDIA advises for Hopper */
    SUMS_BYTES =
        32 << 20,       /* they fit into the L2 cache of an A100 or H100 until they are finished */
    CANDIDATES = 8,     /* algorithms that are tried */
    TRIAL_RUNS = 3,     /* of each that count, behind one that does not */
    MIDDLE_LINES = 128, /* of which the one algorithm of a deterministic backend is chosen */
    LINES_MAX = 1 << 24,
};

/* Host memory that a step can fill: the library's own create functions would allocate. */
struct plan {
    bool usable; /* the library has an algorithm */
    bool tried;  /* it was chosen on the device */
    cublasLtMatmulDescOpaque_t product;
    cublasLtMatrixLayoutOpaque_t weight, in, out;
    cublasLtMatmulAlgo_t algorithm;
};

struct cuda_product_state {
    cublasLtHandle_t handle;
    void *workspace;
    struct keyed_slots *slots;
    struct plan plans[PLANS];
};

/* How the library names the numbers of a product. */
struct number_types {
    cudaDataType_t matrix, sums;
    cublasComputeType_t compute;
};

static struct number_types number_types_of(enum dtype dtype)
{
    if (dtype == DTYPE_INT8)
        return {CUDA_R_8I, CUDA_R_32I, CUBLAS_COMPUTE_32I};
    if (dtype == DTYPE_FP8)
        return {CUDA_R_8F_E4M3, CUDA_R_32F, CUBLAS_COMPUTE_32F};
    return {CUDA_R_16BF, CUDA_R_32F, CUBLAS_COMPUTE_32F};
}

/* Keeps the first failure. */
static void note(cublasStatus_t *status, cublasStatus_t next)
{
    if (*status == CUBLAS_STATUS_SUCCESS)
        *status = next;
}

static cublasStatus_t set_lines(struct plan *plan, uint64_t lines)
{
    cublasStatus_t status = cublasLtMatrixLayoutSetAttribute(&plan->in, CUBLASLT_MATRIX_LAYOUT_COLS,
                                                             &lines, sizeof lines);
    note(&status, cublasLtMatrixLayoutSetAttribute(&plan->out, CUBLASLT_MATRIX_LAYOUT_COLS, &lines,
                                                   sizeof lines));
    return status;
}

/* Weights of one size share a plan, so their scales are named in every call. */
static cublasStatus_t set_scales(struct plan *plan, const struct cuda_product *product)
{
    const float *of_rows = product->weight->scales + product->first;
    const float *of_lines = product->in_scales;
    if (of_lines == NULL)
        return CUBLAS_STATUS_SUCCESS;
    cublasStatus_t status = cublasLtMatmulDescSetAttribute(
        &plan->product, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &of_rows, sizeof of_rows);
    note(&status,
         cublasLtMatmulDescSetAttribute(&plan->product, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER,
                                        &of_lines, sizeof of_lines));
    return status;
}

/* One scale a row of the weight and one a line: devices of 9.0 alone have that. */
static cublasStatus_t set_scale_modes(struct plan *plan, const struct cuda_product *product)
{
    const int32_t mode = CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F;
    if (product->in_scales == NULL)
        return CUBLAS_STATUS_SUCCESS;
    cublasStatus_t status = cublasLtMatmulDescSetAttribute(
        &plan->product, CUBLASLT_MATMUL_DESC_A_SCALE_MODE, &mode, sizeof mode);
    note(&status, cublasLtMatmulDescSetAttribute(&plan->product, CUBLASLT_MATMUL_DESC_B_SCALE_MODE,
                                                 &mode, sizeof mode));
    note(&status, set_scales(plan, product));
    return status;
}

static cublasStatus_t describe(struct plan *plan, const struct cuda_product *product,
                               uint64_t lines)
{
    const struct number_types types = number_types_of(product->weight->dtype);
    const cublasOperation_t transposed = CUBLAS_OP_T;
    const uint64_t depth = (uint64_t)product->weight->stride;
    *plan = {};
    cublasStatus_t status = cublasLtMatmulDescInit(&plan->product, types.compute, types.sums);
    note(&status, cublasLtMatmulDescSetAttribute(&plan->product, CUBLASLT_MATMUL_DESC_TRANSA,
                                                 &transposed, sizeof transposed));
    note(&status, set_scale_modes(plan, product));
    note(&status, cublasLtMatrixLayoutInit(&plan->weight, types.matrix, depth,
                                           (uint64_t)product->rows, (int64_t)depth));
    note(&status, cublasLtMatrixLayoutInit(&plan->in, types.matrix, depth, lines, (int64_t)depth));
    note(&status, cublasLtMatrixLayoutInit(&plan->out, product->rounded ? CUDA_R_16BF : types.sums,
                                           (uint64_t)product->rows, lines, product->out_stride));
    return status;
}

/* What a matrix can be relied on to begin at: slices and ranges of rows begin at any of its rows.
 */
static uint32_t alignment_of(int64_t stride, size_t element)
{
    uint32_t alignment = 16;
    while ((size_t)stride * element % alignment != 0)
        alignment /= 2;
    return alignment;
}

static cublasStatus_t set_preferences(cublasLtMatmulPreference_t preference,
                                      const struct cuda_product *product, bool in_one_order)
{
    const size_t workspace = WORKSPACE_BYTES;
    const uint32_t reductions =
        in_one_order ? CUBLASLT_REDUCTION_SCHEME_NONE : CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    const uint32_t of_operands =
        alignment_of(product->weight->stride, dtype_size(product->weight->dtype));
    const uint32_t of_out =
        alignment_of(product->out_stride, product->rounded ? sizeof(uint16_t) : sizeof(float));
    const struct {
        cublasLtMatmulPreferenceAttributes_t attribute;
        const void *value;
        size_t size;
    } attributes[] = {
        {CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof workspace},
        {CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &reductions, sizeof reductions},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &of_operands, sizeof of_operands},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &of_operands, sizeof of_operands},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &of_out, sizeof of_out},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &of_out, sizeof of_out},
    };
    cublasStatus_t status = CUBLAS_STATUS_SUCCESS;
    for (const auto &one : attributes)
        note(&status,
             cublasLtMatmulPreferenceSetAttribute(preference, one.attribute, one.value, one.size));
    return status;
}

/* Whether all numbers of lines have to share an algorithm. */
static bool shares_algorithm(const struct cuda_backend *cuda, const struct cuda_product *product)
{
    return cuda->deterministic && product->weight->dtype != DTYPE_INT8;
}

/* The library's proposals for the described product, the best first; returns how many there are. */
static int propose(cublasLtMatmulAlgo_t (&algorithms)[CANDIDATES], int wanted,
                   const struct cuda_backend *cuda, struct plan *plan,
                   const struct cuda_product *product)
{
    cublasLtMatmulPreferenceOpaque_t preference;
    cublasLtMatmulHeuristicResult_t found[CANDIDATES] = {};
    int count = 0, usable = 0;
    cublasStatus_t status = cublasLtMatmulPreferenceInit(&preference);
    note(&status, set_preferences(&preference, product, shares_algorithm(cuda, product)));
    if (status == CUBLAS_STATUS_SUCCESS)
        status = cublasLtMatmulAlgoGetHeuristic(cuda->product->handle, &plan->product,
                                                &plan->weight, &plan->in, &plan->out, &plan->out,
                                                &preference, wanted, found, &count);
    if (status != CUBLAS_STATUS_SUCCESS)
        return 0;
    for (int i = 0; i < count; i++) {
        if (found[i].state == CUBLAS_STATUS_SUCCESS)
            algorithms[usable++] = found[i].algo;
    }
    return usable;
}

/* Whether an algorithm computes what the plan describes, of so many lines. */
static bool fits(const struct cuda_backend *cuda, struct plan *plan, uint64_t lines,
                 const cublasLtMatmulAlgo_t *algorithm)
{
    cublasLtMatmulHeuristicResult_t result = {};
    return set_lines(plan, lines) == CUBLAS_STATUS_SUCCESS &&
           cublasLtMatmulAlgoCheck(cuda->product->handle, &plan->product, &plan->weight, &plan->in,
                                   &plan->out, &plan->out, algorithm,
                                   &result) == CUBLAS_STATUS_SUCCESS &&
           result.workspaceSize <= WORKSPACE_BYTES;
}

/* For every number of lines that there can be; one line alone shows what computes only multiples.
 */
static bool fits_every_bucket(const struct cuda_backend *cuda, struct plan *plan,
                              const cublasLtMatmulAlgo_t *algorithm)
{
    const int32_t most = backend_lines_max(&cuda->limits);
    int32_t bucket = 0;
    bool all = fits(cuda, plan, 1, algorithm);
    while (all && bucket < most) {
        bucket = row_bucket(bucket + 1, most);
        all = fits(cuda, plan, (uint64_t)bucket, algorithm);
    }
    return all;
}

/* What a product writes, as a number: weights of a backend are of one dtype. */
static int32_t kind_of(const struct cuda_product *product)
{
    return (product->rounded ? 1 : 0) | (product->in_scales != NULL ? 2 : 0);
}

/* The same, and how far its lines are apart. */
static int32_t form_of(const struct cuda_product *product)
{
    return (int32_t)((uint32_t)product->out_stride * 4 + (uint32_t)kind_of(product));
}

/* The best of what is proposed for so many lines and computes every number of them. */
static bool choose_for_lines(const struct cuda_backend *cuda, struct plan *every,
                             const struct cuda_product *product, uint64_t lines)
{
    cublasLtMatmulAlgo_t algorithms[CANDIDATES];
    if (describe(every, product, lines) != CUBLAS_STATUS_SUCCESS)
        return false;
    int count = propose(algorithms, CANDIDATES, cuda, every, product);
    for (int i = 0; i < count; i++) {
        every->algorithm = algorithms[i];
        if (fits_every_bucket(cuda, every, &algorithms[i]))
            return true;
    }
    return false;
}

/*
 * A slot of its own, under 0 lines, holds the one algorithm of a deterministic backend for a size,
 * or for ranges of any size: the head's depend on the number of lines.
 */
static bool choose_for_every_bucket(struct cuda_backend *cuda, struct plan *plan,
                                    const struct cuda_product *product, uint64_t lines)
{
    struct cuda_product_state *state = cuda->product;
    bool is_new;
    const int32_t slot = keyed_slots_find(
        state->slots,
        plan_key(0, product->ranged ? 0 : product->rows, product->weight->stride, kind_of(product)),
        &is_new);
    struct plan *every = &state->plans[slot];
    if (is_new) {
        every->usable = choose_for_lines(cuda, every, product, MIDDLE_LINES) ||
                        choose_for_lines(cuda, every, product, 1);
    }
    plan->algorithm = every->algorithm;
    return every->usable && fits(cuda, plan, lines, &every->algorithm);
}

static cublasStatus_t launch(const struct cuda_backend *cuda, struct plan *plan,
                             const struct cuda_product *product,
                             const cublasLtMatmulAlgo_t *algorithm)
{
    const float one = 1, zero = 0;
    const int32_t whole_one = 1, whole_zero = 0;
    const struct cuda_weight *weight = product->weight;
    const bool whole = weight->dtype == DTYPE_INT8;
    const char *rows = (const char *)weight->values +
                       (size_t)(product->first * weight->stride) * dtype_size(weight->dtype);
    cublasStatus_t status = set_lines(plan, (uint64_t)product->lines);
    note(&status, set_scales(plan, product));
    if (status != CUBLAS_STATUS_SUCCESS)
        return status;
    return cublasLtMatmul(cuda->product->handle, &plan->product,
                          whole ? (const void *)&whole_one : &one, rows, &plan->weight, product->in,
                          &plan->in, whole ? (const void *)&whole_zero : &zero, product->out,
                          &plan->out, product->out, &plan->out, algorithm, cuda->product->workspace,
                          WORKSPACE_BYTES, (cudaStream_t)cuda->queue.stream);
}

/*
 * Milliseconds of one product, the best of TRIAL_RUNS; below 0 where one fails. In a step the
 * weight comes from memory, so before each run the L2 cache is filled with something else: memory
 * that no product reads, more than the cache holds. Meanwhile the host is ahead with what it
 * enqueues.
 */
static float trial_time(const struct cuda_backend *cuda, struct plan *plan,
                        const struct cuda_product *product, const cublasLtMatmulAlgo_t *algorithm,
                        cudaEvent_t begin, cudaEvent_t end)
{
    const cudaStream_t stream = (cudaStream_t)cuda->queue.stream;
    float best = -1, milliseconds;
    for (int i = 0; i <= TRIAL_RUNS; i++) {
        cudaMemsetAsync(cuda->sums, 0, SUMS_BYTES, stream);
        cudaMemsetAsync(cuda->product->workspace, 0, WORKSPACE_BYTES, stream);
        if (cudaEventRecord(begin, stream) != cudaSuccess ||
            launch(cuda, plan, product, algorithm) != CUBLAS_STATUS_SUCCESS ||
            cudaEventRecord(end, stream) != cudaSuccess ||
            cudaEventSynchronize(end) != cudaSuccess ||
            cudaEventElapsedTime(&milliseconds, begin, end) != cudaSuccess)
            return -1;
        if (i > 0 && (best < 0 || milliseconds < best))
            best = milliseconds;
    }
    return best;
}

/* Of every choice and failure: the one thing that names a product in a log. */
static void log_product(enum log_level level, const char *message,
                        const struct cuda_product *product, int status, float milliseconds)
{
    log_line(level, message,
             "\"dtype\":\"%s\",\"rows\":%lld,\"depth\":%lld,\"lines\":%d,\"stride\":%lld,"
             "\"rounded\":%d,\"scaled\":%d,\"status\":%d,\"ms\":%.4f",
             dtype_name(product->weight->dtype), (long long)product->rows,
             (long long)product->weight->stride, (int)product->lines,
             (long long)product->out_stride, product->rounded, product->in_scales != NULL, status,
             (double)milliseconds);
}

/* The fastest of the proposals, on the operands of a step of which nothing matters. */
static bool choose_by_trial(const struct cuda_backend *cuda, struct plan *plan,
                            const struct cuda_product *product)
{
    cublasLtMatmulAlgo_t algorithms[CANDIDATES];
    cudaEvent_t begin = NULL, end = NULL;
    float best = -1;
    int count = propose(algorithms, CANDIDATES, cuda, plan, product);
    bool timed = cudaEventCreate(&begin) == cudaSuccess && cudaEventCreate(&end) == cudaSuccess;
    for (int i = 0; timed && i < count; i++) {
        float time = trial_time(cuda, plan, product, &algorithms[i], begin, end);
        if (time < 0 || (best >= 0 && time >= best))
            continue;
        best = time;
        plan->algorithm = algorithms[i];
    }
    if (begin != NULL)
        cudaEventDestroy(begin);
    if (end != NULL)
        cudaEventDestroy(end);
    log_product(LOG_DEBUG, "algorithms of a product were tried", product, count, best);
    return best >= 0;
}

static bool choose_first(const struct cuda_backend *cuda, struct plan *plan,
                         const struct cuda_product *product)
{
    cublasLtMatmulAlgo_t algorithms[CANDIDATES];
    int count = propose(algorithms, 1, cuda, plan, product);
    plan->algorithm = algorithms[0];
    return count > 0;
}

/* NULL where the library has no algorithm; that is noted, too. */
static struct plan *find_plan(struct cuda_backend *cuda, const struct cuda_product *product)
{
    struct cuda_product_state *state = cuda->product;
    const bool by_trial = cuda->step.rehearsal && !cuda->recording;
    const bool shared = shares_algorithm(cuda, product);
    const int32_t bucket = row_bucket(product->lines, LINES_MAX);
    bool is_new;
    const int32_t slot = keyed_slots_find(
        state->slots, plan_key(bucket, product->rows, product->weight->stride, form_of(product)),
        &is_new);
    struct plan *plan = &state->plans[slot];
    /* What a step chose in haste is chosen again in a rehearsal. */
    if (is_new || (by_trial && !shared && !plan->tried)) {
        bool described = describe(plan, product, (uint64_t)bucket) == CUBLAS_STATUS_SUCCESS;
        plan->usable =
            described && (shared ? choose_for_every_bucket(cuda, plan, product, (uint64_t)bucket)
                          : by_trial ? choose_by_trial(cuda, plan, product)
                                     : choose_first(cuda, plan, product));
        plan->tried = by_trial;
        if (!plan->usable)
            log_product(LOG_DEBUG, "no algorithm for a product", product, 0, 0);
    }
    return plan->usable ? plan : NULL;
}

/*
 * A bucket's algorithm that refuses this number of lines, or no algorithm for the bucket: the
 * library's first proposal for exactly these, once. Not where the choice has to be the same for
 * all.
 */
static cublasStatus_t launch_exact(struct cuda_backend *cuda, const struct cuda_product *product)
{
    struct plan exact;
    if (shares_algorithm(cuda, product) ||
        describe(&exact, product, (uint64_t)product->lines) != CUBLAS_STATUS_SUCCESS ||
        !choose_first(cuda, &exact, product))
        return CUBLAS_STATUS_NOT_SUPPORTED;
    return launch(cuda, &exact, product, &exact.algorithm);
}

extern "C" bool cuda_multiply(struct cuda_backend *cuda, const struct cuda_product *product)
{
    struct plan *plan = find_plan(cuda, product);
    const bool scaled = product->in_scales != NULL;
    if (plan == NULL && scaled)
        return false;
    cublasStatus_t status =
        plan == NULL ? CUBLAS_STATUS_NOT_SUPPORTED : launch(cuda, plan, product, &plan->algorithm);
    if (status != CUBLAS_STATUS_SUCCESS)
        status = launch_exact(cuda, product);
    if (status == CUBLAS_STATUS_SUCCESS)
        return true;
    if (scaled) { /* some refusals come with the call alone */
        plan->usable = false;
        return false;
    }
    log_product(LOG_ERROR, "cuBLASLt refuses a product", product, (int)status, 0);
    /* The library's errors are not the runtime's: they end up as the nearest of those. */
    if (cuda->queue.fault == 0)
        cuda->queue.fault = (int)cudaErrorNotSupported;
    return true;
}

extern "C" size_t cuda_product_bytes(void)
{
    return WORKSPACE_BYTES;
}

extern "C" size_t cuda_sums_bytes(void)
{
    return SUMS_BYTES;
}

extern "C" int cuda_product_open(struct cuda_backend *cuda, struct error *err)
{
    struct cuda_product_state *state = (struct cuda_product_state *)calloc(1, sizeof *state);
    if (state == NULL)
        return error_set(err, ERROR_MEMORY, "cannot allocate the cuda backend; free some memory");
    cuda->product = state;
    if (cublasLtCreate(&state->handle) != CUBLAS_STATUS_SUCCESS)
        return error_set(err, ERROR_NO_DEVICE,
                         "device \"cuda\": cuBLASLt cannot be started; check that its version "
                         "suits the driver, or use device cpu");
    int status = keyed_slots_create(&state->slots, PLANS, err);
    if (status == 0)
        status =
            device_memory_create(&state->workspace, WORKSPACE_BYTES, "cuBLASLt workspace", err);
    return status;
}

extern "C" void cuda_product_close(struct cuda_backend *cuda)
{
    struct cuda_product_state *state = cuda->product;
    if (state == NULL)
        return;
    keyed_slots_destroy(state->slots);
    device_memory_destroy(state->workspace);
    if (state->handle != NULL)
        cublasLtDestroy(state->handle);
    free(state);
}

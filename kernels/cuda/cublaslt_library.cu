/*
 * The functions of cuBLASLt that linear_cublaslt.cu calls, under their own names, each of which
 * goes on to the library's. One that is missing here is missing when the program is linked.
 */
#include "kernels/cuda/cublaslt_library.h"

#include <cublasLt.h>
#include <dlfcn.h>
#include <stdio.h>

extern "C" {
#include "common/error.h"
}

static struct {
    decltype(&::cublasLtCreate) create;
    decltype(&::cublasLtDestroy) destroy;
    decltype(&::cublasLtMatmul) matmul;
    decltype(&::cublasLtMatmulAlgoCheck) check;
    decltype(&::cublasLtMatmulAlgoGetHeuristic) heuristic;
    decltype(&::cublasLtMatmulDescInit_internal) product_init;
    decltype(&::cublasLtMatmulDescSetAttribute) product_set;
    decltype(&::cublasLtMatrixLayoutInit_internal) layout_init;
    decltype(&::cublasLtMatrixLayoutSetAttribute) layout_set;
    decltype(&::cublasLtMatmulPreferenceInit_internal) preference_init;
    decltype(&::cublasLtMatmulPreferenceSetAttribute) preference_set;
} library;

/* `missing` keeps the name of the first function that the library lacks. */
template <class F> static void resolve(F *out, void *handle, const char *name, const char **missing)
{
    *out = (F)dlsym(handle, name);
    if (*out == NULL && *missing == NULL)
        *missing = name;
}

static const char *resolve_all(void *handle)
{
    const char *missing = NULL;
    resolve(&library.create, handle, "cublasLtCreate", &missing);
    resolve(&library.destroy, handle, "cublasLtDestroy", &missing);
    resolve(&library.matmul, handle, "cublasLtMatmul", &missing);
    resolve(&library.check, handle, "cublasLtMatmulAlgoCheck", &missing);
    resolve(&library.heuristic, handle, "cublasLtMatmulAlgoGetHeuristic", &missing);
    resolve(&library.product_init, handle, "cublasLtMatmulDescInit_internal", &missing);
    resolve(&library.product_set, handle, "cublasLtMatmulDescSetAttribute", &missing);
    resolve(&library.layout_init, handle, "cublasLtMatrixLayoutInit_internal", &missing);
    resolve(&library.layout_set, handle, "cublasLtMatrixLayoutSetAttribute", &missing);
    resolve(&library.preference_init, handle, "cublasLtMatmulPreferenceInit_internal", &missing);
    resolve(&library.preference_set, handle, "cublasLtMatmulPreferenceSetAttribute", &missing);
    return missing;
}

int cublaslt_library_open(struct error *err)
{
    static bool is_open;
    char name[40];
    if (is_open)
        return 0;
    snprintf(name, sizeof name, "libcublasLt.so.%d", CUBLAS_VER_MAJOR);
    void *handle = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (handle == NULL)
        return error_set(err, ERROR_NO_DEVICE,
                         "device \"cuda\": cuBLASLt cannot be loaded (%s); install CUDA %d's "
                         "libraries or add their folder to LD_LIBRARY_PATH, or use device cpu",
                         dlerror(), CUBLAS_VER_MAJOR);
    const char *missing = resolve_all(handle);
    is_open = missing == NULL;
    if (is_open)
        return 0;
    dlclose(handle);
    return error_set(err, ERROR_NO_DEVICE,
                     "device \"cuda\": %s has no %s; install CUDA %d's libraries, or use device "
                     "cpu",
                     name, missing, CUBLAS_VER_MAJOR);
}

extern "C" {

cublasStatus_t cublasLtCreate(cublasLtHandle_t *handle)
{
    return library.create(handle);
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle)
{
    return library.destroy(handle);
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t product,
                              const void *alpha, const void *a, cublasLtMatrixLayout_t a_layout,
                              const void *b, cublasLtMatrixLayout_t b_layout, const void *beta,
                              const void *c, cublasLtMatrixLayout_t c_layout, void *d,
                              cublasLtMatrixLayout_t d_layout,
                              const cublasLtMatmulAlgo_t *algorithm, void *workspace,
                              size_t workspace_bytes, cudaStream_t stream)
{
    return library.matmul(handle, product, alpha, a, a_layout, b, b_layout, beta, c, c_layout, d,
                          d_layout, algorithm, workspace, workspace_bytes, stream);
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t product,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int most,
                                              cublasLtMatmulHeuristicResult_t results[], int *count)
{
    return library.heuristic(handle, product, a, b, c, d, preference, most, results, count);
}

cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t handle, cublasLtMatmulDesc_t product,
                                       cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                       cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                       const cublasLtMatmulAlgo_t *algorithm,
                                       cublasLtMatmulHeuristicResult_t *result)
{
    return library.check(handle, product, a, b, c, d, algorithm, result);
}

/* What the inline functions of cublasLt.h that lack "_internal" call. */

cublasStatus_t cublasLtMatmulDescInit_internal(cublasLtMatmulDesc_t product, size_t size,
                                               cublasComputeType_t compute, cudaDataType_t scale)
{
    return library.product_init(product, size, compute, scale);
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t product,
                                              cublasLtMatmulDescAttributes_t attribute,
                                              const void *value, size_t size)
{
    return library.product_set(product, attribute, value, size);
}

cublasStatus_t cublasLtMatrixLayoutInit_internal(cublasLtMatrixLayout_t layout, size_t size,
                                                 cudaDataType type, uint64_t rows, uint64_t columns,
                                                 int64_t stride)
{
    return library.layout_init(layout, size, type, rows, columns, stride);
}

cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout,
                                                cublasLtMatrixLayoutAttribute_t attribute,
                                                const void *value, size_t size)
{
    return library.layout_set(layout, attribute, value, size);
}

cublasStatus_t cublasLtMatmulPreferenceInit_internal(cublasLtMatmulPreference_t preference,
                                                     size_t size)
{
    return library.preference_init(preference, size);
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute,
                                                    const void *value, size_t size)
{
    return library.preference_set(preference, attribute, value, size);
}
}

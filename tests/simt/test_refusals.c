/* What the CUDA backend does not have, and says so. */
#include <string.h>
#include "common/error.h"
#include "kernels/cuda/cuda.h"
#include "tests/conformance/conformance.h"

static struct backend *create(enum dtype dtype, enum dtype weight_dtype, const char *instructions,
                              int expected, struct error *err)
{
    const struct backend_options options = {
        .dtype = dtype, .weight_dtype = weight_dtype, .threads = 1, .instructions = instructions};
    struct backend *backend;
    cr_assert_eq(backend_create(&backend, "simt", &options, err), expected, "%s", err->message);
    return backend;
}

Test(refusals, float32_is_refused_with_what_there_is)
{
    struct error err = {0};
    cr_assert_null(create(DTYPE_FLOAT32, DTYPE_FLOAT32, NULL, ERROR_INVALID, &err));
    cr_assert_not_null(strstr(err.message, "computes in bfloat16, not in float32"), "%s",
                       err.message);
    cr_assert_not_null(strstr(err.message, "device cpu"), "%s", err.message);
}

Test(refusals, are_those_of_what_it_says_it_computes_in)
{
    for (int dtype = 0; dtype < DTYPE_COUNT; dtype++) {
        for (int weights = 0; weights < DTYPE_COUNT; weights++) {
            bool computes = backend_computes("simt", (enum dtype)dtype, (enum dtype)weights);
            struct error err = {0};
            cr_expect_eq(computes, dtype == DTYPE_BFLOAT16 &&
                                       (weights == dtype || dtype_has_scales((enum dtype)weights)));
            backend_destroy(create((enum dtype)dtype, (enum dtype)weights, NULL,
                                   computes ? 0 : ERROR_INVALID, &err));
        }
    }
}

/* An A100 has no instructions for it. */
Test(refusals, fp8_is_refused_with_what_there_is_where_the_device_lacks_it)
{
    struct device_facts facts = {.backend = "cuda", .name = "A100, compute capability 8.0"};
    struct error err = {0};
    cr_assert_eq(cuda_dtypes_check(&facts, DTYPE_BFLOAT16, DTYPE_FP8, &err), ERROR_INVALID);
    cr_assert_not_null(strstr(err.message, "has bfloat16 and int8"), "%s", err.message);
    cr_assert_not_null(strstr(err.message, "8.0"), "%s", err.message);
    cr_assert_eq(cuda_dtypes_check(&facts, DTYPE_BFLOAT16, DTYPE_INT8, &err), 0);
    facts.fp8 = true;
    cr_assert_eq(cuda_dtypes_check(&facts, DTYPE_BFLOAT16, DTYPE_FP8, &err), 0);
    cr_assert_eq(cuda_dtypes_check(&facts, DTYPE_FLOAT32, DTYPE_FP8, &err), ERROR_INVALID);
    cr_assert_not_null(strstr(err.message, "fp8"), "%s", err.message);
}

Test(refusals, orders_of_threads_are_refused_with_those_that_there_are)
{
    struct error err = {0};
    cr_assert_null(create(DTYPE_BFLOAT16, DTYPE_BFLOAT16, "sideways", ERROR_INVALID, &err));
    cr_assert_not_null(strstr(err.message, "ascending, descending, seeded"), "%s", err.message);
}

Test(refusals, a_head_dim_without_kernels_is_refused_with_the_largest)
{
    struct error err = {0};
    struct backend *backend = create(DTYPE_BFLOAT16, DTYPE_BFLOAT16, "seeded", 0, &err);
    struct backend_limits limits = plain_limits(8, 100);
    limits.attention.head_dim = 130;
    cr_assert_eq(backend->ops->reserve(backend, &limits, &err), ERROR_INVALID);
    cr_assert_not_null(strstr(err.message, "head_dim is 130"), "%s", err.message);
    cr_assert_not_null(strstr(err.message, "up to 128"), "%s", err.message);
    backend_destroy(backend);
}

/* What bench compares a device's kernels with. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include "common/error.h"
#include "kernels/backend.h"

static double copy_rate(const char *name, enum dtype dtype)
{
    const struct backend_options options = {.dtype = dtype, .weight_dtype = dtype, .threads = 1};
    struct backend *backend;
    struct error err = {0};
    double rate = -1;
    /* Of the emulated device; the host's changes whatever this test does. */
    int64_t before = backend_memory_read("simt").available;
    cr_assert_eq(backend_create(&backend, name, &options, &err), 0, "%s", err.message);
    cr_assert_eq(backend_copy_rate(&rate, backend, 1 << 16, &err), 0, "%s", err.message);
    backend_destroy(backend);
    cr_expect_eq(backend_memory_read("simt").available, before, "the copies' memory is given back");
    return rate;
}

Test(copy_rate, devices_have_one_and_cpus_have_their_own)
{
    setenv("SIMT_MEMORY", "1000000000", 1);
    cr_expect_gt(copy_rate("simt", DTYPE_BFLOAT16), 1e6);
    cr_expect_eq(copy_rate("cpu", DTYPE_FLOAT32), 0);
    cr_expect_eq(copy_rate("ref", DTYPE_FLOAT32), 0);
}

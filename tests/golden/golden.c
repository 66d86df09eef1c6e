#include "tests/golden/golden.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <criterion/criterion.h>

#include "common/error.h"
#include "kernels/backend.h"
#include "server/model/model.h"
#include "server/model/safetensors.h"

const char *golden_path(const char *fixture, const char *file)
{
    static char path[512];
    snprintf(path, sizeof path, "build/fixtures/llada/%s/%s", fixture, file);
    return path;
}

struct model *golden_load_model(const char *fixture, const char *backend_name,
                                struct golden_dtypes dtypes)
{
    struct error err = {0};
    struct backend *backend = NULL;
    struct backend_options options = {.dtype = dtypes.activations, .weight_dtype = dtypes.weights};
    int failed = backend_create(&backend, backend_name, &options, &err);
    cr_assert_eq(failed, 0, "%s", err.message);

    const char *directory = golden_path(fixture, "");
    if (strcmp(fixture, "tiny") == 0)
        directory = "models/tiny";
    struct model *model = NULL;
    failed = model_load(&model, directory, backend, &err);
    cr_assert_eq(failed, 0, "%s", err.message);
    return model;
}

const char *golden_device(struct golden_dtypes dtypes)
{
    struct error err = {0};
    const char *name = getenv("DENOISED_DEVICE");
    if (name == NULL)
        cr_skip_test("DENOISED_DEVICE names no device");
    if (backend_check(name, &err) != 0)
        cr_skip_test("%s", err.message);
    if (!backend_computes(name, dtypes.activations, dtypes.weights))
        cr_skip_test("device %s does not compute in %s with %s weights", name,
                     dtype_name(dtypes.activations), dtype_name(dtypes.weights));
    return name;
}

bool golden_is_int8(const char *fixture)
{
    return strcmp(fixture, "int8") == 0 || strcmp(fixture, "tiny") == 0;
}

/*
 * As near as the numbers allow. int8 rounds every input line of a product to 127 steps up
 * to its largest number, which is 3 to 4 standard deviations: an NMSE of (3..4 / 127)^2 / 12, 5e-5
 * to 8e-5, and as much again for weights that are rounded here. That is so for 9 to 25 products in
 * a row, and random models amplify it. The roundings of bfloat16 in between are independent and
 * small: with them alone the worst is 5e-4, so int8 has the same limit with either dtype. Measured,
 * the worst is 1.7e-3 where the checkpoint is int8 and 5.0e-3 where it is rounded: half of the
 * limit.
 *
 * fp8 has 8 steps between powers of two, whatever the number: an NMSE of (1 / 8)^2 / 12 * 0.54 (the
 * mean of 1 / m^2 over fractions m of 1 to 2), 7e-4 for the line and as much for the weights, ten
 * times what int8 has. The worst is 5.1e-2, again half of the limit; models/tiny has 8.6e-3.
 */
double golden_limit(const char *fixture, struct golden_dtypes dtypes)
{
    if (dtypes.weights == DTYPE_FP8)
        return 1e-1;
    if (dtypes.weights == DTYPE_INT8)
        return golden_is_int8(fixture) ? 3.4e-3 : 1e-2;
    return 1e-3;
}

void golden_expect_nmse(const float *found, const float *expected, size_t count, double limit,
                        const char *what)
{
    double error = 0.0, power = 0.0;
    for (size_t i = 0; i < count; i++) {
        double difference = (double)found[i] - (double)expected[i];
        error += difference * difference;
        power += (double)expected[i] * (double)expected[i];
    }
    cr_expect(error <= limit * power, "%s: NMSE %g", what, error / power);
}

struct checkpoint *golden_open_logits(const char *fixture)
{
    struct error err = {0};
    struct checkpoint *file = NULL;
    int failed = checkpoint_open_file(&file, golden_path(fixture, "logits.safetensors"), &err);
    cr_assert_eq(failed, 0, "%s", err.message);
    return file;
}

static const struct tensor *find(const struct checkpoint *file, const char *name, int index,
                                 const char *dtype, int dimensions)
{
    char full[64];
    snprintf(full, sizeof full, "%s_%d", name, index);
    const struct tensor *tensor = checkpoint_find(file, full);
    cr_assert_not_null(tensor, "no tensor %s", full);
    cr_assert_str_eq(tensor->dtype_name, dtype, "%s", full);
    cr_assert_eq(tensor->dimensions, dimensions, "%s", full);
    cr_assert_eq((uintptr_t)tensor->data % 4, 0, "%s", full);
    return tensor;
}

const int32_t *golden_ids(const struct checkpoint *file, const char *name, int index, int32_t *rows)
{
    const struct tensor *tensor = find(file, name, index, "I32", 1);
    *rows = (int32_t)tensor->shape[0];
    return tensor->data;
}

const float *golden_matrix(const struct checkpoint *file, const char *name, int index,
                           int32_t *rows, int32_t *columns)
{
    const struct tensor *tensor = find(file, name, index, "F32", 2);
    *rows = (int32_t)tensor->shape[0];
    *columns = (int32_t)tensor->shape[1];
    return tensor->data;
}

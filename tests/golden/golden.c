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
    name = name != NULL ? name : "cuda";
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

#include "conformance.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include "common/error.h"

enum { GUARD_BYTES = 256, GUARD_VALUE = 0xa5 };

struct criterion_test_params subject_parameters(void)
{
    static struct subject subjects[] = {
#ifdef CONFORMANCE_SIMT
        {"simt", "ascending", DTYPE_BFLOAT16},
        {"simt", "descending", DTYPE_BFLOAT16},
        {"simt", "seeded", DTYPE_BFLOAT16},
#else
        {"cpu", "scalar", DTYPE_FLOAT32},      {"cpu", "scalar", DTYPE_BFLOAT16},
        {"cpu", "avx2", DTYPE_FLOAT32},        {"cpu", "avx2", DTYPE_BFLOAT16},
        {"cpu", "avx512", DTYPE_FLOAT32},      {"cpu", "avx512", DTYPE_BFLOAT16},
        {"cpu", "avx512bf16", DTYPE_BFLOAT16}, {"ref", "", DTYPE_FLOAT32},
        {"ref", "", DTYPE_BFLOAT16},           {"cuda", "", DTYPE_BFLOAT16},
#endif
    };
    return cr_make_param_array(struct subject, subjects, sizeof subjects / sizeof subjects[0]);
}

/* By the CPU itself, not by what the backend says of it. */
static bool cpu_has(const char *instructions)
{
    if (strcmp(instructions, "avx2") == 0)
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (strcmp(instructions, "avx512") == 0)
        return wide;
    if (strcmp(instructions, "avx512bf16") == 0)
        return wide && __builtin_cpu_supports("avx512bf16");
    return true;
}

struct backend *subject_open(const struct subject *subject, int threads)
{
    const char *only = getenv("DENOISED_CONFORMANCE");
    struct backend_options options = {subject->dtype, threads, subject->instructions};
    struct backend *backend;
    struct error err = {0};
    if (only != NULL && strcmp(only, subject->instructions) != 0 &&
        strcmp(subject->backend, "ref") != 0)
        cr_skip_test("DENOISED_CONFORMANCE asks for %s alone", only);
    if (!cpu_has(subject->instructions))
        cr_skip_test("this CPU lacks %s", subject->instructions);
    int status = backend_create(&backend, subject->backend, &options, &err);
    if (status == ERROR_NO_DEVICE && strcmp(subject->backend, "cuda") == 0)
        cr_skip_test("%s", err.message);
    cr_assert_eq(status, 0, "%s", err.message);
    return backend;
}

int32_t subject_head_dim_max(const struct subject *subject)
{
    bool by_cuda_kernels =
        strcmp(subject->backend, "simt") == 0 || strcmp(subject->backend, "cuda") == 0;
    return by_cuda_kernels ? 128 : 256;
}

struct backend *reference_open(enum dtype dtype)
{
    struct backend_options options = {dtype, 1, NULL};
    struct backend *backend;
    struct error err = {0};
    cr_assert_eq(backend_create(&backend, "ref", &options, &err), 0, "%s", err.message);
    return backend;
}

struct backend_limits plain_limits(int32_t rows, int32_t vocabulary)
{
    return (struct backend_limits){
        .attention = {.layers = 1,
                      .heads = 1,
                      .kv_heads = 1,
                      .head_dim = 2,
                      .rotary_dim = 2,
                      .rope_theta = 10000},
        .max_rows = rows,
        .max_head_rows = rows,
        .max_positions = 64,
        .max_sequences = 1,
        .kv_pages = 1,
        .vocabulary = vocabulary,
    };
}

void reserve(struct backend *backend, const struct backend_limits *limits)
{
    struct error err = {0};
    cr_assert_eq(backend->ops->reserve(backend, limits, &err), 0, "%s", err.message);
}

uint32_t random_below(struct random *random, uint32_t limit)
{
    random->state = random->state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((random->state >> 33) * limit >> 31);
}

float random_float(struct random *random)
{
    return (float)random_below(random, 1u << 24) / (float)(1 << 23) - 1.0f;
}

void *random_activations(struct random *random, size_t count, enum dtype dtype)
{
    char *bytes = malloc(count * dtype_size(dtype) + 1);
    cr_assert_not_null(bytes);
    for (size_t i = 0; i < count; i++) {
        float value = random_float(random);
        if (dtype == DTYPE_BFLOAT16)
            ((uint16_t *)bytes)[i] = bfloat16_from_float(value);
        else
            ((float *)bytes)[i] = value;
    }
    return bytes;
}

float activation_at(const void *activations, size_t index, enum dtype dtype)
{
    return dtype == DTYPE_BFLOAT16 ? bfloat16_to_float(((const uint16_t *)activations)[index])
                                   : ((const float *)activations)[index];
}

struct guarded guarded_create(struct backend *backend, const void *source, size_t size)
{
    struct guarded guarded = {backend, NULL, NULL, size};
    char guard[GUARD_BYTES];
    void *block;
    struct error err = {0};
    cr_assert_eq(backend->ops->memory_create(backend, &block, size + 2 * GUARD_BYTES, &err), 0);
    memset(guard, GUARD_VALUE, sizeof guard);
    guarded.block = block;
    guarded.data = guarded.block + GUARD_BYTES;
    backend->ops->memory_write(backend, guarded.block, guard, GUARD_BYTES);
    backend->ops->memory_write(backend, guarded.block + GUARD_BYTES + size, guard, GUARD_BYTES);
    if (source != NULL)
        backend->ops->memory_write(backend, guarded.data, source, size);
    return guarded;
}

void *guarded_take(struct guarded *guarded)
{
    unsigned char *all = malloc(guarded->size + 2 * GUARD_BYTES);
    cr_assert_not_null(all);
    guarded->backend->ops->memory_read(guarded->backend, all, guarded->block,
                                       guarded->size + 2 * GUARD_BYTES);
    for (size_t i = 0; i < GUARD_BYTES; i++) {
        cr_assert_eq(all[i], GUARD_VALUE, "wrote before the output");
        cr_assert_eq(all[GUARD_BYTES + guarded->size + i], GUARD_VALUE, "wrote behind the output");
    }
    guarded->backend->ops->memory_destroy(guarded->backend, guarded->block);
    memmove(all, all + GUARD_BYTES, guarded->size);
    return all;
}

struct weight *make_weight(struct backend *backend, const float *values, int64_t rows,
                           int64_t columns, const float *bias)
{
    struct tensor_source source = {values, NULL, DTYPE_FLOAT32, rows, columns};
    struct weight *weight;
    struct error err = {0};
    cr_assert_eq(backend->ops->weight_create(backend, &weight, &source, 1, bias, &err), 0, "%s",
                 err.message);
    return weight;
}

static int kind_of(double value)
{
    if (isnan(value))
        return 2;
    return isinf(value) ? (value > 0 ? 1 : -1) : 0;
}

void expect_near(const void *actual, const void *expected, size_t count, enum dtype dtype,
                 double slack, const char *what)
{
    double limit = (dtype == DTYPE_BFLOAT16 ? 1e-6 : 1e-12) * slack, error = 0, size = 0;
    for (size_t i = 0; i < count; i++) {
        double a = activation_at(actual, i, dtype), e = activation_at(expected, i, dtype);
        cr_assert_eq(kind_of(a), kind_of(e), "%s: element %zu is %g, expected %g", what, i, a, e);
        if (kind_of(e) != 0)
            continue;
        error += (a - e) * (a - e);
        size += e * e;
    }
    cr_assert(error <= limit * size, "%s: NMSE %.3g is over %.3g", what, error / size, limit);
}

void expect_same_bits(const void *actual, const void *expected, size_t size, const char *what)
{
    const unsigned char *a = actual, *e = expected;
    for (size_t i = 0; i < size; i++)
        cr_assert_eq(a[i], e[i], "%s: byte %zu of %zu differs", what, i, size);
}

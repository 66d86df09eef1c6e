/* Inputs of operations, guarded memory for their results, and how these are compared. */
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include "common/error.h"
#include "conformance.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

enum { GUARD_BYTES = 256, GUARD_VALUE = 0xa5 };

uint32_t random_below(struct random *random, uint32_t limit)
{
    random->state = random->state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((random->state >> 33) * limit >> 31);
}

float random_float(struct random *random)
{
    return (float)random_below(random, 1u << 24) / (float)(1 << 23) - 1.0f;
}

void set_activation(void *activations, size_t index, float value, enum dtype dtype)
{
    if (dtype == DTYPE_BFLOAT16)
        ((uint16_t *)activations)[index] = bfloat16_from_float(value);
    else
        ((float *)activations)[index] = value;
}

void *random_activations(struct random *random, size_t count, enum dtype dtype)
{
    char *bytes = malloc(count * dtype_size(dtype) + 1);
    cr_assert_not_null(bytes);
    for (size_t i = 0; i < count; i++)
        set_activation(bytes, i, random_float(random), dtype);
    return bytes;
}

float activation_at(const void *activations, size_t index, enum dtype dtype)
{
    return dtype == DTYPE_BFLOAT16 ? bfloat16_to_float(((const uint16_t *)activations)[index])
                                   : ((const float *)activations)[index];
}

/*
 * AddressSanitizer ends the program where an operation reads a guard, too. Every backend that it is
 * built into has its memory on the host.
 */
static void forbid_guards(const struct guarded *guarded)
{
#if defined(__SANITIZE_ADDRESS__)
    ASAN_POISON_MEMORY_REGION(guarded->block, GUARD_BYTES);
    ASAN_POISON_MEMORY_REGION((char *)guarded->data + guarded->size, GUARD_BYTES);
#else
    (void)guarded;
#endif
}

static void allow_guards(const struct guarded *guarded)
{
#if defined(__SANITIZE_ADDRESS__)
    ASAN_UNPOISON_MEMORY_REGION(guarded->block, guarded->size + (size_t)2 * GUARD_BYTES);
#else
    (void)guarded;
#endif
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
    forbid_guards(&guarded);
    return guarded;
}

void *guarded_take(struct guarded *guarded)
{
    unsigned char *all = malloc(guarded->size + 2 * GUARD_BYTES);
    unsigned char guard[GUARD_BYTES];
    cr_assert_not_null(all);
    memset(guard, GUARD_VALUE, sizeof guard);
    allow_guards(guarded);
    guarded->backend->ops->memory_read(guarded->backend, all, guarded->block,
                                       guarded->size + 2 * GUARD_BYTES);
    cr_assert_arr_eq(all, guard, sizeof guard, "wrote before the output");
    cr_assert_arr_eq(all + GUARD_BYTES + guarded->size, guard, sizeof guard,
                     "wrote behind the output");
    guarded->backend->ops->memory_destroy(guarded->backend, guarded->block);
    memmove(all, all + GUARD_BYTES, guarded->size);
    return all;
}

void guarded_drop(struct guarded *guarded, const void *source)
{
    void *content = guarded_take(guarded);
    if (source != NULL)
        expect_same_bits(content, source, guarded->size, "an input after the operation");
    free(content);
}

struct weight *make_weight(struct backend *backend, const float *values, int64_t rows,
                           int64_t columns, const float *bias)
{
    struct tensor_source source = {
        .data = values, .dtype = DTYPE_FLOAT32, .rows = rows, .columns = columns};
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
        if (isfinite(a) && isfinite(e)) {
            error += (a - e) * (a - e);
            size += e * e;
        } else {
            cr_assert_eq(kind_of(a), kind_of(e), "%s: element %zu is %g, expected %g", what, i, a,
                         e);
        }
    }
    cr_assert(error <= limit * size, "%s: NMSE %.3g is over %.3g", what, error / size, limit);
}

void expect_same_bits(const void *actual, const void *expected, size_t size, const char *what)
{
    const unsigned char *a = actual, *e = expected;
    size_t i = 0;
    if (memcmp(a, e, size) == 0)
        return;
    while (a[i] == e[i])
        i++;
    cr_assert_fail("%s: byte %zu of %zu differs", what, i, size);
}

void expect_result(enum operation operation, const void *actual, const void *expected, size_t count,
                   enum dtype dtype, const char *what)
{
    double limit = subject_limit(operation, dtype);
    if (limit == 0)
        expect_same_bits(actual, expected, count * dtype_size(dtype), what);
    else
        expect_near(actual, expected, count, dtype,
                    limit / (dtype == DTYPE_BFLOAT16 ? 1e-6 : 1e-12), what);
    record_checked(operation);
}

void expect_invariant(enum operation operation, const void *actual, const void *expected,
                      size_t count, enum dtype dtype, const char *what)
{
    if (subject_is_batch_invariant())
        expect_same_bits(actual, expected, count * dtype_size(dtype), what);
    else
        expect_result(operation, actual, expected, count, dtype, what);
}

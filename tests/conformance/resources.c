/* Memory accounting, and what a backend refuses. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "common/error.h"
#include "conformance.h"

ANY_WEIGHTS_TEST(resources, memory_used_counts_what_is_held)
{
    struct backend *backend = subject_open(subject, 2);
    struct backend_limits limits = plain_limits(8, 100);
    size_t weights, kv, other, before;
    float values[70 * 33] = {0}, bias[70] = {0};
    void *memory;
    backend->ops->memory_used(backend, &weights, &kv, &before);
    cr_assert_eq(weights + kv + before, 0);
    limits.kv_pages = 10;
    reserve(backend, &limits);
    backend->ops->memory_used(backend, &weights, &kv, &before);
    size_t positions = 10 * KV_PAGE_POSITIONS;
    cr_assert_geq(kv, positions * backend_kv_bytes(&limits.attention, subject->dtype));
    cr_assert_gt(before, 0);

    struct weight *weight = make_weight(backend, values, 70, 33, bias);
    cr_assert_eq(backend->ops->memory_create(backend, &memory, 1000, NULL), 0);
    backend->ops->memory_used(backend, &weights, &kv, &other);
    cr_assert_geq(weights, 70 * 33 * dtype_size(subject->weight_dtype) + sizeof bias);
    cr_assert_eq(other, before + 1000);
    backend->ops->weight_destroy(backend, weight);
    backend->ops->weight_destroy(backend, NULL);
    backend->ops->memory_destroy(backend, memory);
    backend->ops->memory_used(backend, &weights, &kv, &other);
    cr_assert_eq(weights, 0);
    cr_assert_eq(other, before);
    record_checked(OPERATION_MEMORY_USED);
    record_checked(OPERATION_MEMORY_DESTROY);
    record_checked(OPERATION_WEIGHT_DESTROY);
    backend_destroy(backend);
}

ANY_WEIGHTS_TEST(resources, memory_is_known_before_it_is_taken)
{
    struct backend *backend = subject_open(subject, 1);
    struct backend_limits limits = plain_limits(7, 1001);
    float values[70 * 33] = {0}, bias[70] = {0};
    size_t weights, kv, other, kv_expected, other_expected;
    limits.attention = (struct attention_shape){
        .layers = 3, .heads = 6, .kv_heads = 3, .head_dim = 18, .rotary_dim = 10};
    limits.kv_pages = 5;
    limits.max_positions = 77;
    reserve(backend, &limits);
    struct weight *plain = make_weight(backend, values, 70, 33, NULL);
    struct weight *with_bias = make_weight(backend, values, 65, 31, bias);
    backend->ops->memory_used(backend, &weights, &kv, &other);
    backend_reserved_bytes(&kv_expected, &other_expected, subject->backend, &limits, subject->dtype,
                           subject->weight_dtype);
    record_checked(OPERATION_RESERVE);
    cr_expect_eq(kv, kv_expected);
    cr_expect_eq(other, other_expected);
    cr_expect_eq(weights,
                 backend_weight_bytes(subject->backend, 70, 33, false, subject->weight_dtype) +
                     backend_weight_bytes(subject->backend, 65, 31, true, subject->weight_dtype));
    backend->ops->weight_destroy(backend, plain);
    backend->ops->weight_destroy(backend, with_bias);
    backend_destroy(backend);
}

SUBJECT_TEST(resources, device_memory_starts_zeroed)
{
    struct backend *backend = subject_open(subject, 1);
    void *memory;
    char bytes[777];
    cr_assert_eq(backend->ops->memory_create(backend, &memory, sizeof bytes, NULL), 0);
    memset(bytes, 1, sizeof bytes);
    backend->ops->memory_read(backend, bytes, memory, sizeof bytes);
    for (size_t i = 0; i < sizeof bytes; i++)
        cr_assert_eq(bytes[i], 0);
    record_checked(OPERATION_MEMORY_CREATE);
    backend->ops->memory_destroy(backend, memory);
    backend_destroy(backend);
}

/* Parts of a block, at offsets that suit no element. */
SUBJECT_TEST(resources, memory_is_written_and_read_in_parts)
{
    struct backend *backend = subject_open(subject, 1);
    void *memory;
    char expected[100] = {0}, bytes[100], part[43];
    cr_assert_eq(backend->ops->memory_create(backend, &memory, sizeof bytes, NULL), 0);
    for (int i = 0; i < 43; i++)
        expected[17 + i] = part[i] = (char)(i + 1);
    backend->ops->memory_write(backend, (char *)memory + 17, part, sizeof part);
    backend->ops->memory_read(backend, bytes, memory, sizeof bytes);
    expect_same_bits(bytes, expected, sizeof bytes, "a block after a part was written");
    backend->ops->memory_read(backend, part, (char *)memory + 31, 7);
    expect_same_bits(part, expected + 31, 7, "a part of a block");
    record_checked(OPERATION_MEMORY_WRITE);
    record_checked(OPERATION_MEMORY_READ);
    backend->ops->memory_destroy(backend, memory);
    backend_destroy(backend);
}

/* That what was asked for is what runs; a set that this machine lacks is refused by name. */
ANY_WEIGHTS_TEST(resources, instructions_are_those_that_were_asked_for)
{
    struct backend_options options = {.dtype = subject->dtype,
                                      .weight_dtype = subject->weight_dtype,
                                      .threads = 3,
                                      .instructions = subject->instructions};
    struct backend *backend;
    struct error err = {0};
    if (!subject_is_present(subject)) {
        cr_assert_eq(backend_create(&backend, subject->backend, &options, &err), ERROR_INVALID);
        cr_assert_not_null(strstr(err.message, subject->instructions), "%s", err.message);
        return;
    }
    backend = subject_open(subject, 3);
    const char *description = backend->ops->description(backend);
    char instructions[32];
    snprintf(instructions, sizeof instructions, "%s,", subject->instructions);
    cr_assert_not_null(strstr(description, subject->backend), "%s", description);
    cr_assert_not_null(strstr(description, instructions), "%s", description);
    cr_assert_not_null(strstr(description, dtype_name(subject->dtype)), "%s", description);
    cr_assert_str_eq(backend->ops->name, subject->backend);
    cr_assert_eq(backend->dtype, subject->dtype);
    cr_assert_eq(backend->weight_dtype, subject->weight_dtype);
    cr_assert_eq(strstr(description, "int8 weights") != NULL, subject->weight_dtype == DTYPE_INT8,
                 "%s", description);
    cr_assert_eq(strstr(description, "fp8 weights") != NULL, subject->weight_dtype == DTYPE_FP8,
                 "%s", description);
    record_checked(OPERATION_DESCRIPTION);
    backend_destroy(backend);
}

/* Bytes of address space that this process holds. */
static size_t address_space(void)
{
    unsigned long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    cr_assert_not_null(file);
    cr_assert_eq(fscanf(file, "%lu", &pages), 1);
    fclose(file);
    return (size_t)pages * (size_t)sysconf(_SC_PAGESIZE);
}

ANY_WEIGHTS_TEST(resources, a_destroyed_backend_leaves_nothing)
{
    enum { ROUNDS = 6, POOL_PAGES = 1 << 14 };
    struct backend_limits limits = plain_limits(8, 100);
    size_t pool = 0, scratch, before = 0;
    limits.attention.head_dim = 64;
    limits.kv_pages = POOL_PAGES; /* half a gigabyte, of which no page is touched */
    backend_reserved_bytes(&pool, &scratch, subject->backend, &limits, subject->dtype,
                           subject->weight_dtype);
    for (int i = 0; i < ROUNDS; i++) {
        struct backend *backend = subject_open(subject, 2);
        reserve(backend, &limits);
        backend_destroy(backend);
        if (i == 0)
            before = address_space(); /* what the C library keeps for itself is there by now */
    }
    cr_assert_lt(address_space(), before + pool, "a pool was not given back");
    record_checked(OPERATION_DESTROY);
}

SUBJECT_TEST(resources, sizes_that_overflow_are_refused)
{
    struct backend *backend = subject_open(subject, 1);
    struct backend_limits limits = plain_limits(8, 100);
    struct error err = {0};
    void *memory;
    limits.attention.layers = 1 << 16;
    limits.attention.heads = limits.attention.kv_heads = 1 << 16;
    limits.attention.head_dim = 128;
    limits.kv_pages = INT32_MAX;
    cr_assert_eq(backend->ops->reserve(backend, &limits, &err), ERROR_MEMORY);
    cr_assert_not_null(strstr(err.message, "KV cache"), "%s", err.message);
    cr_assert_eq(backend->ops->memory_create(backend, &memory, SIZE_MAX - 5, &err), ERROR_MEMORY);
    backend_destroy(backend);
}

ANY_WEIGHTS_TEST(resources, weights_that_do_not_fit_together_are_refused)
{
    struct backend *backend = subject_open(subject, 1);
    float values[12] = {0};
    struct tensor_source sources[2] = {
        {.data = values, .dtype = DTYPE_FLOAT32, .rows = 2, .columns = 3},
        {.data = values, .dtype = DTYPE_FLOAT32, .rows = 2, .columns = 4}};
    struct weight *weight;
    struct error err = {0};
    cr_assert_eq(backend->ops->weight_create(backend, &weight, sources, 2, NULL, &err),
                 ERROR_INVALID);
    cr_assert_not_null(strstr(err.message, "matrix 1"), "%s", err.message);
    sources[1] =
        (struct tensor_source){.data = values, .dtype = DTYPE_INT8, .rows = 2, .columns = 3};
    cr_assert_eq(backend->ops->weight_create(backend, &weight, sources, 2, NULL, &err),
                 ERROR_INVALID);
    cr_assert_not_null(strstr(err.message, "int8 scales"), "%s", err.message);
    cr_assert_null(weight);
    cr_assert_eq(backend->ops->weight_create(backend, &weight, sources, 0, NULL, &err),
                 ERROR_INVALID);
    backend_destroy(backend);
}

ANY_WEIGHTS_TEST(resources, impossible_limits_are_refused_by_name)
{
    struct backend *backend = subject_open(subject, 1);
    struct backend_limits limits = plain_limits(8, 100);
    struct error err = {0};
    limits.attention.head_dim = 258;
    cr_assert_eq(backend->ops->reserve(backend, &limits, &err), ERROR_INVALID);
    cr_assert_not_null(strstr(err.message, "head_dim"), "%s", err.message);
    limits.attention.head_dim = 64;
    limits.attention.heads = 3;
    limits.attention.kv_heads = 2;
    cr_assert_eq(backend->ops->reserve(backend, &limits, &err), ERROR_INVALID);
    limits.attention.kv_heads = 3;
    limits.vocabulary = 0;
    cr_assert_eq(backend->ops->reserve(backend, &limits, &err), ERROR_INVALID);
    cr_assert_not_null(strstr(err.message, "vocabulary"), "%s", err.message);
    backend_destroy(backend);
}

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "common/error.h"
#include "kernels/backend.h"
#include "kernels/memory_block.h"

Test(dtype, float16_is_widened_exactly)
{
    for (uint32_t bits = 0; bits < 65536; bits++) {
        uint16_t half = (uint16_t)bits;
        _Float16 value;
        memcpy(&value, &half, sizeof value);
        float expected = (float)value, actual = float16_to_float(half);
        if (isnan(expected))
            cr_assert(isnan(actual), "%04x", bits);
        else
            cr_assert(memcmp(&actual, &expected, sizeof actual) == 0, "%04x is %a", bits,
                      (double)actual);
    }
}

Test(dtype, bfloat16_rounds_to_nearest_even)
{
    const struct {
        float value;
        uint16_t bits;
    } cases[] = {
        {1.0f, 0x3f80},  {1 + 0x1p-8f, 0x3f80}, {1 + 0x1.8p-7f, 0x3f82}, {1 + 0x1.02p-8f, 0x3f81},
        {-0.0f, 0x8000}, {3.4e38f, 0x7f80},     {-INFINITY, 0xff80},     {0x1p-133f, 0x0001},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        cr_assert_eq(bfloat16_from_float(cases[i].value), cases[i].bits, "case %zu", i);
    /* A NaN whose payload lies in the bits that are cut off stays a NaN. */
    const uint32_t wide = 0x7f800001u;
    float nan;
    memcpy(&nan, &wide, sizeof nan);
    cr_assert(isnan(bfloat16_to_float(bfloat16_from_float(nan))));
}

Test(dtype, automatic_follows_the_checkpoint_as_far_as_the_hardware_goes)
{
    const struct {
        enum dtype checkpoint;
        bool bfloat16;
        enum dtype activations, weights;
    } cases[] = {
        {DTYPE_FLOAT32, true, DTYPE_FLOAT32, DTYPE_FLOAT32},
        {DTYPE_FLOAT32, false, DTYPE_FLOAT32, DTYPE_FLOAT32},
        {DTYPE_BFLOAT16, true, DTYPE_BFLOAT16, DTYPE_BFLOAT16},
        {DTYPE_BFLOAT16, false, DTYPE_FLOAT32, DTYPE_FLOAT32},
        {DTYPE_FLOAT16, true, DTYPE_BFLOAT16, DTYPE_BFLOAT16},
        {DTYPE_FLOAT16, false, DTYPE_FLOAT32, DTYPE_FLOAT32},
        {DTYPE_INT8, true, DTYPE_BFLOAT16, DTYPE_INT8},
        {DTYPE_INT8, false, DTYPE_FLOAT32, DTYPE_INT8},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        enum dtype activations, weights;
        dtype_automatic(&activations, &weights, cases[i].checkpoint, cases[i].bfloat16);
        cr_expect_eq(activations, cases[i].activations, "case %zu", i);
        cr_expect_eq(weights, cases[i].weights, "case %zu", i);
    }
}

Test(backends, are_chosen_by_name)
{
    const struct backend_options options = {.threads = 1};
    const char *names[][2] = {{"auto", "cpu"}, {"cpu", "cpu"}, {"ref", "ref"}};
    for (int i = 0; i < 3; i++) {
        struct backend *backend;
        cr_assert_eq(backend_create(&backend, names[i][0], &options, NULL), 0);
        cr_assert_str_eq(backend->ops->name, names[i][1]);
        cr_assert_not_null(strstr(backend->ops->description(backend), "float32"));
        backend_destroy(backend);
    }
    backend_destroy(NULL);
}

Test(backends, messages_list_what_there_is)
{
    struct backend_options options = {.threads = 1};
    struct backend *backend;
    struct error err = {0};
    cr_assert_eq(backend_create(&backend, "tpu", &options, &err), ERROR_NO_DEVICE);
    cr_assert_not_null(strstr(err.message, "\"tpu\""));
    cr_assert_not_null(strstr(err.message, "cpu or ref"));
    options.dtype = DTYPE_INT8;
    cr_assert_eq(backend_create(&backend, "cpu", &options, &err), ERROR_INVALID);
    cr_assert_not_null(strstr(err.message, "int8"));
    options = (struct backend_options){.dtype = DTYPE_BFLOAT16, .weight_dtype = DTYPE_FLOAT32};
    cr_assert_eq(backend_create(&backend, "cpu", &options, &err), ERROR_INVALID);
    cr_assert_not_null(strstr(err.message, "bfloat16 with weights in float32"));
    options = (struct backend_options){.threads = 1, .instructions = "neon"};
    cr_assert_eq(backend_create(&backend, "cpu", &options, &err), ERROR_INVALID);
    cr_assert_not_null(strstr(err.message, "\"neon\""));
    cr_assert_not_null(strstr(err.message, "scalar"));
    cr_assert_null(backend);
}

Test(backends, kv_bytes_count_keys_and_values_of_all_layers)
{
    const struct attention_shape shape = {.layers = 6, .heads = 8, .kv_heads = 2, .head_dim = 64};
    cr_assert_eq(backend_kv_bytes(&shape, DTYPE_BFLOAT16), 2 * 6 * 2 * 64 * 2);
    cr_assert_eq(backend_kv_bytes(&shape, DTYPE_FLOAT32), 2 * 6 * 2 * 64 * 4);
}

static size_t resident_bytes(void)
{
    size_t total = 0, resident = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    cr_assert_not_null(file);
    cr_assert_eq(fscanf(file, "%zu %zu", &total, &resident), 2);
    fclose(file);
    return resident * (size_t)sysconf(_SC_PAGESIZE);
}

Test(memory_block, a_large_block_takes_memory_only_where_it_is_touched)
{
    const size_t size = (size_t)256 << 20;
    void *block;
    size_t before = resident_bytes();
    cr_assert_eq(memory_block_create(&block, size, "test", NULL), 0);
    cr_expect_lt(resident_bytes() - before, size / 8);
    cr_expect_eq(((char *)block)[0], 0);
    cr_expect_eq(((char *)block)[size - 1], 0);
    cr_expect_eq((size_t)block % 64, 0);
    cr_expect_eq(memory_block_size(block), size);
    memory_block_destroy(block);
}

Test(memory_block, sizes_around_a_mapped_block_are_zeroed_to_their_end)
{
    for (size_t size = (4 << 20) - 65; size <= (4 << 20) + 65; size++) {
        char *block;
        cr_assert_eq(memory_block_create((void **)&block, size, "test", NULL), 0);
        cr_assert_eq(block[0] | block[size / 2] | block[size - 1], 0);
        memset(block + size - 64, 1, 64);
        memory_block_destroy(block);
    }
}

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "common/error.h"
#include "kernels/backend.h"
#include "kernels/memory_block.h"
#include "kernels/quantise.h"

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

/* By its definition: sign, 4 bits of exponent with a bias of 7, 3 of fraction. */
static double fp8_by_definition(int bits)
{
    int exponent = bits >> 3 & 15, fraction = bits & 7;
    double magnitude = exponent == 0 ? ldexp(fraction, -9) : ldexp(8 + fraction, exponent - 10);
    if (exponent == 15 && fraction == 7)
        magnitude = NAN;
    return bits & 0x80 ? -magnitude : magnitude;
}

Test(dtype, fp8_is_widened_exactly)
{
    for (int bits = 0; bits < 256; bits++) {
        double expected = fp8_by_definition(bits);
        float value = fp8_to_float((uint8_t)bits);
        if (isnan(expected))
            cr_assert(isnan(value), "%02x", (unsigned)bits);
        else
            cr_assert(value == expected && !signbit(value) == !(bits & 0x80), "%02x is %a",
                      (unsigned)bits, (double)value);
    }
}

/* The nearest number of e4m3, the one with an even fraction of two: by a search over all. */
static uint8_t fp8_by_search(float value)
{
    int best = 0;
    for (int bits = 1; bits < 0x7f; bits++) {
        double distance = fabs(fp8_by_definition(bits) - fabs((double)value));
        double least = fabs(fp8_by_definition(best) - fabs((double)value));
        if (distance < least || (distance == least && bits % 2 == 0))
            best = bits;
    }
    return (uint8_t)(best | (signbit(value) ? 0x80 : 0));
}

/* Rounding looks at 23 bits of fraction; the 16 upper bits of a float32 and the ends of the rest.
 */
Test(dtype, fp8_rounds_to_nearest_even_and_saturates)
{
    static const uint32_t rests[] = {0x0000, 0x0001, 0x7fff, 0x8000, 0x8001, 0xffff};
    for (uint32_t upper = 0; upper < 65536; upper++) {
        for (size_t i = 0; i < sizeof rests / sizeof rests[0]; i++) {
            uint32_t bits = upper << 16 | rests[i];
            float value;
            memcpy(&value, &bits, sizeof value);
            uint8_t expected = isnan(value) ? 0x7f : fp8_by_search(value);
            cr_assert_eq(fp8_from_float(value), expected, "%a became %02x, not %02x", (double)value,
                         (unsigned)fp8_from_float(value), (unsigned)expected);
        }
    }
    cr_assert_eq(fp8_from_float(448), 0x7e);
    cr_assert_eq(fp8_from_float(INFINITY), 0x7e);
    cr_assert_eq(fp8_from_float(-1e9f), 0xfe);
    for (int bits = 0; bits < 256; bits++)
        cr_assert(isnan(fp8_to_float((uint8_t)bits)) ||
                  fp8_from_float(fp8_to_float((uint8_t)bits)) == bits);
}

Test(quantise, largest_magnitude_takes_the_end_of_the_range)
{
    static const float largest[] = {1, 3, 0.1f, 1e-30f, 3.4e38f, QUANTISE_SMALLEST};
    for (size_t i = 0; i < sizeof largest / sizeof largest[0]; i++) {
        float m = largest[i];
        struct quantise_scale small = quantise_scale_in(DTYPE_INT8, m);
        struct quantise_scale fp8 = quantise_scale_in(DTYPE_FP8, m);
        cr_expect_eq(small.scale, m / 127.0f);
        cr_expect_eq(small.inverse, 127.0f / m);
        cr_expect_eq(fp8.scale, m / 448.0f);
        cr_expect_eq(fp8.inverse, 448.0f / m);
        cr_expect_eq((int8_t)quantise_element(DTYPE_INT8, -m, small.inverse), -127);
        cr_expect_eq(quantise_element(DTYPE_FP8, -m, fp8.inverse), 0xfe, "%g", (double)m);
        cr_expect_eq(quantise_element(DTYPE_FP8, 0.0f, fp8.inverse), 0);
    }
    cr_expect_eq(quantise_value(DTYPE_FP8, 0xfe), -448);
    cr_expect_eq(quantise_value(DTYPE_INT8, 0xfe), -2);
}

Test(quantise, rows_of_nothing_and_rows_that_are_not_finite)
{
    static const float bad[] = {NAN, INFINITY};
    static const enum dtype dtypes[] = {DTYPE_INT8, DTYPE_FP8};
    for (int i = 0; i < 2; i++) {
        struct quantise_scale none = quantise_scale_in(dtypes[i], QUANTISE_SMALLEST / 2);
        cr_expect(none.scale == 0 && none.inverse == 0);
        for (int k = 0; k < 2; k++) {
            struct quantise_scale by = quantise_scale_in(dtypes[i], bad[k]);
            cr_expect(isnan(by.scale) && by.inverse == 0);
            cr_expect_eq(quantise_element(dtypes[i], bad[k], by.inverse), 0);
        }
    }
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
        {DTYPE_FP8, true, DTYPE_BFLOAT16, DTYPE_FP8},
        {DTYPE_FP8, false, DTYPE_FLOAT32, DTYPE_FP8},
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
    options = (struct backend_options){.dtype = DTYPE_BFLOAT16, .weight_dtype = DTYPE_FP8};
    cr_assert_eq(backend_create(&backend, "cpu", &options, &err), ERROR_INVALID);
    cr_assert_not_null(strstr(err.message, "cpu has float32, bfloat16 and int8"), "%s",
                       err.message);
    options = (struct backend_options){.threads = 1, .instructions = "neon"};
    cr_assert_eq(backend_create(&backend, "cpu", &options, &err), ERROR_INVALID);
    cr_assert_not_null(strstr(err.message, "\"neon\""));
    cr_assert_not_null(strstr(err.message, "scalar"));
    cr_assert_null(backend);
}

Test(backends, compute_in_what_they_can_be_made_for)
{
    static const char *const names[] = {"cpu", "ref"};
    int made[2] = {0};
    for (int i = 0; i < 2; i++) {
        for (int dtype = 0; dtype < DTYPE_COUNT; dtype++) {
            for (int weights = 0; weights < DTYPE_COUNT; weights++) {
                const struct backend_options options = {
                    .dtype = (enum dtype)dtype, .weight_dtype = (enum dtype)weights, .threads = 1};
                struct backend *backend;
                int status = backend_create(&backend, names[i], &options, NULL);
                bool computes = backend_computes(names[i], options.dtype, options.weight_dtype);
                cr_expect_eq(computes, status == 0, "%s: %s with weights in %s", names[i],
                             dtype_name(options.dtype), dtype_name(options.weight_dtype));
                made[i] += status == 0;
                backend_destroy(backend);
            }
        }
    }
    cr_expect_eq(made[0], 4);
    cr_expect_eq(made[1], 6, "fp8 weights too");
    cr_expect_not(backend_computes("tpu", DTYPE_FLOAT32, DTYPE_FLOAT32));
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

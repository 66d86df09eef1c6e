/*
 * The emulation itself: what it computes against plain loops, and kernels with a deliberate
 * mistake, each of which must be noticed.
 */
#include <criterion/criterion.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kernels/cuda/simt.h"
#include "kernels/dtype.h"
#include "tests/simt/emulation.h"

struct probe {
    float *out;
    uint32_t *words;
    const uint16_t *a, *b;
    bool broken;
};

static const enum simt_order ORDERS[] = {SIMT_ASCENDING, SIMT_DESCENDING, SIMT_SEEDED};

static void run(void (*kernel)(struct probe), const struct probe &probe, uint32_t threads)
{
    struct simt_queue queue = {};
    const struct simt_grid grid = {1, 1, threads, 4096};
    simt_launch(&queue, kernel, grid, probe);
}

/* True when the kernel ends the program with a line that has `message` in it. */
static bool is_refused(void (*kernel)(struct probe), uint32_t threads, const char *message)
{
    int ends[2], status;
    char text[1000];
    cr_assert_eq(pipe(ends), 0);
    pid_t child = fork();
    if (child == 0) {
        alignas(16) float out[1024] = {};
        uint32_t words[1024] = {};
        struct probe probe = {out, words, nullptr, nullptr, true};
        dup2(ends[1], STDERR_FILENO);
        run(kernel, probe, threads);
        _exit(0);
    }
    close(ends[1]);
    size_t size = 0;
    ssize_t got;
    while ((got = read(ends[0], text + size, sizeof text - 1 - size)) > 0)
        size += (size_t)got;
    text[size] = 0;
    close(ends[0]);
    waitpid(child, &status, 0);
    bool ended = !WIFEXITED(status) || WEXITSTATUS(status) != 0;
    if (!ended || strstr(text, message) == nullptr)
        fprintf(stderr, "expected \"%s\", got \"%s\"\n", message, text);
    return ended && strstr(text, message) != nullptr;
}

/* Every thread hands its number to its neighbour through shared memory. */
SIMT_KERNEL(64) void neighbour_kernel(const struct probe probe)
{
    float *shared = (float *)simt_shared();
    uint32_t thread = simt_thread();
    shared[thread] = (float)thread;
    if (!probe.broken)
        simt_barrier();
    probe.out[thread] = shared[(thread + 1) % 64];
}

/* A second value over the first one: the barrier after the reading is missing. */
SIMT_KERNEL(64) void overwrite_kernel(const struct probe probe)
{
    float *shared = (float *)simt_shared();
    uint32_t thread = simt_thread();
    shared[thread] = (float)thread;
    simt_barrier();
    float first = shared[(thread + 1) % 64];
    if (!probe.broken)
        simt_barrier();
    shared[thread] = -1;
    probe.out[thread] = first;
}

static uint32_t wrong_neighbours(void (*kernel)(struct probe), enum simt_order order, bool broken)
{
    float out[64];
    uint32_t wrong = 0;
    simt_set_order(order);
    run(kernel, {out, nullptr, nullptr, nullptr, broken}, 64);
    for (uint32_t i = 0; i < 64; i++)
        wrong += out[i] != (float)((i + 1) % 64);
    return wrong;
}

Test(emulation, a_missing_barrier_shows_in_every_order)
{
    for (enum simt_order order : ORDERS) {
        cr_expect_eq(wrong_neighbours(neighbour_kernel, order, false), 0);
        cr_expect_gt(wrong_neighbours(neighbour_kernel, order, true), 0);
        cr_expect_eq(wrong_neighbours(overwrite_kernel, order, false), 0);
        cr_expect_gt(wrong_neighbours(overwrite_kernel, order, true), 0);
    }
}

SIMT_KERNEL(64) void poisoned_kernel(const struct probe probe)
{
    probe.out[simt_thread()] = ((float *)simt_shared())[simt_thread()];
}

Test(emulation, shared_memory_starts_as_nan)
{
    float out[64] = {};
    run(poisoned_kernel, {out, nullptr, nullptr, nullptr, false}, 64);
    for (float value : out)
        cr_assert(isnan(value));
}

/* 16 bytes a thread through shared memory. */
SIMT_KERNEL(32) void copy_kernel(const struct probe probe)
{
    char *own = simt_shared() + 16 * simt_thread();
    simt_copy_async(own, probe.a + 8 * simt_thread(), simt_thread() != 3);
    simt_copy_commit();
    if (!probe.broken)
        simt_copy_wait<0>();
    memcpy(&probe.words[4 * simt_thread()], own, 16);
    simt_copy_wait<0>();
}

/* The older of two groups has landed, the newer one has not. */
SIMT_KERNEL(32) void groups_kernel(const struct probe probe)
{
    char *own = simt_shared() + 32 * simt_thread();
    simt_copy_async(own, probe.a, true);
    simt_copy_commit();
    simt_copy_async(own + 16, probe.a, true);
    simt_copy_commit();
    simt_copy_wait<1>();
    memcpy(&probe.words[8 * simt_thread()], own, 32);
    simt_copy_wait<0>();
}

Test(emulation, an_asynchronous_copy_arrives_at_its_wait)
{
    alignas(16) uint16_t source[256];
    uint32_t words[256];
    for (uint16_t i = 0; i < 256; i++)
        source[i] = (uint16_t)(i + 1);
    run(copy_kernel, {nullptr, words, source, nullptr, false}, 32);
    for (uint32_t i = 0; i < 128; i++)
        cr_assert_eq(words[i], i / 4 == 3 ? 0 : (2 * i + 2) << 16 | (2 * i + 1), "word %u", i);
    run(copy_kernel, {nullptr, words, source, nullptr, true}, 32);
    for (uint32_t i = 0; i < 128; i++)
        cr_assert_eq(words[i], 0xffffffffu, "read before the wait: word %u", i);
    run(groups_kernel, {nullptr, words, source, nullptr, false}, 32);
    for (uint32_t i = 0; i < 256; i++)
        cr_assert_eq(words[i] == 0xffffffffu, i % 8 >= 4, "word %u", i);
}

SIMT_KERNEL(32) void forgotten_copy_kernel(const struct probe probe)
{
    alignas(16) static const char source[16] = {};
    (void)probe;
    simt_copy_async(simt_shared() + 16 * simt_thread(), source, true);
    simt_copy_commit();
}

SIMT_KERNEL(32) void unaligned_copy_kernel(const struct probe probe)
{
    simt_copy_async(simt_shared() + 4 * simt_thread(), probe.out, true);
    simt_copy_commit();
    simt_copy_wait<0>();
}

SIMT_KERNEL(32) void missing_lane_kernel(const struct probe probe)
{
    if (simt_lane() != 7)
        probe.words[simt_lane()] = simt_ballot(SIMT_ALL, true);
}

SIMT_KERNEL(32) void two_operations_kernel(const struct probe probe)
{
    if (simt_lane() < 16)
        probe.words[simt_lane()] = simt_ballot(SIMT_ALL, true);
    else
        probe.words[simt_lane()] = simt_shuffle(SIMT_ALL, simt_lane(), 0);
}

SIMT_KERNEL(32) void unnamed_lane_kernel(const struct probe probe)
{
    probe.words[simt_lane()] = simt_ballot(0xffffu, true);
}

SIMT_KERNEL(32) void absent_source_kernel(const struct probe probe)
{
    if (simt_lane() < 16)
        probe.words[simt_lane()] = simt_shuffle(0xffffu, simt_lane(), 20);
}

SIMT_KERNEL(64) void skipped_barrier_kernel(const struct probe probe)
{
    if (simt_thread() != 33)
        simt_barrier();
    probe.words[simt_thread()] = 1;
}

SIMT_KERNEL(64) void divided_barrier_kernel(const struct probe probe)
{
    if (simt_thread() < 32)
        simt_barrier();
    else
        simt_barrier();
    probe.words[simt_thread()] = 1;
}

SIMT_KERNEL(32) void foreign_memory_kernel(const struct probe probe)
{
    uint32_t out[4];
    simt_load_matrices(out, probe.words);
}

Test(emulation, broken_rules_end_the_program_and_name_the_place)
{
    cr_expect(is_refused(forgotten_copy_kernel, 32, "never waited for"));
    cr_expect(is_refused(unaligned_copy_kernel, 32, "lane 1), copy_async"));
    cr_expect(is_refused(missing_lane_kernel, 32,
                         "lanes 00000080 of the mask never arrive: thread 7 has"));
    cr_expect(is_refused(two_operations_kernel, 32,
                         "ffff0000 of the mask never arrive: thread 16 waits in shuffle"));
    cr_expect(is_refused(unnamed_lane_kernel, 32, "does not name this lane"));
    cr_expect(is_refused(absent_source_kernel, 32, "reads lane 20"));
    cr_expect(is_refused(skipped_barrier_kernel, 64, "thread 33 has left the kernel"));
    cr_expect(is_refused(divided_barrier_kernel, 64, "thread 32 waits in barrier at"));
    cr_expect(is_refused(foreign_memory_kernel, 32, "is no shared memory of the block"));
    cr_expect(is_refused(poisoned_kernel, 33, "are no whole warps"));
}

SIMT_KERNEL(64) void warp_kernel(const struct probe probe)
{
    uint32_t lane = simt_lane(), *out = &probe.words[5 * simt_thread()];
    out[0] = simt_shuffle(SIMT_ALL, simt_thread(), (lane + 5) % 32);
    out[1] = simt_ballot(SIMT_ALL, lane % 3 == 0);
    out[2] = simt_any(SIMT_ALL, simt_thread() == 40);
    out[3] = 0;
    /* The two halves of a warp each on their own. */
    if (lane < 16)
        out[3] = simt_shuffle_xor(0x0000ffffu, simt_thread(), 1);
    else
        out[3] = simt_shuffle_xor(0xffff0000u, simt_thread(), 2);
    out[4] = (uint32_t)simt_warp_sum((float)simt_thread());
    simt_warp_barrier(SIMT_ALL);
    simt_atomic_add(&probe.words[320], 2);
    simt_atomic_max(&probe.words[321], simt_thread());
}

Test(emulation, lanes_exchange_values)
{
    for (enum simt_order order : ORDERS) {
        uint32_t words[322] = {};
        simt_set_order(order);
        run(warp_kernel, {nullptr, words, nullptr, nullptr, false}, 64);
        for (uint32_t i = 0; i < 64; i++) {
            uint32_t lane = i % 32, first = i - lane;
            cr_assert_eq(words[5 * i], first + (lane + 5) % 32);
            cr_assert_eq(words[5 * i + 1], 0x49249249u);
            cr_assert_eq(words[5 * i + 2], i >= 32);
            cr_assert_eq(words[5 * i + 3], lane < 16 ? i ^ 1 : i ^ 2);
            cr_assert_eq(words[5 * i + 4], 32 * first + 496);
        }
        cr_assert_eq(words[320], 128);
        cr_assert_eq(words[321], 63);
    }
}

/* Four groups of lanes are in one operation each at the same time, and end them one by one. */
SIMT_KERNEL(64) void groups_of_lanes_kernel(const struct probe probe)
{
    uint32_t lane = simt_lane(), mask = 0x11111111u << lane % 4, value = simt_thread();
    for (int i = 0; i < 3; i++)
        value = simt_shuffle(mask, value, (lane + 4) % 32);
    if (lane % 4 == 2)
        value += simt_ballot(mask, true);
    probe.words[simt_thread()] = value;
}

Test(emulation, groups_of_lanes_exchange_values_side_by_side)
{
    for (enum simt_order order : ORDERS) {
        uint32_t words[64] = {};
        simt_set_order(order);
        run(groups_of_lanes_kernel, {nullptr, words, nullptr, nullptr, false}, 64);
        for (uint32_t i = 0; i < 64; i++) {
            uint32_t expected = i / 32 * 32 + (i + 12) % 32;
            cr_assert_eq(words[i], i % 4 == 2 ? expected + 0x44444444u : expected);
        }
    }
}

/* Sums and maxima beyond 32 bits, and numbers as bits. */
SIMT_KERNEL(64) void number_kernel(const struct probe probe)
{
    uint64_t *wide = (uint64_t *)simt_shared();
    if (simt_thread() == 0)
        wide[0] = wide[1] = 0;
    simt_barrier();
    simt_atomic_add(&wide[0], 1ull << 33);
    simt_atomic_max(&wide[1], (uint64_t)simt_thread() << 32);
    simt_barrier();
    probe.words[simt_thread()] = simt_bits_of_float((float)simt_thread());
    probe.out[simt_thread()] = simt_log2((float)(simt_thread() + 1));
    if (simt_thread() < 2)
        probe.words[64 + simt_thread()] = (uint32_t)(wide[simt_thread()] >> 32);
}

Test(emulation, numbers_are_wide_and_have_bits)
{
    for (enum simt_order order : ORDERS) {
        float out[64];
        uint32_t words[66];
        simt_set_order(order);
        run(number_kernel, {out, words, nullptr, nullptr, false}, 64);
        for (uint32_t i = 0; i < 64; i++) {
            cr_assert_eq(simt_float_of_bits(words[i]), (float)i);
            cr_assert_float_eq(out[i], log2((double)i + 1), 1e-6);
        }
        cr_assert_eq(words[64], 128);
        cr_assert_eq(words[65], 63);
    }
}

/*
 * out [16, 8] = a [16, 16] b [8, 16]^T, and in words the product with b [16, 16] as it lies, whose
 * columns 8 to 15 are not used: fragments through both ways of loading.
 */
SIMT_KERNEL(32) void product_kernel(const struct probe probe)
{
    uint16_t *a = (uint16_t *)simt_shared(), *b = a + 256;
    uint32_t lane = simt_lane(), left[4], right[4];
    for (uint32_t i = lane; i < 256; i += 32) {
        a[i] = probe.a[i];
        b[i] = probe.b[i];
    }
    simt_warp_barrier(SIMT_ALL);
    simt_load_matrices(left, a + lane % 16 * 16 + lane / 16 * 8);
    float sum[4] = {}, other[4] = {};
    simt_load_matrices(right, b + (lane % 8) * 16 + lane / 8 % 2 * 8);
    simt_multiply(sum, left, right[0], right[1]);
    simt_load_matrices_transposed(right, b + (lane % 16) * 16);
    simt_multiply(other, left, right[0], right[1]);
    for (uint32_t i = 0; i < 4; i++) {
        uint32_t at = (lane / 4 + 8 * (i / 2)) * 8 + lane % 4 * 2 + i % 2;
        probe.out[at] = sum[i];
        probe.out[128 + at] = other[i];
    }
}

Test(emulation, matrices_are_multiplied_in_the_documented_layout)
{
    uint16_t a[256], b[256];
    float out[256];
    /* Small integers: every sum is exact. */
    for (int i = 0; i < 256; i++) {
        a[i] = bfloat16_from_float((float)(i * 7 % 23 - 11));
        b[i] = bfloat16_from_float((float)(i * 5 % 19 - 9));
    }
    for (enum simt_order order : ORDERS) {
        simt_set_order(order);
        run(product_kernel, {out, nullptr, a, b, false}, 32);
        for (int row = 0; row < 16; row++) {
            for (int column = 0; column < 8; column++) {
                float by_rows = 0, by_columns = 0;
                for (int i = 0; i < 16; i++) {
                    float left = bfloat16_to_float(a[16 * row + i]);
                    by_rows += left * bfloat16_to_float(b[16 * column + i]);
                    by_columns += left * bfloat16_to_float(b[16 * i + column]);
                }
                cr_assert_eq(out[8 * row + column], by_rows);
                cr_assert_eq(out[128 + 8 * row + column], by_columns);
            }
        }
    }
}

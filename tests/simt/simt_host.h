/*
 * simt.h in the emulation: the threads of a block are fibers, blocks run one after the other. What
 * a kernel must not rely on goes wrong here on purpose: shared memory starts as NaN, the target of
 * an asynchronous copy is NaN until the copy is waited for, and a thread runs as far as it can
 * before the next one starts, in one of three orders. A rule that is broken ends the program with a
 * line that names kernel, block, thread and operation.
 *
 * It does not show: that a warp operation other than warp_barrier orders no memory on the device
 * (here all that lanes wrote before it is seen behind it), races that come out right in every one
 * of the orders, the rest of the device's memory model, bank conflicts, and any time.
 */
#ifndef TESTS_SIMT_SIMT_HOST_H
#define TESTS_SIMT_SIMT_HOST_H

#include <math.h>
#include <string.h>
#include <type_traits>

#include "kernels/dtype.h"
#include "tests/simt/emulation.h"

#define SIMT_DEVICE      static inline
#define SIMT_KERNEL(...) static
#define SIMT_UNROLL
#define SIMT_NO_UNROLL

/* Where in the kernel an operation stands. */
struct simt_site {
    const char *file;
    int line;
};
#define SIMT_HERE                                                                                  \
    {                                                                                              \
        __builtin_FILE(), __builtin_LINE()                                                         \
    }

uint32_t simt_thread();
uint32_t simt_block_x();
uint32_t simt_block_y();
uint32_t simt_grid_x();
char *simt_shared();
void simt_barrier(struct simt_site site = SIMT_HERE);
void simt_warp_barrier(uint32_t mask, struct simt_site site = SIMT_HERE);
uint32_t simt_shuffle_bits(uint32_t mask, uint32_t value, uint32_t source, struct simt_site site);
uint32_t simt_ballot(uint32_t mask, bool vote, struct simt_site site = SIMT_HERE);
void simt_copy_async(void *shared, const void *global, bool valid,
                     struct simt_site site = SIMT_HERE);
/* Kernels come one behind the other here, and blocks too. */
static inline void simt_release_next()
{
}
static inline void simt_await_previous()
{
}
static inline void simt_fence()
{
}
void simt_load_fresh(uint32_t (&out)[4], const void *from, struct simt_site site = SIMT_HERE);
void simt_prefetch(const void *global, uint32_t bytes, struct simt_site site = SIMT_HERE);
void simt_copy_commit();
void simt_copy_wait_newest(uint32_t newest);
void simt_load_matrices(uint32_t (&out)[4], const void *row, struct simt_site site = SIMT_HERE);
void simt_load_matrices_transposed(uint32_t (&out)[4], const void *row,
                                   struct simt_site site = SIMT_HERE);
void simt_multiply(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                   struct simt_site site = SIMT_HERE);
void simt_multiply_bytes(uint32_t (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                         enum dtype dtype, struct simt_site site);
uint32_t simt_pack(float low, float high);
uint32_t simt_pack_fp8(float low, float high);

template <class T> static inline uint32_t simt_bits(T value)
{
    uint32_t bits;
    static_assert(sizeof value == sizeof bits, "shuffles move 32 bits");
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

template <class T> static inline T simt_of_bits(uint32_t bits)
{
    T value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

template <class T>
static inline T simt_shuffle(uint32_t mask, T value, uint32_t source,
                             struct simt_site site = SIMT_HERE)
{
    return simt_of_bits<T>(simt_shuffle_bits(mask, simt_bits(value), source, site));
}

template <class T>
static inline T simt_shuffle_xor(uint32_t mask, T value, uint32_t lanes,
                                 struct simt_site site = SIMT_HERE)
{
    uint32_t source = (simt_thread() % SIMT_WARP) ^ lanes;
    return simt_of_bits<T>(simt_shuffle_bits(mask, simt_bits(value), source, site));
}

static inline bool simt_any(uint32_t mask, bool vote, struct simt_site site = SIMT_HERE)
{
    return simt_ballot(mask, vote, site) != 0;
}

/* Nothing runs between two of these. The type of the value follows from that of the target. */
template <class T> struct simt_same {
    typedef T type;
};

template <class T> static inline T simt_atomic_add(T *to, typename simt_same<T>::type value)
{
    T old = *to;
    *to += value;
    return old;
}

template <class T> static inline T simt_atomic_max(T *to, typename simt_same<T>::type value)
{
    T old = *to;
    *to = old > value ? old : value;
    return old;
}

template <int N> static inline void simt_copy_wait()
{
    simt_copy_wait_newest(N);
}

template <enum dtype DTYPE>
static inline void simt_multiply_words(uint32_t (&sum)[4], const uint32_t (&a)[4], uint32_t b0,
                                       uint32_t b1, struct simt_site site = SIMT_HERE)
{
    float sums[4];
    if (DTYPE != DTYPE_BFLOAT16) {
        simt_multiply_bytes(sum, a, b0, b1, DTYPE, site);
        return;
    }
    memcpy(sums, sum, sizeof sums);
    simt_multiply(sums, a, b0, b1, site);
    memcpy(sum, sums, sizeof sums);
}

static inline uint32_t simt_first_bit(uint32_t bits)
{
    return (uint32_t)__builtin_ctz(bits);
}

static inline float simt_float_of_bits(uint32_t bits)
{
    return simt_of_bits<float>(bits);
}

static inline uint32_t simt_bits_of_float(float value)
{
    return simt_bits(value);
}

/* Compiled without contraction of products and sums. */
static inline float simt_rounded_product(float a, float b)
{
    return a * b;
}

static inline float simt_log2(float x)
{
    return log2f(x);
}

static inline float simt_exp2(float x)
{
    return exp2f(x);
}

void simt_run(const char *name, const struct simt_grid *grid, void (*run)(const void *context),
              const void *context);

/* A kernel with its arguments, of a type that the emulation does not know. */
template <class A> struct simt_call {
    const char *name;
    struct simt_grid grid;
    void (*kernel)(A);
    A arguments;

    static void run_thread(const void *context)
    {
        const struct simt_call *call = (const struct simt_call *)context;
        call->kernel(call->arguments);
    }

    static void run(const void *context)
    {
        const struct simt_call *call = (const struct simt_call *)context;
        simt_run(call->name, &call->grid, run_thread, call);
    }
};

template <class A>
static inline void simt_launch_kernel(struct simt_queue *queue, const char *name, void (*kernel)(A),
                                      const struct simt_grid &grid, const A &arguments)
{
    const struct simt_call<A> call = {
        name, grid, kernel, arguments
    };
    static_assert(std::is_trivially_copyable<A>::value, "a recording copies arguments as bytes");
    simt_enqueue(queue, simt_call<A>::run, &call, sizeof call);
}

#define simt_launch(queue, kernel, grid, arguments)                                                \
    simt_launch_kernel(queue, #kernel, kernel, grid, arguments)

#endif

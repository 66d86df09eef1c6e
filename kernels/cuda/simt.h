/*
 * Everything the kernels use that is not plain C++, under one name each. The device's side is
 * simt_device.h, where all PTX lives; compiled by the host's compiler, the same kernels run on the
 * emulation of tests/simt, which checks the rules stated here.
 *
 * A kernel is a function of one struct of arguments, passed by value. SIMT_KERNEL(threads) or
 * SIMT_KERNEL(threads, blocks) gives the threads of a block, and how many blocks shall fit on a
 * multiprocessor:
 *
 *     SIMT_KERNEL(128) void copy_kernel(const struct copy_arguments arguments) { ... }
 *     const struct simt_grid grid = {blocks, 1, 128, 0};
 *     simt_launch(queue, copy_kernel, grid, arguments);
 *
 * SIMT_DEVICE marks functions of kernels; SIMT_UNROLL and SIMT_NO_UNROLL stand before loops.
 *
 * The wrappers, T being float, int32_t or uint32_t:
 *
 *     void simt_begin()               first in a kernel: what the kernels before it in the
 *                                     queue have written is there, and the next one may take its
 *                                     place beside it, up to its own simt_begin. That is these two:
 *     void simt_release_next()
 *     void simt_await_previous()      before it only what no kernel writes may be read
 *     void simt_load(kernel)          on the host: it is loaded now, not when it is launched first
 *     uint32_t simt_thread()          of the block; lane simt_lane() of warp simt_warp()
 *     uint32_t simt_block_x(), _y()   of the grid simt_grid_x()
 *     char *simt_shared()             the block's shared memory, aligned to 128, undefined at first
 *     void simt_barrier()             every thread of the block arrives at the same one
 *     void simt_warp_barrier(mask)    this and what follows: every lane of the mask arrives
 *     T simt_shuffle(mask, T, source), simt_shuffle_xor(mask, T, lanes)
 *     uint32_t simt_ballot(mask, bool), bool simt_any(mask, bool)
 *                                     of these, warp_barrier alone orders memory
 *     uint32_t simt_first_bit(bits)   number of the lowest one; bits is not 0
 *     T simt_atomic_add(T *, T), simt_atomic_max   return the old value; T uint32_t or uint64_t
 *     void simt_fence()               what the block has written before its barrier is there for a
 *                                     block that sees what this thread writes behind the fence
 *     void simt_load_fresh(uint32_t (&out)[4], from)    of what other blocks have written; aligned
 *     void simt_copy_async(shared, global, bool valid)  16 bytes, aligned; zeros where not valid
 *     void simt_copy_commit(), simt_copy_wait<N>()      data is there when all but the newest N
 *                                     groups were waited for, and for others behind a barrier
 *     void simt_prefetch(global, uint32_t bytes)        a hint: read soon; multiples of 16
 *     void simt_load_matrices(uint32_t (&out)[4], row), simt_load_matrices_transposed
 *                                     ldmatrix .x4 of 16-bit elements from shared memory
 *     void simt_multiply(float (&sum)[4], const uint32_t (&a)[4], b0, b1)
 *                                     mma m16n8k16, bfloat16, sums in float32
 *     void simt_multiply_words<DTYPE>(uint32_t (&sum)[4], a, b0, b1)
 *                                     the same of bfloat16, or m16n8k32 of fp8 or int8; the bits of
 *                                     sums in float32, of int8 in int32
 *     float simt_exp2(float)          relative error below 2^-22, results below 2^-126 may be 0
 *     float simt_log2(float)          error below 2^-22, absolute for results in [-1, 1], else
 *                                     relative; of 2^-126 and more
 *     uint32_t simt_bits_of_float(float), float simt_float_of_bits(uint32_t)
 *     uint32_t simt_pack(low, high)   two floats as bfloat16, to nearest even
 *     uint32_t simt_pack_fp8(low, high)   two floats as e4m3, 8 bits each, as fp8_from_float
 *     float simt_rounded_product(a, b)    rounded before anything is added to it
 */
#ifndef KERNELS_CUDA_SIMT_H
#define KERNELS_CUDA_SIMT_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/cuda/queue.h"

enum { SIMT_WARP = 32 };
static const uint32_t SIMT_ALL = 0xffffffffu; /* the mask of a whole warp */

/* simt_exp2(SIMT_LOG2_E * x) is exp(x). */
static const float SIMT_LOG2_E = 1.44269504f;

/* Blocks of a launch, threads of a block, bytes of shared memory of a block. */
struct simt_grid {
    uint32_t x, y, threads;
    size_t shared;
};

#ifdef __CUDACC__
#include "kernels/cuda/simt_device.h"
#else
#include "tests/simt/simt_host.h"
#endif

SIMT_DEVICE uint32_t simt_lane()
{
    return simt_thread() % SIMT_WARP;
}

SIMT_DEVICE uint32_t simt_warp()
{
    return simt_thread() / SIMT_WARP;
}

SIMT_DEVICE float simt_bfloat16_low(uint32_t pair)
{
    return simt_float_of_bits(pair << 16);
}

SIMT_DEVICE float simt_bfloat16_high(uint32_t pair)
{
    return simt_float_of_bits(pair & 0xffff0000u);
}

SIMT_DEVICE float simt_bfloat16(uint16_t bits)
{
    return simt_float_of_bits((uint32_t)bits << 16);
}

SIMT_DEVICE uint16_t simt_to_bfloat16(float value)
{
    return (uint16_t)simt_pack(value, 0.0f);
}

SIMT_DEVICE void simt_begin()
{
    simt_release_next();
    simt_await_previous();
}

/* Sum over the warp, the same in every lane, in an order that depends on nothing. */
SIMT_DEVICE float simt_warp_sum(float value)
{
    for (uint32_t lanes = SIMT_WARP / 2; lanes > 0; lanes /= 2)
        value += simt_shuffle_xor(SIMT_ALL, value, lanes);
    return value;
}

#endif

/* simt.h on the device: the one place with PTX and with calls of the CUDA runtime to launch. */
#ifndef KERNELS_CUDA_SIMT_DEVICE_H
#define KERNELS_CUDA_SIMT_DEVICE_H

#include <cuda_runtime.h>

#include "kernels/dtype.h"

#define SIMT_DEVICE      static __device__ __forceinline__
#define SIMT_KERNEL(...) static __global__ __launch_bounds__(__VA_ARGS__)
#define SIMT_UNROLL      _Pragma("unroll")
#define SIMT_NO_UNROLL   _Pragma("unroll 1")

extern __shared__ __align__(128) char simt_shared_memory[];

/* Without effect where the launch does not allow it. */
SIMT_DEVICE void simt_release_next()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

SIMT_DEVICE void simt_await_previous()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

SIMT_DEVICE void simt_fence()
{
    __threadfence();
}

SIMT_DEVICE void simt_load_fresh(uint32_t (&out)[4], const void *from)
{
    asm volatile("ld.global.cg.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "l"(from)
                 : "memory");
}

SIMT_DEVICE uint32_t simt_thread()
{
    return threadIdx.x;
}

SIMT_DEVICE uint32_t simt_block_x()
{
    return blockIdx.x;
}

SIMT_DEVICE uint32_t simt_block_y()
{
    return blockIdx.y;
}

SIMT_DEVICE uint32_t simt_grid_x()
{
    return gridDim.x;
}

SIMT_DEVICE char *simt_shared()
{
    return simt_shared_memory;
}

SIMT_DEVICE void simt_barrier()
{
    __syncthreads();
}

SIMT_DEVICE void simt_warp_barrier(uint32_t mask)
{
    __syncwarp(mask);
}

template <class T> SIMT_DEVICE T simt_shuffle(uint32_t mask, T value, uint32_t source)
{
    return __shfl_sync(mask, value, (int)source);
}

template <class T> SIMT_DEVICE T simt_shuffle_xor(uint32_t mask, T value, uint32_t lanes)
{
    return __shfl_xor_sync(mask, value, (int)lanes);
}

SIMT_DEVICE uint32_t simt_ballot(uint32_t mask, bool vote)
{
    return __ballot_sync(mask, vote);
}

SIMT_DEVICE bool simt_any(uint32_t mask, bool vote)
{
    return __any_sync(mask, vote) != 0;
}

SIMT_DEVICE uint32_t simt_atomic_add(uint32_t *to, uint32_t value)
{
    return atomicAdd(to, value);
}

SIMT_DEVICE uint32_t simt_atomic_max(uint32_t *to, uint32_t value)
{
    return atomicMax(to, value);
}

/* The same type as the runtime's on the host's side, but by another name. */
SIMT_DEVICE uint64_t simt_atomic_add(uint64_t *to, uint64_t value)
{
    return atomicAdd((unsigned long long *)to, (unsigned long long)value);
}

SIMT_DEVICE uint64_t simt_atomic_max(uint64_t *to, uint64_t value)
{
    return atomicMax((unsigned long long *)to, (unsigned long long)value);
}

SIMT_DEVICE uint32_t simt_first_bit(uint32_t bits)
{
    return (uint32_t)__ffs((int)bits) - 1;
}

SIMT_DEVICE float simt_float_of_bits(uint32_t bits)
{
    return __uint_as_float(bits);
}

SIMT_DEVICE uint32_t simt_bits_of_float(float value)
{
    return __float_as_uint(value);
}

SIMT_DEVICE float simt_log2(float x)
{
    float result;
    asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
    return result;
}

SIMT_DEVICE float simt_exp2(float x)
{
    float result;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
    return result;
}

SIMT_DEVICE uint32_t simt_pack(float low, float high)
{
    uint32_t pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

/* A binary of compute capability 8.0 also runs on 8.9, which has fp8. */
SIMT_DEVICE uint32_t simt_pack_fp8(float low, float high)
{
#if __CUDA_ARCH__ >= 890
    uint16_t pair;
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(high), "f"(low));
    return pair;
#else
    return (uint32_t)fp8_from_float(high) << 8 | fp8_from_float(low);
#endif
}

SIMT_DEVICE float simt_rounded_product(float a, float b)
{
    return __fmul_rn(a, b);
}

/* The address of shared memory as the instructions below take it. */
SIMT_DEVICE uint32_t simt_shared_address(const void *shared)
{
    return (uint32_t)__cvta_generic_to_shared(shared);
}

SIMT_DEVICE void simt_copy_async(void *shared, const void *global, bool valid)
{
    int size = valid ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(simt_shared_address(shared)),
                 "l"(global), "r"(size)
                 : "memory");
}

SIMT_DEVICE void simt_copy_commit()
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

template <int N> SIMT_DEVICE void simt_copy_wait()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

SIMT_DEVICE void simt_prefetch(const void *global, uint32_t bytes)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(global), "r"(bytes));
#else
    enum { SECTOR = 32 };
    for (uint32_t at = 0; at < bytes; at += SECTOR)
        asm volatile("prefetch.global.L2 [%0];" ::"l"((const char *)global + at));
#endif
}

SIMT_DEVICE void simt_load_matrices(uint32_t (&out)[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(simt_shared_address(row))
                 : "memory");
}

SIMT_DEVICE void simt_load_matrices_transposed(uint32_t (&out)[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(simt_shared_address(row))
                 : "memory");
}

SIMT_DEVICE void simt_multiply(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* fp8: of compute capability 9.0 alone (a binary of 8.0 serves 8.9 as well). */
template <enum dtype DTYPE>
SIMT_DEVICE void simt_multiply_words(uint32_t (&sum)[4], const uint32_t (&a)[4], uint32_t b0,
                                     uint32_t b1)
{
    if (DTYPE == DTYPE_INT8) {
        asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 "
                     "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                     : "+r"(sum[0]), "+r"(sum[1]), "+r"(sum[2]), "+r"(sum[3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
        return;
    }
    float sums[4] = {simt_float_of_bits(sum[0]), simt_float_of_bits(sum[1]),
                     simt_float_of_bits(sum[2]), simt_float_of_bits(sum[3])};
    if (DTYPE == DTYPE_BFLOAT16)
        simt_multiply(sums, a, b0, b1);
#if __CUDA_ARCH__ >= 900
    else
        asm volatile("mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 "
                     "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                     : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
    else
        __trap();
#endif
    for (int i = 0; i < 4; i++)
        sum[i] = simt_bits_of_float(sums[i]);
}

template <class A>
static void simt_launch_kernel(struct simt_queue *queue, void (*kernel)(A),
                               const struct simt_grid &grid, const A &arguments)
{
    enum { SHARED_WITHOUT_ASKING = 48 << 10 };
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(grid.x, grid.y);
    config.blockDim = dim3(grid.threads);
    config.dynamicSmemBytes = grid.shared;
    config.stream = (cudaStream_t)queue->stream;
    cudaLaunchAttribute overlap = {};
    overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    overlap.val.programmaticStreamSerializationAllowed = 1;
    config.attrs = &overlap;
    config.numAttrs = queue->overlaps ? 1 : 0;
    cudaError_t status = cudaSuccess;
    if (grid.shared > SHARED_WITHOUT_ASKING)
        status = cudaFuncSetAttribute(
            (const void *)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)grid.shared);
    if (status == cudaSuccess)
        status = cudaLaunchKernelEx(&config, kernel, arguments);
    if (status != cudaSuccess && queue->fault == 0)
        queue->fault = (int)status;
}

#define simt_launch(queue, kernel, grid, arguments)                                                \
    simt_launch_kernel(queue, kernel, grid, arguments)

#endif

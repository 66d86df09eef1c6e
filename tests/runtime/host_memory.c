/* The device and its memory, in the CUDA runtime on the host. */
#include <cuda_runtime_api.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "tests/runtime/host_runtime.h"
#include "tests/runtime/host_runtime_internal.h"

enum { ALIGNMENT = 256, PAGE = 4096 };

/* Memory ends at most an alignment before its pages do: what leaves it meets memory of nobody. */
struct block {
    struct block *next;
    char *memory, *pages;
    size_t size, pages_size;
    bool pinned; /* the host's */
};

static struct block *blocks;
static uintptr_t next_address = (uintptr_t)1 << 45; /* far from a program's and its libraries' */
static size_t taken;
static int opened;

void host_runtime_forbids(const char *call, const char *why)
{
    fprintf(stderr, "host runtime: %s is forbidden: %s\n", call, why);
    abort();
}

void *host_runtime_need(void *memory)
{
    if (memory == NULL)
        host_runtime_forbids("everything", "the host has no memory");
    return memory;
}

bool host_runtime_fails(const char *call)
{
    static int times;
    const char *told = getenv("HOST_RUNTIME_FAIL");
    size_t length = strlen(call);
    if (told == NULL || strncmp(told, call, length) != 0 || told[length] != ':')
        return false;
    int from = atoi(told + length + 1);
    return ++times == from || (times > from && told[strlen(told) - 1] == '+');
}

/* ---- the device ------------------------------------------------------------------------------ */

int host_runtime_capability(void)
{
    const char *told = getenv("HOST_RUNTIME_DEVICE");
    return told != NULL ? (int)(strtod(told, NULL) * 10 + 0.5) : 90;
}

static size_t memory_of_device(void)
{
    const char *told = getenv("HOST_RUNTIME_MEMORY");
    return told != NULL ? strtoull(told, NULL, 10) : (size_t)141 << 30;
}

cudaError_t cudaDriverGetVersion(int *version)
{
    *version = CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version)
{
    *version = CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int *count)
{
    *count = 1;
    return cudaSuccess;
}

cudaError_t cudaGetDevice(int *device)
{
    *device = 0;
    return cudaSuccess;
}

/* As the CUDA C++ Programming Guide has it: 8.6, 8.9 and 12.0 have the least of all from 8.0 on. */
static size_t shared_of_block(int capability)
{
    if (capability == 80 || capability == 87)
        return 163 << 10;
    return capability >= 90 && capability < 120 ? 227 << 10 : 99 << 10;
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *properties, int device)
{
    int capability = host_runtime_capability();
    if (device != 0)
        return host_runtime_result(cudaErrorInvalidDevice);
    *properties = (struct cudaDeviceProp){
        .major = capability / 10,
        .minor = capability % 10,
        .multiProcessorCount = 2,
        .totalGlobalMem = memory_of_device(),
        .sharedMemPerBlock = 48 << 10,
        .sharedMemPerBlockOptin = shared_of_block(capability),
        .l2CacheSize = 1 << 20,
    };
    snprintf(properties->name, sizeof properties->name, "runtime on the host");
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *available, size_t *total)
{
    *total = memory_of_device();
    *available = *total - taken;
    return cudaSuccess;
}

/* ---- memory ---------------------------------------------------------------------------------- */

static void protect(const struct block *block, int access)
{
    if (!block->pinned && mprotect(block->pages, block->pages_size, access) != 0)
        host_runtime_forbids("mprotect", "the host has no memory");
}

static void protect_all(int access)
{
    for (const struct block *block = blocks; block != NULL; block = block->next)
        protect(block, access);
}

void host_memory_open(void)
{
    if (opened++ == 0)
        protect_all(PROT_READ | PROT_WRITE);
}

void host_memory_close(void)
{
    if (--opened == 0)
        protect_all(PROT_NONE);
}

static const struct block *block_at(const void *memory, size_t size)
{
    uintptr_t at = (uintptr_t)memory;
    for (const struct block *block = blocks; block != NULL; block = block->next) {
        uintptr_t begin = (uintptr_t)block->memory;
        if (at >= begin && at < begin + block->size)
            return size <= begin + block->size - at ? block : NULL;
    }
    return NULL;
}

bool host_runtime_has(const void *memory, size_t size)
{
    const struct block *block = block_at(memory, size);
    return block != NULL && !block->pinned;
}

static cudaError_t block_create(void **out, size_t size, bool pinned)
{
    struct block *block = host_runtime_need(calloc(1, sizeof *block));
    size_t whole = (size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    block->size = size;
    block->pinned = pinned;
    block->pages_size = (whole + PAGE - 1) / PAGE * PAGE;
    block->pages = mmap((void *)next_address, block->pages_size, PROT_NONE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
    next_address += block->pages_size + PAGE;
    if (block->pages == MAP_FAILED)
        host_runtime_forbids("mmap", "the host has no memory");
    block->memory = block->pages + block->pages_size - whole;
    if (pinned || opened > 0)
        mprotect(block->pages, block->pages_size, PROT_READ | PROT_WRITE);
    block->next = blocks;
    blocks = block;
    *out = block->memory;
    return cudaSuccess;
}

cudaError_t cudaMalloc(void **out, size_t size)
{
    host_runtime_not_in_capture("cudaMalloc");
    if (size == 0)
        host_runtime_forbids("cudaMalloc", "0 bytes");
    if (host_runtime_fails("cudaMalloc") || size > memory_of_device() - taken)
        return host_runtime_result(cudaErrorMemoryAllocation);
    taken += size;
    return block_create(out, size, false);
}

cudaError_t cudaMallocHost(void **out, size_t size)
{
    host_runtime_not_in_capture("cudaMallocHost");
    if (host_runtime_fails("cudaMallocHost"))
        return host_runtime_result(cudaErrorMemoryAllocation);
    return block_create(out, size, true);
}

/* Nobody gets these addresses again: a graph that still has them ends the program. */
static void block_destroy(const char *call, void *memory, bool pinned)
{
    struct block **link = &blocks;
    if (memory == NULL)
        return;
    host_runtime_not_in_capture(call);
    host_runtime_finish_all();
    while (*link != NULL && ((*link)->memory != memory || (*link)->pinned != pinned))
        link = &(*link)->next;
    struct block *block = *link;
    if (block == NULL)
        host_runtime_forbids(call, "it gets memory that is none, or was freed");
    *link = block->next;
    taken -= pinned ? 0 : block->size;
    munmap(block->pages, block->pages_size);
    free(block);
}

cudaError_t cudaFree(void *memory)
{
    block_destroy("cudaFree", memory, false);
    return cudaSuccess;
}

cudaError_t cudaFreeHost(void *memory)
{
    block_destroy("cudaFreeHost", memory, true);
    return cudaSuccess;
}

/* ---- copies ---------------------------------------------------------------------------------- */

struct copy {
    void *to;
    const void *from;
    size_t size;
};

static void run_copy(const void *context)
{
    const struct copy *copy = context;
    if ((block_at(copy->to, copy->size) == NULL && block_at(copy->to, 1) != NULL) ||
        (block_at(copy->from, copy->size) == NULL && block_at(copy->from, 1) != NULL))
        host_runtime_forbids("cudaMemcpyAsync", "it leaves an allocation");
    memmove(copy->to, copy->from, copy->size);
}

static void check_kind(const void *to, const void *from, size_t size, enum cudaMemcpyKind kind)
{
    bool to_device = host_runtime_has(to, size), from_device = host_runtime_has(from, size);
    bool fits = kind == cudaMemcpyDefault ||
                (kind == cudaMemcpyHostToDevice && to_device && !from_device) ||
                (kind == cudaMemcpyDeviceToHost && !to_device && from_device) ||
                (kind == cudaMemcpyDeviceToDevice && to_device && from_device);
    if (!fits)
        host_runtime_forbids("cudaMemcpyAsync", "its kind is not what its memory is");
}

/* Memory that is not pinned is read, or written, before the call returns. */
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t size, enum cudaMemcpyKind kind,
                            cudaStream_t stream)
{
    const struct copy copy = {to, from, size};
    check_kind(to, from, size, kind);
    bool pageable = block_at(to, size) == NULL || block_at(from, size) == NULL;
    if (pageable && host_runtime_captures(stream, "cudaMemcpyAsync"))
        host_runtime_forbids("cudaMemcpyAsync", "memory that is not pinned, in a capture");
    host_runtime_enqueue(stream, run_copy, &copy, sizeof copy);
    if (pageable)
        host_runtime_finish(stream);
    return cudaSuccess;
}

struct fill {
    void *memory;
    int value;
    size_t size;
};

static void run_fill(const void *context)
{
    const struct fill *fill = context;
    if (!host_runtime_has(fill->memory, fill->size))
        host_runtime_forbids("cudaMemset", "it leaves an allocation");
    char *memory = fill->memory;
    size_t before = (size_t)(-(uintptr_t)memory) % PAGE, within = 0;
    /* Whole pages of zeros are given back: nobody has 32 MiB written in every trial. */
    if (fill->value == 0 && fill->size > before + PAGE) {
        within = (fill->size - before) / PAGE * PAGE;
        madvise(memory + before, within, MADV_DONTNEED);
    } else {
        before = 0;
    }
    memset(memory, fill->value, before);
    memset(memory + before + within, fill->value, fill->size - before - within);
}

cudaError_t cudaMemsetAsync(void *memory, int value, size_t size, cudaStream_t stream)
{
    const struct fill fill = {memory, value, size};
    host_runtime_enqueue(stream, run_fill, &fill, sizeof fill);
    return cudaSuccess;
}

cudaError_t cudaMemset(void *memory, int value, size_t size)
{
    host_runtime_not_in_capture("cudaMemset");
    return cudaMemsetAsync(memory, value, size, cudaStreamLegacy);
}

/* kernels/cuda/device.h on the host: the device's memory. Its queue is in queue_host.c. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "common/error.h"
#include "common/memory_available.h"
#include "kernels/cuda/device.h"
#include "kernels/memory_block.h"
#include "tests/simt/emulation.h"

/*
 * For tests of the whole program: the device is lost when there is a file SIMT_FAULT, or when it
 * was waited for SIMT_FAULT_AFTER times, and has SIMT_MEMORY bytes, by default what the host has.
 */
static int64_t memory_taken;

static int64_t memory_total(void)
{
    const char *text = getenv("SIMT_MEMORY");
    return text != NULL ? strtoll(text, NULL, 10) : INT64_MAX;
}

int device_check(bool *is_there, struct error *err)
{
    (void)err;
    if (is_there != NULL)
        *is_there = true;
    return 0;
}

bool device_has_fp8(void)
{
    return true;
}

struct device_memory device_memory_read(void)
{
    int64_t total = memory_total();
    if (total == INT64_MAX)
        total = memory_available("") + memory_taken;
    return (struct device_memory){(size_t)total, (size_t)(total - memory_taken)};
}

int device_open(struct simt_queue *queue, struct device_facts *facts, const char *instructions,
                struct error *err)
{
    enum simt_order order;
    const char *name = instructions != NULL ? instructions : "ascending";
    const bool library_alone = strcmp(name, "library") == 0;
    /* What the device itself has to choose from are names of orders, too. */
    if (library_alone || strcmp(name, "own") == 0)
        name = library_alone ? "ascending" : "seeded";
    if (simt_order_by_name(&order, name) != 0)
        return error_set(err, ERROR_INVALID,
                         "instructions \"%s\": the emulation runs threads in one of the orders "
                         "ascending, descending, seeded",
                         name);
    simt_set_order(order);
    *queue = (struct simt_queue){0};
    /*
     * Few multiprocessors, so that blocks take several items each. Little shared memory for what
     * can do with less, so that wide rows do not fit; but one of the orders has much, and products
     * of its own in place of the library's.
     */
    const bool own = order == SIMT_SEEDED;
    *facts = (struct device_facts){.backend = CUDA_BACKEND,
                                   .multiprocessors = own ? 5 : 2,
                                   .fp8 = device_has_fp8(),
                                   .shared_bytes = own ? 227 << 10 : 2 << 10,
                                   .cache_bytes = 4 << 10,
                                   .capability = 90,
                                   .own_alone = own,
                                   .library_alone = library_alone};
    snprintf(facts->name, sizeof facts->name, "%s", name);
    return 0;
}

void device_close(struct simt_queue *queue)
{
    (void)queue;
}

int device_memory_create(void **out, size_t size, const char *what, struct error *err)
{
    *out = NULL;
    if ((int64_t)size > memory_total() - memory_taken)
        return error_set(err, ERROR_MEMORY, "%s: cannot allocate %zu bytes on the emulated device",
                         what, size);
    int status = memory_block_create(out, size, what, err);
    if (status == 0)
        memory_taken += (int64_t)size;
    return status;
}

void device_memory_destroy(void *memory)
{
    simt_finish_uploads();
    memory_taken -= (int64_t)memory_block_size(memory);
    memory_block_destroy(memory);
}

int device_staging_create(void **out, size_t size, const char *what, struct error *err)
{
    return memory_block_create(out, size, what, err);
}

void device_staging_destroy(void *staging)
{
    simt_finish_uploads();
    memory_block_destroy(staging);
}

void device_enqueue_copy(struct simt_queue *queue, void *to, const void *from, size_t size)
{
    device_upload(queue, to, from, size);
}

void device_upload(struct simt_queue *queue, void *to, const void *from, size_t size)
{
    (void)queue;
    simt_finish_uploads();
    memcpy(to, from, size);
}

void device_download(struct simt_queue *queue, void *to, const void *from, size_t size)
{
    device_upload(queue, to, from, size);
}

int device_wait(struct simt_queue *queue, struct error *err)
{
    static long waits;
    const char *path = getenv("SIMT_FAULT"), *most = getenv("SIMT_FAULT_AFTER");
    simt_finish_uploads();
    waits++;
    if ((path != NULL && access(path, F_OK) == 0) || (most != NULL && waits > atol(most)))
        queue->fault = 1;
    if (queue->fault == 0)
        return 0;
    return error_set(err, ERROR_DEVICE_LOST, "the emulated device failed, as it was told to");
}

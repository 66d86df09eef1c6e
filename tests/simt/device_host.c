/* kernels/cuda/device.h on the host: what is enqueued runs at once. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "common/error.h"
#include "kernels/cuda/device.h"
#include "kernels/memory_block.h"
#include "tests/simt/emulation.h"

int device_open(struct simt_queue *queue, struct device_facts *facts, const char *instructions,
                struct error *err)
{
    enum simt_order order;
    const char *name = instructions != NULL ? instructions : "ascending";
    if (simt_order_by_name(&order, name) != 0)
        return error_set(err, ERROR_INVALID,
                         "instructions \"%s\": the emulation runs threads in one of the orders "
                         "ascending, descending, seeded",
                         name);
    simt_set_order(order);
    *queue = (struct simt_queue){0};
    /* Few multiprocessors, so that blocks of attention take several items each. */
    *facts = (struct device_facts){.backend = "simt", .multiprocessors = 2};
    snprintf(facts->name, sizeof facts->name, "%s", name);
    return 0;
}

void device_close(struct simt_queue *queue)
{
    (void)queue;
}

int device_memory_create(void **out, size_t size, const char *what, struct error *err)
{
    return memory_block_create(out, size, what, err);
}

void device_memory_destroy(void *memory)
{
    memory_block_destroy(memory);
}

int device_staging_create(void **out, size_t size, const char *what, struct error *err)
{
    return memory_block_create(out, size, what, err);
}

void device_staging_destroy(void *staging)
{
    memory_block_destroy(staging);
}

void device_enqueue_upload(struct simt_queue *queue, void *to, const void *from, size_t size)
{
    device_upload(queue, to, from, size);
}

void device_enqueue_copy(struct simt_queue *queue, void *to, const void *from, size_t size)
{
    device_upload(queue, to, from, size);
}

void device_upload(struct simt_queue *queue, void *to, const void *from, size_t size)
{
    (void)queue;
    memcpy(to, from, size);
}

void device_download(struct simt_queue *queue, void *to, const void *from, size_t size)
{
    device_upload(queue, to, from, size);
}

int device_wait(struct simt_queue *queue, struct error *err)
{
    (void)queue;
    (void)err;
    return 0;
}

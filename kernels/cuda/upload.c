#include "kernels/cuda/upload.h"

#include <stdbool.h>
#include <stdlib.h>
#include "common/error.h"
#include "kernels/cuda/device.h"

struct upload {
    void *buffers[DEVICE_MARKS];
    bool sent[DEVICE_MARKS]; /* and its mark set */
    size_t size;
    int next;
};

int upload_create(struct upload **out, struct error *err)
{
    *out = calloc(1, sizeof **out);
    if (*out == NULL)
        return error_set(err, ERROR_MEMORY, "cannot allocate the upload; free some memory");
    return 0;
}

static void free_buffers(struct upload *upload)
{
    for (int i = 0; i < DEVICE_MARKS; i++) {
        device_staging_destroy(upload->buffers[i]);
        upload->buffers[i] = NULL;
        upload->sent[i] = false;
    }
    upload->size = 0;
}

void upload_destroy(struct upload *upload)
{
    if (upload == NULL)
        return;
    free_buffers(upload);
    free(upload);
}

int upload_reserve(struct upload *upload, size_t size, struct error *err)
{
    int status = 0;
    if (size <= upload->size)
        return 0;
    free_buffers(upload);
    for (int i = 0; i < DEVICE_MARKS && status == 0; i++)
        status = device_staging_create(&upload->buffers[i], size, "pieces of weights", err);
    if (status != 0)
        free_buffers(upload);
    else
        upload->size = size;
    return status;
}

void *upload_buffer(struct upload *upload, struct simt_queue *queue)
{
    int next = upload->next;
    if (upload->sent[next])
        device_mark_wait(queue, next);
    upload->sent[next] = false;
    return upload->buffers[next];
}

void upload_send(struct upload *upload, struct simt_queue *queue, void *to, size_t size)
{
    int sent = upload->next;
    device_enqueue_upload(queue, to, upload->buffers[sent], size);
    device_mark_set(queue, sent);
    upload->sent[sent] = true;
    upload->next = (sent + 1) % DEVICE_MARKS;
}

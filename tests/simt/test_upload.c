/* Pieces on their way to the device: a buffer is not filled again before it has been copied. */
#include <string.h>
#include "common/error.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/upload.h"
#include "tests/conformance/conformance.h"

enum { PIECES = 7, PIECE = 100 };

Test(upload, every_piece_arrives_as_it_was_sent)
{
    struct upload *upload;
    struct simt_queue queue = {0};
    struct error err = {0};
    void *memory;
    unsigned char found[PIECES * PIECE];
    cr_assert_eq(upload_create(&upload, &err), 0);
    cr_assert_eq(device_memory_create(&memory, sizeof found, "pieces", &err), 0);
    for (size_t size = PIECE; size <= 2 * PIECE; size += PIECE) { /* buffers grow, too */
        cr_assert_eq(upload_reserve(upload, size, &err), 0);
        for (int i = 0; i < PIECES; i++) {
            memset(upload_buffer(upload, &queue), i + (int)size, PIECE);
            upload_send(upload, &queue, (char *)memory + (ptrdiff_t)i * PIECE, PIECE);
        }
        cr_assert_eq(device_wait(&queue, &err), 0);
        device_download(&queue, found, memory, sizeof found);
        for (int i = 0; i < PIECES * PIECE; i++)
            cr_assert_eq(found[i], (unsigned char)(i / PIECE + (int)size), "byte %d", i);
    }
    upload_destroy(upload);
    device_memory_destroy(memory);
}

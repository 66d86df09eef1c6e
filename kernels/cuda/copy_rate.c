/* How fast the device copies within its own memory. */
#include <string.h>
#include "common/clock.h"
#include "kernels/cuda/cuda.h"

enum {
    RUNS = 5,  /* of which the best counts: nothing but other work makes a run slower */
    COPIES = 8 /* of a run: much longer than enqueueing them takes */
};

static int run_copies(double *seconds, struct cuda_backend *cuda, void *to, const void *from,
                      size_t size, struct error *err)
{
    int64_t begin = clock_now_ns();
    for (int i = 0; i < COPIES; i++)
        device_enqueue_copy(&cuda->queue, to, from, size);
    int status = device_wait(&cuda->queue, err);
    *seconds = 1e-9 * (double)(clock_now_ns() - begin);
    return status;
}

int cuda_copy_rate(double *out, struct backend *backend, size_t size, struct error *err)
{
    struct cuda_backend *cuda = cuda_self(backend);
    const struct tensor_source numbers = {.dtype = DTYPE_BFLOAT16,
                                          .rows = 1,
                                          .columns = (int64_t)(size / sizeof(uint16_t)),
                                          .seed = 1,
                                          .spread = 1};
    void *from = NULL, *to = NULL;
    double seconds;
    *out = 0;
    int status = device_memory_create(&from, size, "memory to copy", err);
    if (status == 0)
        status = device_memory_create(&to, size, "memory to copy", err);
    if (status == 0) {
        cuda_random_matrix(cuda, from, &numbers, 0, 1);
        status = run_copies(&seconds, cuda, to, from, size, err); /* warm-up */
    }
    for (int run = 0; run < RUNS && status == 0; run++) {
        status = run_copies(&seconds, cuda, to, from, size, err);
        double rate = 2.0 * COPIES * (double)size / seconds;
        if (status == 0 && rate > *out)
            *out = rate;
    }
    device_memory_destroy(from);
    device_memory_destroy(to);
    return status;
}

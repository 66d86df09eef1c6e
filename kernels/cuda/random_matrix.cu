/* Random sources of weights (kernels/random_matrix.h), made on the device: one thread a group. */
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/vectors.h"
#include "kernels/random_matrix.h"

enum { THREADS = 256, BLOCKS = 4096, PHILOX_ROUNDS = 10 };

struct random_arguments {
    uint16_t *out; /* [count] of the elements from `first` on */
    int64_t first, count;
    uint32_t key_low, key_high;
    float step;
    bool aligned; /* groups lie at multiples of 16 bytes */
};

/* One of the two products of a round of Philox: high half into `high`, low half into `low`. */
SIMT_DEVICE void multiply_wide(uint32_t *high, uint32_t *low, uint32_t a, uint32_t b)
{
    uint64_t product = (uint64_t)a * b;
    *high = (uint32_t)(product >> 32);
    *low = (uint32_t)product;
}

/* rng_philox of common/rng.c, for the counter of a group. */
SIMT_DEVICE void philox(uint32_t (&out)[4], uint64_t group, uint32_t key_low, uint32_t key_high)
{
    uint32_t c0 = (uint32_t)group, c1 = (uint32_t)(group >> 32), c2 = RANDOM_MATRIX_COUNTER, c3 = 0;
    for (int i = 0; i < PHILOX_ROUNDS; i++) {
        uint32_t high0, low0, high1, low1;
        multiply_wide(&high0, &low0, 0xD2511F53u, c0);
        multiply_wide(&high1, &low1, 0xCD9E8D57u, c2);
        c0 = high1 ^ c1 ^ key_low;
        c1 = low1;
        c2 = high0 ^ c3 ^ key_high;
        c3 = low0;
        key_low += 0x9E3779B9u;
        key_high += 0xBB67AE85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

SIMT_KERNEL(THREADS) void random_matrix(const struct random_arguments arguments)
{
    const int64_t first = arguments.first;
    const int64_t groups =
        (first + arguments.count + RANDOM_MATRIX_GROUP - 1) / RANDOM_MATRIX_GROUP;
    const int64_t stride = (int64_t)simt_grid_x() * THREADS;
    int64_t group = first / RANDOM_MATRIX_GROUP + (int64_t)simt_block_x() * THREADS + simt_thread();
    for (; group < groups; group += stride) {
        uint32_t words[4];
        float values[RANDOM_MATRIX_GROUP];
        philox(words, (uint64_t)group, arguments.key_low, arguments.key_high);
        SIMT_UNROLL
        for (uint32_t i = 0; i < RANDOM_MATRIX_GROUP; i++)
            values[i] = random_matrix_number(words, i, arguments.step);
        const int64_t begin = group * RANDOM_MATRIX_GROUP - first;
        if (arguments.aligned && begin + RANDOM_MATRIX_GROUP <= arguments.count) {
            store_bfloat16(arguments.out + begin, values);
            continue;
        }
        SIMT_UNROLL
        for (int i = 0; i < RANDOM_MATRIX_GROUP; i++) {
            if (begin + i >= 0 && begin + i < arguments.count)
                arguments.out[begin + i] = simt_to_bfloat16(values[i]);
        }
    }
}

extern "C" void cuda_random_matrix(struct cuda_backend *cuda, uint16_t *out,
                                   const struct tensor_source *source, int64_t row, int64_t rows)
{
    const int64_t first = row * source->columns;
    const struct random_arguments arguments = {out,
                                               first,
                                               rows * source->columns,
                                               (uint32_t)source->seed,
                                               (uint32_t)(source->seed >> 32),
                                               random_matrix_step(source->spread),
                                               first % RANDOM_MATRIX_GROUP == 0 &&
                                                   (uintptr_t)out % 16 == 0};
    const int64_t threads = (arguments.count + 2 * RANDOM_MATRIX_GROUP - 1) / RANDOM_MATRIX_GROUP;
    const int64_t blocks = (threads + THREADS - 1) / THREADS;
    const struct simt_grid grid = {blocks < BLOCKS ? (uint32_t)blocks : (uint32_t)BLOCKS, 1,
                                   THREADS, 0};
    simt_launch(&cuda->queue, random_matrix, grid, arguments);
}

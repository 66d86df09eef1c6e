/* Random sources of weights (kernels/random_matrix.h), made on the device: one thread a group. */
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/philox.h"
#include "kernels/cuda/vectors.h"
#include "kernels/random_matrix.h"

enum { THREADS = 256, BLOCKS = 4096 };

struct random_arguments {
    uint16_t *out; /* [count] of the elements from `first` on */
    int64_t first, count;
    uint32_t key[2];
    float step;
    bool aligned; /* groups lie at multiples of 16 bytes */
};

SIMT_KERNEL(THREADS) void random_matrix(const struct random_arguments arguments)
{
    simt_begin();
    const int64_t first = arguments.first;
    const int64_t groups =
        (first + arguments.count + RANDOM_MATRIX_GROUP - 1) / RANDOM_MATRIX_GROUP;
    const int64_t stride = (int64_t)simt_grid_x() * THREADS;
    int64_t group = first / RANDOM_MATRIX_GROUP + (int64_t)simt_block_x() * THREADS + simt_thread();
    for (; group < groups; group += stride) {
        uint32_t words[4];
        float values[RANDOM_MATRIX_GROUP];
        const uint32_t counter[4] = {(uint32_t)group, (uint32_t)((uint64_t)group >> 32),
                                     RANDOM_MATRIX_COUNTER, 0};
        philox(words, counter, arguments.key);
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
    const struct random_arguments arguments = {
        out,
        first,
        rows * source->columns,
        {(uint32_t)source->seed, (uint32_t)(source->seed >> 32)},
        random_matrix_step(source->spread),
        first % RANDOM_MATRIX_GROUP == 0 && (uintptr_t)out % 16 == 0};
    const int64_t threads = (arguments.count + 2 * RANDOM_MATRIX_GROUP - 1) / RANDOM_MATRIX_GROUP;
    const int64_t blocks = (threads + THREADS - 1) / THREADS;
    const struct simt_grid grid = {blocks < BLOCKS ? (uint32_t)blocks : (uint32_t)BLOCKS, 1,
                                   THREADS, 0};
    simt_launch(&cuda->queue, random_matrix, grid, arguments);
}

#include "server/commands/bench_workload.h"

#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "kernels/tensor_source.h"

enum {
    RANDOM_NUMBERS = 1 << 16, /* that differ; longer matrices repeat them */
};

/* out [size] bytes = the pattern [pattern_size] as often as it fits */
static void repeat(char *out, size_t size, const char *pattern, size_t pattern_size)
{
    for (size_t at = 0; at < size; at += pattern_size)
        memcpy(out + at, pattern, size - at < pattern_size ? size - at : pattern_size);
}

/* A matrix on the backend of random numbers in its dtype, or in float32. */
static int create_matrix(const struct workload *workload, void **out, size_t count,
                         enum dtype dtype, struct error *err)
{
    static const struct tensor_source source = {
        .dtype = DTYPE_BFLOAT16, .rows = 1, .columns = RANDOM_NUMBERS, .seed = 2, .spread = 1};
    const struct backend_ops *ops = workload->backend->ops;
    size_t size = count * dtype_size(dtype);
    float *numbers = malloc(RANDOM_NUMBERS * sizeof *numbers);
    uint16_t *rounded = malloc(RANDOM_NUMBERS * sizeof *rounded);
    char *all = malloc(size);
    int code = 0;

    if (numbers == NULL || rounded == NULL || all == NULL)
        code = error_set(err, ERROR_MEMORY, "no memory left for matrices of random numbers");
    if (code == 0) {
        tensor_source_read(numbers, &source, 0, 0, RANDOM_NUMBERS);
        for (int i = 0; i < RANDOM_NUMBERS; i++)
            rounded[i] = bfloat16_from_float(numbers[i]);
        const void *pattern = dtype == DTYPE_BFLOAT16 ? (const void *)rounded : numbers;
        repeat(all, size, pattern, RANDOM_NUMBERS * dtype_size(dtype));
        code = ops->memory_create(workload->backend, out, size, err);
    }
    if (code == 0)
        ops->memory_write(workload->backend, *out, all, size);
    free(all);
    free(rounded);
    free(numbers);
    return code;
}

static int create_matrices(struct workload *workload, struct error *err)
{
    enum dtype dtype = workload->backend->dtype;
    size_t rows = (size_t)workload->max_rows, width = (size_t)workload->shape.width;
    size_t widest = 2 * (size_t)workload->shape.ffn_width;
    void *residual = NULL, *scale = NULL;

    int code = create_matrix(workload, &residual, rows * width, DTYPE_FLOAT32, err);
    workload->residual = residual;
    if (code == 0)
        code = create_matrix(workload, &scale, width, DTYPE_FLOAT32, err);
    workload->scale = scale;
    if (code == 0)
        code = create_matrix(workload, &workload->in, rows * widest, dtype, err);
    if (code == 0)
        code = create_matrix(workload, &workload->out, rows * widest, dtype, err);
    return code;
}

static struct backend_limits limits_of(const struct workload *workload)
{
    const struct layer_shape *shape = &workload->shape;

    return (struct backend_limits){
        .attention = {.layers = 1,
                      .heads = shape->heads,
                      .kv_heads = shape->heads,
                      .head_dim = shape->head_dim,
                      .rotary_dim = shape->head_dim,
                      .rope_theta = 10000,
                      .qk_norm_epsilon = 1e-5F},
        .max_rows = workload->max_rows,
        .max_head_rows = workload->max_rows,
        .max_positions = workload->max_positions,
        .max_sequences = workload->kv_pages,
        .kv_pages = workload->kv_pages,
        .vocabulary = shape->vocabulary,
        .weight_columns = shape->width > shape->ffn_width ? shape->width : shape->ffn_width,
    };
}

int workload_create(struct workload *workload, const struct bench_kernels *bench,
                    const struct layer_shape *shape, int32_t max_rows, int32_t max_positions,
                    int32_t kv_pages, struct error *err)
{
    *workload = (struct workload){.bench = bench,
                                  .shape = *shape,
                                  .max_rows = max_rows,
                                  .max_positions = max_positions,
                                  .kv_pages = kv_pages};
    const struct backend_limits limits = limits_of(workload);
    int code = backend_create(&workload->backend, bench->device, &bench->options, err);
    if (code == 0)
        code = workload->backend->ops->reserve(workload->backend, &limits, err);
    if (code == 0)
        code = create_matrices(workload, err);
    if (code == 0)
        code = random_rows_create(&workload->rows, max_rows, max_rows, kv_pages, err);
    if (code != 0)
        workload_destroy(workload);
    return code;
}

void workload_destroy(struct workload *workload)
{
    void *memory[] = {workload->residual, workload->scale, workload->in, workload->out};

    for (size_t i = 0; i < sizeof memory / sizeof *memory; i++) {
        if (memory[i] != NULL)
            workload->backend->ops->memory_destroy(workload->backend, memory[i]);
    }
    if (workload->backend != NULL)
        workload->backend->ops->weight_destroy(workload->backend, workload->weight);
    backend_destroy(workload->backend);
    random_rows_destroy(&workload->rows);
    *workload = (struct workload){0};
}

int workload_set_weight(struct workload *workload, bool *fits, int64_t rows, int64_t columns,
                        struct error *err)
{
    const struct bench_kernels *bench = workload->bench;
    struct backend *backend = workload->backend;
    const struct tensor_source source = {
        .dtype = DTYPE_BFLOAT16, .rows = rows, .columns = columns, .seed = 1, .spread = 1};
    size_t packed =
        backend_weight_bytes(bench->device, rows, columns, false, bench->options.weight_dtype);

    backend->ops->weight_destroy(backend, workload->weight);
    workload->weight = NULL;
    *fits = bench_fits(bench, (double)packed);
    if (!*fits)
        return 0;
    return backend->ops->weight_create(backend, &workload->weight, &source, 1, NULL, err);
}

void workload_set_rows(struct workload *workload, const struct rows_shape *rows, int32_t first)
{
    const struct pass_shape shape = {rows->sequences, first, rows->rows, rows->positions,
                                     rows->rows};

    random_rows_set(&workload->rows, &shape, workload->shape.vocabulary, 0);
}

int workload_fill_cache(struct workload *workload, const struct rows_shape *rows, struct error *err)
{
    struct backend *backend = workload->backend;
    int32_t most = workload->max_rows / rows->sequences;
    int code = 0;

    for (int32_t first = 0; first < rows->positions && code == 0; first += most) {
        struct rows_shape piece = *rows;
        piece.rows = rows->positions - first < most ? rows->positions - first : most;
        workload_set_rows(workload, &piece, first);
        backend->ops->step_begin(backend, &workload->rows.step);
        backend->ops->rope_store(backend, workload->in, NULL, NULL, 0);
        code = backend->ops->step_end(backend, err);
    }
    workload_set_rows(workload, rows, 0);
    return code;
}

/* Weights: rows of a checkpoint as bfloat16, copied to the device in pieces. */
#include <inttypes.h>
#include <stdlib.h>
#include "common/error.h"
#include "kernels/cuda/cuda.h"
#include "kernels/memory_block.h"
#include "kernels/tensor_source.h"

enum {
    PIECE_BYTES = 8 << 20 /* of a matrix that is held in host memory at a time, one row at least */
};

static size_t matrix_bytes(int64_t rows, int64_t columns)
{
    return memory_block_product(memory_block_product((size_t)rows, (size_t)columns),
                                sizeof(uint16_t));
}

size_t cuda_weight_bytes(int64_t rows, int64_t columns, bool bias, enum dtype weight_dtype)
{
    (void)weight_dtype; /* bfloat16 */
    return memory_block_sum(matrix_bytes(rows, columns), bias ? (size_t)rows * sizeof(float) : 0);
}

void cuda_weight_destroy(struct backend *backend, struct weight *opaque)
{
    struct cuda_weight *weight = (struct cuda_weight *)opaque;
    if (weight == NULL)
        return;
    recordings_forget(cuda_self(backend)->recordings);
    cuda_self(backend)->weight_bytes -= cuda_weight_bytes(
        weight->rows, weight->columns, weight->bias != NULL, backend->weight_dtype);
    device_memory_destroy(weight->values);
    device_memory_destroy(weight->bias);
    free(weight);
}

/* A piece of the matrix on its way. */
struct piece {
    uint16_t *values; /* [rows, columns] */
    float *line;      /* [columns] */
    int64_t rows, filled;
};

static int piece_create(struct piece *piece, int64_t columns, struct error *err)
{
    void *values = NULL, *line = NULL;
    size_t of_row = (size_t)columns * sizeof(uint16_t);
    *piece = (struct piece){.rows = PIECE_BYTES / (int64_t)of_row};
    if (piece->rows < 1)
        piece->rows = 1;
    int status =
        memory_block_create(&values, (size_t)piece->rows * of_row, "rows of a weight", err);
    if (status == 0)
        status =
            memory_block_create(&line, (size_t)columns * sizeof(float), "row of a weight", err);
    piece->values = values;
    piece->line = line;
    return status;
}

/* Behind the rows that are there already. */
static void upload_piece(struct cuda_backend *cuda, const struct cuda_weight *weight,
                         struct piece *piece, int64_t *done)
{
    if (piece->filled > 0)
        device_upload(&cuda->queue, weight->values + *done * weight->columns, piece->values,
                      matrix_bytes(piece->filled, weight->columns));
    *done += piece->filled;
    piece->filled = 0;
}

static void upload_rows(struct cuda_backend *cuda, const struct cuda_weight *weight,
                        struct piece *piece, const struct tensor_source *sources, int count)
{
    int64_t columns = weight->columns, done = 0;
    for (int i = 0; i < count; i++) {
        if (sources[i].data == NULL) {
            upload_piece(cuda, weight, piece, &done);
            cuda_random_matrix(cuda, weight->values + done * columns, &sources[i], 0,
                               sources[i].rows);
            done += sources[i].rows;
            continue;
        }
        for (int64_t row = 0; row < sources[i].rows; row++) {
            uint16_t *to = piece->values + piece->filled++ * columns;
            tensor_source_read(piece->line, &sources[i], row, 0, columns);
            for (int64_t column = 0; column < columns; column++)
                to[column] = bfloat16_from_float(piece->line[column]);
            if (piece->filled == piece->rows)
                upload_piece(cuda, weight, piece, &done);
        }
    }
    upload_piece(cuda, weight, piece, &done);
}

static int reserve_weight(struct cuda_backend *cuda, struct cuda_weight *weight, bool biased,
                          struct error *err)
{
    void *values = NULL, *bias = NULL;
    size_t matrix = matrix_bytes(weight->rows, weight->columns);
    int status = device_memory_create(&values, matrix, "weight", err);
    if (status == 0 && biased)
        status = device_memory_create(&bias, (size_t)weight->rows * sizeof(float), "bias", err);
    if (status != 0) {
        device_memory_destroy(values);
        return status;
    }
    weight->values = values;
    weight->bias = bias;
    cuda->weight_bytes +=
        cuda_weight_bytes(weight->rows, weight->columns, biased, cuda->base.weight_dtype);
    return 0;
}

int cuda_weight_create(struct backend *backend, struct weight **out,
                       const struct tensor_source *sources, int count, const float *bias,
                       struct error *err)
{
    struct cuda_backend *cuda = cuda_self(backend);
    struct piece piece = {0};
    int64_t rows, columns;
    *out = NULL;
    int status = tensor_source_check(&rows, &columns, sources, count, backend->weight_dtype, err);
    if (status != 0)
        return status;
    if (bias != NULL && rows > CUDA_BIASED_ROWS_MAX)
        return error_set(err, ERROR_UNSUPPORTED,
                         "a weight of %" PRId64 " rows with a bias: device cuda takes at most %d; "
                         "use device cpu",
                         rows, CUDA_BIASED_ROWS_MAX);
    struct cuda_weight *weight = calloc(1, sizeof *weight);
    if (weight == NULL)
        return error_set(err, ERROR_MEMORY, "cannot allocate a weight; free some memory");
    weight->rows = rows;
    weight->columns = columns;
    status = reserve_weight(cuda, weight, bias != NULL, err);
    if (status != 0) {
        free(weight);
        return status;
    }
    status = piece_create(&piece, columns, err);
    if (status == 0) {
        upload_rows(cuda, weight, &piece, sources, count);
        if (bias != NULL)
            device_upload(&cuda->queue, weight->bias, bias, (size_t)rows * sizeof *bias);
        status = device_wait(&cuda->queue, err);
    }
    if (status == 0) {
        *out = (struct weight *)weight;
    } else {
        cuda_weight_destroy(backend, (struct weight *)weight);
    }
    memory_block_destroy(piece.values);
    memory_block_destroy(piece.line);
    return status;
}

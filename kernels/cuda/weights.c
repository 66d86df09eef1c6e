/*
 * Weights: rows of a checkpoint on their way to the device, in pieces. A piece holds rows as they
 * will lie there (bfloat16; bytes and scales of the very dtype), or as numbers that a kernel
 * quantises on the device: bfloat16 rows as they are in the checkpoint, others as float32.
 */
#include <inttypes.h>
#include <stdlib.h>
#include "common/error.h"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/products.h"
#include "kernels/cuda/upload.h"
#include "kernels/memory_block.h"
#include "kernels/tensor_source.h"

enum {
    PIECE_BYTES = 8 << 20 /* of a matrix that is held in host memory at a time, one row at least */
};

/* A weight's own memory. */
struct weight_sizes {
    size_t values, scales, bias;
};

/* The sides and the memory of a weight; sizes are SIZE_MAX where they overflow. */
static struct weight_sizes lay_out(struct cuda_weight *weight, int64_t rows, int64_t columns,
                                   bool bias, enum dtype dtype)
{
    bool padded = dtype_has_scales(dtype);
    weight->rows = rows;
    weight->columns = columns;
    weight->padded_rows = padded ? cuda_padded(rows) : rows;
    weight->stride = padded ? cuda_padded(columns) : columns;
    weight->dtype = dtype;
    size_t line = memory_block_product((size_t)weight->stride, dtype_size(dtype));
    return (struct weight_sizes){
        .values = memory_block_product((size_t)weight->padded_rows, line),
        .scales = padded ? (size_t)weight->padded_rows * sizeof(float) : 0,
        .bias = bias ? (size_t)weight->padded_rows * sizeof(float) : 0,
    };
}

size_t cuda_weight_bytes(int64_t rows, int64_t columns, bool bias, enum dtype weight_dtype)
{
    struct cuda_weight weight;
    struct weight_sizes sizes = lay_out(&weight, rows, columns, bias, weight_dtype);
    return memory_block_sum(sizes.values, sizes.scales + sizes.bias);
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
    device_memory_destroy(weight->scales);
    device_memory_destroy(weight->bias);
    free(weight);
}

static int reserve_weight(struct cuda_backend *cuda, struct cuda_weight *weight,
                          const struct weight_sizes *sizes, struct error *err)
{
    void *values = NULL, *scales = NULL, *bias = NULL;
    int status = device_memory_create(&values, sizes->values, "weight", err);
    if (status == 0 && sizes->scales > 0)
        status = device_memory_create(&scales, sizes->scales, "scales of a weight", err);
    if (status == 0 && sizes->bias > 0)
        status = device_memory_create(&bias, sizes->bias, "bias", err);
    if (status != 0) {
        device_memory_destroy(values);
        device_memory_destroy(scales);
        return status;
    }
    weight->values = values;
    weight->scales = scales;
    weight->bias = bias;
    cuda->weight_bytes += memory_block_sum(sizes->values, sizes->scales + sizes->bias);
    return 0;
}

/* Rows of one source on their way: numbers of `dtype`, `stride` of them from row to row. */
struct piece {
    const struct tensor_source *source;
    int64_t first; /* of these rows in the weight */
    enum dtype dtype;
    int64_t stride;
    int64_t room, rows; /* of `values`: that fit, that are there */
    char *values;       /* [room, stride] the upload's buffer; NULL: not asked for yet */
    float *line;        /* [columns] */
    void *staged;       /* the same on the device, where it quantises */
};

/* The form that rows of a source travel in. */
static enum dtype dtype_on_the_way(enum dtype source, enum dtype weight)
{
    if (source == weight || weight == DTYPE_BFLOAT16)
        return weight;
    return source == DTYPE_BFLOAT16 ? DTYPE_BFLOAT16 : DTYPE_FLOAT32;
}

static void destroy_piece(struct piece *piece)
{
    memory_block_destroy(piece->line);
    device_memory_destroy(piece->staged);
}

/* Room for rows in every form that the sources need: float32 is the widest. */
static int create_piece(struct piece *piece, struct cuda_backend *cuda,
                        const struct cuda_weight *weight, struct error *err)
{
    void *line = NULL;
    size_t widest = dtype_has_scales(weight->dtype) ? sizeof(float) : sizeof(uint16_t);
    size_t of_row = (size_t)weight->stride * widest;
    size_t size = of_row < PIECE_BYTES ? PIECE_BYTES / of_row * of_row : of_row;
    size_t needed = memory_block_product((size_t)weight->rows, of_row);
    size = needed < size ? needed : size;
    *piece = (struct piece){.room = (int64_t)(size / of_row)};
    int status = upload_reserve(cuda->upload, PIECE_BYTES > of_row ? PIECE_BYTES : of_row, err);
    if (status == 0)
        status = memory_block_create(&line, (size_t)weight->columns * sizeof(float),
                                     "row of a weight", err);
    piece->line = line;
    if (status == 0 && dtype_has_scales(weight->dtype))
        status = device_memory_create(&piece->staged, size, "rows of a weight", err);
    if (status != 0)
        destroy_piece(piece);
    return status;
}

/* Row `row` of the source as it travels. */
static void fill_row(struct piece *piece, int64_t row)
{
    const struct tensor_source *source = piece->source;
    size_t element = dtype_size(piece->dtype), columns = (size_t)source->columns;
    char *to = piece->values + (size_t)piece->rows++ * (size_t)piece->stride * element;
    if (source->dtype == piece->dtype) {
        memcpy(to, (const char *)source->data + (size_t)row * columns * element, columns * element);
        memset(to + columns * element, 0, ((size_t)piece->stride - columns) * element);
        return;
    }
    tensor_source_read(piece->line, source, row, 0, source->columns);
    for (size_t column = 0; column < columns; column++) {
        if (piece->dtype == DTYPE_FLOAT32)
            ((float *)to)[column] = piece->line[column];
        else
            ((uint16_t *)to)[column] = bfloat16_from_float(piece->line[column]);
    }
}

/*
 * What is in the piece goes to the device, and is quantised there where it does not come so, while
 * the next piece is filled.
 */
static void hand_over(struct cuda_backend *cuda, const struct cuda_weight *weight,
                      struct piece *piece)
{
    size_t size = (size_t)(piece->rows * piece->stride) * dtype_size(piece->dtype);
    size_t of_weight = (size_t)(piece->first * weight->stride) * dtype_size(weight->dtype);
    char *to = (char *)weight->values + of_weight;
    if (piece->dtype == weight->dtype) {
        upload_send(cuda->upload, &cuda->queue, to, size);
    } else {
        const struct quantised_lines lines = {(uint8_t *)to, weight->scales + piece->first,
                                              weight->stride};
        upload_send(cuda->upload, &cuda->queue, piece->staged, size);
        cuda_quantise(cuda, &lines, weight->dtype, piece->staged, piece->dtype,
                      (int32_t)piece->rows, weight->columns);
    }
    piece->first += piece->rows;
    piece->rows = 0;
    piece->values = NULL;
}

/* Rows of random numbers are made on the device, and quantised there in pieces. */
static void make_source(struct cuda_backend *cuda, const struct cuda_weight *weight,
                        struct piece *piece, const struct tensor_source *source)
{
    if (weight->dtype == DTYPE_BFLOAT16) {
        uint16_t *to = (uint16_t *)weight->values + piece->first * weight->stride;
        cuda_random_matrix(cuda, to, source, 0, source->rows);
        piece->first += source->rows;
        return;
    }
    for (int64_t row = 0; row < source->rows; row += piece->room) {
        int64_t left = source->rows - row, rows = left < piece->room ? left : piece->room;
        char *to = (char *)weight->values + piece->first * weight->stride;
        const struct quantised_lines lines = {(uint8_t *)to, weight->scales + piece->first,
                                              weight->stride};
        cuda_random_matrix(cuda, piece->staged, source, row, rows);
        cuda_quantise(cuda, &lines, weight->dtype, piece->staged, DTYPE_BFLOAT16, (int32_t)rows,
                      weight->columns);
        piece->first += rows;
    }
}

static void upload_source(struct cuda_backend *cuda, const struct cuda_weight *weight,
                          struct piece *piece, const struct tensor_source *source)
{
    if (source->data == NULL) {
        make_source(cuda, weight, piece, source);
        return;
    }
    piece->source = source;
    piece->dtype = dtype_on_the_way(source->dtype, weight->dtype);
    piece->stride = piece->dtype == weight->dtype ? weight->stride : weight->columns;
    if (dtype_has_scales(piece->dtype))
        device_upload(&cuda->queue, weight->scales + piece->first, source->scales,
                      (size_t)source->rows * sizeof(float));
    for (int64_t row = 0; row < source->rows; row++) {
        if (piece->values == NULL)
            piece->values = upload_buffer(cuda->upload, &cuda->queue);
        fill_row(piece, row);
        if (piece->rows == piece->room || row + 1 == source->rows)
            hand_over(cuda, weight, piece);
    }
}

static int upload(struct cuda_backend *cuda, const struct cuda_weight *weight,
                  const struct tensor_source *sources, int count, const float *bias,
                  struct error *err)
{
    struct piece piece;
    int status = create_piece(&piece, cuda, weight, err);
    if (status != 0)
        return status;
    for (int i = 0; i < count; i++)
        upload_source(cuda, weight, &piece, &sources[i]);
    if (bias != NULL)
        device_upload(&cuda->queue, weight->bias, bias, (size_t)weight->rows * sizeof *bias);
    status = device_wait(&cuda->queue, err);
    destroy_piece(&piece);
    return status;
}

/* Where a product leaves sums, those of one line must have room. */
static int check_rows(const struct cuda_backend *cuda, int64_t rows, bool summed, struct error *err)
{
    int64_t most = (int64_t)(cuda_sums_bytes() / sizeof(float)) / CUDA_BYTES_STEP * CUDA_BYTES_STEP;
    if (!summed || rows <= most)
        return 0;
    return error_set(err, ERROR_UNSUPPORTED,
                     "a weight of %" PRId64 " rows with a bias, or in int8 or fp8: device %s takes "
                     "at most %" PRId64 "; use device cpu",
                     rows, cuda->facts.backend, most);
}

int cuda_weight_create(struct backend *backend, struct weight **out,
                       const struct tensor_source *sources, int count, const float *bias,
                       struct error *err)
{
    struct cuda_backend *cuda = cuda_self(backend);
    enum dtype dtype = backend->weight_dtype;
    int64_t rows, columns;
    *out = NULL;
    int status = tensor_source_check(&rows, &columns, sources, count, dtype, err);
    if (status == 0)
        status = check_rows(cuda, rows, bias != NULL || dtype_has_scales(dtype), err);
    if (status != 0)
        return status;
    struct cuda_weight *weight = calloc(1, sizeof *weight);
    if (weight == NULL)
        return error_set(err, ERROR_MEMORY, "cannot allocate a weight; free some memory");
    struct weight_sizes sizes = lay_out(weight, rows, columns, bias != NULL, dtype);
    status = reserve_weight(cuda, weight, &sizes, err);
    if (status != 0) {
        free(weight);
        return status;
    }
    status = upload(cuda, weight, sources, count, bias, err);
    if (status == 0)
        *out = (struct weight *)weight;
    else
        cuda_weight_destroy(backend, (struct weight *)weight);
    return status;
}

#include "kernels/tensor_source.h"

#include "common/error.h"
#include "common/rng.h"
#include "kernels/quantise.h"
#include "kernels/random_matrix.h"

/* A checkpoint promises no alignment. */
static inline uint16_t load_bits(const char *data, int64_t index)
{
    uint16_t bits;
    memcpy(&bits, data + 2 * index, sizeof bits);
    return bits;
}

static void read_float16(float *out, const char *data, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        out[i] = float16_to_float(load_bits(data, i));
}

static void read_bfloat16(float *out, const char *data, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        out[i] = bfloat16_to_float(load_bits(data, i));
}

static void read_int8(float *out, const int8_t *data, float scale, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        out[i] = (float)data[i] * scale;
}

static void read_fp8(float *out, const uint8_t *data, float scale, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        out[i] = fp8_to_float(data[i]) * scale;
}

/* Eight numbers come from one counter. */
static void read_random(float *out, const struct tensor_source *source, int64_t row, int64_t begin,
                        int64_t count)
{
    const uint32_t key[2] = {(uint32_t)source->seed, (uint32_t)(source->seed >> 32)};
    uint64_t first = (uint64_t)(row * source->columns + begin), group = UINT64_MAX;
    uint32_t words[4] = {0};
    for (int64_t i = 0; i < count; i++) {
        uint64_t index = first + (uint64_t)i;
        if (index / RANDOM_MATRIX_GROUP != group) {
            group = index / RANDOM_MATRIX_GROUP;
            const uint32_t counter[4] = {(uint32_t)group, (uint32_t)(group >> 32),
                                         RANDOM_MATRIX_COUNTER, 0};
            rng_philox(words, counter, key);
        }
        float number = random_matrix_number(words, (uint32_t)(index % RANDOM_MATRIX_GROUP),
                                            random_matrix_step(source->spread));
        out[i] = bfloat16_to_float(bfloat16_from_float(number));
    }
}

void tensor_source_read(float *out, const struct tensor_source *source, int64_t row, int64_t begin,
                        int64_t count)
{
    if (source->data == NULL) {
        read_random(out, source, row, begin, count);
        return;
    }
    const char *data = (const char *)source->data +
                       (size_t)(row * source->columns + begin) * dtype_size(source->dtype);
    switch (source->dtype) {
    case DTYPE_FLOAT32:
        memcpy(out, data, (size_t)count * sizeof *out);
        break;
    case DTYPE_BFLOAT16:
        read_bfloat16(out, data, count);
        break;
    case DTYPE_FLOAT16:
        read_float16(out, data, count);
        break;
    case DTYPE_INT8:
        read_int8(out, (const int8_t *)data, source->scales[row], count);
        break;
    case DTYPE_FP8:
        read_fp8(out, (const uint8_t *)data, source->scales[row], count);
        break;
    }
}

const struct tensor_source *tensor_source_find(const struct tensor_source *sources, int64_t *row)
{
    while (*row >= sources->rows) {
        *row -= sources->rows;
        sources++;
    }
    return sources;
}

int tensor_source_check(int64_t *rows, int64_t *columns, const struct tensor_source *sources,
                        int count, enum dtype weight_dtype, struct error *err)
{
    *rows = 0;
    *columns = count > 0 ? sources[0].columns : 0;
    if (count <= 0)
        return error_set(err, ERROR_INVALID, "a weight needs at least one matrix, got %d", count);
    for (int i = 0; i < count; i++) {
        const struct tensor_source *source = &sources[i];
        if (source->rows <= 0 || source->columns <= 0 || source->rows > INT32_MAX - *rows ||
            source->columns > INT32_MAX)
            return error_set(err, ERROR_INVALID,
                             "matrix %d of a weight is %lld x %lld; both sides must lie in "
                             "1..2147483647, summed over the matrices",
                             i, (long long)source->rows, (long long)source->columns);
        if (source->columns != *columns)
            return error_set(err, ERROR_INVALID,
                             "matrix %d of a weight has %lld columns, the first one %lld; they "
                             "must be equal",
                             i, (long long)source->columns, (long long)*columns);
        if (dtype_size(source->dtype) == 0)
            return error_set(err, ERROR_INVALID, "matrix %d of a weight has unknown dtype %d", i,
                             (int)source->dtype);
        bool random = source->data == NULL;
        if (random && (source->dtype != DTYPE_BFLOAT16 || !(source->spread > 0)))
            return error_set(err, ERROR_INVALID,
                             "matrix %d of a weight lacks its data; random numbers need dtype "
                             "bfloat16 and a spread",
                             i);
        if (dtype_has_scales(source->dtype) && source->scales == NULL)
            return error_set(err, ERROR_INVALID, "matrix %d of a weight lacks its %s scales", i,
                             dtype_name(source->dtype));
        *rows += source->rows;
    }
    if (dtype_has_scales(weight_dtype) && *columns > QUANTISE_COLUMNS_MAX)
        return error_set(err, ERROR_INVALID,
                         "a weight has %lld columns; sums over more than %d do not fit into %s "
                         "products: use dtype bfloat16 or float32",
                         (long long)*columns, (int)QUANTISE_COLUMNS_MAX, dtype_name(weight_dtype));
    return 0;
}

static int check_range(const char *name, int64_t value, int64_t min, int64_t max, struct error *err)
{
    if (value >= min && value <= max)
        return 0;
    return error_set(err, ERROR_INVALID, "%s is %lld; it must lie in %lld..%lld", name,
                     (long long)value, (long long)min, (long long)max);
}

int backend_limits_check(const struct backend_limits *limits, enum dtype weight_dtype,
                         struct error *err)
{
    const struct attention_shape *shape = &limits->attention;
    const struct {
        const char *name;
        int64_t value, max;
    } positive[] = {
        {"layers", shape->layers, 1 << 16},
        {"heads", shape->heads, 1 << 16},
        {"kv_heads", shape->kv_heads, 1 << 16},
        {"head_dim", shape->head_dim, 256},
        {"max_rows", limits->max_rows, 1 << 24},
        {"max_head_rows", limits->max_head_rows, 1 << 24},
        {"max_positions", limits->max_positions, 1 << 30},
        {"max_sequences", limits->max_sequences, 1 << 24},
        {"kv_pages", limits->kv_pages, INT32_MAX},
        {"vocabulary", limits->vocabulary, INT32_MAX},
    };
    for (size_t i = 0; i < sizeof positive / sizeof positive[0]; i++) {
        int status = check_range(positive[i].name, positive[i].value, 1, positive[i].max, err);
        if (status != 0)
            return status;
    }
    if (shape->heads % shape->kv_heads != 0)
        return error_set(err, ERROR_INVALID, "heads (%d) must be a multiple of kv_heads (%d)",
                         (int)shape->heads, (int)shape->kv_heads);
    if (shape->head_dim % 2 != 0 || shape->rotary_dim % 2 != 0)
        return error_set(err, ERROR_INVALID, "head_dim (%d) and rotary_dim (%d) must be even",
                         (int)shape->head_dim, (int)shape->rotary_dim);
    int status = check_range("rotary_dim", shape->rotary_dim, 0, shape->head_dim, err);
    if (status == 0 && dtype_has_scales(weight_dtype))
        status =
            check_range("weight_columns", limits->weight_columns, 1, QUANTISE_COLUMNS_MAX, err);
    return status;
}

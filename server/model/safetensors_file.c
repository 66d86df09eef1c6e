#include "server/model/safetensors_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <jansson.h>

#include "common/arena.h"
#include "common/error.h"
#include "common/json.h"
#include "server/model/files.h"

enum {
    LENGTH_BYTES = 8,
    HEADER_BYTES_MAX = 100 * 1000 * 1000, /* the format's own limit */
    NAME_BYTES_MAX = 256,
};

/* Every element type of the format, so that a file that holds one we cannot use is still checked.
 */
static const struct {
    const char *name;
    int bits;
    bool supported;
    enum dtype dtype;
} element_types[] = {
    {"F32", 32, true, DTYPE_FLOAT32},     {"BF16", 16, true, DTYPE_BFLOAT16},
    {"F16", 16, true, DTYPE_FLOAT16},     {"I8", 8, true, DTYPE_INT8},
    {"F64", 64, false, DTYPE_FLOAT32},    {"I64", 64, false, DTYPE_FLOAT32},
    {"I32", 32, false, DTYPE_FLOAT32},    {"I16", 16, false, DTYPE_FLOAT32},
    {"U64", 64, false, DTYPE_FLOAT32},    {"U32", 32, false, DTYPE_FLOAT32},
    {"U16", 16, false, DTYPE_FLOAT32},    {"U8", 8, false, DTYPE_FLOAT32},
    {"BOOL", 8, false, DTYPE_FLOAT32},    {"F8_E4M3", 8, false, DTYPE_FLOAT32},
    {"F8_E5M2", 8, false, DTYPE_FLOAT32}, {"F8_E8M0", 8, false, DTYPE_FLOAT32},
    {"F6_E2M3", 6, false, DTYPE_FLOAT32}, {"F6_E3M2", 6, false, DTYPE_FLOAT32},
    {"F4", 4, false, DTYPE_FLOAT32},      {"C64", 64, false, DTYPE_FLOAT32},
};

/* What is being read, for messages. */
struct place {
    const char *path, *tensor;
    struct error *err;
};

#define TENSOR_ERROR(place, format, ...)                                                           \
    error_set((place)->err, ERROR_INVALID, "%s: tensor \"%s\": " format, (place)->path,            \
              (place)->tensor, __VA_ARGS__)

/* ---- one tensor of the header ---------------------------------------------------------------- */

static int read_dtype(struct tensor *tensor, int *bits, const json_t *entry,
                      const struct place *place)
{
    const json_t *value = json_object_get(entry, "dtype");
    if (!json_is_string(value))
        return TENSOR_ERROR(place, "\"dtype\" is %s, not a string", json_type_name(value));
    const char *name = json_string_value(value);
    for (size_t i = 0; i < sizeof element_types / sizeof element_types[0]; i++) {
        if (strcmp(name, element_types[i].name) != 0)
            continue;
        memcpy(tensor->dtype_name, name, strlen(name) + 1);
        tensor->supported = element_types[i].supported;
        tensor->dtype = element_types[i].dtype;
        *bits = element_types[i].bits;
        return 0;
    }
    return TENSOR_ERROR(place, "\"dtype\" is \"%.32s\", which safetensors does not have", name);
}

static int read_shape(struct tensor *tensor, int64_t *elements, const json_t *entry,
                      const struct place *place)
{
    const json_t *shape = json_object_get(entry, "shape");
    if (!json_is_array(shape))
        return TENSOR_ERROR(place, "\"shape\" is %s, not an array", json_type_name(shape));
    if (json_array_size(shape) > TENSOR_DIMENSIONS_MAX)
        return TENSOR_ERROR(place, "\"shape\" has %zu dimensions; at most %d are supported",
                            json_array_size(shape), TENSOR_DIMENSIONS_MAX);
    tensor->dimensions = (int)json_array_size(shape);
    *elements = 1;
    for (int i = 0; i < tensor->dimensions; i++) {
        const json_t *value = json_array_get(shape, (size_t)i);
        if (!json_is_integer(value) || json_integer_value(value) < 0)
            return TENSOR_ERROR(
                place, "\"shape\" holds %s at place %d; sizes are integers from 0",
                json_is_integer(value) ? "a negative number" : json_type_name(value), i);
        tensor->shape[i] = json_integer_value(value);
        if (__builtin_mul_overflow(*elements, tensor->shape[i], elements))
            return TENSOR_ERROR(place, "\"shape\" gives more than 2^63 elements (at place %d)", i);
    }
    return 0;
}

static int read_offsets(size_t offsets[2], size_t data_size, const json_t *entry,
                        const struct place *place)
{
    const json_t *pair = json_object_get(entry, "data_offsets");
    if (!json_is_array(pair) || json_array_size(pair) != 2 ||
        !json_is_integer(json_array_get(pair, 0)) || !json_is_integer(json_array_get(pair, 1)))
        return TENSOR_ERROR(place, "\"data_offsets\" is no array of two integers%s", "");
    json_int_t begin = json_integer_value(json_array_get(pair, 0));
    json_int_t end = json_integer_value(json_array_get(pair, 1));
    if (begin < 0 || end < begin || (uint64_t)end > data_size)
        return TENSOR_ERROR(place,
                            "\"data_offsets\" are [%lld, %lld] in %zu bytes of data; the file is "
                            "truncated or damaged",
                            (long long)begin, (long long)end, data_size);
    offsets[0] = (size_t)begin;
    offsets[1] = (size_t)end;
    return 0;
}

static int read_tensor(struct tensor *tensor, const json_t *entry, const uint8_t *data,
                       size_t data_size, const struct place *place)
{
    if (!json_is_object(entry))
        return TENSOR_ERROR(place, "its entry is %s, not an object", json_type_name(entry));
    int bits = 0;
    int64_t elements = 0, total_bits = 0;
    size_t offsets[2] = {0, 0};
    int code = read_dtype(tensor, &bits, entry, place);
    if (code == 0)
        code = read_shape(tensor, &elements, entry, place);
    if (code == 0)
        code = read_offsets(offsets, data_size, entry, place);
    if (code != 0)
        return code;
    tensor->data = data + offsets[0];
    tensor->size = offsets[1] - offsets[0];
    if (__builtin_mul_overflow(elements, (int64_t)bits, &total_bits) || total_bits % 8 != 0 ||
        (uint64_t)total_bits / 8 != tensor->size) {
        char shape[128];
        return TENSOR_ERROR(place, "%zu bytes of data do not fit shape %s of %s", tensor->size,
                            tensor_shape_text(tensor, shape, sizeof shape), tensor->dtype_name);
    }
    return 0;
}

/* ---- the header ------------------------------------------------------------------------------ */

static int compare_place(const void *a, const void *b)
{
    const struct tensor *left = a, *right = b;
    if (left->data != right->data)
        return (const uint8_t *)left->data < (const uint8_t *)right->data ? -1 : 1;
    return left->size < right->size ? -1 : left->size > right->size;
}

/* The tensors must cover the data one after the other: no byte twice, none left out. */
static int check_coverage(const struct safetensors_file *file, const uint8_t *data,
                          const struct place *place)
{
    const uint8_t *expected = data;
    for (size_t i = 0; i < file->tensor_count; i++) {
        const struct tensor *tensor = &file->tensors[i];
        const uint8_t *begin = tensor->data;
        struct place at = {place->path, tensor->name, place->err};
        if (begin < expected)
            return TENSOR_ERROR(&at, "its data overlaps that of \"%s\" by %zu bytes",
                                file->tensors[i - 1].name, (size_t)(expected - begin));
        if (begin > expected)
            return TENSOR_ERROR(&at, "%zu bytes before its data belong to no tensor",
                                (size_t)(begin - expected));
        expected = begin + tensor->size;
    }
    size_t left = file->size - (size_t)(expected - file->map);
    if (left != 0)
        return error_set(place->err, ERROR_INVALID,
                         "%s: the last %zu bytes belong to no tensor; the file is damaged",
                         place->path, left);
    return 0;
}

static int read_tensors(struct safetensors_file *file, json_t *header, size_t header_size,
                        struct arena *names, struct place *place)
{
    const uint8_t *data = file->map + LENGTH_BYTES + header_size;
    size_t data_size = file->size - LENGTH_BYTES - header_size;
    file->tensors = calloc(json_object_size(header) + 1, sizeof *file->tensors);
    if (file->tensors == NULL)
        return error_set(place->err, ERROR_MEMORY, "%s: no memory left for its list of tensors",
                         place->path);
    const char *name;
    json_t *entry;
    json_object_foreach(header, name, entry)
    {
        place->tensor = name;
        if (strcmp(name, "__metadata__") == 0) {
            if (!json_is_object(entry))
                return TENSOR_ERROR(place, "it is %s, not an object", json_type_name(entry));
            continue;
        }
        size_t length = strlen(name);
        if (length == 0 || length > NAME_BYTES_MAX)
            return error_set(place->err, ERROR_INVALID,
                             "%s: the name of a tensor is %zu bytes long; 1 to %d are supported",
                             place->path, length, NAME_BYTES_MAX);
        struct tensor *tensor = &file->tensors[file->tensor_count];
        int code = read_tensor(tensor, entry, data, data_size, place);
        if (code != 0)
            return code;
        tensor->name = arena_copy(names, name, length);
        if (tensor->name == NULL)
            return error_set(place->err, ERROR_MEMORY, "%s: no memory left for its tensors' names",
                             place->path);
        file->tensor_count++;
    }
    qsort(file->tensors, file->tensor_count, sizeof *file->tensors, compare_place);
    return check_coverage(file, data, place);
}

static int read_header(struct safetensors_file *file, const char *path, struct arena *names,
                       struct error *err)
{
    if (file->size < LENGTH_BYTES)
        return error_set(err, ERROR_INVALID,
                         "%s: is %zu bytes long; a safetensors file has at least 8", path,
                         file->size);
    uint64_t length = 0;
    for (int i = 0; i < LENGTH_BYTES; i++)
        length |= (uint64_t)file->map[i] << (8 * i);
    if (length > HEADER_BYTES_MAX || length > file->size - LENGTH_BYTES)
        return error_set(err, ERROR_INVALID,
                         "%s: states a header of %llu bytes in a file of %zu (at most %d are "
                         "allowed); the file is truncated or not in safetensors form",
                         path, (unsigned long long)length, file->size, HEADER_BYTES_MAX);
    json_error_t problem;
    json_t *header = json_loadb((const char *)file->map + LENGTH_BYTES, (size_t)length,
                                JSON_REJECT_DUPLICATES, &problem);
    if (header == NULL)
        return error_set(err, ERROR_INVALID, "%s: its header is no JSON: %s (at byte %d of it)",
                         path, problem.text, problem.position);
    struct place place = {path, "", err};
    int code;
    if (json_is_object(header))
        code = read_tensors(file, header, (size_t)length, names, &place);
    else
        code = error_set(err, ERROR_INVALID, "%s: its header is %s, not an object", path,
                         json_type_name(header));
    json_decref(header);
    return code;
}

/* ---- the file -------------------------------------------------------------------------------- */

static int map_file(struct safetensors_file *file, const char *path, struct error *err)
{
    int code = model_file_check(path, err);
    if (code != 0)
        return code;
    int descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (descriptor < 0)
        return error_set(err, errno == EACCES ? ERROR_INVALID : ERROR_IO,
                         "%s: cannot be opened: %s", path, strerror(errno));
    struct stat status;
    if (fstat(descriptor, &status) != 0) {
        code = error_set(err, ERROR_IO, "%s: cannot be read: %s", path, strerror(errno));
    } else if (status.st_size == 0) {
        code = error_set(err, ERROR_INVALID, "%s: is empty; download it again", path);
    } else {
        void *map = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_PRIVATE, descriptor, 0);
        if (map == MAP_FAILED) {
            code = error_set(err, ERROR_IO, "%s: cannot be mapped: %s", path, strerror(errno));
        } else {
            file->map = map;
            file->size = (size_t)status.st_size;
        }
    }
    close(descriptor);
    return code;
}

int safetensors_file_open(struct safetensors_file *file, const char *path, struct arena *names,
                          struct error *err)
{
    *file = (struct safetensors_file){0};
    int code = map_file(file, path, err);
    if (code == 0)
        code = read_header(file, path, names, err);
    if (code != 0)
        safetensors_file_close(file);
    return code;
}

void safetensors_file_close(struct safetensors_file *file)
{
    free(file->tensors);
    if (file->map != NULL)
        munmap((void *)(uintptr_t)file->map, file->size);
    *file = (struct safetensors_file){0};
}

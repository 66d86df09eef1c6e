#include "server/model/safetensors.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/arena.h"
#include "common/error.h"
#include "common/json.h"
#include "server/model/files.h"
#include "server/model/safetensors_file.h"

enum { INDEX_BYTES_MAX = 100 * 1000 * 1000 };

static const char single_name[] = "model.safetensors";
static const char index_name[] = "model.safetensors.index.json";
static const char extension[] = ".safetensors";

struct checkpoint {
    struct arena names;
    struct safetensors_file *files; /* [file_count] */
    size_t file_count;
    struct tensor *tensors;        /* [tensor_count], all files' */
    const struct tensor **by_name; /* [tensor_count], sorted */
    size_t tensor_count;
};

/* ---- putting files together ------------------------------------------------------------------ */

static const char *file_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash == NULL ? path : slash + 1;
}

static int add_file(struct checkpoint *checkpoint, const char *path, struct error *err)
{
    struct safetensors_file file;
    int code = safetensors_file_open(&file, path, &checkpoint->names, err);
    if (code != 0)
        return code;
    struct safetensors_file *files =
        realloc(checkpoint->files, (checkpoint->file_count + 1) * sizeof *files);
    if (files != NULL)
        checkpoint->files = files;
    size_t count = checkpoint->tensor_count + file.tensor_count;
    struct tensor *tensors = realloc(checkpoint->tensors, (count + 1) * sizeof *tensors);
    if (tensors != NULL)
        checkpoint->tensors = tensors;
    const char *name = file_name(path);
    name = arena_copy(&checkpoint->names, name, strlen(name));
    if (files == NULL || tensors == NULL || name == NULL) {
        safetensors_file_close(&file);
        return error_set(err, ERROR_MEMORY, "%s: no memory left for its list of tensors", path);
    }
    for (size_t i = 0; i < file.tensor_count; i++) {
        tensors[checkpoint->tensor_count + i] = file.tensors[i];
        tensors[checkpoint->tensor_count + i].file = name;
    }
    checkpoint->tensor_count = count;
    files[checkpoint->file_count++] = file;
    return 0;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp((*(const struct tensor *const *)a)->name,
                  (*(const struct tensor *const *)b)->name);
}

static int sort_by_name(struct checkpoint *checkpoint, struct error *err)
{
    size_t count = checkpoint->tensor_count;
    checkpoint->by_name = malloc((count + 1) * sizeof *checkpoint->by_name);
    if (checkpoint->by_name == NULL)
        return error_set(err, ERROR_MEMORY, "no memory left for the list of %zu tensors", count);
    for (size_t i = 0; i < count; i++)
        checkpoint->by_name[i] = &checkpoint->tensors[i];
    qsort(checkpoint->by_name, count, sizeof *checkpoint->by_name, compare_names);
    for (size_t i = 1; i < count; i++) {
        const struct tensor *first = checkpoint->by_name[i - 1], *second = checkpoint->by_name[i];
        if (strcmp(first->name, second->name) == 0)
            return error_set(err, ERROR_INVALID, "tensor \"%s\" lies in %s and in %s", first->name,
                             first->file, second->file);
    }
    return 0;
}

/* ---- shards ---------------------------------------------------------------------------------- */

/* A shard lies beside its index: a name with a path in it could reach anywhere. */
static bool is_plain_name(const json_t *value)
{
    const char *name = json_string_value(value);
    if (name == NULL)
        return false;
    size_t length = strlen(name), tail = sizeof extension - 1;
    return length == json_string_length(value) && length > tail && length <= NAME_MAX &&
           strchr(name, '/') == NULL && strcmp(name + length - tail, extension) == 0;
}

static int compare_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Opens every shard that the map names, once, in order of their names. */
static int add_shards(struct checkpoint *checkpoint, const char *directory, const char *index_path,
                      json_t *map, struct error *err)
{
    size_t count = 0;
    const char **shards = malloc((json_object_size(map) + 1) * sizeof *shards);
    if (shards == NULL)
        return error_set(err, ERROR_MEMORY, "%s: no memory left to read it", index_path);
    int code = 0;
    const char *tensor;
    json_t *value;
    json_object_foreach(map, tensor, value)
    {
        if (code == 0 && !is_plain_name(value))
            code =
                error_set(err, ERROR_INVALID,
                          "%s: \"weight_map\" puts \"%.256s\" into %s%.64s; it must be the plain "
                          "name of a .safetensors file beside it",
                          index_path, tensor, json_is_string(value) ? "" : json_type_name(value),
                          json_is_string(value) ? json_string_value(value) : "");
        shards[count++] = json_string_value(value);
    }
    if (code == 0)
        qsort(shards, count, sizeof *shards, compare_text);
    for (size_t i = 0; i < count && code == 0; i++) {
        char path[PATH_MAX];
        if (i > 0 && strcmp(shards[i], shards[i - 1]) == 0)
            continue;
        code = model_file_path(path, directory, shards[i], err);
        if (code == 0)
            code = add_file(checkpoint, path, err);
    }
    free(shards);
    return code;
}

static int check_weight_map(const struct checkpoint *checkpoint, const char *index_path,
                            json_t *map, struct error *err)
{
    const char *name;
    json_t *value;
    json_object_foreach(map, name, value)
    {
        const struct tensor *tensor = checkpoint_find(checkpoint, name);
        if (tensor == NULL)
            return error_set(err, ERROR_INVALID,
                             "%s: tensor \"%.256s\" is missing from %s, where the index puts it",
                             index_path, name, json_string_value(value));
        if (strcmp(tensor->file, json_string_value(value)) != 0)
            return error_set(err, ERROR_INVALID,
                             "%s: tensor \"%s\" lies in %s, and the index puts it into %s",
                             index_path, name, tensor->file, json_string_value(value));
    }
    for (size_t i = 0; i < checkpoint->tensor_count; i++)
        if (json_object_get(map, checkpoint->tensors[i].name) == NULL)
            return error_set(err, ERROR_INVALID,
                             "%s: tensor \"%s\" of %s is missing from the index", index_path,
                             checkpoint->tensors[i].name, checkpoint->tensors[i].file);
    return 0;
}

static int open_shards(struct checkpoint *checkpoint, const char *directory, const char *index_path,
                       struct error *err)
{
    int code = model_file_check(index_path, err);
    if (code != 0)
        return code;
    struct error unread = {0};
    json_t *index = json_read_file(index_path, INDEX_BYTES_MAX, &unread);
    if (index == NULL)
        return error_set(err, unread.code, "%s", unread.message);
    json_t *map = json_object_get(index, "weight_map");
    if (!json_is_object(map) || json_object_size(map) == 0)
        code = error_set(err, ERROR_INVALID,
                         "%s: \"weight_map\" must be an object that gives every tensor its file; "
                         "it is %s",
                         index_path,
                         map == NULL           ? "missing"
                         : json_is_object(map) ? "empty"
                                               : json_type_name(map));
    if (code == 0)
        code = add_shards(checkpoint, directory, index_path, map, err);
    if (code == 0)
        code = sort_by_name(checkpoint, err);
    if (code == 0)
        code = check_weight_map(checkpoint, index_path, map, err);
    json_decref(index);
    return code;
}

/* ---- opening --------------------------------------------------------------------------------- */

/* The only *.safetensors file of a directory that has none of the usual names. */
static int find_single_file(char path[PATH_MAX], const char *directory, struct error *err)
{
    char found[NAME_MAX + 1] = "";
    int count = 0;
    DIR *stream = opendir(directory);
    if (stream == NULL)
        return error_set(err, ERROR_INVALID, "%s: is no directory that can be read: %s", directory,
                         strerror(errno));
    for (const struct dirent *entry; (entry = readdir(stream)) != NULL;) {
        size_t length = strlen(entry->d_name), tail = sizeof extension - 1;
        if (length > tail && strcmp(entry->d_name + length - tail, extension) == 0) {
            snprintf(found, sizeof found, "%s", entry->d_name);
            count++;
        }
    }
    closedir(stream);
    if (count == 0)
        return error_set(err, ERROR_INVALID,
                         "%s: holds no %s and no %s; give the directory of a "
                         "checkpoint",
                         directory, single_name, index_name);
    if (count > 1)
        return error_set(err, ERROR_INVALID,
                         "%s: holds %d .safetensors files without %s to say what they are",
                         directory, count, index_name);
    return model_file_path(path, directory, found, err);
}

static int open_single(struct checkpoint *checkpoint, const char *path, struct error *err)
{
    int code = add_file(checkpoint, path, err);
    return code != 0 ? code : sort_by_name(checkpoint, err);
}

static int open_directory(struct checkpoint *checkpoint, const char *directory, struct error *err)
{
    char path[PATH_MAX];
    int code = model_file_path(path, directory, single_name, err);
    if (code != 0 || model_file_exists(path))
        return code != 0 ? code : open_single(checkpoint, path, err);
    code = model_file_path(path, directory, index_name, err);
    if (code != 0 || model_file_exists(path))
        return code != 0 ? code : open_shards(checkpoint, directory, path, err);
    code = find_single_file(path, directory, err);
    return code != 0 ? code : open_single(checkpoint, path, err);
}

static int open_with(struct checkpoint **out,
                     int (*open)(struct checkpoint *, const char *, struct error *),
                     const char *path, struct error *err)
{
    *out = NULL;
    struct checkpoint *checkpoint = calloc(1, sizeof *checkpoint);
    if (checkpoint == NULL)
        return error_set(err, ERROR_MEMORY, "%s: no memory left to open it", path);
    arena_init(&checkpoint->names);
    int code = open(checkpoint, path, err);
    if (code != 0)
        checkpoint_close(checkpoint);
    else
        *out = checkpoint;
    return code;
}

int checkpoint_open(struct checkpoint **out, const char *directory, struct error *err)
{
    return open_with(out, open_directory, directory, err);
}

int checkpoint_open_file(struct checkpoint **out, const char *path, struct error *err)
{
    return open_with(out, open_single, path, err);
}

void checkpoint_close(struct checkpoint *checkpoint)
{
    if (checkpoint == NULL)
        return;
    for (size_t i = 0; i < checkpoint->file_count; i++)
        safetensors_file_close(&checkpoint->files[i]);
    free(checkpoint->files);
    free(checkpoint->tensors);
    free(checkpoint->by_name);
    arena_free(&checkpoint->names);
    free(checkpoint);
}

/* ---- reading --------------------------------------------------------------------------------- */

size_t checkpoint_tensor_count(const struct checkpoint *checkpoint)
{
    return checkpoint->tensor_count;
}

const struct tensor *checkpoint_tensor(const struct checkpoint *checkpoint, size_t index)
{
    return &checkpoint->tensors[index];
}

const struct tensor *checkpoint_find(const struct checkpoint *checkpoint, const char *name)
{
    const struct tensor key = {.name = name}, *pointer = &key;
    const struct tensor **found = bsearch(&pointer, checkpoint->by_name, checkpoint->tensor_count,
                                          sizeof *checkpoint->by_name, compare_names);
    return found == NULL ? NULL : *found;
}

int64_t tensor_elements(const struct tensor *tensor)
{
    int64_t elements = 1;
    for (int i = 0; i < tensor->dimensions; i++)
        elements *= tensor->shape[i];
    return elements;
}

const char *tensor_shape_text(const struct tensor *tensor, char *out, size_t size)
{
    size_t length = (size_t)snprintf(out, size, "[");
    for (int i = 0; i < tensor->dimensions && length < size; i++)
        length += (size_t)snprintf(out + length, size - length, "%s%lld", i > 0 ? ", " : "",
                                   (long long)tensor->shape[i]);
    if (length < size)
        snprintf(out + length, size - length, "]");
    return out;
}

void checkpoint_drop_pages(const struct checkpoint *checkpoint, const struct tensor *tensor)
{
    (void)checkpoint;
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    /* Neighbours on the first and last page only have to be read from the page cache once more. */
    uintptr_t begin = (uintptr_t)tensor->data & ~(page - 1);
    uintptr_t end = (uintptr_t)tensor->data + tensor->size;
    if (end > begin)
        madvise((void *)begin, end - begin, MADV_DONTNEED);
}

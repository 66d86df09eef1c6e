/*
 * Safetensors by mmap: one file (model.safetensors) or shards (model.safetensors.index.json).
 * Every offset, shape, dtype and overlap is checked before a tensor is handed out, so whoever reads
 * data cannot leave the file. Immutable after open; pages are dropped by checkpoint_drop_pages. A
 * file that is cut while it is mapped is out of reach of these checks.
 */
#ifndef SERVER_MODEL_SAFETENSORS_H
#define SERVER_MODEL_SAFETENSORS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/dtype.h"

struct error;

enum { TENSOR_DIMENSIONS_MAX = 8 };

struct tensor {
    const char *name;
    bool supported;     /* F32, BF16, F16 and I8 can be computed with; others are only listed */
    enum dtype dtype;   /* where supported */
    char dtype_name[8]; /* as in the file: "F32", "I64", ... */
    int dimensions;
    int64_t shape[TENSOR_DIMENSIONS_MAX];
    const void *data; /* in the mapping; not always aligned to the element size */
    size_t size;      /* bytes */
    const char *file; /* name of the file it lies in, for messages */
};

struct checkpoint; /* all tensors of a model directory */

/* ERROR_IO, ERROR_INVALID with file, tensor, expected and found. */
int checkpoint_open(struct checkpoint **out, const char *directory, struct error *err);
/* The same for one file, whatever its name. */
int checkpoint_open_file(struct checkpoint **out, const char *path, struct error *err);
void checkpoint_close(struct checkpoint *checkpoint); /* NULL is fine */

size_t checkpoint_tensor_count(const struct checkpoint *checkpoint);
/* In order of file and offset; one array, so an index is a difference of pointers. */
const struct tensor *checkpoint_tensor(const struct checkpoint *checkpoint, size_t index);
/* NULL where there is none of that name. */
const struct tensor *checkpoint_find(const struct checkpoint *checkpoint, const char *name);

/* Elements of a tensor: the product of its shape. */
int64_t tensor_elements(const struct tensor *tensor);
/* "[2, 3]" for messages; cut where it does not fit. */
const char *tensor_shape_text(const struct tensor *tensor, char *out, size_t size);

/* Tells the kernel that this tensor's pages are not needed again (they count in RSS until then). */
void checkpoint_drop_pages(const struct checkpoint *checkpoint, const struct tensor *tensor);

#endif

/*
 * One safetensors file: 8 bytes little-endian header length, a JSON header, then the data. Used by
 * safetensors.c alone, which puts files together to a checkpoint.
 */
#ifndef SERVER_MODEL_SAFETENSORS_FILE_H
#define SERVER_MODEL_SAFETENSORS_FILE_H

#include <stddef.h>
#include <stdint.h>

#include "server/model/safetensors.h"

struct arena;
struct error;

struct safetensors_file {
    const uint8_t *map;     /* [size], NULL where it is not mapped */
    size_t size;            /* bytes of the file */
    struct tensor *tensors; /* [tensor_count], by offset */
    size_t tensor_count;
};

/*
 * Maps the file and checks all of its header. Names are copied into the arena. On failure nothing
 * stays mapped. ERROR_IO, ERROR_MEMORY, ERROR_INVALID.
 */
int safetensors_file_open(struct safetensors_file *file, const char *path, struct arena *names,
                          struct error *err);
void safetensors_file_close(struct safetensors_file *file);

#endif

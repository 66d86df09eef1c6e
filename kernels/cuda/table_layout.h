/* Where the tables lie that are uploaded as one block: one behind the other. Pure function. */
#ifndef KERNELS_CUDA_TABLE_LAYOUT_H
#define KERNELS_CUDA_TABLE_LAYOUT_H

#include <stddef.h>

enum { TABLE_ALIGNMENT = 256 }; /* as that of device_memory_create */

/* Offset of the next `bytes` of a block of which *size bytes are taken. */
static inline size_t table_place(size_t *size, size_t bytes)
{
    size_t at = (*size + TABLE_ALIGNMENT - 1) / TABLE_ALIGNMENT * TABLE_ALIGNMENT;
    *size = at + bytes;
    return at;
}

#endif

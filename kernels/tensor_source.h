/* Reading and checking what the caller hands to a backend. Pure functions, any thread. */
#ifndef KERNELS_TENSOR_SOURCE_H
#define KERNELS_TENSOR_SOURCE_H

#include "kernels/backend.h"

/* out [count] = row `row` of the source from column `begin` on, as float32 (int8 times scale). */
void tensor_source_read(float *out, const struct tensor_source *source, int64_t row, int64_t begin,
                        int64_t count);

/* The source that holds row *row of sources packed one after the other; *row becomes its row there.
 */
const struct tensor_source *tensor_source_find(const struct tensor_source *sources, int64_t *row);

/*
 * Checks that the sources can be packed one after the other as a weight of weight_dtype and gives
 * the size of the whole. ERROR_INVALID names the source.
 */
int tensor_source_check(int64_t *rows, int64_t *columns, const struct tensor_source *sources,
                        int count, enum dtype weight_dtype, struct error *err);

/* ERROR_INVALID names the limit that is out of range. */
int backend_limits_check(const struct backend_limits *limits, enum dtype weight_dtype,
                         struct error *err);

#endif

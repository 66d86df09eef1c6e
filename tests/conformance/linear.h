/* Running a product. */
#ifndef TESTS_CONFORMANCE_LINEAR_H
#define TESTS_CONFORMANCE_LINEAR_H

#include "conformance.h"

/* [lines, source->rows] activations = in [lines, source->columns] times one source (+ bias, or
 * NULL), as malloc'ed bytes. */
void *run_linear(struct backend *backend, const struct tensor_source *source, const float *bias,
                 const void *in, int32_t lines);

#endif

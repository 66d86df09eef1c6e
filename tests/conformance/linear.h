/* Running a product, with quantised weights too. */
#ifndef TESTS_CONFORMANCE_LINEAR_H
#define TESTS_CONFORMANCE_LINEAR_H

#include "conformance.h"

/* [lines, source->rows] activations = in [lines, source->columns] times one source (+ bias, or
 * NULL), as malloc'ed bytes. */
void *run_linear(struct backend *backend, const struct tensor_source *source, const float *bias,
                 const void *in, int32_t lines);

/* The subject's backend, reserved for so many lines. */
struct backend *open_for_quantised(const struct subject *subject, int32_t lines);

/*
 * Of normally distributed numbers: how far a product is from that with plain weights, as a NMSE
 * between the two numbers. Below `least` nothing would have been quantised.
 */
void expect_quantised_near_plain(const struct subject *subject, double least, double most);

#endif

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

/*
 * A line [columns] whose scale is 1 times the unit matrix, of checkpoint bytes that are `one` on
 * the diagonal: what comes out is q. The same line times `tiny`, whose scale is too small, gives
 * zeros.
 */
enum { ROUNDED_MAX = 32 };
void expect_inputs_round(const struct subject *subject, const float *line, const float *rounded,
                         int32_t columns, uint8_t one, float tiny);

#endif

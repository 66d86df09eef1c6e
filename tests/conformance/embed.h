/* Looking at what a weight holds. */
#ifndef TESTS_CONFORMANCE_EMBED_H
#define TESTS_CONFORMANCE_EMBED_H

#include "conformance.h"

enum { EMBED_ROWS_MAX = 70 };

/* [rows, columns] float32 of these tokens, as malloc'ed bytes; at most EMBED_ROWS_MAX rows. */
float *run_embed(struct backend *backend, const struct weight *table, const int32_t *tokens,
                 int32_t rows, int32_t columns);

#endif

/*
 * A backend around another one that passes every operation on and takes its time: what share of a
 * forward pass each kernel has. For backends that compute before an operation returns, as those of
 * the CPU do. One thread, as every backend.
 */
#ifndef SERVER_COMMANDS_TIMED_BACKEND_H
#define SERVER_COMMANDS_TIMED_BACKEND_H

#include <stdint.h>

struct backend;
struct error;

enum timed_operation {
    TIMED_EMBED,
    TIMED_ADD_RMSNORM,
    TIMED_LINEAR,
    TIMED_ROPE_STORE,
    TIMED_ATTENTION,
    TIMED_SWIGLU,
    TIMED_GATHER,
    TIMED_HEAD,
    TIMED_OPERATIONS,
};

extern const char *const TIMED_OPERATION_NAMES[TIMED_OPERATIONS]; /* those of backend_ops */

enum { TIMED_SHAPES_MAX = 8 };

/* All weights of one size. */
struct timed_shape {
    int64_t rows, columns;
    int64_t ns; /* of linear */
};

/* Sums since the start or the last reset. */
struct timed_figures {
    int64_t ns[TIMED_OPERATIONS];
    double product_flops; /* of linear and head: 2 x lines x rows x columns of the weight */
    struct timed_shape shapes[TIMED_SHAPES_MAX]; /* [shape_count], in the order of creation */
    int shape_count;                             /* weights of more sizes count as linear alone */
};

/* Owns `inner`, on failure too: it is destroyed with the wrapper. */
int timed_backend_create(struct backend **out, struct backend *inner, struct error *err);

/* Of a backend made here. */
const struct timed_figures *timed_backend_figures(const struct backend *backend);
void timed_backend_reset(struct backend *backend);

#endif

/* The walk over the weights of a model, and where it takes them from. Of weights*.c alone. */
#ifndef SERVER_MODEL_WEIGHTS_INTERNAL_H
#define SERVER_MODEL_WEIGHTS_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "server/model/load_progress.h"
#include "server/model/weights.h"

struct checkpoint;
struct error;
struct layer_weights;
struct loader;
struct weight;

enum { PARTS_MAX = 3 };

/* One matrix of a checkpoint; several become one weight. */
struct part {
    const char *name;
    int64_t rows;
};

/* What the walk asks for, and counts in loader.parameters. On failure nothing is made. */
struct weight_source {
    /* A vector [count]; its tensor is called prefix and name. */
    int (*norm)(struct loader *loader, float **out, const char *prefix, const char *name,
                int64_t count);
    /* One weight from the rows of several matrices, one after the other; at most PARTS_MAX. */
    int (*weight)(struct loader *loader, struct weight **out, const char *prefix,
                  const struct part *parts, int count, int64_t columns, bool bias);
};

/* One walk over the tensors a config asks for: to check them, or to pack them. */
struct loader {
    const struct weight_source *source;
    const struct model_config *config;
    struct backend *backend; /* NULL: check only */
    size_t parameters;
    struct error *err;

    /* Of a checkpoint. */
    const struct checkpoint *checkpoint;
    bool *used;                    /* [tensors of the checkpoint] */
    struct load_progress progress; /* where a backend is given */

    uint64_t seed; /* of the next random matrix */
};

/* layers: where the layers' weights go, or NULL in a walk that only checks. */
int weights_walk(struct loader *loader, struct model_weights *weights,
                 struct layer_weights *layers);

/* A vector of the device with these numbers. */
int weights_create_vector(struct loader *loader, float **out, const float *values, int64_t count);

#endif

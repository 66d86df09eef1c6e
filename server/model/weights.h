/*
 * The weights of a checkpoint: which tensors a config asks for, and packing them onto a backend.
 * Used by model.c alone.
 */
#ifndef SERVER_MODEL_WEIGHTS_H
#define SERVER_MODEL_WEIGHTS_H

#include <stddef.h>

struct backend;
struct checkpoint;
struct error;
struct model_config;
struct model_weights;

/*
 * Checks every tensor first, then packs them one weight at a time and drops their pages. On failure
 * nothing is kept. The weights belong to the caller, who frees them with weights_free.
 */
int weights_load(struct model_weights *weights, size_t *parameters,
                 const struct model_config *config, const struct checkpoint *checkpoint,
                 struct backend *backend, struct error *err);
void weights_free(struct model_weights *weights, const struct model_config *config,
                  struct backend *backend);

#endif

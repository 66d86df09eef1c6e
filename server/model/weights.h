/*
 * The weights of a checkpoint: which tensors a config asks for, and packing them onto a backend.
 * For benchmarks also weights of random numbers, which need no checkpoint.
 * Used by model.c alone.
 */
#ifndef SERVER_MODEL_WEIGHTS_H
#define SERVER_MODEL_WEIGHTS_H

#include <stddef.h>
#include <stdint.h>

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
/*
 * The same weights with random numbers instead of a checkpoint's: matrices and biases evenly spread
 * with standard deviation 0.02, norms 1. The same seed gives the same numbers on every backend.
 */
int weights_randomise(struct model_weights *weights, size_t *parameters,
                      const struct model_config *config, uint64_t seed, struct backend *backend,
                      struct error *err);
void weights_free(struct model_weights *weights, const struct model_config *config,
                  struct backend *backend);

#endif

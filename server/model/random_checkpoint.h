/*
 * A LLaDA checkpoint of random weights, for benchmarks and tests that need a size rather than a
 * text. The same shape and seed give the same bytes (with the same C library). Any thread.
 */
#ifndef SERVER_MODEL_RANDOM_CHECKPOINT_H
#define SERVER_MODEL_RANDOM_CHECKPOINT_H

#include <stdint.h>

#include "server/model/config.h"

struct error;

/*
 * Writes DIRECTORY/config.json and DIRECTORY/model.safetensors (bfloat16; matrices and biases
 * normal with standard deviation 0.02, norms 1) and makes the directory where it is missing. Of the
 * shape count layers, width, heads, kv_heads, ffn_width, vocabulary, embedding_rows, max_positions,
 * rope_theta, norm_epsilon, the biases, tied_head and the tokens; head_dim is width / heads.
 * Memory use does not grow with the shape. ERROR_IO leaves what was written so far.
 */
int random_checkpoint_write(const char *directory, const struct model_config *shape, uint64_t seed,
                            struct error *err);

#endif

/*
 * What the golden tests share: models of the fixtures on a backend, and tensors of the files beside
 * them. Everything here fails the running Criterion test instead of returning an error.
 */
#ifndef TESTS_GOLDEN_GOLDEN_H
#define TESTS_GOLDEN_GOLDEN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/dtype.h"

struct checkpoint;
struct model;

/* What a model computes in. */
struct golden_dtypes {
    enum dtype activations, weights;
};
static const struct golden_dtypes GOLDEN_FLOAT32 = {DTYPE_FLOAT32, DTYPE_FLOAT32};
static const struct golden_dtypes GOLDEN_BFLOAT16 = {DTYPE_BFLOAT16, DTYPE_BFLOAT16};
static const struct golden_dtypes GOLDEN_INT8 = {DTYPE_FLOAT32, DTYPE_INT8};
/* What dtype auto makes of an int8 checkpoint where bfloat16 is fast: of models/tiny, too. */
static const struct golden_dtypes GOLDEN_INT8_BFLOAT16 = {DTYPE_BFLOAT16, DTYPE_INT8};
static const struct golden_dtypes GOLDEN_FP8 = {DTYPE_FLOAT32, DTYPE_FP8};
static const struct golden_dtypes GOLDEN_FP8_BFLOAT16 = {DTYPE_BFLOAT16, DTYPE_FP8};

/*
 * Loads a checkpoint of build/fixtures/llada ("plain", "grouped", "tied", "int8"; "tiny" is
 * the trained model of models/tiny) onto a new backend of this name. Not reserved yet; the caller
 * frees it with model_free, and the backend with it.
 */
struct model *golden_load_model(const char *fixture, const char *backend,
                                struct golden_dtypes dtypes);

/*
 * The device of the tests on a device: DENOISED_DEVICE. Skips the test where none is named, it is
 * not there or does not compute in these formats; so before anything else in it.
 */
const char *golden_device(struct golden_dtypes dtypes);

/* Checkpoints whose weights an int8 backend keeps as they are; it rounds those of the others. */
bool golden_is_int8(const char *fixture);

/*
 * Most NMSE (mean square of errors / mean square of expected numbers) of hidden states and logits
 * beside those of the published code; of formats other than float32 alone.
 */
double golden_limit(const char *fixture, struct golden_dtypes dtypes);
void golden_expect_nmse(const float *found, const float *expected, size_t count, double limit,
                        const char *what);

/* Path of a file of a fixture, e.g. ("plain", "traces.json"); valid until the next call. */
const char *golden_path(const char *fixture, const char *file);

/* The fixture's logits.safetensors; the caller closes it. */
struct checkpoint *golden_open_logits(const char *fixture);

/* The tensor NAME_index of such a file with its shape checked: int32 [rows], float [rows, columns].
 */
const int32_t *golden_ids(const struct checkpoint *file, const char *name, int index,
                          int32_t *rows);
const float *golden_matrix(const struct checkpoint *file, const char *name, int index,
                           int32_t *rows, int32_t *columns);

#endif

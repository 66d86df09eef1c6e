/*
 * Conformance of the backends: every operation on every instruction set and dtype against the ref
 * backend, which is a subject too: for the tests whose right answers do not come from it. A subject
 * that this machine lacks is reported as skipped. DENOISED_CONFORMANCE=NAME (an instruction set)
 * leaves out the other ones.
 */
#ifndef TESTS_CONFORMANCE_CONFORMANCE_H
#define TESTS_CONFORMANCE_CONFORMANCE_H

#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include "kernels/backend.h"

/* What a test is run on. */
struct subject {
    char backend[16];
    char instructions[16];
    enum dtype dtype;
};

/* A test that runs once for every subject as `subject`. */
#define SUBJECT_TEST(suite, test)                                                                  \
    static void suite##_##test(const struct subject *subject);                                     \
    ParameterizedTestParameters(suite, test)                                                       \
    {                                                                                              \
        return subject_parameters();                                                               \
    }                                                                                              \
    ParameterizedTest(struct subject *subject, suite, test)                                        \
    {                                                                                              \
        suite##_##test(subject);                                                                   \
    }                                                                                              \
    static void suite##_##test(const struct subject *subject)

struct criterion_test_params subject_parameters(void);

/* The subject's backend; skips the test where this machine lacks it. */
struct backend *subject_open(const struct subject *subject, int threads);
struct backend *reference_open(enum dtype dtype);
/* The largest head_dim that the subject has kernels for. */
int32_t subject_head_dim_max(const struct subject *subject);

/* Limits for tests that need no KV cache to speak of. */
struct backend_limits plain_limits(int32_t rows, int32_t vocabulary);
void reserve(struct backend *backend, const struct backend_limits *limits);

/* Deterministic numbers. */
struct random {
    uint64_t state;
};
uint32_t random_below(struct random *random, uint32_t limit);
float random_float(struct random *random); /* [-1, 1) */

/* [count] random activations of the dtype, as malloc'ed bytes. */
void *random_activations(struct random *random, size_t count, enum dtype dtype);
float activation_at(const void *activations, size_t index, enum dtype dtype);

/* Device memory between two guard zones that no operation may touch. */
struct guarded {
    struct backend *backend;
    char *block;
    void *data;
    size_t size;
};
struct guarded guarded_create(struct backend *backend, const void *source, size_t size);
/* Checks the guards, frees, and returns the content as malloc'ed bytes. */
void *guarded_take(struct guarded *guarded);

struct weight *make_weight(struct backend *backend, const float *values, int64_t rows,
                           int64_t columns, const float *bias);

/*
 * Normalised mean squared error of activations below the limit of the dtype, times `slack`; NaN and
 * infinities must agree.
 */
void expect_near(const void *actual, const void *expected, size_t count, enum dtype dtype,
                 double slack, const char *what);
void expect_same_bits(const void *actual, const void *expected, size_t size, const char *what);

#endif

/*
 * Conformance of the backends: every operation on every instruction set, dtype and kind of weights
 * against the ref backend, which is a subject too: for the tests whose right answers do not come
 * from it. A subject that this machine lacks is reported as skipped. DENOISED_CONFORMANCE=WORDS
 * leaves those that have all of the words, which are joined by colons: a backend, an instruction
 * set, the dtype of activations, that of quantised weights. cpu:avx2:bfloat16:int8 is one subject,
 * int8 all with int8 weights. The set "deterministic" is the option of that name: such a subject
 * has to be batch invariant.
 *
 * A backend joins with a line in each of the two tables of conformance.c. An operation joins with a
 * line in operations.c, a function in counted_backend.c, and cases: at its end the suite names what
 * was never called or whose results were never looked at, and fails.
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
    enum dtype dtype, weight_dtype; /* weights that differ from the activations are quantised */
};

/* Which subjects a test runs on. */
enum tested_weights {
    WEIGHTS_PLAIN, /* not quantised: what is tested does not depend on weights */
    WEIGHTS_ANY,
    WEIGHTS_QUANTISED, /* int8 and fp8 */
    WEIGHTS_INT8,
    WEIGHTS_FP8,
};

/* A test that runs once as `subject` for every subject: */
#define SUBJECT_TEST(suite, test)     SUBJECT_TEST_OF(WEIGHTS_PLAIN, suite, test)
#define ANY_WEIGHTS_TEST(suite, test) SUBJECT_TEST_OF(WEIGHTS_ANY, suite, test)
#define QUANTISED_TEST(suite, test)   SUBJECT_TEST_OF(WEIGHTS_QUANTISED, suite, test)
#define INT8_TEST(suite, test)        SUBJECT_TEST_OF(WEIGHTS_INT8, suite, test)
#define FP8_TEST(suite, test)         SUBJECT_TEST_OF(WEIGHTS_FP8, suite, test)
#define SUBJECT_TEST_OF(weights, suite, test)                                                      \
    static void suite##_##test(const struct subject *subject);                                     \
    ParameterizedTestParameters(suite, test)                                                       \
    {                                                                                              \
        return subject_parameters(weights);                                                        \
    }                                                                                              \
    ParameterizedTest(struct subject *subject, suite, test)                                        \
    {                                                                                              \
        suite##_##test(subject);                                                                   \
    }                                                                                              \
    static void suite##_##test(const struct subject *subject)

/* Those of DENOISED_CONFORMANCE with such weights. */
struct criterion_test_params subject_parameters(enum tested_weights weights);
/* Prints what that variable may be. */
void subject_print_names(void);

/* The subject's backend; skips the test where this machine lacks it. */
struct backend *subject_open(const struct subject *subject, int threads);
/* ref, with the subject's dtypes. */
struct backend *reference_open(const struct subject *subject);
bool subject_is_quantised(const struct subject *subject);
/* The same without quantised weights. */
struct subject subject_with_plain_weights(const struct subject *subject);
/* As messages have it: "cpu avx2 bfloat16, int8 weights". */
const char *subject_name(const struct subject *subject);
/* By the machine itself, not by what the backend says of it. */
bool subject_is_present(const struct subject *subject);
/* The largest head_dim that it has kernels for. */
int32_t subject_head_dim_max(const struct subject *subject);
/* Head rows of a large vocabulary, `most` or as few as are enough for ref and an emulation. */
int32_t subject_wide_rows(const struct subject *subject, int32_t most);

/* The members of struct backend_ops in their order. */
enum operation {
    OPERATION_DESCRIPTION,
    OPERATION_DESTROY,
    OPERATION_RESERVE,
    OPERATION_MEMORY_CREATE,
    OPERATION_MEMORY_DESTROY,
    OPERATION_MEMORY_WRITE,
    OPERATION_MEMORY_READ,
    OPERATION_WEIGHT_CREATE,
    OPERATION_WEIGHT_DESTROY,
    OPERATION_STEP_BEGIN,
    OPERATION_EMBED,
    OPERATION_ADD_RMSNORM,
    OPERATION_LINEAR,
    OPERATION_ROPE_STORE,
    OPERATION_ATTENTION,
    OPERATION_SWIGLU,
    OPERATION_GATHER,
    OPERATION_HEAD,
    OPERATION_STEP_END,
    OPERATION_MEMORY_USED,
    OPERATION_COUNT
};

/* How far a result may be from that of ref: NMSE, or of each number for the head. 0: same bits. */
double operation_limit(enum operation operation, enum dtype dtype, enum dtype weight_dtype);

/*
 * The record of the run, shared by the processes of its tests: which operations a subject was
 * called for, and which had their results checked.
 */
void record_create(void);
void record_subject(int index);
void record_called(enum operation operation);
void record_checked(enum operation operation);
/* Prints the operations without cases; true where there are none. */
bool record_report(void);

/* For the record: the subjects by number, NULL behind the last one. */
const struct subject *subject_at(int index);
/*
 * The number of the subject with plain weights that runs the same code wherever weights do not
 * matter; -1 where there is none.
 */
int subject_plain_index(const struct subject *subject);
/* It has all words of DENOISED_CONFORMANCE; else no test is run on it. */
bool subject_is_asked_for(const struct subject *subject);

/*
 * Stands in front of `real` and owns it: counts the calls, and checks that operations come inside
 * of a step and that a step takes no memory.
 */
struct backend *counted_backend_create(struct backend *real);

/* Limits for tests that need no KV cache to speak of. */
struct backend_limits plain_limits(int32_t rows, int32_t vocabulary);
void reserve(struct backend *backend, const struct backend_limits *limits);
/* Tests issue what they want to see run: a step that replays a recording fails. */
void begin_step(struct backend *backend, const struct step_rows *rows);
void end_step(struct backend *backend);

/* Deterministic numbers. */
struct random {
    uint64_t state;
};
uint32_t random_below(struct random *random, uint32_t limit);
float random_float(struct random *random); /* [-1, 1) */

/* [count] random activations of the dtype, as malloc'ed bytes. */
void *random_activations(struct random *random, size_t count, enum dtype dtype);
float activation_at(const void *activations, size_t index, enum dtype dtype);
void set_activation(void *activations, size_t index, float value, enum dtype dtype);

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
/* The same for an input, whose content must still be `source`. */
void guarded_drop(struct guarded *guarded, const void *source);

struct weight *make_weight(struct backend *backend, const float *values, int64_t rows,
                           int64_t columns, const float *bias);

/*
 * Normalised mean squared error of activations below the limit of the dtype, times `slack`; NaN and
 * infinities must agree.
 */
void expect_near(const void *actual, const void *expected, size_t count, enum dtype dtype,
                 double slack, const char *what);
void expect_same_bits(const void *actual, const void *expected, size_t size, const char *what);

/* The result of an operation [count] against that of ref, within the operation's limit. */
void expect_result(enum operation operation, const void *actual, const void *expected, size_t count,
                   enum dtype dtype, const char *what);
/*
 * The result for the same inputs in another batch, with other threads or pages: the same bits where
 * the backend states batch invariance, else within the operation's limit.
 */
void expect_invariant(enum operation operation, const void *actual, const void *expected,
                      size_t count, enum dtype dtype, const char *what);
/* Of the subject that was opened. */
bool subject_is_batch_invariant(void);
double subject_limit(enum operation operation, enum dtype dtype);

/* Thread counts whose results must equal those of one thread. */
enum { THREAD_COUNTS = 3 };
extern const int THREADS[THREAD_COUNTS];

#endif

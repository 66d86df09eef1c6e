/*
 * Conformance of the backends: every operation on every instruction set and dtype against the ref
 * backend, which is a subject too: for the tests whose right answers do not come from it. A subject
 * that this machine lacks is reported as skipped. DENOISED_CONFORMANCE=NAME or NAME:INSTRUCTIONS
 * leaves out the other ones; NAME is that of a backend or of an instruction set.
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

/* Those that DENOISED_CONFORMANCE leaves. */
struct criterion_test_params subject_parameters(void);
/* Prints what that variable may be. */
void subject_print_names(void);

/* The subject's backend; skips the test where this machine lacks it. */
struct backend *subject_open(const struct subject *subject, int threads);
struct backend *reference_open(enum dtype dtype);
/* The largest head_dim that the subject has kernels for. */
int32_t subject_head_dim_max(const struct subject *subject);
/* By the machine itself, not by what the backend says of it. */
bool subject_is_present(const struct subject *subject);

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
double operation_limit(enum operation operation, enum dtype dtype);

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

/* The operations, how exact they must be, and which of them a run has tried. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
#include "conformance.h"

/*
 * Names and limits for float32 and bfloat16, as docs/KERNELS.md has them. NMSE between two
 * roundings to bfloat16 of nearly the same number is 1e-6 or less; rotation and softmax, whose
 * factors come from cosines and exponentials, are allowed some more. A float32 sum of K products
 * in one go comes to 1e-15 K, and the longest case has K = 1031. 0: bit for bit. The head's are
 * for each number x, in units of max(1, |x|).
 *
 * An operation that does not depend on weights needs no cases of its own where they are quantised:
 * those of the same subject with plain weights count.
 */
enum depends { ON_WEIGHTS, ON_ACTIVATIONS };
static const struct {
    const char *name;
    double limit[2];
    enum depends depends;
} OPERATIONS[] = {
    [OPERATION_DESCRIPTION] = {"description", {0, 0}, ON_WEIGHTS},
    [OPERATION_DESTROY] = {"destroy", {0, 0}, ON_WEIGHTS},
    [OPERATION_RESERVE] = {"reserve", {0, 0}, ON_WEIGHTS},
    [OPERATION_MEMORY_CREATE] = {"memory_create", {0, 0}, ON_ACTIVATIONS},
    [OPERATION_MEMORY_DESTROY] = {"memory_destroy", {0, 0}, ON_ACTIVATIONS},
    [OPERATION_MEMORY_WRITE] = {"memory_write", {0, 0}, ON_ACTIVATIONS},
    [OPERATION_MEMORY_READ] = {"memory_read", {0, 0}, ON_ACTIVATIONS},
    [OPERATION_WEIGHT_CREATE] = {"weight_create", {0, 0}, ON_WEIGHTS},
    [OPERATION_WEIGHT_DESTROY] = {"weight_destroy", {0, 0}, ON_WEIGHTS},
    [OPERATION_STEP_BEGIN] = {"step_begin", {0, 0}, ON_ACTIVATIONS},
    [OPERATION_EMBED] = {"embed", {0, 0}, ON_WEIGHTS},
    [OPERATION_ADD_RMSNORM] = {"add_rmsnorm", {1e-12, 1e-6}, ON_ACTIVATIONS},
    [OPERATION_LINEAR] = {"linear", {4e-12, 1e-6}, ON_WEIGHTS},
    [OPERATION_ROPE_STORE] = {"rope_store", {1e-11, 1e-5}, ON_ACTIVATIONS},
    [OPERATION_ATTENTION] = {"attention", {2e-11, 2e-5}, ON_ACTIVATIONS},
    [OPERATION_SWIGLU] = {"swiglu", {1e-12, 1e-6}, ON_ACTIVATIONS},
    [OPERATION_GATHER] = {"gather", {0, 0}, ON_ACTIVATIONS},
    [OPERATION_HEAD] = {"head", {1e-5, 1e-5}, ON_WEIGHTS},
    [OPERATION_STEP_END] = {"step_end", {0, 0}, ON_ACTIVATIONS},
    [OPERATION_MEMORY_USED] = {"memory_used", {0, 0}, ON_WEIGHTS},
};
_Static_assert(sizeof OPERATIONS / sizeof OPERATIONS[0] == OPERATION_COUNT,
               "an operation has no line here");
/* The first member is the name; all others are functions. */
_Static_assert((1 + (size_t)OPERATION_COUNT) * sizeof(void *) == sizeof(struct backend_ops),
               "struct backend_ops has an operation that enum operation lacks: it needs cases");

enum { SUBJECTS_MAX = 64 };

struct record {
    char opened[SUBJECTS_MAX];
    char called[SUBJECTS_MAX][OPERATION_COUNT];
    char checked[SUBJECTS_MAX][OPERATION_COUNT];
};
static const char RECORD_PATH[] = "CONFORMANCE_RECORD"; /* the environment variable */
static struct record *the_record;
static int subject_index;

double operation_limit(enum operation operation, enum dtype dtype, enum dtype weight_dtype)
{
    /* What rounds is defined, and the sums are exact: kernels/quantise.h. */
    if (operation == OPERATION_LINEAR && weight_dtype == DTYPE_INT8)
        return 0;
    return OPERATIONS[operation].limit[dtype == DTYPE_BFLOAT16];
}

static struct record *record_map(const char *path)
{
    static struct record unshared; /* of a test that runs without the suite's main */
    int file = path != NULL ? open(path, O_RDWR) : -1;
    if (file < 0)
        return &unshared;
    void *shared = mmap(NULL, sizeof unshared, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    return shared == MAP_FAILED ? &unshared : shared;
}

static struct record *record(void)
{
    if (the_record == NULL)
        the_record = record_map(getenv(RECORD_PATH));
    return the_record;
}

static void remove_record(void)
{
    unlink(getenv(RECORD_PATH));
}

/* A file, because Criterion starts a fresh program for every test: only names are inherited. */
void record_create(void)
{
    char path[] = "/tmp/conformance-XXXXXX";
    int file = mkstemp(path);
    if (file < 0 || ftruncate(file, sizeof(struct record)) != 0) {
        perror("conformance: a record in /tmp");
        exit(1);
    }
    close(file);
    setenv(RECORD_PATH, path, 1);
    atexit(remove_record);
    record();
}

void record_subject(int index)
{
    subject_index = index;
    record()->opened[index] = 1;
}

void record_called(enum operation operation)
{
    record()->called[subject_index][operation] = 1;
}

void record_checked(enum operation operation)
{
    record()->checked[subject_index][operation] = 1;
}

/* The number of the subject whose cases of the operation count for this one; -1: of none. */
static int source_of_cases(int index, enum operation operation)
{
    const struct subject *subject = subject_at(index);
    if (!subject_is_quantised(subject) || OPERATIONS[operation].depends == ON_WEIGHTS)
        return index;
    return subject_plain_index(subject);
}

/* True where the operation has cases, or has them on a subject that was not asked for. */
static bool has_cases(int index, enum operation operation)
{
    int source = source_of_cases(index, operation);
    if (source < 0)
        return false;
    if (source != index && !record()->opened[source])
        return !subject_is_asked_for(subject_at(source));
    return record()->called[source][operation] && record()->checked[source][operation];
}

/* Prints what the subject lacks and returns how many operations that are. */
static int report_subject(int index)
{
    int missing = 0;
    for (int operation = 0; operation < OPERATION_COUNT; operation++) {
        if (has_cases(index, operation))
            continue;
        missing++;
        printf("not ok - %s: no case for %s, %s\n", subject_name(subject_at(index)),
               OPERATIONS[operation].name,
               record()->called[index][operation]
                   ? "which is called, but its results are never checked"
                   : "which is never called");
    }
    return missing;
}

/* TAP: an operation without a case is a failure of its own. */
bool record_report(void)
{
    const struct subject *subject;
    int missing = 0;
    for (int i = 0; (subject = subject_at(i)) != NULL; i++) {
        if (record()->opened[i])
            missing += report_subject(i);
        else
            printf("# not run: %s: %s\n", subject_name(subject),
                   subject_is_asked_for(subject) ? "this machine lacks it" : "not asked for");
    }
    printf("# operations without cases: %s\n", missing == 0 ? "none" : "those named above");
    return missing == 0;
}

#include "conformance.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "common/error.h"

const int THREADS[THREAD_COUNTS] = {2, 3, 5};

static const struct subject SUBJECTS[] = {
#ifdef CONFORMANCE_SIMT
    {"simt", "ascending", DTYPE_BFLOAT16, DTYPE_BFLOAT16},
    {"simt", "descending", DTYPE_BFLOAT16, DTYPE_BFLOAT16},
    {"simt", "seeded", DTYPE_BFLOAT16, DTYPE_BFLOAT16},
    {"simt", "ascending", DTYPE_BFLOAT16, DTYPE_INT8},
    {"simt", "descending", DTYPE_BFLOAT16, DTYPE_INT8},
    {"simt", "seeded", DTYPE_BFLOAT16, DTYPE_INT8},
    {"simt", "ascending", DTYPE_BFLOAT16, DTYPE_FP8},
    {"simt", "descending", DTYPE_BFLOAT16, DTYPE_FP8},
    {"simt", "seeded", DTYPE_BFLOAT16, DTYPE_FP8},
#else
    {"cpu", "scalar", DTYPE_FLOAT32, DTYPE_FLOAT32},
    {"cpu", "scalar", DTYPE_FLOAT32, DTYPE_INT8},
    {"cpu", "scalar", DTYPE_BFLOAT16, DTYPE_BFLOAT16},
    {"cpu", "scalar", DTYPE_BFLOAT16, DTYPE_INT8},
    {"cpu", "avx2", DTYPE_FLOAT32, DTYPE_FLOAT32},
    {"cpu", "avx2", DTYPE_FLOAT32, DTYPE_INT8},
    {"cpu", "avx2", DTYPE_BFLOAT16, DTYPE_BFLOAT16},
    {"cpu", "avx2", DTYPE_BFLOAT16, DTYPE_INT8},
    {"cpu", "avx512", DTYPE_FLOAT32, DTYPE_FLOAT32},
    {"cpu", "avx512", DTYPE_FLOAT32, DTYPE_INT8},
    {"cpu", "avx512", DTYPE_BFLOAT16, DTYPE_BFLOAT16},
    {"cpu", "avx512", DTYPE_BFLOAT16, DTYPE_INT8},
    {"cpu", "avx512vnni", DTYPE_FLOAT32, DTYPE_INT8},
    {"cpu", "avx512vnni", DTYPE_BFLOAT16, DTYPE_INT8},
    {"cpu", "avx512bf16", DTYPE_FLOAT32, DTYPE_FLOAT32},
    {"cpu", "avx512bf16", DTYPE_FLOAT32, DTYPE_INT8},
    {"cpu", "avx512bf16", DTYPE_BFLOAT16, DTYPE_BFLOAT16},
    {"cpu", "avx512bf16", DTYPE_BFLOAT16, DTYPE_INT8},
    {"ref", "", DTYPE_FLOAT32, DTYPE_FLOAT32},
    {"ref", "", DTYPE_FLOAT32, DTYPE_INT8},
    {"ref", "", DTYPE_BFLOAT16, DTYPE_BFLOAT16},
    {"ref", "", DTYPE_BFLOAT16, DTYPE_INT8},
    {"ref", "", DTYPE_FLOAT32, DTYPE_FP8},
    {"ref", "", DTYPE_BFLOAT16, DTYPE_FP8},
    {"cuda", "", DTYPE_BFLOAT16, DTYPE_BFLOAT16},
    {"cuda", "", DTYPE_BFLOAT16, DTYPE_INT8},
    {"cuda", "", DTYPE_BFLOAT16, DTYPE_FP8},
    {"cuda", "library", DTYPE_BFLOAT16, DTYPE_BFLOAT16},
    {"cuda", "own", DTYPE_BFLOAT16, DTYPE_BFLOAT16},
    {"cuda", "own", DTYPE_BFLOAT16, DTYPE_INT8},
    {"cuda", "own", DTYPE_BFLOAT16, DTYPE_FP8},
    {"cuda", "deterministic", DTYPE_BFLOAT16, DTYPE_BFLOAT16},
    {"cuda", "deterministic", DTYPE_BFLOAT16, DTYPE_INT8},
    {"cuda", "deterministic", DTYPE_BFLOAT16, DTYPE_FP8},
#endif
};
enum { SUBJECT_COUNT = sizeof SUBJECTS / sizeof SUBJECTS[0] };

static bool cpu_has(const char *instructions)
{
    if (strcmp(instructions, "avx2") == 0)
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (strcmp(instructions, "avx512") == 0)
        return wide;
    bool vnni = wide && __builtin_cpu_supports("avx512vnni");
    if (strcmp(instructions, "avx512vnni") == 0)
        return vnni;
    if (strcmp(instructions, "avx512bf16") == 0)
        return vnni && __builtin_cpu_supports("avx512bf16");
    return true;
}

/* What is demanded of a backend. */
static const struct tested_backend {
    const char *name;
    /* NULL: a device, which is there unless making the backend fails with ERROR_NO_DEVICE. */
    bool (*has)(const char *instructions);
    bool batch_invariant; /* it states that a row's bits depend on that row alone */
    int32_t wide_rows;    /* of a large vocabulary that take a few seconds; 0: any number */
    int32_t head_dim_max; /* that it has kernels for */
    double fp8_slack; /* times the limits of operations.c, of what is summed up of fp8 products */
} BACKENDS[] = {
    {.name = "cpu", .has = cpu_has, .batch_invariant = true, .head_dim_max = 256, .fp8_slack = 1},
    {.name = "ref",
     .has = cpu_has,
     .batch_invariant = true,
     .wide_rows = 2,
     .head_dim_max = 256,
     .fp8_slack = 1},
    /*
     * cuBLASLt has an algorithm for each bucket of lines, and so an order of sums. Sums of fp8 keep
     * some 14 bits until they are promoted to float32: 6e-5 of the largest of them.
     */
    {.name = "cuda", .head_dim_max = 128, .fp8_slack = 30},
    /* kernels/cuda on the emulation of tests/simt */
    {.name = "simt",
     .has = cpu_has,
     .batch_invariant = true,
     .wide_rows = 8,
     .head_dim_max = 128,
     .fp8_slack = 1},
};

static const struct tested_backend *tested_backend(const char *name)
{
    for (size_t i = 0; i < sizeof BACKENDS / sizeof BACKENDS[0]; i++) {
        if (strcmp(BACKENDS[i].name, name) == 0)
            return &BACKENDS[i];
    }
    cr_assert_fail("backend %s has no line in BACKENDS", name);
    return NULL;
}

/* What this process tests. */
static const struct tested_backend *opened = &BACKENDS[0];
static enum dtype opened_weights;
static bool opened_deterministic;

bool subject_is_quantised(const struct subject *subject)
{
    return subject->weight_dtype != subject->dtype;
}

const char *subject_name(const struct subject *subject)
{
    static char name[80];
    snprintf(name, sizeof name, "%s %s%s%s%s%s%s", subject->backend, subject->instructions,
             *subject->instructions ? " " : "", dtype_name(subject->dtype),
             subject_is_quantised(subject) ? ", " : "",
             subject_is_quantised(subject) ? dtype_name(subject->weight_dtype) : "",
             subject_is_quantised(subject) ? " weights" : "");
    return name;
}

static bool has_word(const struct subject *subject, const char *word)
{
    return strcmp(word, subject->backend) == 0 || strcmp(word, subject->instructions) == 0 ||
           strcmp(word, dtype_name(subject->dtype)) == 0 ||
           strcmp(word, dtype_name(subject->weight_dtype)) == 0;
}

bool subject_is_asked_for(const struct subject *subject)
{
    const char *only = getenv("DENOISED_CONFORMANCE");
    char words[80], *rest = NULL;
    if (only == NULL)
        return true;
    snprintf(words, sizeof words, "%s", only);
    for (const char *word = strtok_r(words, ":", &rest); word; word = strtok_r(NULL, ":", &rest)) {
        if (!has_word(subject, word))
            return false;
    }
    return true;
}

static bool has_weights(const struct subject *subject, enum tested_weights weights)
{
    switch (weights) {
    case WEIGHTS_PLAIN:
        return !subject_is_quantised(subject);
    case WEIGHTS_ANY:
        return true;
    case WEIGHTS_QUANTISED:
        return subject_is_quantised(subject);
    case WEIGHTS_INT8:
        return subject->weight_dtype == DTYPE_INT8;
    case WEIGHTS_FP8:
        return subject->weight_dtype == DTYPE_FP8;
    }
    return false;
}

struct criterion_test_params subject_parameters(enum tested_weights weights)
{
    static struct subject asked[WEIGHTS_FP8 + 1][SUBJECT_COUNT]; /* Criterion keeps them */
    size_t count = 0;
    for (int i = 0; i < SUBJECT_COUNT; i++) {
        if (subject_is_asked_for(&SUBJECTS[i]) && has_weights(&SUBJECTS[i], weights))
            asked[weights][count++] = SUBJECTS[i];
    }
    return cr_make_param_array(struct subject, asked[weights], count);
}

void subject_print_names(void)
{
    fprintf(
        stderr,
        "DENOISED_CONFORMANCE=%s: no such subject; join words of one of these lines by colons\n",
        getenv("DENOISED_CONFORMANCE"));
    for (int i = 0; i < SUBJECT_COUNT; i++) {
        const struct subject *subject = &SUBJECTS[i];
        fprintf(stderr, "    %s %s %s%s%s\n", subject->backend, subject->instructions,
                dtype_name(subject->dtype), subject_is_quantised(subject) ? " " : "",
                subject_is_quantised(subject) ? dtype_name(subject->weight_dtype) : "");
    }
}

struct subject subject_with_plain_weights(const struct subject *subject)
{
    struct subject plain = *subject;
    plain.weight_dtype = plain.dtype;
    return plain;
}

static int index_of(const struct subject *subject)
{
    for (int i = 0; i < SUBJECT_COUNT; i++) {
        if (memcmp(subject, &SUBJECTS[i], sizeof *subject) == 0)
            return i;
    }
    return -1;
}

int subject_plain_index(const struct subject *subject)
{
    struct subject plain = subject_with_plain_weights(subject);
    int index = index_of(&plain);
    /* They differ in products of int8 alone: tests/unit/kernels/instructions.c. */
    if (index < 0 && strcmp(plain.instructions, "avx512vnni") == 0) {
        memset(plain.instructions, 0, sizeof plain.instructions);
        strcpy(plain.instructions, "avx512");
        index = index_of(&plain);
    }
    return index;
}

const struct subject *subject_at(int index)
{
    return index < SUBJECT_COUNT ? &SUBJECTS[index] : NULL;
}

bool subject_is_present(const struct subject *subject)
{
    const struct tested_backend *tested = tested_backend(subject->backend);
    return tested->has == NULL || tested->has(subject->instructions);
}

struct backend *subject_open(const struct subject *subject, int threads)
{
    bool deterministic = strcmp(subject->instructions, "deterministic") == 0;
    bool named = *subject->instructions && !deterministic;
    struct backend_options options = {.dtype = subject->dtype,
                                      .weight_dtype = subject->weight_dtype,
                                      .threads = threads,
                                      .instructions = named ? subject->instructions : NULL,
                                      .deterministic = deterministic};
    struct backend *backend;
    struct error err = {0};
    opened = tested_backend(subject->backend);
    opened_weights = subject->weight_dtype;
    opened_deterministic = deterministic;
    if (!subject_is_present(subject))
        cr_skip_test("this CPU lacks %s", subject->instructions);
    int status = backend_create(&backend, subject->backend, &options, &err);
    if (status == ERROR_NO_DEVICE && opened->has == NULL)
        cr_skip_test("%s", err.message);
    /* A device that is there may be too old for fp8. */
    if (status == ERROR_INVALID && opened->has == NULL && subject->weight_dtype == DTYPE_FP8)
        cr_skip_test("%s", err.message);
    cr_assert_eq(status, 0, "%s", err.message);
    record_subject(index_of(subject));
    return counted_backend_create(backend);
}

int32_t subject_head_dim_max(const struct subject *subject)
{
    return tested_backend(subject->backend)->head_dim_max;
}

int32_t subject_wide_rows(const struct subject *subject, int32_t most)
{
    int32_t rows = tested_backend(subject->backend)->wide_rows;
    return rows > 0 && rows < most ? rows : most;
}

bool subject_is_batch_invariant(void)
{
    return opened->batch_invariant || opened_deterministic;
}

double subject_limit(enum operation operation, enum dtype dtype)
{
    bool summed = operation == OPERATION_LINEAR || operation == OPERATION_HEAD;
    double slack = summed && opened_weights == DTYPE_FP8 ? opened->fp8_slack : 1;
    return slack * operation_limit(operation, dtype, opened_weights);
}

struct backend *reference_open(const struct subject *subject)
{
    struct backend_options options = {
        .dtype = subject->dtype, .weight_dtype = subject->weight_dtype, .threads = 1};
    struct backend *backend;
    struct error err = {0};
    cr_assert_eq(backend_create(&backend, "ref", &options, &err), 0, "%s", err.message);
    return backend;
}

struct backend_limits plain_limits(int32_t rows, int32_t vocabulary)
{
    return (struct backend_limits){
        .attention = {.layers = 1,
                      .heads = 1,
                      .kv_heads = 1,
                      .head_dim = 2,
                      .rotary_dim = 2,
                      .rope_theta = 10000},
        .max_rows = rows,
        .max_head_rows = rows,
        .max_positions = 64,
        .max_sequences = 1,
        .kv_pages = 1,
        .vocabulary = vocabulary,
        .max_counts = 512,
        .max_biases = 512,
        .max_allowed = 8,
        .weight_columns = 2048,
    };
}

void reserve(struct backend *backend, const struct backend_limits *limits)
{
    struct error err = {0};
    cr_assert_eq(backend->ops->reserve(backend, limits, &err), 0, "%s", err.message);
}

void begin_step(struct backend *backend, const struct step_rows *rows)
{
    cr_assert(backend->ops->step_begin(backend, rows), "a recording of what never ran is replayed");
    record_checked(OPERATION_STEP_BEGIN);
}

void end_step(struct backend *backend)
{
    struct error err = {0};
    cr_assert_eq(backend->ops->step_end(backend, &err), 0, "%s", err.message);
}

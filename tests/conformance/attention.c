#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "conformance.h"

enum { SEQUENCES = 3, PAGES_PER_LINE = 4, LAYERS = 2, ROWS_MAX = 400 };

struct attention_case {
    int32_t heads, kv_heads, head_dim, rotary_dim;
    bool normed;
    int32_t lengths[SEQUENCES]; /* positions of each canvas */
};

/* Page borders, grouped heads, head sizes that are no multiples of a vector, partial rotation. */
static const struct attention_case CASES[] = {
    {4, 4, 64, 64, false, {63, 64, 65}},  {4, 2, 16, 16, true, {128, 129, 1}},
    {3, 1, 24, 12, true, {3, 31, 33}},    {2, 2, 96, 96, false, {127, 70, 2}},
    {8, 2, 128, 64, true, {200, 65, 40}}, {2, 1, 2, 2, false, {64, 66, 5}},
    {1, 1, 256, 256, true, {65, 1, 3}},   {2, 1, 34, 0, false, {10, 192, 129}},
};
enum { CASE_COUNT = sizeof CASES / sizeof CASES[0] };

/* The rows of a step, built one by one. */
struct rows {
    struct step_rows step;
    int32_t token[ROWS_MAX], sequence[ROWS_MAX], position[ROWS_MAX], kv_end[ROWS_MAX];
    uint8_t shadow[ROWS_MAX];
    int32_t page_table[SEQUENCES * PAGES_PER_LINE];
};

static struct rows *rows_create(void)
{
    struct rows *rows = calloc(1, sizeof *rows);
    cr_assert_not_null(rows);
    rows->step = (struct step_rows){.token = rows->token,
                                    .sequence = rows->sequence,
                                    .position = rows->position,
                                    .kv_end = rows->kv_end,
                                    .shadow = rows->shadow,
                                    .page_table = rows->page_table,
                                    .page_table_stride = PAGES_PER_LINE};
    /* Pages in no order; page 0 is the scratch of dead rows. */
    for (int32_t i = 0; i < SEQUENCES * PAGES_PER_LINE; i++)
        rows->page_table[i] = 1 + (i * 5 + 3) % (SEQUENCES * PAGES_PER_LINE);
    return rows;
}

static void rows_add(struct rows *rows, int32_t sequence, int32_t position, int32_t kv_end,
                     bool shadow)
{
    int32_t row = rows->step.rows++;
    cr_assert_lt(row, ROWS_MAX);
    rows->sequence[row] = sequence;
    rows->position[row] = position;
    rows->kv_end[row] = kv_end;
    rows->shadow[row] = shadow;
}

static size_t qkv_width(const struct attention_case *shape)
{
    return (size_t)(shape->heads + 2 * shape->kv_heads) * (size_t)shape->head_dim;
}

static struct backend *open_for(const struct subject *subject, int threads,
                                const struct attention_case *shape)
{
    struct backend *backend = subject_open(subject, threads);
    struct backend_limits limits = plain_limits(ROWS_MAX, 16);
    limits.attention = (struct attention_shape){
        LAYERS, shape->heads, shape->kv_heads, shape->head_dim, shape->rotary_dim, 10000, 1e-6f};
    limits.max_positions = PAGES_PER_LINE * KV_PAGE_POSITIONS;
    limits.max_sequences = SEQUENCES;
    limits.kv_pages = SEQUENCES * PAGES_PER_LINE + 1;
    reserve(backend, &limits);
    return backend;
}

struct attended {
    void *qkv, *out;
};

/* One layer's rope_store and attention. `scales` [2, head_dim] of q and k, or NULL. */
static struct attended run_step(struct backend *backend, const struct attention_case *shape,
                                const struct rows *rows, const void *qkv, const float *scales,
                                int32_t layer)
{
    size_t element = dtype_size(backend->dtype), count = (size_t)rows->step.rows;
    size_t head_dim = (size_t)shape->head_dim;
    struct guarded input = guarded_create(backend, qkv, count * qkv_width(shape) * element);
    struct guarded output =
        guarded_create(backend, NULL, count * (size_t)shape->heads * head_dim * element);
    struct guarded scale = guarded_create(backend, scales, 2 * head_dim * sizeof *scales);
    const float *q_scale = shape->normed ? scale.data : NULL;
    const float *k_scale = shape->normed ? (const float *)scale.data + head_dim : NULL;
    backend->ops->step_begin(backend, &rows->step);
    backend->ops->rope_store(backend, input.data, q_scale, k_scale, layer);
    backend->ops->attention(backend, output.data, input.data, layer);
    cr_assert_eq(backend->ops->step_end(backend, NULL), 0);
    free(guarded_take(&scale));
    return (struct attended){guarded_take(&input), guarded_take(&output)};
}

static void free_attended(struct attended *attended)
{
    free(attended->qkv);
    free(attended->out);
}

/* Every position of every canvas, full attention: what fills the cache. */
static struct rows *prefill_rows(const struct attention_case *shape)
{
    struct rows *rows = rows_create();
    for (int32_t sequence = 0; sequence < SEQUENCES; sequence++) {
        for (int32_t i = 0; i < shape->lengths[sequence]; i++)
            rows_add(rows, sequence, i, shape->lengths[sequence], false);
    }
    return rows;
}

/* Windows at the canvas ends, causal and block-causal rows, shadow rows, dead rows. */
static struct rows *window_rows(const struct attention_case *shape)
{
    struct rows *rows = rows_create();
    for (int32_t sequence = SEQUENCES - 1; sequence >= 0; sequence--) {
        int32_t length = shape->lengths[sequence], begin = length > 35 ? length - 35 : 0;
        for (int32_t i = begin; i < length; i++) {
            rows_add(rows, sequence, i, length, false);
            if (i % 9 == 0)
                rows_add(rows, sequence, i, length, true);
        }
        rows_add(rows, sequence, length / 2, length, true);
        rows_add(rows, 0, 0, 0, false);
        /* Two rows of a step that store the same position are no valid step. */
        for (int32_t i = 0; i < begin && i < 5; i++)
            rows_add(rows, sequence, i, i + 1, false);
        rows_add(rows, sequence, length / 3, (length / 3 / 4 + 1) * 4 < length ? 4 : length, true);
    }
    return rows;
}

static void compare_step(const struct attended *actual, const struct attended *expected,
                         const struct attention_case *shape, int32_t rows, enum dtype dtype)
{
    expect_near(actual->qkv, expected->qkv, (size_t)rows * qkv_width(shape), dtype, 10,
                "rope_store");
    expect_near(actual->out, expected->out, (size_t)rows * (size_t)(shape->heads * shape->head_dim),
                dtype, 20, "attention");
}

static void compare_case(const struct subject *subject, const struct attention_case *shape,
                         struct random *random)
{
    const struct subject reference_subject = {"ref", "", subject->dtype};
    struct backend *backend = open_for(subject, 3, shape);
    struct backend *reference = open_for(&reference_subject, 1, shape);
    struct rows *steps[2] = {prefill_rows(shape), window_rows(shape)};
    float *scales = random_activations(random, 2 * (size_t)shape->head_dim, DTYPE_FLOAT32);
    for (int32_t i = 0; i < 2; i++) {
        for (int32_t layer = 0; layer < LAYERS; layer++) {
            size_t count = (size_t)steps[i]->step.rows * qkv_width(shape);
            void *qkv = random_activations(random, count, subject->dtype);
            struct attended actual = run_step(backend, shape, steps[i], qkv, scales, layer);
            struct attended expected = run_step(reference, shape, steps[i], qkv, scales, layer);
            compare_step(&actual, &expected, shape, steps[i]->step.rows, subject->dtype);
            free_attended(&actual);
            free_attended(&expected);
            free(qkv);
        }
    }
    free(scales);
    free(steps[0]);
    free(steps[1]);
    backend_destroy(backend);
    backend_destroy(reference);
}

SUBJECT_TEST(attention, agrees_with_the_reference)
{
    struct random random = {21};
    for (int i = 0; i < CASE_COUNT; i++) {
        if (CASES[i].head_dim <= subject_head_dim_max(subject))
            compare_case(subject, &CASES[i], &random);
    }
}

SUBJECT_TEST(attention, row_does_not_depend_on_batch_or_threads)
{
    const struct attention_case *shape = &CASES[4];
    struct backend *backend = open_for(subject, 1, shape), *threaded = open_for(subject, 3, shape);
    struct random random = {22};
    struct rows *rows = prefill_rows(shape);
    float *scales = random_activations(&random, 2 * (size_t)shape->head_dim, DTYPE_FLOAT32);
    size_t element = dtype_size(subject->dtype), width = qkv_width(shape);
    size_t line = (size_t)(shape->heads * shape->head_dim) * element;
    char *qkv = random_activations(&random, (size_t)rows->step.rows * width, subject->dtype);
    struct attended batch = run_step(backend, shape, rows, qkv, scales, 0);
    struct attended other = run_step(threaded, shape, rows, qkv, scales, 0);
    expect_same_bits(other.out, batch.out, (size_t)rows->step.rows * line, "three threads");
    for (int32_t row = 0; row < rows->step.rows; row += 17) {
        struct rows *alone = rows_create();
        rows_add(alone, rows->sequence[row], rows->position[row], rows->kv_end[row], false);
        struct attended one =
            run_step(backend, shape, alone, qkv + (size_t)row * width * element, scales, 0);
        expect_same_bits(one.out, (char *)batch.out + (size_t)row * line, line, "one row alone");
        free_attended(&one);
        free(alone);
    }
    free_attended(&batch);
    free_attended(&other);
    free(qkv);
    free(scales);
    free(rows);
    backend_destroy(backend);
    backend_destroy(threaded);
}

/* A shadow row computes what a plain row with its K and V would, and leaves the cache alone. */
SUBJECT_TEST(attention, shadow_row_equals_a_stored_row_and_stores_nothing)
{
    const struct attention_case *shape = &CASES[0];
    struct backend *backend = open_for(subject, 2, shape);
    struct random random = {23};
    struct rows *fill = prefill_rows(shape), *shadow = rows_create(), *plain = rows_create();
    size_t element = dtype_size(subject->dtype), width = qkv_width(shape);
    size_t line = (size_t)(shape->heads * shape->head_dim) * element;
    float *scales = random_activations(&random, 2 * (size_t)shape->head_dim, DTYPE_FLOAT32);
    char *qkv = random_activations(&random, (size_t)fill->step.rows * width, subject->dtype);
    void *own = random_activations(&random, width, subject->dtype);
    rows_add(shadow, 2, 64, 65, true);
    rows_add(plain, 2, 64, 65, false);

    struct attended before = run_step(backend, shape, fill, qkv, scales, 1);
    struct attended shadowed = run_step(backend, shape, shadow, own, scales, 1);
    /* The plain row at position 0 again: it sees the whole cache of its sequence. */
    struct rows *reader = rows_create();
    int32_t first = shape->lengths[0] + shape->lengths[1];
    rows_add(reader, 2, 0, 65, false);
    struct attended after =
        run_step(backend, shape, reader, qkv + (size_t)first * width * element, scales, 1);
    expect_same_bits(after.out, (char *)before.out + (size_t)first * line, line,
                     "a row after a shadow row");
    struct attended stored = run_step(backend, shape, plain, own, scales, 1);
    expect_same_bits(shadowed.out, stored.out, line, "a shadow row");
    cr_assert(memcmp(shadowed.out, (char *)before.out + (size_t)(first + 64) * line, line) != 0);

    free_attended(&before);
    free_attended(&shadowed);
    free_attended(&after);
    free_attended(&stored);
    free(fill);
    free(shadow);
    free(plain);
    free(reader);
    free(scales);
    free(qkv);
    free(own);
    backend_destroy(backend);
}

/* What an ended sequence left in a page, be it NaN or huge, cannot be seen behind kv_end. */
static void check_reused_page(const struct subject *subject, int fill)
{
    const struct attention_case *shape = &CASES[3];
    struct backend *clean = open_for(subject, 1, shape), *dirty = open_for(subject, 1, shape);
    struct random random = {24};
    struct rows *poison = rows_create(), *rows = rows_create();
    size_t element = dtype_size(subject->dtype), width = qkv_width(shape);
    for (int32_t i = 0; i < 128; i++)
        rows_add(poison, 1, i, 128, false);
    for (int32_t i = 0; i < 71; i++)
        rows_add(rows, 1, i, 71, false);
    char *left = malloc(128 * width * element);
    cr_assert_not_null(left);
    memset(left, fill, 128 * width * element);
    void *qkv = random_activations(&random, 71 * width, subject->dtype);
    struct attended poisoned = run_step(dirty, shape, poison, left, NULL, 0);
    struct attended actual = run_step(dirty, shape, rows, qkv, NULL, 0);
    struct attended expected = run_step(clean, shape, rows, qkv, NULL, 0);
    expect_same_bits(actual.out, expected.out,
                     71 * (size_t)(shape->heads * shape->head_dim) * element, "a reused page");
    free_attended(&poisoned);
    free_attended(&actual);
    free_attended(&expected);
    free(poison);
    free(rows);
    free(left);
    free(qkv);
    backend_destroy(clean);
    backend_destroy(dirty);
}

SUBJECT_TEST(attention, nothing_behind_kv_end_is_seen)
{
    check_reused_page(subject, 0xff); /* NaN */
    check_reused_page(subject, 0x47); /* some 50,000 in both dtypes */
}

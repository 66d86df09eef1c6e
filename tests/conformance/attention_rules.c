/* What attention may see, and what rope_store may change. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "attention.h"

/* What a shadow row's own K and V stand in for: positions around page borders, and the ends. */
static const struct {
    int32_t position, kv_end;
} SHADOWED[] = {{0, 1},    {0, 129},   {62, 64},   {63, 64},   {63, 65},  {64, 65},
                {64, 129}, {127, 128}, {127, 129}, {128, 129}, {65, 128}, {1, 63}};
enum { SHADOWED_COUNT = sizeof SHADOWED / sizeof SHADOWED[0] };

/* `shadow` [rows] of a shadow step, against plain rows that store the same K and V, one by one. */
static void expect_stored_rows(struct backend *backend, const struct attention_case *shape,
                               const struct rows *fill, const void *filling, const char *own,
                               const char *shadowed)
{
    size_t element = dtype_size(backend->dtype), width = qkv_width(shape) * element;
    size_t line = out_width(shape) * element;
    for (int i = 0; i < SHADOWED_COUNT; i++) {
        struct rows *plain = rows_create(shape, PAGES_BY_SEVENS);
        rows_add(plain, 0, SHADOWED[i].position, SHADOWED[i].kv_end, false);
        struct attended filled = run_store(backend, shape, fill, filling, NULL, 1);
        struct attended stored = run_step(backend, shape, plain, own + (size_t)i * width, NULL, 1);
        expect_invariant(OPERATION_ATTENTION, shadowed + (size_t)i * line, stored.out,
                         out_width(shape), backend->dtype, "a shadow row");
        free_attended(&filled);
        free_attended(&stored);
        free(plain);
    }
}

/* A shadow row computes what a plain row with its K and V would, and leaves the cache alone. */
static void check_shadow_rows(const struct subject *subject, const struct attention_case *shape)
{
    struct backend *backend = open_for(subject, 2, shape);
    struct random random = {23};
    struct rows *fill = prefill_rows(shape, PAGES_BY_SEVENS);
    struct rows *shadow = rows_create(shape, PAGES_BY_SEVENS);
    size_t element = dtype_size(subject->dtype), width = qkv_width(shape);
    size_t line = out_width(shape);
    char *filling = random_activations(&random, (size_t)fill->step.rows * width, subject->dtype);
    char *own = random_activations(&random, SHADOWED_COUNT * width, subject->dtype);
    for (int i = 0; i < SHADOWED_COUNT; i++)
        rows_add(shadow, 0, SHADOWED[i].position, SHADOWED[i].kv_end, true);

    struct attended before = run_step(backend, shape, fill, filling, NULL, 1);
    struct attended shadowed = run_step(backend, shape, shadow, own, NULL, 1);
    /* Rows at both ends again: they see the whole cache of their sequence. */
    for (int32_t row = 0; row < 129; row += 128) {
        struct rows *reader = rows_alone(fill, row);
        struct attended after =
            run_step(backend, shape, reader, filling + (size_t)row * width * element, NULL, 1);
        expect_invariant(OPERATION_ATTENTION, after.out,
                         (char *)before.out + (size_t)row * line * element, line, subject->dtype,
                         "a row after shadow rows");
        free_attended(&after);
        free(reader);
    }
    expect_stored_rows(backend, shape, fill, filling, own, shadowed.out);
    free_attended(&before);
    free_attended(&shadowed);
    free(fill);
    free(shadow);
    free(filling);
    free(own);
    backend_destroy(backend);
}

SUBJECT_TEST(attention_rules, shadow_row_equals_a_stored_row_and_stores_nothing)
{
    const struct attention_case whole = {4, 4, 64, 64, false, 1, {129}};
    const struct attention_case ragged = {4, 1, 20, 10, false, 1, {129}};
    check_shadow_rows(subject, &whole);
    check_shadow_rows(subject, &ragged);
}

/*
 * What an ended sequence left in the pool, be it NaN or huge, cannot be seen behind kv_end, nor in
 * pages that no row's sequence has.
 */
static void check_reused_pages(const struct subject *subject, int32_t length, int fill)
{
    const struct attention_case shape = {2, 2, 96, 96, false, 2, {192, 192}};
    struct backend *clean = open_for(subject, 1, &shape), *dirty = open_for(subject, 1, &shape);
    struct random random = {24};
    struct rows *poison = prefill_rows(&shape, PAGES_BY_SEVENS);
    struct rows *rows = rows_create(&shape, PAGES_BY_SEVENS);
    size_t size = (size_t)poison->step.rows * qkv_width(&shape) * dtype_size(subject->dtype);
    for (int32_t i = 0; i < length; i++)
        rows_add(rows, 1, i, length, false);
    /* Its own K and V are behind its kv_end. */
    rows_add(rows, 1, length, length, true);
    char *left = malloc(size);
    cr_assert_not_null(left);
    memset(left, fill, size);
    void *qkv =
        random_activations(&random, (size_t)rows->step.rows * qkv_width(&shape), subject->dtype);
    struct attended poisoned = run_store(dirty, &shape, poison, left, NULL, 0);
    struct attended actual = run_step(dirty, &shape, rows, qkv, NULL, 0);
    struct attended expected = run_step(clean, &shape, rows, qkv, NULL, 0);
    expect_same_bits(actual.out, expected.out,
                     (size_t)rows->step.rows * out_width(&shape) * dtype_size(subject->dtype),
                     "reused pages");
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

SUBJECT_TEST(attention_rules, nothing_behind_kv_end_is_seen)
{
    const int32_t lengths[] = {1, 63, 64, 71};
    for (int i = 0; i < 4; i++) {
        check_reused_pages(subject, lengths[i], 0xff); /* NaN */
        check_reused_pages(subject, lengths[i], 0x47); /* some 50,000 in both dtypes */
    }
}

/* A NaN query reaches its row; NaN or infinite K and V reach their sequence; nothing the others. */
SUBJECT_TEST(attention_rules, nan_and_infinity_stay_where_they_belong)
{
    const struct attention_case shape = {2, 1, 16, 16, false, 3, {40, 70, 33}};
    struct backend *backend = open_for(subject, 2, &shape);
    struct backend *reference = reference_for(subject, &shape);
    struct rows *fill = prefill_rows(&shape, PAGES_BY_SEVENS);
    struct random random = {28};
    size_t width = qkv_width(&shape);
    void *qkv = random_activations(&random, (size_t)fill->step.rows * width, subject->dtype);
    set_activation(qkv, 7 * width + 3, NAN, subject->dtype);              /* Q of sequence 0 */
    set_activation(qkv, (40 + 66) * width + 48 + 5, NAN, subject->dtype); /* V of sequence 1 */
    set_activation(qkv, (40 + 2) * width + 48 + 9, INFINITY, subject->dtype);
    set_activation(qkv, (110 + 32) * width + 32, NAN, subject->dtype); /* K of sequence 2 */
    struct attended actual = run_step(backend, &shape, fill, qkv, NULL, 0);
    struct attended expected = run_step(reference, &shape, fill, qkv, NULL, 0);
    expect_attended(&actual, &expected, &shape, fill, subject->dtype);
    cr_assert(isfinite(activation_at(actual.out, 8 * out_width(&shape), subject->dtype)));
    cr_assert(isnan(activation_at(actual.out, 7 * out_width(&shape), subject->dtype)));
    free_attended(&actual);
    free_attended(&expected);
    free(fill);
    free(qkv);
    backend_destroy(backend);
    backend_destroy(reference);
}

/* What shadow rows and dead rows hold is nobody else's: they store nothing. */
SUBJECT_TEST(attention_rules, nan_of_a_shadow_or_dead_row_stays_in_it)
{
    const struct attention_case shape = {4, 2, 16, 16, false, 2, {70, 70}};
    struct backend *backend = open_for(subject, 2, &shape);
    struct backend *reference = reference_for(subject, &shape);
    struct rows *fill = prefill_rows(&shape, PAGES_BY_SEVENS);
    struct rows *rows = rows_create(&shape, PAGES_BY_SEVENS);
    struct random random = {33};
    size_t width = qkv_width(&shape), out = out_width(&shape);
    void *filling = random_activations(&random, (size_t)fill->step.rows * width, subject->dtype);
    for (int32_t i = 55; i < 70; i++) {
        rows_add(rows, 0, i, 70, false);
        rows_add(rows, 0, i, 70, true);
        rows_add(rows, 0, i, 0, i % 2);
        rows_add(rows, 1, i, 70, true);
    }
    void *qkv = random_activations(&random, (size_t)rows->step.rows * width, subject->dtype);
    for (int32_t row = 0; row < rows->step.rows; row++) {
        bool bad = rows->kv_end[row] == 0 || (rows->shadow[row] && row % 3 == 0);
        for (size_t i = 0; bad && i < width; i++)
            set_activation(qkv, (size_t)row * width + i, NAN, subject->dtype);
    }
    struct attended filled = run_store(backend, &shape, fill, filling, NULL, 1);
    struct attended also = run_store(reference, &shape, fill, filling, NULL, 1);
    struct attended actual = run_step(backend, &shape, rows, qkv, NULL, 1);
    struct attended expected = run_step(reference, &shape, rows, qkv, NULL, 1);
    expect_attended(&actual, &expected, &shape, rows, subject->dtype);
    for (int32_t row = 0; row < rows->step.rows; row++) {
        if (rows->kv_end[row] > 0)
            cr_assert_eq(isnan(activation_at(actual.out, (size_t)row * out, subject->dtype)) != 0,
                         rows->shadow[row] && row % 3 == 0, "row %d", row);
    }
    free_attended(&filled);
    free_attended(&also);
    free_attended(&actual);
    free_attended(&expected);
    free(fill);
    free(rows);
    free(filling);
    free(qkv);
    backend_destroy(backend);
    backend_destroy(reference);
}

/* Heads whose mean square is near the epsilon of the norms, far below it, and zero. */
SUBJECT_TEST(attention_rules, heads_of_small_numbers_are_normed_by_epsilon)
{
    static const float sizes[] = {0, 1e-6f, 1e-4f, 1e-3f, 5e-3f};
    enum { SIZES = sizeof sizes / sizeof sizes[0] };
    const struct attention_case shape = {2, 1, 24, 12, true, 1, {SIZES}};
    struct backend *backend = open_for(subject, 1, &shape);
    struct backend *reference = reference_for(subject, &shape);
    struct rows *rows = prefill_rows(&shape, PAGES_BY_SEVENS);
    struct random random = {32};
    size_t width = qkv_width(&shape), line = width * dtype_size(subject->dtype);
    float *scales = random_activations(&random, 2 * 24, DTYPE_FLOAT32);
    void *qkv = random_activations(&random, SIZES * width, subject->dtype);
    for (size_t i = 0; i < SIZES * width; i++)
        set_activation(qkv, i, sizes[i / width] * activation_at(qkv, i, subject->dtype),
                       subject->dtype);
    struct attended actual = run_store(backend, &shape, rows, qkv, scales, 0);
    struct attended expected = run_store(reference, &shape, rows, qkv, scales, 0);
    for (size_t row = 0; row < SIZES; row++)
        expect_result(OPERATION_ROPE_STORE, (char *)actual.qkv + row * line,
                      (char *)expected.qkv + row * line, 3 * 24, subject->dtype,
                      "rope_store of small numbers");
    free_attended(&actual);
    free_attended(&expected);
    free(rows);
    free(scales);
    free(qkv);
    backend_destroy(backend);
    backend_destroy(reference);
}

/*
 * A canvas of random rows, changed by set_row: stored and attended to, against the
 * reference, and finite.
 */
static void expect_canvas(const struct subject *subject, const struct attention_case *shape,
                          uint64_t seed,
                          void (*set_row)(void *qkv, size_t row, size_t width, enum dtype dtype))
{
    struct backend *backend = open_for(subject, 2, shape);
    struct backend *reference = reference_for(subject, shape);
    struct rows *fill = prefill_rows(shape, PAGES_BY_SEVENS);
    struct random random = {seed};
    size_t width = qkv_width(shape), rows = (size_t)fill->step.rows;
    void *qkv = random_activations(&random, rows * width, subject->dtype);
    for (size_t row = 0; row < rows; row++)
        set_row(qkv, row, width, subject->dtype);
    struct attended actual = run_step(backend, shape, fill, qkv, NULL, 0);
    struct attended expected = run_step(reference, shape, fill, qkv, NULL, 0);
    expect_attended(&actual, &expected, shape, fill, subject->dtype);
    for (size_t i = 0; i < rows * out_width(shape); i++)
        cr_assert(isfinite(activation_at(actual.out, i, subject->dtype)));
    free_attended(&actual);
    free_attended(&expected);
    free(fill);
    free(qkv);
    backend_destroy(backend);
    backend_destroy(reference);
}

/* Scores of head 0 rise, those of head 1 fall; both by 4 a position. */
static void set_rising(void *qkv, size_t row, size_t width, enum dtype dtype)
{
    set_activation(qkv, row * width, 16, dtype);
    set_activation(qkv, row * width + 16, -16, dtype);
    set_activation(qkv, row * width + 32, (float)row, dtype);
}

/* Scores that rise from page to page by more than the exponential's range: earlier sums vanish. */
SUBJECT_TEST(attention_rules, rising_scores_scale_down_what_was_summed)
{
    const struct attention_case shape = {2, 1, 16, 0, false, 1, {193}};
    expect_canvas(subject, &shape, 29, set_rising);
}

static void set_minus_infinity(void *qkv, size_t row, size_t width, enum dtype dtype)
{
    set_activation(qkv, row * width, 1, dtype);
    if (row < 70 || row % 5 == 0)
        set_activation(qkv, row * width + 16, -INFINITY, dtype);
}

/* More than a page of scores of -infinity, before and between others, counts for nothing. */
SUBJECT_TEST(attention_rules, scores_of_minus_infinity_weigh_nothing)
{
    const struct attention_case shape = {1, 1, 16, 0, false, 1, {193}};
    expect_canvas(subject, &shape, 32, set_minus_infinity);
}

/* V and the dimensions behind rotary_dim are no business of a rotation without norms. */
SUBJECT_TEST(attention_rules, rotation_leaves_the_rest_as_it_is)
{
    const struct attention_case shape = {3, 1, 24, 12, false, 1, {33}};
    struct backend *backend = open_for(subject, 1, &shape);
    struct rows *fill = prefill_rows(&shape, PAGES_BY_SEVENS);
    struct random random = {30};
    size_t element = dtype_size(subject->dtype), width = qkv_width(&shape);
    char *qkv = random_activations(&random, 33 * width, subject->dtype);
    struct attended stored = run_store(backend, &shape, fill, qkv, NULL, 1);
    for (size_t row = 0; row < 33; row++) {
        for (size_t head = 0; head < 5; head++) {
            size_t at = (row * width + head * 24 + (head < 4 ? 12 : 0)) * element;
            expect_same_bits((char *)stored.qkv + at, qkv + at, (head < 4 ? 12 : 24) * element,
                             "what is not rotated");
        }
    }
    free_attended(&stored);
    free(fill);
    free(qkv);
    backend_destroy(backend);
}

/* Angles of thousands of radians, of shadow rows: they need no page at their position. */
static void rotate_far(struct backend *backend, struct attended *out, const void *qkv,
                       const float *scales, bool q_normed)
{
    enum { POSITIONS = 32768, HEAD_DIM = 32 };
    struct backend_limits limits = plain_limits(8, 16);
    const int32_t zeros[8] = {0}, kv_end[8] = {1, 1, 1, 1, 1, 1, 1, 1};
    const int32_t position[8] = {0, 1, 511, 4095, 4096, 10007, 32766, 32767};
    const uint8_t shadow[8] = {1, 1, 1, 1, 1, 1, 1, 1};
    struct step_rows step = {.rows = 8,
                             .token = zeros,
                             .sequence = zeros,
                             .position = position,
                             .kv_end = kv_end,
                             .shadow = shadow,
                             .page_table_stride = 1,
                             .page_table = zeros};
    size_t head = HEAD_DIM * sizeof *scales;
    limits.attention = (struct attention_shape){1, 2, 1, HEAD_DIM, HEAD_DIM, 500000, 1e-6f};
    limits.max_positions = POSITIONS;
    reserve(backend, &limits);
    struct guarded scale = guarded_create(backend, scales, head);
    struct guarded input =
        guarded_create(backend, qkv, 8 * 4 * HEAD_DIM * dtype_size(backend->dtype));
    begin_step(backend, &step);
    backend->ops->rope_store(backend, input.data, q_normed ? scale.data : NULL,
                             q_normed ? NULL : scale.data, 0);
    end_step(backend);
    guarded_drop(&scale, scales);
    out->qkv = guarded_take(&input);
    out->out = NULL;
}

SUBJECT_TEST(attention_rules, far_positions_rotate_and_each_norm_is_optional)
{
    struct random random = {31};
    float *scales = random_activations(&random, 32, DTYPE_FLOAT32);
    void *qkv = random_activations(&random, 8 * 4 * 32, subject->dtype);
    for (int i = 0; i < 2; i++) {
        struct backend *backend = subject_open(subject, 1);
        struct backend *reference = reference_open(subject);
        struct attended actual, expected;
        rotate_far(backend, &actual, qkv, scales, i == 0);
        rotate_far(reference, &expected, qkv, scales, i == 0);
        expect_result(OPERATION_ROPE_STORE, actual.qkv, expected.qkv, 8 * 4 * 32, subject->dtype,
                      i == 0 ? "q norm alone" : "k norm alone");
        free_attended(&actual);
        free_attended(&expected);
        backend_destroy(backend);
        backend_destroy(reference);
    }
    free(scales);
    free(qkv);
}

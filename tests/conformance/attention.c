/* Attention over paged canvases against the reference, and against itself in other batches. */
#include <stdlib.h>
#include <string.h>
#include "attention.h"

/* Page borders, grouped heads, head sizes that are no multiples of a vector, partial rotation. */
static const struct attention_case CASES[] = {
    {4, 4, 64, 64, false, 3, {63, 64, 65}},  {4, 2, 16, 16, true, 3, {128, 129, 1}},
    {3, 1, 24, 12, true, 3, {3, 31, 33}},    {2, 2, 96, 96, false, 3, {127, 70, 2}},
    {8, 2, 128, 64, true, 3, {130, 65, 33}}, {2, 1, 2, 2, false, 3, {64, 66, 5}},
    {1, 1, 256, 256, true, 3, {65, 1, 3}},   {2, 1, 34, 0, false, 3, {10, 192, 129}},
    {8, 1, 20, 20, true, 3, {65, 128, 33}},  {16, 2, 64, 32, false, 1, {64}},
    {70, 1, 16, 16, false, 1, {66}},
};
enum { CASE_COUNT = sizeof CASES / sizeof CASES[0] };

/*
 * Windows at the canvas ends, causal and block-causal rows, shadow rows, dead rows. The windows of
 * even sequences hold plain rows alone, those of odd ones have shadow rows among them.
 */
static struct rows *window_rows(const struct attention_case *shape, enum page_order order)
{
    struct rows *rows = rows_create(shape, order);
    for (int32_t sequence = shape->sequences - 1; sequence >= 0; sequence--) {
        int32_t length = shape->lengths[sequence], begin = length > 35 ? length - 35 : 0;
        for (int32_t i = begin; i < length; i++) {
            rows_add(rows, sequence, i, length, false);
            if (sequence % 2 == 1 && i % 9 == 0)
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

static void compare_step(struct backend *backend, struct backend *reference,
                         const struct attention_case *shape, const struct rows *rows,
                         const float *scales, int32_t layer, bool attention, struct random *random)
{
    size_t count = (size_t)rows->step.rows * qkv_width(shape);
    void *qkv = random_activations(random, count, backend->dtype);
    struct attended actual = attention ? run_step(backend, shape, rows, qkv, scales, layer)
                                       : run_store(backend, shape, rows, qkv, scales, layer);
    struct attended expected = attention ? run_step(reference, shape, rows, qkv, scales, layer)
                                         : run_store(reference, shape, rows, qkv, scales, layer);
    expect_attended(&actual, &expected, shape, rows, backend->dtype);
    free_attended(&actual);
    free_attended(&expected);
    free(qkv);
}

/* The cache is filled in every layer before a row looks at one of them. */
static void compare_case(const struct subject *subject, const struct attention_case *shape,
                         const struct rows *fill, const struct rows *rows, struct random *random)
{
    struct backend *backend = open_for(subject, 3, shape);
    struct backend *reference = reference_for(subject, shape);
    float *scales = random_activations(random, 2 * (size_t)shape->head_dim, DTYPE_FLOAT32);
    for (int32_t layer = 0; layer < LAYERS; layer++)
        compare_step(backend, reference, shape, fill, scales, layer, false, random);
    for (int32_t layer = 0; layer < LAYERS; layer++)
        compare_step(backend, reference, shape, rows, scales, layer, true, random);
    free(scales);
    backend_destroy(backend);
    backend_destroy(reference);
}

SUBJECT_TEST(attention, agrees_with_the_reference)
{
    struct random random = {21};
    for (int i = 0; i < CASE_COUNT; i++) {
        if (CASES[i].head_dim > subject_head_dim_max(subject))
            continue;
        struct rows *fill = prefill_rows(&CASES[i], PAGES_BY_SEVENS);
        struct rows *rows = window_rows(&CASES[i], PAGES_BY_SEVENS);
        compare_case(subject, &CASES[i], fill, rows, &random);
        free(fill);
        free(rows);
    }
}

/* Causal rows: every kv_end from 1 to three pages, so every border of a page and of a vector. */
SUBJECT_TEST(attention, holds_for_every_kv_end)
{
    const struct attention_case shape = {2, 1, 16, 16, false, 1, {193}};
    struct rows *fill = prefill_rows(&shape, PAGES_BY_SEVENS);
    struct rows *rows = rows_create(&shape, PAGES_BY_SEVENS);
    struct random random = {25};
    for (int32_t i = 0; i < 193; i++)
        rows_add(rows, 0, i, i + 1, false);
    compare_case(subject, &shape, fill, rows, &random);
    free(fill);
    free(rows);
}

/* Neighbours of equal kv_end in different sequences, one to three rows each. */
SUBJECT_TEST(attention, many_sequences_of_a_step_see_their_own_pages)
{
    struct attention_case shape = {2, 1, 24, 24, true, SEQUENCES_MAX, {0}};
    struct random random = {26};
    for (int32_t i = 0; i < SEQUENCES_MAX; i++)
        shape.lengths[i] = 5;
    for (int32_t i = 0; i < 3; i++)
        shape.lengths[17 + i] = 64 + i;
    struct rows *fill = prefill_rows(&shape, PAGES_BY_SEVENS);
    struct rows *rows = rows_create(&shape, PAGES_BY_SEVENS);
    for (int32_t i = 0; i < SEQUENCES_MAX; i++) {
        for (int32_t j = 0; j <= i % 3; j++)
            rows_add(rows, i, j, shape.lengths[i], false);
        if (i % 4 == 0)
            rows_add(rows, i, 4, shape.lengths[i], true);
    }
    compare_case(subject, &shape, fill, rows, &random);
    free(fill);
    free(rows);
}

/* Steps of dead rows alone, of shadow rows alone, of one row; a page that is exactly full. */
SUBJECT_TEST(attention, holds_for_steps_of_one_kind_of_row)
{
    const struct attention_case shape = {4, 1, 20, 10, true, 2, {64, 128}};
    struct rows *fill = prefill_rows(&shape, PAGES_BY_SEVENS), *rows[4];
    struct random random = {27};
    for (int i = 0; i < 4; i++)
        rows[i] = rows_create(&shape, PAGES_BY_SEVENS);
    for (int32_t i = 0; i < 3; i++)
        rows_add(rows[0], i % 2, i, 0, i == 1);
    for (int32_t i = 0; i < 33; i++)
        rows_add(rows[1], 0, 31 + i, 64, true);
    rows_add(rows[2], 0, 63, 64, false);
    for (int32_t i = 0; i < 31; i++)
        rows_add(rows[3], 1, 4 * i + 3, 128, i % 2);
    for (int i = 0; i < 4; i++) {
        compare_case(subject, &shape, fill, rows[i], &random);
        free(rows[i]);
    }
    free(fill);
}

/* A filled cache of layer 1 and a window over it. */
struct window {
    const struct attention_case *shape;
    struct rows *fill, *rows;
    float *scales;
    void *filling;
    char *qkv;
};

static struct attended run_window(struct backend *backend, const struct window *window)
{
    struct attended filled =
        run_store(backend, window->shape, window->fill, window->filling, window->scales, 1);
    free_attended(&filled);
    return run_step(backend, window->shape, window->rows, window->qkv, window->scales, 1);
}

static struct window make_window(const struct attention_case *shape, enum dtype dtype,
                                 enum page_order order)
{
    struct random random = {22};
    struct window window = {
        .shape = shape, .fill = prefill_rows(shape, order), .rows = window_rows(shape, order)};
    window.scales = random_activations(&random, 2 * (size_t)shape->head_dim, DTYPE_FLOAT32);
    window.filling =
        random_activations(&random, (size_t)window.fill->step.rows * qkv_width(shape), dtype);
    window.qkv =
        random_activations(&random, (size_t)window.rows->step.rows * qkv_width(shape), dtype);
    return window;
}

static void free_window(struct window *window)
{
    free(window->fill);
    free(window->rows);
    free(window->scales);
    free(window->filling);
    free(window->qkv);
}

/* Live rows [first, first + rows) of `batch` and all of `part`. */
static void expect_invariant_rows(const struct attended *part, const struct attended *batch,
                                  const struct window *window, int32_t first, int32_t rows,
                                  enum dtype dtype, const char *what)
{
    size_t qkv = qkv_width(window->shape), out = out_width(window->shape);
    size_t element = dtype_size(dtype);
    for (int32_t i = 0; i < rows; i++) {
        if (window->rows->kv_end[first + i] == 0)
            continue;
        size_t at = (size_t)i * element, from = (size_t)(first + i) * element;
        expect_invariant(OPERATION_ROPE_STORE, (char *)part->qkv + at * qkv,
                         (char *)batch->qkv + from * qkv, qkv, dtype, what);
        expect_invariant(OPERATION_ATTENTION, (char *)part->out + at * out,
                         (char *)batch->out + from * out, out, dtype, what);
    }
}

static void expect_invariant_run(struct backend *backend, const struct window *window,
                                 const struct attended *batch, enum dtype dtype, const char *what)
{
    struct attended other = run_window(backend, window);
    expect_invariant_rows(&other, batch, window, 0, window->rows->step.rows, dtype, what);
    free_attended(&other);
}

/* Neighbours of a row come from other sequences, and have other kv_ends. */
static void expect_invariant_order(struct backend *backend, const struct window *window,
                                   const struct attended *batch)
{
    size_t line = qkv_width(window->shape) * dtype_size(backend->dtype);
    int32_t order[ROWS_MAX];
    struct rows *shuffled = rows_shuffled(window->rows, order);
    char *qkv = malloc((size_t)shuffled->step.rows * line);
    cr_assert_not_null(qkv);
    for (int32_t i = 0; i < shuffled->step.rows; i++)
        memcpy(qkv + (size_t)i * line, window->qkv + (size_t)order[i] * line, line);
    struct attended other = run_step(backend, window->shape, shuffled, qkv, window->scales, 1);
    for (int32_t i = 0; i < shuffled->step.rows; i++) {
        size_t out = out_width(window->shape) * dtype_size(backend->dtype);
        struct attended row = {(char *)other.qkv + (size_t)i * line,
                               (char *)other.out + (size_t)i * out};
        expect_invariant_rows(&row, batch, window, order[i], 1, backend->dtype, "another order");
    }
    free_attended(&other);
    free(shuffled);
    free(qkv);
}

static void check_invariance(const struct subject *subject, const struct attention_case *shape)
{
    struct window window = make_window(shape, subject->dtype, PAGES_BY_SEVENS);
    struct window permuted = make_window(shape, subject->dtype, PAGES_BY_ELEVENS);
    struct backend *backend = open_for(subject, 1, shape);
    size_t line = qkv_width(shape) * dtype_size(subject->dtype);
    struct attended batch = run_window(backend, &window);
    struct attended again = run_step(backend, shape, window.rows, window.qkv, window.scales, 1);
    expect_same_bits(again.out, batch.out,
                     (size_t)window.rows->step.rows * out_width(shape) * dtype_size(subject->dtype),
                     "the same step again");
    expect_same_bits(again.qkv, batch.qkv, (size_t)window.rows->step.rows * line,
                     "the same step again");
    expect_invariant_order(backend, &window, &batch);
    for (int32_t row = 0; row < window.rows->step.rows; row += 7) {
        struct rows *alone = rows_alone(window.rows, row);
        struct attended one =
            run_step(backend, shape, alone, window.qkv + (size_t)row * line, window.scales, 1);
        expect_invariant_rows(&one, &batch, &window, row, 1, subject->dtype, "one row alone");
        free_attended(&one);
        free(alone);
    }
    expect_invariant_run(backend, &permuted, &batch, subject->dtype, "other pages");
    for (int i = 0; i < THREAD_COUNTS; i++) {
        struct backend *threaded = open_for(subject, THREADS[i], shape);
        expect_invariant_run(threaded, &window, &batch, subject->dtype, "more threads");
        backend_destroy(threaded);
    }
    free_attended(&batch);
    free_attended(&again);
    free_window(&window);
    free_window(&permuted);
    backend_destroy(backend);
}

SUBJECT_TEST(attention, row_does_not_depend_on_batch_threads_or_pages)
{
    check_invariance(subject, &CASES[4]);
    check_invariance(subject, &CASES[8]);
}

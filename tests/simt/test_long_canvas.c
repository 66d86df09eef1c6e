/*
 * Canvases that attention cuts into chunks, which the conformance suite's are too short for. Linked
 * with it: every order of threads is a subject here too.
 */
#include <stdlib.h>
#include <string.h>
#include "common/error.h"
#include "kernels/cuda/work_list.h"
#include "tests/conformance/conformance.h"

enum {
    HEADS = 3,
    HEAD_DIM = 34, /* two elements behind a multiple of 16 */
    PAGES = 20,
    POSITIONS = PAGES * KV_PAGE_POSITIONS, /* three chunks, the last one shorter */
    WIDTH = 3 * HEADS * HEAD_DIM,
    OUT = HEADS * HEAD_DIM,
};

static struct backend_limits limits_of_canvas(void)
{
    struct backend_limits limits = plain_limits(POSITIONS, 16);
    limits.attention = (struct attention_shape){1, HEADS, HEADS, HEAD_DIM, 0, 10000, 1e-6f};
    limits.max_positions = POSITIONS;
    limits.kv_pages = PAGES + 1;
    return limits;
}

struct rows {
    struct step_rows step;
    int32_t zeros[POSITIONS], position[POSITIONS], kv_end[POSITIONS], page_table[PAGES];
    uint8_t shadow[POSITIONS];
};

static struct rows *rows_create(void)
{
    struct rows *rows = calloc(1, sizeof *rows);
    cr_assert_not_null(rows);
    for (int32_t i = 0; i < PAGES; i++)
        rows->page_table[i] = 1 + (i * 7 + 3) % PAGES;
    rows->step = (struct step_rows){.token = rows->zeros,
                                    .sequence = rows->zeros,
                                    .position = rows->position,
                                    .kv_end = rows->kv_end,
                                    .shadow = rows->shadow,
                                    .page_table_stride = PAGES,
                                    .page_table = rows->page_table};
    return rows;
}

static void rows_add(struct rows *rows, int32_t position, int32_t kv_end, bool shadow)
{
    int32_t row = rows->step.rows++;
    rows->position[row] = position;
    rows->kv_end[row] = kv_end;
    rows->shadow[row] = shadow;
}

/* rope_store of all rows, and what attention makes of them where that is asked for. */
static void *run(struct backend *backend, const struct rows *rows, const void *qkv, bool attention)
{
    size_t count = (size_t)rows->step.rows;
    struct guarded input = guarded_create(backend, qkv, count * WIDTH * sizeof(uint16_t));
    struct guarded output = guarded_create(backend, NULL, count * OUT * sizeof(uint16_t));
    begin_step(backend, &rows->step);
    backend->ops->rope_store(backend, input.data, NULL, NULL, 0);
    if (attention)
        backend->ops->attention(backend, output.data, input.data, 0);
    end_step(backend);
    free(guarded_take(&input));
    return guarded_take(&output);
}

/* Rows around the borders of the chunks, with one, two and three of them; shadow rows in each. */
static struct rows *border_rows(const struct backend_limits *limits)
{
    struct rows *rows = rows_create();
    int32_t chunk = work_list_chunk_positions(limits);
    int32_t two = chunk * 3 / 2, three = chunk * 5 / 2; /* the least that make so many */
    const int32_t ends[] = {1,         chunk,     two - 1,   two,      two + 1,
                            2 * chunk, three - 1, POSITIONS, POSITIONS};
    cr_assert_eq(POSITIONS, three);
    for (int32_t i = 0; i < 9; i++) {
        rows_add(rows, 5 * i, ends[i], false);
        rows_add(rows, ends[i] - 1, ends[i], true);
    }
    rows_add(rows, chunk, POSITIONS, true);
    rows_add(rows, 50, 0, false);
    return rows;
}

static void expect_rows_alone(struct backend *backend, const struct rows *rows, const char *qkv,
                              const char *batch)
{
    size_t line = OUT * sizeof(uint16_t);
    for (int32_t row = 0; row < rows->step.rows; row++) {
        struct rows *alone = rows_create();
        rows_add(alone, rows->position[row], rows->kv_end[row], rows->shadow[row]);
        char *one = run(backend, alone, qkv + (size_t)row * WIDTH * sizeof(uint16_t), true);
        expect_same_bits(one, batch + (size_t)row * line, line, "a row alone");
        free(one);
        free(alone);
    }
}

SUBJECT_TEST(long_canvas, chunks_are_merged_to_what_the_whole_would_be)
{
    struct backend *backend = subject_open(subject, 1);
    struct backend *reference = reference_open(subject);
    struct backend_limits limits = limits_of_canvas();
    struct random random = {61};
    struct rows *fill = rows_create(), *rows = border_rows(&limits);
    size_t count = (size_t)rows->step.rows;
    for (int32_t i = 0; i < POSITIONS; i++)
        rows_add(fill, i, POSITIONS, false);
    reserve(backend, &limits);
    reserve(reference, &limits);
    void *stored = random_activations(&random, POSITIONS * WIDTH, subject->dtype);
    char *qkv = random_activations(&random, count * WIDTH, subject->dtype);
    free(run(backend, fill, stored, false));
    free(run(reference, fill, stored, false));
    char *actual = run(backend, rows, qkv, true);
    char *expected = run(reference, rows, qkv, true);
    expect_result(OPERATION_ATTENTION, actual, expected, count * OUT, subject->dtype,
                  "attention over chunks");
    expect_rows_alone(backend, rows, qkv, actual);
    free(actual);
    free(expected);
    free(stored);
    free(qkv);
    free(fill);
    free(rows);
    backend_destroy(backend);
    backend_destroy(reference);
}

/* Attention of one row that sees `kv_end` positions; true where it was issued. */
static bool attend_once(struct backend *backend, uint16_t (*out)[OUT], void *const (*memory)[2],
                        int32_t kv_end, int32_t program)
{
    struct rows *rows = rows_create();
    rows_add(rows, 0, kv_end, false);
    rows->step.program = program;
    bool issued = backend->ops->step_begin(backend, &rows->step);
    if (issued)
        backend->ops->attention(backend, (*memory)[1], (*memory)[0], 0);
    end_step(backend);
    backend->ops->memory_read(backend, *out, (*memory)[1], sizeof *out);
    free(rows);
    return issued;
}

/* Short canvases have nothing to merge, and their recordings do not. */
SUBJECT_TEST(long_canvas, short_and_long_ones_have_recordings_of_their_own)
{
    const int32_t ends[] = {KV_PAGE_POSITIONS, POSITIONS, KV_PAGE_POSITIONS, POSITIONS};
    struct backend *backend = subject_open(subject, 1);
    struct backend_limits limits = limits_of_canvas();
    struct random random = {62};
    struct error err = {0};
    struct rows *fill = rows_create();
    void *memory[2];
    for (int32_t i = 0; i < POSITIONS; i++)
        rows_add(fill, i, POSITIONS, false);
    reserve(backend, &limits);
    void *stored = random_activations(&random, POSITIONS * WIDTH, subject->dtype);
    free(run(backend, fill, stored, false));
    for (int i = 0; i < 2; i++)
        cr_assert_eq(backend->ops->memory_create(backend, &memory[i], WIDTH * 2, &err), 0);
    backend->ops->memory_write(backend, memory[0], stored, WIDTH * sizeof(uint16_t));
    for (int i = 0; i < 4; i++) {
        uint16_t expected[OUT], found[OUT];
        cr_expect(attend_once(backend, &expected, &memory, ends[i], 0));
        cr_expect_eq(attend_once(backend, &found, &memory, ends[i], 1), i < 2, "step %d", i);
        expect_same_bits(found, expected, sizeof found, "what a recording gives");
    }
    for (int i = 0; i < 2; i++)
        backend->ops->memory_destroy(backend, memory[i]);
    free(stored);
    free(fill);
    backend_destroy(backend);
}

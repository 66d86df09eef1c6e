/*
 * Recordings of steps: a step that is replayed gives the bits of the same step as it is issued, in
 * every order of threads. One layer of a model stands for all of them.
 */
#include <stdlib.h>
#include <string.h>
#include "common/error.h"
#include "common/log.h"
#include "kernels/cuda/cuda.h"
#include "tests/conformance/conformance.h"
#include "tests/simt/emulation.h"

enum {
    ROWS = 100, /* buckets 32, 48, 64, 96, 100 */
    WIDTH = 24,
    HEADS = 2,
    HEAD_DIM = 16,
    QKV = 3 * HEADS * HEAD_DIM,
    VOCABULARY = 40,
    SEQUENCES = 3,
    POSITIONS = 128,
    PAGES = POSITIONS / KV_PAGE_POSITIONS,
};

struct layer {
    struct backend *backend;
    struct weight *table, *qkv, *out;
    float *scale;
    void *residual, *normed, *heads, *attended, *delta, *gathered;
};

static void *memory_of(struct layer *layer, size_t size)
{
    struct error err = {0};
    void *memory;
    cr_assert_eq(layer->backend->ops->memory_create(layer->backend, &memory, size, &err), 0, "%s",
                 err.message);
    return memory;
}

static struct weight *random_weight(struct layer *layer, struct random *random, int64_t rows,
                                    int64_t columns, bool biased)
{
    float values[QKV * HEADS * HEAD_DIM], bias[QKV];
    cr_assert_leq(rows * columns, (int64_t)(sizeof values / sizeof *values));
    for (int64_t i = 0; i < rows * columns; i++)
        values[i] = random_float(random);
    for (int64_t i = 0; i < rows && i < QKV; i++)
        bias[i] = random_float(random);
    return make_weight(layer->backend, values, rows, columns, biased ? bias : NULL);
}

static struct layer layer_create(const struct subject *subject)
{
    struct layer layer;
    struct random random = {77};
    struct error err = {0};
    const struct backend_options options = {.dtype = DTYPE_BFLOAT16,
                                            .weight_dtype = subject->weight_dtype,
                                            .instructions = subject->instructions};
    cr_assert_eq(backend_create(&layer.backend, "simt", &options, &err), 0, "%s", err.message);
    struct backend_limits limits = plain_limits(ROWS, VOCABULARY);
    limits.attention = (struct attention_shape){1, HEADS, HEADS, HEAD_DIM, HEAD_DIM, 10000, 1e-6f};
    limits.max_positions = POSITIONS;
    limits.max_sequences = SEQUENCES;
    limits.kv_pages = SEQUENCES * PAGES;
    reserve(layer.backend, &limits);
    layer.table = random_weight(&layer, &random, VOCABULARY, WIDTH, false);
    layer.qkv = random_weight(&layer, &random, QKV, WIDTH, true);
    layer.out = random_weight(&layer, &random, WIDTH, HEADS * HEAD_DIM, false);
    float ones[WIDTH];
    for (int i = 0; i < WIDTH; i++)
        ones[i] = 1;
    layer.scale = memory_of(&layer, sizeof ones);
    layer.backend->ops->memory_write(layer.backend, layer.scale, ones, sizeof ones);
    layer.residual = memory_of(&layer, ROWS * WIDTH * sizeof(float));
    layer.normed = memory_of(&layer, ROWS * WIDTH * sizeof(uint16_t));
    layer.heads = memory_of(&layer, ROWS * QKV * sizeof(uint16_t));
    layer.attended = memory_of(&layer, ROWS * HEADS * HEAD_DIM * sizeof(uint16_t));
    layer.delta = memory_of(&layer, ROWS * WIDTH * sizeof(uint16_t));
    layer.gathered = memory_of(&layer, 2 * ROWS * WIDTH * sizeof(uint16_t));
    return layer;
}

static void layer_destroy(struct layer *layer)
{
    struct backend *backend = layer->backend;
    struct weight *weights[] = {layer->table, layer->qkv, layer->out};
    void *memory[] = {layer->scale,    layer->residual, layer->normed,  layer->heads,
                      layer->attended, layer->delta,    layer->gathered};
    for (size_t i = 0; i < sizeof weights / sizeof *weights; i++)
        backend->ops->weight_destroy(backend, weights[i]);
    for (size_t i = 0; i < sizeof memory / sizeof *memory; i++)
        backend->ops->memory_destroy(backend, memory[i]);
    backend_destroy(backend);
}

static void issue(const struct layer *layer, int32_t rows)
{
    struct backend *backend = layer->backend;
    const struct backend_ops *ops = backend->ops;
    ops->embed(backend, layer->residual, layer->table);
    ops->add_rmsnorm(backend, layer->normed, layer->residual, NULL, layer->scale, 1e-6f, WIDTH);
    ops->linear(backend, layer->heads, layer->normed, layer->qkv, rows);
    ops->rope_store(backend, layer->heads, NULL, NULL, 0);
    ops->attention(backend, layer->attended, layer->heads, 0);
    ops->linear(backend, layer->delta, layer->attended, layer->out, rows);
    ops->add_rmsnorm(backend, layer->normed, layer->residual, layer->delta, layer->scale, 1e-6f,
                     WIDTH);
    /* SwiGLU of half the width: the other half is the gate. */
    ops->swiglu(backend, layer->delta, layer->normed, WIDTH / 2);
    ops->gather(backend, layer->gathered, layer->normed, WIDTH);
}

/* A step of `rows` rows over the sequences' canvases, other ones for every number. */
struct step {
    struct step_rows rows;
    int32_t token[ROWS], sequence[ROWS], position[ROWS], kv_end[ROWS], gather[2 * ROWS];
    int32_t page_table[SEQUENCES * PAGES];
    uint8_t shadow[ROWS];
};

static void step_fill(struct step *step, int32_t rows, int32_t gathered, uint64_t number)
{
    struct random random = {number * 2 + 1};
    *step = (struct step){.rows = {.rows = rows,
                                   .token = step->token,
                                   .sequence = step->sequence,
                                   .position = step->position,
                                   .kv_end = step->kv_end,
                                   .shadow = step->shadow,
                                   .page_table_stride = PAGES,
                                   .page_table = step->page_table,
                                   .gathered = gathered,
                                   .gather = step->gather}};
    for (int32_t i = 0; i < SEQUENCES * PAGES; i++)
        step->page_table[i] = (int32_t)((uint64_t)i * 5 + number) % (SEQUENCES * PAGES);
    for (int32_t i = 0; i < rows; i++) {
        step->token[i] = (int32_t)random_below(&random, VOCABULARY);
        step->sequence[i] = i * SEQUENCES / rows;
        step->position[i] = i;
        step->kv_end[i] = i % 11 == 10 ? 0 : i + 1;
        step->shadow[i] = i % 7 == 3;
    }
    for (int32_t i = 0; i < gathered; i++)
        step->gather[i] = (int32_t)random_below(&random, (uint32_t)rows);
}

/* Returns true where the step was issued; out [gathered, WIDTH]. */
static bool run(const struct layer *layer, const struct step *step, int32_t program, uint16_t *out)
{
    struct backend *backend = layer->backend;
    struct step_rows rows = step->rows;
    rows.program = program;
    bool issued = backend->ops->step_begin(backend, &rows);
    if (issued)
        issue(layer, rows.rows);
    end_step(backend);
    backend->ops->memory_read(backend, out, layer->gathered,
                              (size_t)rows.gathered * WIDTH * sizeof *out);
    return issued;
}

static struct recordings_counts counts_of(const struct layer *layer)
{
    return recordings_count(cuda_self(layer->backend)->recordings);
}

/* The same step on both: `plain` issues all its steps. Returns true where `layer` issued it too. */
static bool expect_same(const struct layer *layer, const struct layer *plain, int32_t rows,
                        int32_t gathered, uint64_t number, int32_t program)
{
    struct step step;
    uint16_t found[2 * ROWS * WIDTH], expected[2 * ROWS * WIDTH];
    step_fill(&step, rows, gathered, number);
    cr_assert(run(plain, &step, 0, expected));
    bool issued = run(layer, &step, program, found);
    expect_same_bits(found, expected, (size_t)gathered * WIDTH * sizeof *found,
                     issued ? "a step that was issued" : "a step that was replayed");
    return issued;
}

ANY_WEIGHTS_TEST(recordings, a_replayed_step_gives_the_bits_of_an_issued_one)
{
    struct layer layer = layer_create(subject), plain = layer_create(subject);
    /* Other contents every time; fewer rows, more rows, all of the bucket; other rows gathered. */
    const int32_t rows[] = {20, 11, 32, 32, 1, 29, 7}, gathered[] = {3, 11, 32, 0, 60, 1, 7};
    for (int i = 0; i < 7; i++)
        cr_expect_eq(expect_same(&layer, &plain, rows[i], gathered[i], 100 + (uint64_t)i, 1),
                     i == 0, "step %d", i);
    cr_expect_eq(counts_of(&layer).made, 1);
    cr_expect_eq(counts_of(&layer).launched, 6);
    layer_destroy(&layer);
    layer_destroy(&plain);
}

/* The head's part of a step: what it returns of `rows` rows, of several kinds. */
struct judged {
    struct head_statistics row[ROWS];
    int32_t top_token[ROWS * HEAD_TOP_MAX], raw_top_token[ROWS * HEAD_RAW_TOP_MAX];
    float top_logprob[ROWS * HEAD_TOP_MAX], raw_top_logprob[ROWS * HEAD_RAW_TOP_MAX];
};

static struct judged *judge(const struct layer *layer, const struct step *step, int32_t program,
                            const struct head_batch *batch, bool *issued)
{
    struct judged *judged = calloc(1, sizeof *judged);
    cr_assert_not_null(judged);
    struct head_result result = {judged->row, judged->top_token, judged->top_logprob,
                                 judged->raw_top_token, judged->raw_top_logprob};
    struct backend *backend = layer->backend;
    struct step_rows rows = step->rows;
    rows.program = program;
    *issued = backend->ops->step_begin(backend, &rows);
    if (*issued)
        issue(layer, rows.rows);
    backend->ops->head(backend, &result, layer->gathered, layer->table, batch);
    end_step(backend);
    return judged;
}

/* Head rows over the gathered lines: greedy or sampled, with a guidance partner, lists, top_p. */
static void batch_fill(struct head_row *rows, int32_t count, int32_t gathered, int kind,
                       uint64_t seed)
{
    for (int32_t i = 0; i < count; i++) {
        rows[i] = (struct head_row){.hidden = i % gathered,
                                    .partner = kind == 1 ? (i + 1) % gathered : -1,
                                    .guidance = 0.5f,
                                    .given = i % 3 == 0 ? i % VOCABULARY : -1,
                                    .temperature = kind == 0 ? 0.0f : 0.7f,
                                    .top_p = kind == 2 ? 0.8f : 1.0f,
                                    .seed = seed,
                                    .position = (uint32_t)i,
                                    .repetition_penalty = 1,
                                    .allowed = -1};
        rows[i].top = kind == 3 ? 5 : 0;
        rows[i].raw_top = kind == 3 ? 3 : 0;
    }
}

ANY_WEIGHTS_TEST(recordings, a_replayed_head_gives_the_bits_of_an_issued_one)
{
    struct layer layer = layer_create(subject), plain = layer_create(subject);
    struct step step;
    struct head_row rows[ROWS];
    const int32_t counts[] = {5, 20, 32, 1, 31}, gathered[] = {5, 11, 60, 3, 33};
    for (int kind = 0; kind < 4; kind++) {
        for (int i = 0; i < 5; i++) {
            bool issued, ignored;
            step_fill(&step, 32, gathered[i], (uint64_t)(kind * 5 + i));
            batch_fill(rows, counts[i], gathered[i], kind, (uint64_t)i);
            const struct head_batch batch = {
                .rows = counts[i], .row = rows, .mask_token = 2, .token_limit = VOCABULARY - 1};
            struct judged *expected = judge(&plain, &step, 0, &batch, &ignored);
            struct judged *found = judge(&layer, &step, 1, &batch, &issued);
            cr_expect_eq(issued, kind == 0 && i == 0);
            expect_same_bits(found, expected, sizeof *found, "what a head returns");
            free(expected);
            free(found);
        }
    }
    /* The body; heads of 32 lines and, with partners, of 48; with a slice of stored rows; lists. */
    cr_expect_eq(counts_of(&layer).made, 5, "%d", counts_of(&layer).made);
    layer_destroy(&layer);
    layer_destroy(&plain);
}

SUBJECT_TEST(recordings, every_row_bucket_and_program_has_its_own)
{
    struct layer layer = layer_create(subject), plain = layer_create(subject);
    const int32_t rows[] = {30, 45, 64, 90, 99};
    for (uint64_t round = 0; round < 4; round++) {
        for (int i = 0; i < 5; i++)
            cr_expect_eq(
                expect_same(&layer, &plain, rows[i], 9, round * 5 + (uint64_t)i, 1 + i % 2),
                round == 0, "%d rows", rows[i]);
    }
    cr_expect(expect_same(&layer, &plain, 30, 9, 1000, 2), "another program is another recording");
    cr_expect_eq(counts_of(&layer).made, 6);
    cr_expect_eq(counts_of(&layer).launched, 15);
    layer_destroy(&layer);
    layer_destroy(&plain);
}

/* What a replayed step stores is there for the next one, and what was issued for a replayed one. */
SUBJECT_TEST(recordings, keys_and_values_are_stored_by_a_replay)
{
    struct layer layer = layer_create(subject), plain = layer_create(subject);
    struct step fill, look;
    uint16_t found[ROWS * WIDTH], expected[ROWS * WIDTH];
    for (int i = 0; i < 4; i++) {
        step_fill(&fill, 60, 1, 7);
        step_fill(&look, 12, 12, 7);
        for (int32_t row = 0; row < 60; row++) {
            fill.token[row] = (row + i) % VOCABULARY;
            fill.sequence[row] = 0;
            fill.kv_end[row] = 60;
            fill.shadow[row] = 0;
        }
        for (int32_t row = 0; row < 12; row++) {
            look.sequence[row] = 0;
            look.position[row] = 60 + row;
            look.kv_end[row] = 60;
        }
        run(&plain, &fill, 0, expected);
        cr_expect_eq(run(&layer, &fill, 1, found), i == 0);
        run(&plain, &look, 0, expected);
        run(&layer, &look, 0, found);
        expect_same_bits(found, expected, 12 * WIDTH * sizeof *found,
                         "rows that see what was stored");
    }
    layer_destroy(&layer);
    layer_destroy(&plain);
}

/* A rehearsal records a step in several ways, and keeps one that changes no bit. */
ANY_WEIGHTS_TEST(recordings, what_is_fetched_ahead_changes_nothing)
{
    struct layer layer = layer_create(subject), plain = layer_create(subject);
    struct cuda_backend *cuda = cuda_self(layer.backend);
    struct step step;
    uint16_t out[ROWS * WIDTH];
    step_fill(&step, 32, 5, 3);
    step.rows.rehearsal = true;
    cr_expect(run(&layer, &step, 1, out));
    run(&plain, &step, 0, out); /* for what it stores */
    cr_expect_eq(counts_of(&layer).made, 1);
    cr_expect(cuda->way.known && cuda->way.prefetch_bytes > 0);
    /* It is recorded once more, now for other rows. */
    cr_expect(run(&layer, &step, 1, out));
    cr_expect_eq(counts_of(&layer).made, 2);
    for (uint64_t i = 0; i < 3; i++)
        cr_expect_not(expect_same(&layer, &plain, 32, 5, i, 1));
    /* What a rehearsal has found is taken where there is none. */
    cr_expect(expect_same(&layer, &plain, 64, 5, 3, 1));
    cr_expect_not(expect_same(&layer, &plain, 64, 5, 4, 1));
    layer_destroy(&layer);
    layer_destroy(&plain);
}

/*
 * A device with room for the kernel of few lines, where whatever comes later is faster: it is
 * taken, by recordings and by steps that are issued, up to as many lines, and not where results
 * must not depend on the batch.
 */
static void expect_own_products(const struct subject *subject, bool deterministic)
{
    struct layer layer = layer_create(subject), plain = layer_create(subject);
    struct cuda_backend *cuda = cuda_self(layer.backend);
    struct step step;
    uint16_t out[ROWS * WIDTH];
    step_fill(&step, 64, 5, 3);
    step.rows.rehearsal = true;
    cuda->facts.own_alone = cuda_self(plain.backend)->facts.own_alone = false;
    cuda->facts.shared_bytes = 227 << 10;
    cuda->deterministic = deterministic;
    simt_prefer_later_recordings(true);
    cr_expect(run(&layer, &step, 1, out));
    simt_prefer_later_recordings(false);
    cr_expect_eq(cuda->ways[4].own_products, !deterministic);
    run(&plain, &step, 0, out); /* for what it stores */
    /* Products of few lines add up in another order than the library's. */
    cuda_self(plain.backend)->facts.own_alone = !deterministic;
    cuda_self(plain.backend)->facts.shared_bytes = cuda->facts.shared_bytes;
    for (uint64_t i = 0; i < 3; i++)
        expect_same(&layer, &plain, 64, 5, i, 1);
    int64_t before = simt_library_products();
    step.rows.rehearsal = false;
    run(&layer, &step, 0, out);
    cr_expect_eq(simt_library_products() > before, deterministic);
    /* A rehearsal of more rows begins with the library's products. */
    step_fill(&step, 100, 5, 3);
    step.rows.rehearsal = true;
    before = simt_library_products();
    run(&layer, &step, 1, out);
    cr_expect_gt(simt_library_products(), before);
    layer_destroy(&layer);
    layer_destroy(&plain);
}

ANY_WEIGHTS_TEST(recordings, products_of_few_lines_are_taken_where_they_are_faster)
{
    expect_own_products(subject, false);
}

SUBJECT_TEST(recordings, products_of_few_lines_are_never_taken_where_the_batch_must_not_matter)
{
    expect_own_products(subject, true);
}

SUBJECT_TEST(recordings, a_rehearsal_that_cannot_be_recorded_is_issued)
{
    struct layer layer = layer_create(subject);
    struct step step;
    uint16_t out[ROWS * WIDTH];
    log_set_level(LOG_ERROR);
    step_fill(&step, 32, 5, 3);
    step.rows.rehearsal = true;
    simt_refuse_recordings(true);
    for (int i = 0; i < 2; i++)
        cr_expect(run(&layer, &step, 1, out));
    simt_refuse_recordings(false);
    cr_expect_eq(counts_of(&layer).made, 0);
    cr_expect_eq(cuda_self(layer.backend)->way.prefetch_bytes, 0);
    layer_destroy(&layer);
}

SUBJECT_TEST(recordings, program_0_is_never_recorded)
{
    struct layer layer = layer_create(subject), plain = layer_create(subject);
    for (uint64_t i = 0; i < 4; i++)
        cr_expect(expect_same(&layer, &plain, 20, 5, i, 0));
    cr_expect_eq(counts_of(&layer).made, 0);
    cr_expect_eq(counts_of(&layer).launched, 0);
    layer_destroy(&layer);
    layer_destroy(&plain);
}

SUBJECT_TEST(recordings, the_one_that_was_not_used_for_the_longest_time_makes_room)
{
    struct layer layer = layer_create(subject);
    struct step step;
    uint16_t out[WIDTH];
    step_fill(&step, 1, 1, 5);
    for (int32_t program = 1; program <= RECORDINGS_MAX; program++)
        run(&layer, &step, program, out);
    cr_expect_eq(counts_of(&layer).made, RECORDINGS_MAX);
    cr_expect_not(run(&layer, &step, 1, out), "1 is used, 2 is the oldest");
    cr_expect(run(&layer, &step, RECORDINGS_MAX + 1, out));
    cr_expect_not(run(&layer, &step, 1, out));
    cr_expect_not(run(&layer, &step, 3, out));
    cr_expect(run(&layer, &step, 2, out), "2 has made room");
    layer_destroy(&layer);
}

SUBJECT_TEST(recordings, a_step_that_cannot_be_recorded_is_issued_every_time)
{
    struct layer layer = layer_create(subject), plain = layer_create(subject);
    log_set_level(LOG_ERROR);
    simt_refuse_recordings(true);
    for (uint64_t i = 0; i < 4; i++)
        cr_expect(expect_same(&layer, &plain, 20, 5, i, 1), "step %d", (int)i);
    simt_refuse_recordings(false);
    cr_expect_eq(counts_of(&layer).refused, 1);
    cr_expect_eq(counts_of(&layer).made, 0);
    for (uint64_t i = 0; i < 3; i++) /* another bucket is tried */
        cr_expect_eq(expect_same(&layer, &plain, 40, 5, i, 1), i == 0);
    layer_destroy(&layer);
    layer_destroy(&plain);
}

SUBJECT_TEST(recordings, they_go_with_the_memory_that_they_name)
{
    struct layer layer = layer_create(subject), plain = layer_create(subject);
    struct random random = {78};
    for (uint64_t i = 0; i < 3; i++)
        expect_same(&layer, &plain, 20, 5, i, 1);
    cr_expect_eq(counts_of(&layer).launched, 2);
    struct layer *both[] = {&layer, &plain};
    for (int i = 0; i < 2; i++) {
        random.state = 78;
        both[i]->backend->ops->weight_destroy(both[i]->backend, both[i]->out);
        both[i]->out = random_weight(both[i], &random, WIDTH, HEADS * HEAD_DIM, false);
    }
    for (uint64_t i = 0; i < 4; i++)
        cr_expect_eq(expect_same(&layer, &plain, 20, 5, i, 1), i == 0, "step %d", (int)i);
    layer.backend->ops->memory_destroy(layer.backend, layer.delta);
    layer.delta = memory_of(&layer, ROWS * WIDTH * sizeof(uint16_t));
    for (uint64_t i = 0; i < 4; i++)
        cr_expect_eq(expect_same(&layer, &plain, 20, 5, i, 1), i == 0, "step %d", (int)i);
    layer_destroy(&layer);
    layer_destroy(&plain);
}

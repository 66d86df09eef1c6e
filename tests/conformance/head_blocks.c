/*
 * Heads of vocabularies that a backend cuts into blocks and chunks, of many rows, and of logits
 * with many equal ones: wherever a row's pieces are put together again, and wherever it is cut.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "head.h"

enum { VOCABULARY = 5003, ROWS = 48, COUNTS = 400 };

static void compare(const struct head_output *actual, const struct head_output *expected, int rows)
{
    for (int i = 0; i < rows; i++)
        expect_head_row(actual, i, expected, i);
}

/* Every filter alone and with others, at the ends of their ranges; with and without lists. */
static struct head_row filtered_row(int i)
{
    static const int32_t top_k[] = {0, 0, 65, 1, 0, 700, 64, 0, 0, 66, 4000, 3};
    static const float top_p[] = {1, 0.5f, 1, 1, 1e-6f, 0.99999f, 0.9f, 1, 0.999f, 0, 0.7f, 0.3f};
    static const float min_p[] = {0, 0, 0, 0.5f, 0, 1e-6f, 0, 0.3f, 0.01f, 0, 1e-30f, 0.9f};
    static const float temperatures[] = {1, 0.3f, 2.5f, 1e-20f, 0};
    struct head_row row = head_row_greedy(0);
    row.top_k = top_k[i % 12];
    row.top_p = top_p[i % 12];
    row.min_p = min_p[i % 12];
    row.temperature = temperatures[i % 5];
    row.seed = 0x9e3779b97f4a7c15u * (uint64_t)(i + 1);
    row.position = (uint32_t)i;
    row.round = 1 + (uint32_t)i / 3;
    row.given = i % 4 == 0 ? i * 97 : -1;
    row.top = i % 3 == 0 ? 1 + i * 5 % HEAD_TOP_MAX : 0;
    row.raw_top = i % 7 == 0 ? HEAD_RAW_TOP_MAX : 0;
    return row;
}

static struct head_batch batch_of(const struct head_row *row, int32_t rows)
{
    return (struct head_batch){
        .rows = rows, .row = row, .mask_token = 2050, .token_limit = VOCABULARY - 3};
}

struct pair {
    struct backend *actual, *reference;
};

static struct pair open_pair(const struct subject *subject, int32_t rows, int32_t vocabulary)
{
    struct pair pair = {subject_open(subject, 2), reference_open(subject)};
    struct backend_limits limits = plain_limits(rows, vocabulary);
    reserve(pair.actual, &limits);
    reserve(pair.reference, &limits);
    return pair;
}

static void close_pair(struct pair *pair)
{
    backend_destroy(pair->actual);
    backend_destroy(pair->reference);
}

static void compare_logits(const struct pair *pair, const float *logits,
                           const struct head_batch *batch)
{
    struct head_output actual = judge_logits(pair->actual, logits, VOCABULARY, batch);
    struct head_output expected = judge_logits(pair->reference, logits, VOCABULARY, batch);
    compare(&actual, &expected, batch->rows);
    free_head_output(&actual);
    free_head_output(&expected);
}

/* Logits are exact here, so each cut must fall on the very token. */
SUBJECT_TEST(head_blocks, equal_logits_are_cut_by_token)
{
    struct pair pair = open_pair(subject, ROWS, VOCABULARY);
    struct random random = {71};
    struct head_row row[ROWS];
    float logits[VOCABULARY];
    /* Few different values, then one alone: rows of ties that go through every block. */
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < VOCABULARY; i++)
            logits[i] = round < 2 ? (float)random_below(&random, round == 0 ? 40 : 5) / 4 : -0.0f;
        for (int i = 0; i < VOCABULARY && round == 2; i += 3)
            logits[i] = 0;
        for (int i = 0; i < ROWS; i++)
            row[i] = filtered_row(i + round);
        struct head_batch batch = batch_of(row, ROWS);
        compare_logits(&pair, logits, &batch);
    }
    close_pair(&pair);
}

/*
 * At a low temperature a score in float32 has hardly a bit for the noise. These are rounds in which
 * float32 alone would choose another token: of neighbours in float32, which are as far apart as the
 * noise when they are divided by the temperature.
 */
SUBJECT_TEST(head_blocks, noise_decides_among_large_scores)
{
    static const uint32_t rounds[] = {650,  810,  955,  1148, 1595, 1860,
                                      3119, 3469, 3659, 3806, 4063, 4216};
    struct pair pair = open_pair(subject, ROWS, VOCABULARY);
    struct head_row row[ROWS];
    struct token_bias biases[COUNTS];
    float logits[VOCABULARY];
    for (int i = 0; i < VOCABULARY; i++)
        logits[i] = i % 12 == 0 ? 10 : 9;
    for (int i = 0; i < COUNTS; i++)
        biases[i] = (struct token_bias){i * 12, (float)(i % 16) * 0x1p-20f};
    for (int i = 0; i < ROWS; i++) {
        row[i] = head_row_greedy(0);
        row[i].seed = 4242;
        row[i].round = rounds[i % 12];
        row[i].temperature = 2.7e-6f;
        row[i].top_k = i / 12 == 1 ? 4000 : 0;
        row[i].top_p = i / 12 == 2 ? 0.99999f : 1;
        row[i].min_p = i / 12 == 3 ? 1e-9f : 0;
        row[i].biases_end = COUNTS;
    }
    struct head_batch batch = batch_of(row, ROWS);
    batch.biases = biases;
    compare_logits(&pair, logits, &batch);
    close_pair(&pair);
}

/* The best one is in the last block, in its first and last column, or behind what may be chosen. */
SUBJECT_TEST(head_blocks, every_place_can_be_the_best)
{
    static const int32_t places[] = {0, 2047, 2048, 4095, 4096, VOCABULARY - 4};
    struct pair pair = open_pair(subject, 2, VOCABULARY);
    float logits[VOCABULARY];
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        struct head_row row[2] = {head_row_greedy(0), head_row_greedy(0)};
        struct head_batch batch = batch_of(row, 2);
        for (int token = 0; token < VOCABULARY; token++)
            logits[token] = (float)(token % 17) / 16;
        logits[places[i]] = logits[2050] = logits[VOCABULARY - 2] = 30;
        row[0].given = row[1].given = places[i];
        row[0].raw_top = row[1].top = 2;
        row[1].temperature = 0.5f;
        struct head_output output = judge_logits(pair.actual, logits, VOCABULARY, &batch);
        for (int j = 0; j < 2; j++)
            cr_assert_eq(output.row[j].token, places[i], "%d", output.row[j].token);
        cr_assert_eq(output.raw_top_token[0], places[i]);
        free_head_output(&output);
        compare_logits(&pair, logits, &batch);
    }
    close_pair(&pair);
}

/* Whole blocks without a logit, single ones between them, rows without any. */
SUBJECT_TEST(head_blocks, what_is_not_finite_stays_where_it_is)
{
    struct pair pair = open_pair(subject, ROWS, VOCABULARY);
    struct random random = {72};
    struct head_row row[ROWS];
    float logits[VOCABULARY];
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < VOCABULARY; i++) {
            logits[i] = round == 0 && i % 5 != 0 ? (float)random_below(&random, 64) / 8 : NAN;
            if (i / 2048 == 1 || i % 11 == 0)
                logits[i] = -INFINITY;
        }
        if (round == 1)
            logits[4100] = -2;
        for (int i = 0; i < ROWS; i++)
            row[i] = filtered_row(i);
        struct head_batch batch = batch_of(row, ROWS);
        compare_logits(&pair, logits, &batch);
    }
    close_pair(&pair);
}

/*
 * So many blocks that they are put together in turns: the best ones stand in the second turn, or
 * all that is allowed in one block of the first.
 */
SUBJECT_TEST(head_blocks, many_blocks_make_one_row)
{
    enum { WIDE = 72001, FEW = 6 };
    const uint16_t one_half = bfloat16_from_float(1);
    const float one = 1;
    struct pair pair = open_pair(subject, FEW, WIDE);
    const void *hidden =
        subject->dtype == DTYPE_BFLOAT16 ? (const void *)&one_half : (const void *)&one;
    struct random random = {76};
    float *logits = malloc(WIDE * sizeof *logits);
    uint32_t *allowed = calloc((WIDE + 31) / 32, sizeof *allowed);
    struct head_row row[FEW];
    cr_assert(logits != NULL && allowed != NULL);
    memset(allowed + 2 * 64, 0xff, 64 * sizeof *allowed); /* block 2; block 34 is of its lane */
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < WIDE; i++)
            logits[i] = (float)random_below(&random, 64) / 16;
        if (round == 2)
            logits[67000] = logits[2100] = logits[4200] = logits[71000] = 20;
        for (int i = 0; i < FEW; i++) {
            row[i] = filtered_row(i);
            row[i].temperature = i < 2 ? (float)i : 0.5f;
            row[i].allowed = round == 1 ? 0 : -1;
        }
        struct head_batch batch = {.rows = FEW,
                                   .row = row,
                                   .allowed = allowed,
                                   .mask_token = 5,
                                   .token_limit = WIDE - 200};
        struct head_output actual = run_head(pair.actual, logits, NULL, WIDE, 1, hidden, 1, &batch);
        struct head_output expected =
            run_head(pair.reference, logits, NULL, WIDE, 1, hidden, 1, &batch);
        compare(&actual, &expected, FEW);
        free_head_output(&actual);
        free_head_output(&expected);
    }
    free(logits);
    free(allowed);
    close_pair(&pair);
}

SUBJECT_TEST(head_blocks, infinite_logits_are_chosen_by_their_token)
{
    struct pair pair = open_pair(subject, ROWS, VOCABULARY);
    struct head_row row[ROWS];
    float logits[VOCABULARY];
    for (int i = 0; i < VOCABULARY; i++)
        logits[i] = (float)(i % 7);
    logits[4500] = INFINITY;
    for (int i = 0; i < ROWS; i++) {
        row[i] = filtered_row(i);
        row[i].temperature = fmaxf(row[i].temperature, 0.1f);
    }
    struct head_batch batch = batch_of(row, ROWS);
    struct head_output output = judge_logits(pair.actual, logits, VOCABULARY, &batch);
    for (int i = 0; i < ROWS; i++)
        cr_assert_eq(output.row[i].token, 4500, "row %d chose %d", i, output.row[i].token);
    free_head_output(&output);
    close_pair(&pair);
}

/* What adjusts rows, with lists that reach over all blocks and name some tokens several times. */
struct adjustments {
    struct token_count counts[COUNTS];
    struct token_bias biases[COUNTS];
    uint32_t allowed[3][(VOCABULARY + 31) / 32];
};

static void fill_adjustments(struct adjustments *adjustments, struct random *random)
{
    for (int i = 0; i < COUNTS; i++) {
        int32_t token = (int32_t)random_below(random, i % 4 == 0 ? 20 : VOCABULARY);
        adjustments->counts[i] =
            (struct token_count){token, (int32_t)random_below(random, 4), (int32_t)i % 3 / 2};
        adjustments->biases[i] =
            (struct token_bias){(int32_t)random_below(random, i % 4 == 0 ? 20 : VOCABULARY),
                                i % 50 == 0 ? -INFINITY : random_float(random)};
    }
    for (size_t i = 0; i < (VOCABULARY + 31) / 32; i++) {
        adjustments->allowed[0][i] = random_below(random, 1u << 31) << 1;
        adjustments->allowed[1][i] = i == 100 ? 0x10 : 0;
        adjustments->allowed[2][i] = 0;
    }
}

/* Each row its own part of the lists, so that parts overlap. */
static void adjust_row(struct head_row *row, int i)
{
    row->counts_begin = i * 5;
    row->counts_end = i % 3 != 0 ? COUNTS - i : row->counts_begin;
    row->biases_begin = i * 3;
    row->biases_end = i % 4 != 0 ? COUNTS - 2 * i : row->biases_begin;
    row->allowed = i % 5 < 3 ? i % 5 : -1;
    row->repetition_penalty = i % 2 == 0 ? 1.2f : 1;
    row->presence_penalty = 0.25f;
    row->frequency_penalty = 0.125f;
    row->partner = i % 2 == 0 ? 1 + i % 3 : -1;
    row->guidance = 0.5f * (float)(i % 4);
}

SUBJECT_TEST(head_blocks, adjustments_and_guidance_meet_every_filter)
{
    struct pair pair = open_pair(subject, ROWS, VOCABULARY);
    struct adjustments *adjustments = malloc(sizeof *adjustments);
    struct random random = {73};
    struct head_row row[ROWS];
    cr_assert_not_null(adjustments);
    fill_adjustments(adjustments, &random);
    for (int i = 0; i < ROWS; i++) {
        row[i] = filtered_row(i);
        row[i].hidden = i % 4;
        adjust_row(&row[i], i);
    }
    row[4].given = adjustments->biases[50].token; /* banned */
    struct head_batch batch = batch_of(row, ROWS);
    batch.counts = adjustments->counts;
    batch.biases = adjustments->biases;
    batch.allowed = adjustments->allowed[0];
    float *weight = random_activations(&random, 3 * VOCABULARY, DTYPE_FLOAT32);
    float *bias = random_activations(&random, VOCABULARY, DTYPE_FLOAT32);
    void *hidden = random_activations(&random, 12, subject->dtype);
    for (int i = 0; i < 3 * VOCABULARY; i++)
        weight[i] *= 4;
    struct head_output actual =
        run_head(pair.actual, weight, bias, VOCABULARY, 3, hidden, 4, &batch);
    struct head_output expected =
        run_head(pair.reference, weight, bias, VOCABULARY, 3, hidden, 4, &batch);
    compare(&actual, &expected, ROWS);
    for (int i = 0; i < ROWS; i += 5) {
        batch.rows = 1;
        batch.row = &row[i];
        struct head_output alone =
            run_head(pair.actual, weight, bias, VOCABULARY, 3, hidden, 4, &batch);
        expect_same_head_row(&alone, 0, &actual, i);
        free_head_output(&alone);
    }
    free_head_output(&actual);
    free_head_output(&expected);
    free(adjustments);
    free(weight);
    free(bias);
    free(hidden);
    close_pair(&pair);
}

/* More rows than any bounded scratch for whole rows of logits holds, of a small vocabulary. */
SUBJECT_TEST(head_blocks, many_rows_are_judged_like_few)
{
    enum { MANY = 600, SMALL = 150 };
    struct pair pair = open_pair(subject, MANY, VOCABULARY);
    struct random random = {74};
    struct head_row *row = calloc(MANY, sizeof *row);
    float *weight = random_activations(&random, 2 * SMALL, DTYPE_FLOAT32);
    void *hidden = random_activations(&random, 2 * (size_t)MANY, subject->dtype);
    cr_assert_not_null(row);
    for (int i = 0; i < MANY; i++) {
        row[i] = filtered_row(i);
        row[i].hidden = i;
        row[i].given = -1;
        row[i].partner = i % 10 == 0 ? MANY - 1 - i : -1;
    }
    struct head_batch batch = {.rows = MANY, .row = row, .mask_token = 7, .token_limit = SMALL};
    struct head_output actual = run_head(pair.actual, weight, NULL, SMALL, 2, hidden, MANY, &batch);
    struct head_output expected =
        run_head(pair.reference, weight, NULL, SMALL, 2, hidden, MANY, &batch);
    compare(&actual, &expected, MANY);
    for (int i = 0; i < MANY; i += 83) {
        batch.rows = 1;
        batch.row = &row[i];
        struct head_output alone =
            run_head(pair.actual, weight, NULL, SMALL, 2, hidden, MANY, &batch);
        expect_same_head_row(&alone, 0, &actual, i);
        free_head_output(&alone);
    }
    free_head_output(&actual);
    free_head_output(&expected);
    free(row);
    free(weight);
    free(hidden);
    close_pair(&pair);
}

/* The same hidden states on the first and on the last lines of many. */
SUBJECT_TEST(head_blocks, row_does_not_depend_on_its_line)
{
    enum { LINES = 1500, PLACES = 8 };
    struct pair pair = open_pair(subject, LINES, VOCABULARY);
    struct random random = {75};
    struct head_row row[2][ROWS];
    float *weight = random_activations(&random, VOCABULARY, DTYPE_FLOAT32);
    size_t size = dtype_size(subject->dtype);
    char *hidden = random_activations(&random, LINES, subject->dtype);
    memcpy(hidden + (LINES - PLACES) * size, hidden, PLACES * size);
    for (int i = 0; i < ROWS; i++) {
        row[0][i] = filtered_row(i);
        row[0][i].hidden = i % PLACES;
        row[0][i].partner = i % 5 == 0 ? (i + 1) % PLACES : -1;
        row[0][i].guidance = 1;
        row[1][i] = row[0][i];
        row[1][i].hidden += LINES - PLACES;
        row[1][i].partner += i % 5 == 0 ? LINES - PLACES : 0;
    }
    struct head_batch first = batch_of(row[0], ROWS), last = batch_of(row[1], ROWS);
    struct head_output of_first =
        run_head(pair.actual, weight, NULL, VOCABULARY, 1, hidden, LINES, &first);
    struct head_output of_last =
        run_head(pair.actual, weight, NULL, VOCABULARY, 1, hidden, LINES, &last);
    struct head_output expected =
        run_head(pair.reference, weight, NULL, VOCABULARY, 1, hidden, LINES, &first);
    compare(&of_first, &expected, ROWS);
    compare(&of_last, &expected, ROWS);
    for (int i = 0; i < ROWS; i++)
        expect_same_head_row(&of_first, i, &of_last, i);
    free_head_output(&of_first);
    free_head_output(&of_last);
    free_head_output(&expected);
    free(weight);
    free(hidden);
    close_pair(&pair);
}

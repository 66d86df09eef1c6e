/* Scores that are infinite, which no product of finite rows gives; rows that must not mix. */
#include <criterion/criterion.h>
#include <math.h>
#include <string.h>
#include "common/error.h"
#include "kernels/cpu/instructions.h"

enum { SCORES = KV_PAGE_POSITIONS };
static const char *const SETS[] = {"scalar", "avx2", "avx512", "avx512bf16"};
enum { SET_COUNT = sizeof SETS / sizeof SETS[0] };

/* A tile, and what softmax keeps of it. */
struct tile {
    float scores[TILE_ROWS][SCORES] __attribute__((aligned(64)));
    float maximum[TILE_ROWS], parts[TILE_ROWS][16], correction[16];
};

/* The softmax of a set for float32 (or bfloat16), or NULL where this CPU lacks the set. */
static cpu_softmax *softmax_of(const char *set, enum dtype dtype)
{
    struct cpu_instructions chosen;
    struct error err = {0};
    return cpu_instructions_choose(&chosen, set, dtype, &err) == 0 ? chosen.softmax : NULL;
}

static struct tile new_tile(float score)
{
    struct tile tile = {0};
    for (int row = 0; row < TILE_ROWS; row++) {
        tile.maximum[row] = -INFINITY;
        for (int i = 0; i < SCORES; i++)
            tile.scores[row][i] = score;
    }
    return tile;
}

static void run(cpu_softmax *softmax, struct tile *tile, int32_t rows, int64_t count)
{
    softmax(tile->scores[0], rows, count, 0.5f,
            (struct softmax_state){.maximum = tile->maximum, .sum = tile->parts}, tile->correction);
}

static float sum_of(const struct tile *tile, int row)
{
    float sum = 0;
    for (int i = 0; i < 16; i++)
        sum += tile->parts[row][i];
    return sum;
}

Test(softmax, a_page_of_minus_infinity_weighs_nothing)
{
    for (int i = 0; i < SET_COUNT; i++) {
        cpu_softmax *softmax = softmax_of(SETS[i], DTYPE_FLOAT32);
        struct tile tile = new_tile(-INFINITY);
        if (softmax == NULL)
            continue;
        run(softmax, &tile, 1, SCORES);
        cr_assert_eq(sum_of(&tile, 0), 0, "%s", SETS[i]);
        for (int j = 0; j < SCORES; j++) {
            cr_assert_eq(tile.scores[0][j], 0, "%s", SETS[i]);
            tile.scores[0][j] = 3;
        }
        run(softmax, &tile, 1, SCORES);
        cr_expect_eq(sum_of(&tile, 0), SCORES, "%s: %g", SETS[i], (double)sum_of(&tile, 0));
        cr_expect_eq(tile.scores[0][SCORES - 1], 1, "%s", SETS[i]);
    }
}

Test(softmax, a_score_that_is_nan_makes_the_sum_nan)
{
    for (int i = 0; i < SET_COUNT; i++) {
        cpu_softmax *softmax = softmax_of(SETS[i], DTYPE_FLOAT32);
        struct tile tile = new_tile(-INFINITY);
        if (softmax == NULL)
            continue;
        tile.scores[0][7] = NAN;
        run(softmax, &tile, 1, SCORES);
        cr_expect(isnan(sum_of(&tile, 0)), "%s", SETS[i]);
    }
}

/* Rows of their own size: alone and together, and with scores that must not be seen. */
Test(softmax, rows_of_a_tile_are_independent_bit_for_bit)
{
    for (int i = 0; i < 2 * SET_COUNT; i++) {
        cpu_softmax *softmax = softmax_of(SETS[i / 2], i % 2 ? DTYPE_BFLOAT16 : DTYPE_FLOAT32);
        for (int32_t rows = 1; rows <= TILE_ROWS && softmax != NULL; rows++) {
            struct tile tile = new_tile(0);
            for (int row = 0; row < TILE_ROWS; row++) {
                for (int j = 0; j < SCORES; j++)
                    tile.scores[row][j] = j < 37 ? (float)((j * 7 + row * 13) % 31 - row) : NAN;
            }
            struct tile before = tile;
            run(softmax, &tile, rows, 37);
            for (int row = 0; row < rows; row++) {
                struct tile alone = new_tile(0);
                memcpy(alone.scores[0], before.scores[row], sizeof alone.scores[0]);
                run(softmax, &alone, 1, 37);
                cr_assert_eq(memcmp(tile.scores[row], alone.scores[0], sizeof alone.scores[0]), 0,
                             "%s, row %d of %d", SETS[i / 2], row, rows);
                cr_assert_eq(tile.maximum[row], alone.maximum[0]);
                cr_assert_eq(tile.correction[row], alone.correction[0]);
                cr_assert_eq(sum_of(&tile, row), sum_of(&alone, 0));
            }
        }
    }
}

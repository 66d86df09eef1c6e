/* The host's side of the CUDA backend that knows no device: buckets, slots, work list, tables. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include "kernels/cuda/keyed_slots.h"
#include "kernels/cuda/row_buckets.h"
#include "kernels/cuda/step_tables.h"

Test(row_buckets, hold_the_rows_and_waste_a_third_at_most)
{
    const int32_t expected[] = {32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024};
    int32_t bucket = 0;
    for (int i = 0; i < 11; i++) {
        cr_assert_eq(row_bucket(bucket + 1, 5000), expected[i]);
        cr_assert_eq(row_bucket(expected[i], 5000), expected[i]);
        bucket = expected[i];
    }
    cr_assert_eq(row_bucket(0, 5000), 32);
}

Test(row_buckets, never_exceed_the_limit)
{
    cr_assert_eq(row_bucket(1, 8), 8);
    cr_assert_eq(row_bucket(65, 70), 70);
    cr_assert_eq(row_bucket(70, 70), 70);
    cr_assert_eq(row_bucket((1 << 24) - 1, 1 << 24), 1 << 24);
    cr_assert_eq(row_bucket_count(8), 1);
    cr_assert_eq(row_bucket_count(32), 1);
    cr_assert_eq(row_bucket_count(70), 4); /* 32, 48, 64, 70 */
    cr_assert_eq(row_bucket_count(96), 4);
}

Test(keyed_slots, give_a_key_its_slot_again)
{
    struct keyed_slots *slots;
    bool is_new;
    cr_assert_eq(keyed_slots_create(&slots, 5, NULL), 0);
    const struct slot_key keys[] = {plan_key(32, 4096, 4096, 0), plan_key(32, 4096, 4096, 1),
                                    plan_key(48, 4096, 4096, 0), plan_key(32, 2048, 4096, 0),
                                    plan_key(32, 4096, 12288, 0)};
    for (int32_t i = 0; i < 5; i++) {
        cr_assert_eq(keyed_slots_find(slots, keys[i], &is_new), i);
        cr_assert(is_new);
    }
    for (int32_t i = 4; i >= 0; i--) {
        cr_assert_eq(keyed_slots_find(slots, keys[i], &is_new), i);
        cr_assert_not(is_new);
    }
    keyed_slots_destroy(slots);
    keyed_slots_destroy(NULL);
}

Test(keyed_slots, reuse_the_one_that_was_not_used_for_the_longest_time)
{
    struct keyed_slots *slots;
    bool is_new;
    cr_assert_eq(keyed_slots_create(&slots, 3, NULL), 0);
    for (int32_t i = 0; i < 3; i++)
        keyed_slots_find(slots, body_key(1, 32 + i, false), &is_new);
    keyed_slots_find(slots, body_key(1, 32, false), &is_new);
    cr_assert_eq(keyed_slots_find(slots, head_key(1, 32, 0, 1), &is_new), 1);
    cr_assert(is_new, "a head is another recording");
    cr_assert_eq(keyed_slots_find(slots, head_key(1, 32, 0, 2), &is_new), 2);
    cr_assert(is_new, "other kinds of head rows are another recording");
    cr_assert_eq(keyed_slots_find(slots, body_key(2, 32, false), &is_new), 0);
    cr_assert(is_new, "what made room is forgotten");
    keyed_slots_destroy(slots);
}

enum { ROWS = 300, SEQUENCES = 5, STRIDE = 40 };

/* A step with its tables; rows are added by hand. */
struct fixture {
    struct backend_limits limits;
    struct step_rows step;
    int32_t token[ROWS], sequence[ROWS], position[ROWS], kv_end[ROWS], gather[ROWS];
    uint8_t shadow[ROWS];
    int32_t page_table[SEQUENCES * STRIDE], line_of_sequence[SEQUENCES];
    struct step_tables tables;
    struct step_extent extent;
    char *block;
};

static struct fixture *fixture_create(int32_t heads, int32_t kv_heads, int32_t max_positions)
{
    struct fixture *fixture = calloc(1, sizeof *fixture);
    cr_assert_not_null(fixture);
    fixture->limits = (struct backend_limits){
        .attention = {1, heads, kv_heads, 64, 64, 10000, 1e-6f},
        .max_rows = ROWS,
        .max_head_rows = ROWS,
        .max_positions = max_positions,
        .max_sequences = SEQUENCES,
        .kv_pages = SEQUENCES * STRIDE,
        .vocabulary = 16,
    };
    fixture->step = (struct step_rows){.token = fixture->token,
                                       .sequence = fixture->sequence,
                                       .position = fixture->position,
                                       .kv_end = fixture->kv_end,
                                       .shadow = fixture->shadow,
                                       .page_table_stride = STRIDE,
                                       .page_table = fixture->page_table,
                                       .gather = fixture->gather};
    for (int32_t i = 0; i < SEQUENCES * STRIDE; i++)
        fixture->page_table[i] = 1000 + i;
    for (int32_t i = 0; i < SEQUENCES; i++)
        fixture->line_of_sequence[i] = -1;
    fixture->block = calloc(1, step_tables_place(&fixture->tables, NULL, &fixture->limits));
    cr_assert_not_null(fixture->block);
    step_tables_place(&fixture->tables, fixture->block, &fixture->limits);
    return fixture;
}

static void add(struct fixture *fixture, int32_t sequence, int32_t kv_end, bool shadow)
{
    int32_t row = fixture->step.rows++;
    fixture->token[row] = 7 * row;
    fixture->sequence[row] = sequence;
    fixture->position[row] = row;
    fixture->kv_end[row] = kv_end;
    fixture->shadow[row] = shadow;
}

static void fill(struct fixture *fixture)
{
    fixture->extent = step_tables_fill(&fixture->tables, &fixture->step, &fixture->limits,
                                       fixture->line_of_sequence);
}

static void fixture_destroy(struct fixture *fixture)
{
    free(fixture->block);
    free(fixture);
}

/*
 * Every row with every head sees every position before its kv_end exactly once, and a tile holds
 * nothing that does not belong together.
 */
static void check_items(const struct fixture *fixture)
{
    const struct step_tables *tables = &fixture->tables;
    const struct attention_shape *shape = &fixture->limits.attention;
    int32_t group = shape->heads / shape->kv_heads, rows = fixture->step.rows;
    int64_t *seen = calloc((size_t)(rows * shape->heads), sizeof *seen);
    int32_t *visits = calloc((size_t)(rows * shape->heads), sizeof *visits);
    cr_assert(seen != NULL && visits != NULL);
    for (int32_t i = 0; i < tables->counts->items; i++) {
        const struct attention_item *item = &tables->items[i];
        int32_t first = item->first;
        cr_assert_leq(item->rows * item->group_count, TILE_LINES);
        cr_assert(item->kv_begin % KV_PAGE_POSITIONS == 0);
        for (int32_t j = 0; j < item->rows; j++) {
            int32_t row = item->first + j;
            cr_assert_eq(tables->line[row], tables->line[first]);
            cr_assert_eq(tables->kv_end[row], tables->kv_end[first]);
            /* All chunks of a row but the last are of one length, in whole pages. */
            int32_t parts = tables->part_count[row], kv_end = tables->kv_end[row];
            int32_t pages = (kv_end - 1) / parts / KV_PAGE_POSITIONS + 1;
            cr_assert_eq(item->kv_begin, parts > 1 ? item->chunk * pages * KV_PAGE_POSITIONS : 0);
            cr_assert(parts > 1 ? item->chunk >= 0 && item->chunk < parts : item->chunk == -1);
            for (int32_t k = 0; k < item->group_count; k++) {
                int32_t head = item->kv_head * group + item->group_first + k;
                seen[row * shape->heads + head] += item->kv_end - item->kv_begin;
                visits[row * shape->heads + head]++;
            }
        }
    }
    for (int32_t i = 0; i < rows * shape->heads; i++) {
        cr_assert_eq(seen[i], fixture->kv_end[i / shape->heads], "row %d", i / shape->heads);
        cr_assert_eq(visits[i], tables->part_count[i / shape->heads], "row %d", i / shape->heads);
    }
    struct work_list_room room = work_list_room_for(&fixture->limits, rows);
    cr_assert_leq(tables->counts->items, room.items);
    for (int32_t row = 0; row < rows; row++) {
        if (tables->part_count[row] > 1)
            cr_assert_leq(tables->part_first[row] + tables->part_count[row], room.parts);
    }
    free(seen);
    free(visits);
}

Test(work_list, rows_of_one_window_share_tiles_with_their_heads)
{
    struct fixture *fixture = fixture_create(8, 2, 2048);
    for (int32_t i = 0; i < 32; i++)
        add(fixture, 3, 200, false);
    fill(fixture);
    /* 16 rows times 4 heads fill a tile: two of them, for each kv head. */
    cr_assert_eq(fixture->tables.counts->items, 4);
    check_items(fixture);
    fixture_destroy(fixture);
}

Test(work_list, shadow_rows_are_rows_of_their_window)
{
    struct fixture *fixture = fixture_create(2, 2, 2048);
    for (int32_t i = 0; i < 40; i++) {
        add(fixture, 1, 100, false);
        if (i % 10 == 3)
            add(fixture, 1, 100, true);
    }
    fill(fixture);
    /* 44 rows of one tile, for each kv head. */
    cr_assert_eq(fixture->tables.counts->items, 2);
    check_items(fixture);
    fixture_destroy(fixture);
}

Test(work_list, long_canvases_are_cut_where_the_limits_say)
{
    struct fixture *fixture = fixture_create(4, 4, STRIDE * KV_PAGE_POSITIONS);
    cr_assert_eq(work_list_chunk_positions(&fixture->limits), 512);
    /* 544: a block of 32 behind 512 positions; a chunk of 32 more would cost a merge. */
    const int32_t ends[] = {1, 512, 544, 767, 768, 1279, 1280, 2560};
    const int32_t chunks[] = {1, 1, 1, 1, 2, 2, 3, 5};
    int32_t parts = 0;
    for (int32_t i = 0; i < 8; i++)
        add(fixture, i % SEQUENCES, ends[i], i == 5);
    fill(fixture);
    for (int32_t i = 0; i < 8; i++) {
        cr_assert_eq(fixture->tables.part_count[i], chunks[i], "kv_end %d", ends[i]);
        cr_assert_eq(fixture->tables.part_first[i], chunks[i] > 1 ? parts : -1);
        parts += chunks[i] > 1 ? chunks[i] : 0;
    }
    check_items(fixture);
    fixture->limits.max_positions = 1 << 20;
    cr_assert_eq(work_list_chunk_positions(&fixture->limits), (1 << 20) / CHUNKS_MAX);
    fixture->limits.max_positions = 512;
    cr_assert_eq(work_list_room_for(&fixture->limits, 10).parts, 0);
    fixture_destroy(fixture);
}

Test(work_list, covers_every_row_and_head_once)
{
    const int32_t heads[][2] = {{1, 1}, {3, 1}, {71, 1}, {130, 1}, {12, 4}, {8, 8}};
    uint32_t state = 1;
    for (int i = 0; i < 6; i++) {
        struct fixture *fixture =
            fixture_create(heads[i][0], heads[i][1], STRIDE * KV_PAGE_POSITIONS);
        for (int32_t row = 0; row < ROWS; row++) {
            state = state * 1664525u + 1013904223u;
            int32_t sequence = row / 60;
            /* Windows, causal rows, dead rows and shadow rows in one step. */
            int32_t kv_end = state >> 28 == 0 ? 0 : state >> 28 == 1 ? row + 1 : 400 * sequence + 9;
            add(fixture, sequence, kv_end, (state >> 20) % 8 == 0);
        }
        fill(fixture);
        check_items(fixture);
        fixture_destroy(fixture);
    }
}

Test(step_tables, hold_the_step_and_the_pages_of_its_sequences_alone)
{
    struct fixture *fixture = fixture_create(1, 1, STRIDE * KV_PAGE_POSITIONS);
    const int32_t sequences[] = {4, 4, 1, 4, 0};
    const int32_t lines[] = {0, 0, 1, 0, 2};
    for (int32_t i = 0; i < 5; i++)
        add(fixture, sequences[i], 70, i == 3);
    fixture->step.gathered = 2;
    fixture->gather[0] = 4;
    fixture->gather[1] = 1;
    for (int round = 0; round < 2; round++) { /* nothing of the first one disturbs the second */
        fill(fixture);
        const struct step_tables *tables = &fixture->tables;
        cr_assert_eq(tables->counts->rows, 5);
        cr_assert_eq(tables->counts->gathered, 2);
        cr_assert_eq(tables->gather[0], 4);
        for (int32_t i = 0; i < 5; i++) {
            cr_assert_eq(tables->token[i], 7 * i);
            cr_assert_eq(tables->position[i], i);
            cr_assert_eq(tables->kv_end[i], 70);
            cr_assert_eq(tables->shadow[i], i == 3);
            cr_assert_eq(tables->line[i], lines[i]);
            cr_assert_eq(tables->page_table[lines[i] * tables->pages_per_line + 1],
                         1000 + sequences[i] * STRIDE + 1);
        }
        /* What is copied reaches to the last line of the pages, and no further. */
        cr_assert_eq(fixture->block + fixture->extent.tables,
                     (char *)(tables->page_table + 3 * tables->pages_per_line));
        cr_assert_eq(fixture->extent.items,
                     (size_t)tables->counts->items * sizeof(struct attention_item));
    }
    fixture_destroy(fixture);
}

Test(step_tables, an_empty_step_needs_no_tables)
{
    struct fixture *fixture = fixture_create(1, 1, 64);
    struct step_rows empty = {0};
    fixture->step = empty;
    fill(fixture);
    cr_assert_eq(fixture->tables.counts->rows, 0);
    cr_assert_eq(fixture->tables.counts->items, 0);
    fixture_destroy(fixture);
}

/* A page table that is narrower than the longest canvas, and one that is wider. */
Test(step_tables, page_tables_of_any_stride_are_read)
{
    for (int32_t pages = 1; pages <= 80; pages += 39) {
        struct fixture *fixture = fixture_create(1, 1, pages * KV_PAGE_POSITIONS);
        add(fixture, 2, 1, false);
        fill(fixture);
        cr_assert_eq(fixture->tables.pages_per_line, pages);
        for (int32_t i = 0; i < pages && i < STRIDE; i++)
            cr_assert_eq(fixture->tables.page_table[i], 1000 + 2 * STRIDE + i);
        fixture_destroy(fixture);
    }
}

#include "kernels/cuda/work_list.h"

static int32_t smaller(int32_t a, int32_t b)
{
    return a < b ? a : b;
}

static int32_t quotient_up(int32_t a, int32_t b)
{
    return (a + b - 1) / b;
}

static int32_t group_of(const struct backend_limits *limits)
{
    return limits->attention.heads / limits->attention.kv_heads;
}

int32_t work_list_chunk_positions(const struct backend_limits *limits)
{
    int32_t pages = quotient_up(limits->max_positions, CHUNKS_MAX * KV_PAGE_POSITIONS);
    int32_t positions = pages * KV_PAGE_POSITIONS;
    return positions > CHUNK_POSITIONS_MIN ? positions : CHUNK_POSITIONS_MIN;
}

struct work_list_room work_list_room_for(const struct backend_limits *limits, int32_t rows)
{
    int64_t chunks = quotient_up(limits->max_positions, work_list_chunk_positions(limits));
    int64_t tiles = (int64_t)rows * quotient_up(group_of(limits), TILE_LINES);
    return (struct work_list_room){
        .items = tiles * limits->attention.kv_heads * chunks,
        .parts = chunks > 1 ? rows * chunks : 0,
    };
}

/*
 * Positions of each chunk of a canvas that ends at kv_end: as many chunks as bring that nearest to
 * `length`, all nearly equal, so that none is left with a page of its own.
 */
static int32_t even_length(int32_t kv_end, int32_t length)
{
    int32_t chunks = (kv_end + length / 2) / length;
    if (chunks < 1)
        chunks = 1;
    return quotient_up(quotient_up(kv_end, chunks), KV_PAGE_POSITIONS) * KV_PAGE_POSITIONS;
}

/* Rows from `row` on that can share its tile; the tables of their parts are filled. */
static int32_t collect_rows(struct work_list *list, const struct step_rows *step, int32_t row,
                            int32_t limit, int32_t chunks)
{
    int32_t rows = 0;
    for (; row + rows < step->rows && rows < limit; rows++) {
        int32_t other = row + rows;
        if (step->sequence[other] != step->sequence[row] ||
            step->kv_end[other] != step->kv_end[row])
            break;
        list->part_count[other] = chunks;
        list->part_first[other] = chunks > 1 ? list->parts : -1;
        list->parts += chunks > 1 ? chunks : 0;
    }
    return rows;
}

/* All kv heads, pieces of the group and chunks of one tile of rows. */
static void add_items(struct work_list *list, const struct backend_limits *limits, int32_t first,
                      int32_t rows, int32_t kv_end, int32_t length, int32_t chunks)
{
    int32_t group = group_of(limits);
    for (int32_t kv_head = 0; kv_head < limits->attention.kv_heads; kv_head++) {
        for (int32_t head = 0; head < group; head += TILE_LINES) {
            for (int32_t chunk = 0; chunk < chunks; chunk++)
                list->items[list->item_count++] = (struct attention_item){
                    .first = first,
                    .rows = rows,
                    .kv_head = kv_head,
                    .group_first = head,
                    .group_count = smaller(group - head, TILE_LINES),
                    .kv_begin = chunk * length,
                    .kv_end = smaller(kv_end, (chunk + 1) * length),
                    .chunk = chunks > 1 ? chunk : -1,
                };
        }
    }
}

void work_list_fill(struct work_list *list, const struct step_rows *step,
                    const struct backend_limits *limits)
{
    int32_t group = group_of(limits), wanted = work_list_chunk_positions(limits), rows;
    int32_t limit = group < TILE_LINES ? TILE_LINES / group : 1;
    list->item_count = list->parts = 0;
    for (int32_t row = 0; row < step->rows; row += rows) {
        int32_t kv_end = step->kv_end[row], length = even_length(kv_end, wanted);
        int32_t chunks = kv_end > length ? quotient_up(kv_end, length) : 1;
        rows = collect_rows(list, step, row, limit, chunks);
        add_items(list, limits, row, rows, kv_end, length, chunks);
    }
}

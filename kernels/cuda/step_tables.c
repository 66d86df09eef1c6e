#include "kernels/cuda/step_tables.h"

#include "kernels/cuda/table_layout.h"

static void *place(size_t *size, char *base, size_t bytes)
{
    size_t at = table_place(size, bytes);
    return base != NULL ? base + at : NULL;
}

size_t step_tables_place(struct step_tables *tables, char *base,
                         const struct backend_limits *limits)
{
    size_t rows = (size_t)limits->max_rows, of_rows = rows * sizeof(int32_t), size = 0;
    size_t gathered = (size_t)backend_lines_max(limits);
    size_t sequences = (size_t)limits->max_sequences, lines = rows < sequences ? rows : sequences;
    int32_t pages = (limits->max_positions - 1) / KV_PAGE_POSITIONS + 1;
    size_t items = (size_t)work_list_room_for(limits, limits->max_rows).items;
    *tables = (struct step_tables){
        .counts = place(&size, base, sizeof(struct step_counts)),
        .token = place(&size, base, of_rows),
        .position = place(&size, base, of_rows),
        .kv_end = place(&size, base, of_rows),
        .shadow = place(&size, base, of_rows),
        .line = place(&size, base, of_rows),
        .part_first = place(&size, base, of_rows),
        .part_count = place(&size, base, of_rows),
        .gather = place(&size, base, gathered * sizeof(int32_t)),
        .page_table = place(&size, base, lines * (size_t)pages * sizeof(int32_t)),
        .pages_per_line = pages,
        .items = place(&size, base, items * sizeof(struct attention_item)),
    };
    return size;
}

/* Copies the page table lines of the step's sequences one after the other; returns their number. */
static int32_t fill_lines(struct step_tables *tables, const struct step_rows *step,
                          int32_t *line_of_sequence)
{
    int32_t stride = step->page_table_stride, pages = tables->pages_per_line, lines = 0;
    int32_t used = stride < pages ? stride : pages;
    for (int32_t row = 0; row < step->rows; row++) {
        int32_t sequence = step->sequence[row];
        if (line_of_sequence[sequence] < 0) {
            const int32_t *from = step->page_table + (int64_t)sequence * stride;
            for (int32_t i = 0; i < used; i++)
                tables->page_table[(int64_t)lines * pages + i] = from[i];
            line_of_sequence[sequence] = lines++;
        }
        tables->line[row] = line_of_sequence[sequence];
    }
    for (int32_t row = 0; row < step->rows; row++)
        line_of_sequence[step->sequence[row]] = -1;
    return lines;
}

struct step_extent step_tables_fill(struct step_tables *tables, const struct step_rows *step,
                                    const struct backend_limits *limits, int32_t *line_of_sequence)
{
    struct work_list list = {
        .items = tables->items, .part_first = tables->part_first, .part_count = tables->part_count};
    work_list_fill(&list, step, limits);
    for (int32_t row = 0; row < step->rows; row++) {
        tables->token[row] = step->token[row];
        tables->position[row] = step->position[row];
        tables->kv_end[row] = step->kv_end[row];
        tables->shadow[row] = step->shadow[row];
    }
    for (int32_t i = 0; i < step->gathered; i++)
        tables->gather[i] = step->gather[i];
    *tables->counts = (struct step_counts){step->rows, step->gathered, list.item_count};
    const int32_t *end = tables->page_table + (int64_t)fill_lines(tables, step, line_of_sequence) *
                                                  tables->pages_per_line;
    return (struct step_extent){
        .tables = (size_t)((const char *)end - (const char *)tables->counts),
        .items = (size_t)list.item_count * sizeof(struct attention_item),
        .parts = list.parts,
    };
}

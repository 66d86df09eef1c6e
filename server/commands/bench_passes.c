/* Forward passes of bench rounds: their rows, their floors, their time. */
#include "server/commands/bench_rounds.h"

#include <stdlib.h>

#include "common/error.h"
#include "server/engine/kv_pages.h"

/* ---- floors ---------------------------------------------------------------------------------- */

static double weight_bytes(const struct bench_rounds *rounds, int64_t rows, int64_t columns)
{
    const struct bench_kernels *bench = &rounds->bench;
    return (double)backend_weight_bytes(bench->device, rows, columns, false,
                                        bench->options.weight_dtype);
}

/* What the shape costs with the weights as the backend holds them. */
static struct pass_work pass_work_of(const struct bench_rounds *rounds,
                                     const struct pass_shape *shape)
{
    const struct model_config *config = &rounds->config;
    const int64_t width = config->width, ffn = config->ffn_width;
    const int64_t heads = (int64_t)config->heads * config->head_dim;
    const int64_t kv = (int64_t)config->kv_heads * config->head_dim;
    const struct {
        int64_t rows, columns;
    } matrices[] = {{heads + 2 * kv, width}, {width, heads}, {2 * ffn, width}, {width, ffn}};
    int32_t rows = shape->sequences * shape->rows;
    int32_t head_rows = shape->sequences * shape->head_rows;
    double layer_numbers = 0, layer_bytes = 0, attended = 0;

    for (size_t i = 0; i < sizeof matrices / sizeof *matrices; i++) {
        layer_numbers += (double)matrices[i].rows * (double)matrices[i].columns;
        layer_bytes += weight_bytes(rounds, matrices[i].rows, matrices[i].columns);
    }
    for (int32_t i = 0; i < shape->rows; i++)
        attended += shape->kv_end > 0 ? shape->kv_end : shape->first + i + 1;
    attended *= shape->sequences;
    int32_t cached = shape->kv_end > 0 ? shape->kv_end : shape->first + shape->rows;
    double head_numbers = (double)config->embedding_rows * (double)width;
    return (struct pass_work){
        .rows = rows,
        .head_rows = head_rows,
        .product_flops = 2.0 * (rows * config->layers * layer_numbers + head_rows * head_numbers),
        .attention_flops = 4.0 * config->layers * attended * (double)heads,
        .bytes = config->layers * layer_bytes +
                 (head_rows > 0 ? weight_bytes(rounds, config->embedding_rows, width) : 0) +
                 2.0 * shape->sequences * cached * config->layers * (double)kv *
                     (double)dtype_size(rounds->bench.options.dtype),
    };
}

/* The longer of the bytes at the measured rate and the flops at the measured peaks. */
static double pass_floor(const char **bound, const struct bench_rounds *rounds,
                         const struct pass_work *work)
{
    const struct bench_kernels *bench = &rounds->bench;
    double products = work->product_flops / bench->product_rates[bench->options.weight_dtype] +
                      work->attention_flops / bench->product_rates[bench->options.dtype];
    double memory = work->bytes / bench->read_rate;

    *bound = products > memory ? "products" : "memory";
    return products > memory ? products : memory;
}

/* ---- rows ------------------------------------------------------------------------------------ */

struct pass {
    struct model *model;
    struct step_rows step;
    struct head_batch batch;
    struct head_result result;
    /* Where step and batch point: [rows], [head rows] and [sequences, stride]. */
    int32_t *token, *sequence, *position, *kv_end, *gather, *page_table;
    uint8_t *shadow;
    struct head_row *head_row;
    int code;
    struct error *err;
};

static void pass_destroy(struct pass *pass)
{
    void *tables[] = {pass->token,  pass->sequence,   pass->position, pass->kv_end,
                      pass->gather, pass->page_table, pass->shadow,   pass->head_row};

    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++)
        free(tables[i]);
    head_result_free(&pass->result);
}

static int allocate(struct pass *pass, size_t rows, size_t head_rows, size_t pages)
{
    pass->token = calloc(rows, sizeof *pass->token);
    pass->sequence = calloc(rows, sizeof *pass->sequence);
    pass->position = calloc(rows, sizeof *pass->position);
    pass->kv_end = calloc(rows, sizeof *pass->kv_end);
    pass->gather = calloc(head_rows + 1, sizeof *pass->gather);
    pass->page_table = calloc(pages, sizeof *pass->page_table);
    pass->shadow = calloc(rows, sizeof *pass->shadow);
    pass->head_row = calloc(head_rows + 1, sizeof *pass->head_row);
    bool complete = pass->token != NULL && pass->sequence != NULL && pass->position != NULL &&
                    pass->kv_end != NULL && pass->gather != NULL && pass->page_table != NULL &&
                    pass->shadow != NULL && pass->head_row != NULL;
    return complete ? 0
                    : error_set(pass->err, ERROR_MEMORY, "no memory left for the rows of a pass");
}

/* `pages` of every sequence lie one behind the other. The best token of each head row. */
static void fill_rows(struct pass *pass, const struct bench_rounds *rounds,
                      const struct pass_shape *shape, int32_t pages)
{
    int32_t head_rows = 0;

    for (int32_t i = 0; i < shape->sequences * shape->rows; i++) {
        int32_t place = i % shape->rows, position = shape->first + place;
        pass->token[i] = bench_random_token(&rounds->config, (uint32_t)i);
        pass->sequence[i] = i / shape->rows;
        pass->position[i] = position;
        pass->kv_end[i] = shape->kv_end > 0 ? shape->kv_end : position + 1;
        if (place < shape->rows - shape->head_rows)
            continue;
        pass->gather[head_rows] = i;
        pass->head_row[head_rows] = head_row_greedy(head_rows);
        head_rows++;
    }
    for (int32_t i = 0; i < shape->sequences * pages; i++)
        pass->page_table[i] = i;
}

static int pass_create(struct pass *pass, const struct bench_rounds *rounds,
                       const struct pass_shape *shape, struct error *err)
{
    int32_t end = shape->kv_end > 0 ? shape->kv_end : shape->first + shape->rows;
    int32_t pages = kv_pages_needed(end);
    int32_t rows = shape->sequences * shape->rows;
    int32_t head_rows = shape->sequences * shape->head_rows;

    *pass = (struct pass){.model = rounds->model, .err = err};
    int code =
        allocate(pass, (size_t)rows, (size_t)head_rows, (size_t)shape->sequences * (size_t)pages);
    if (code == 0)
        code = head_result_create(&pass->result, head_rows, err);
    if (code != 0) {
        pass_destroy(pass);
        return code;
    }
    fill_rows(pass, rounds, shape, pages);
    pass->step = (struct step_rows){.rows = rows,
                                    .token = pass->token,
                                    .sequence = pass->sequence,
                                    .position = pass->position,
                                    .kv_end = pass->kv_end,
                                    .shadow = pass->shadow,
                                    .page_table_stride = pages,
                                    .page_table = pass->page_table,
                                    .gathered = head_rows,
                                    .gather = pass->gather};
    pass->batch = (struct head_batch){.rows = head_rows,
                                      .row = pass->head_row,
                                      .mask_token = rounds->config.mask_token,
                                      .token_limit = rounds->config.vocabulary};
    return 0;
}

/* ---- time ------------------------------------------------------------------------------------ */

static void run_pass(void *context)
{
    struct pass *pass = context;

    if (pass->code == 0)
        pass->code =
            model_forward(pass->model, &pass->step, &pass->batch, &pass->result, pass->err);
}

static double pass_seconds(const struct bench_rounds *rounds, struct pass *pass)
{
    if (rounds->bench.on_device) { /* which the backend may record */
        pass->step.rehearsal = true;
        run_pass(pass);
        pass->step.rehearsal = false;
        run_pass(pass);
    }
    return bench_median_seconds(&rounds->bench, run_pass, pass);
}

int pass_measure(struct pass_figures *figures, const struct bench_rounds *rounds,
                 const struct pass_shape *shape, bool with_and_without, struct error *err)
{
    struct pass pass;
    int code = pass_create(&pass, rounds, shape, err);

    if (code != 0)
        return code;
    *figures = (struct pass_figures){.work = pass_work_of(rounds, shape)};
    figures->floor_s = pass_floor(&figures->bound, rounds, &figures->work);
    figures->seconds = figures->seconds_without_head = pass_seconds(rounds, &pass);
    if (with_and_without) {
        pass.batch.rows = 0; /* the hidden states are gathered all the same */
        figures->seconds_without_head = pass_seconds(rounds, &pass);
    }
    code = pass.code;
    pass_destroy(&pass);
    return code;
}

int pass_fill_cache(const struct bench_rounds *rounds, struct error *err)
{
    int32_t positions = rounds->plan.cached + rounds->plan.window;
    int32_t at_once = rounds->model->limits.max_rows / positions;
    int32_t pages = kv_pages_needed(positions);
    int code = 0;

    for (int32_t first = 0; first < rounds->max_sequences && code == 0; first += at_once) {
        int32_t left = rounds->max_sequences - first;
        const struct pass_shape shape = {left < at_once ? left : at_once, 0, positions, positions,
                                         0};
        struct pass pass;
        code = pass_create(&pass, rounds, &shape, err);
        if (code != 0)
            break;
        for (int32_t i = 0; i < shape.sequences * pages; i++)
            pass.page_table[i] += first * pages;
        pass.step.rehearsal = true; /* whole canvases are measured at its size */
        run_pass(&pass);
        code = pass.code;
        pass_destroy(&pass);
    }
    return code;
}

/* Forward passes of bench rounds: their rows, their floors, their time. */
#include "server/commands/bench_rounds.h"

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
    double head_flops = 2.0 * head_rows * (double)config->embedding_rows * (double)width;
    double head_bytes = head_rows > 0 ? weight_bytes(rounds, config->embedding_rows, width) : 0;
    return (struct pass_work){
        .rows = rows,
        .head_rows = head_rows,
        .product_flops = 2.0 * rows * config->layers * layer_numbers + head_flops,
        .attention_flops = 4.0 * config->layers * attended * (double)heads,
        .bytes = config->layers * layer_bytes + head_bytes +
                 2.0 * shape->sequences * pass_positions(shape) * config->layers * (double)kv *
                     (double)dtype_size(rounds->bench.options.dtype),
        .head_flops = head_flops,
        .head_bytes = head_bytes,
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

double pass_statistics_seconds(const struct bench_rounds *rounds,
                               const struct pass_figures *figures)
{
    const struct bench_kernels *bench = &rounds->bench;
    double flops_s = figures->work.head_flops / bench->product_rates[bench->options.weight_dtype];
    double bytes_s = figures->work.head_bytes / bench->read_rate;
    double head_s = figures->seconds - figures->seconds_without_head;

    return head_s - (flops_s > bytes_s ? flops_s : bytes_s);
}

/* ---- time ------------------------------------------------------------------------------------ */

struct pass {
    struct model *model;
    struct random_rows rows;
    int code;
    struct error *err;
};

static int pass_create(struct pass *pass, const struct bench_rounds *rounds,
                       const struct pass_shape *shape, struct error *err)
{
    int32_t pages = kv_pages_needed(pass_positions(shape));

    *pass = (struct pass){.model = rounds->model, .err = err};
    int code =
        random_rows_create(&pass->rows, shape->sequences * shape->rows,
                           shape->sequences * shape->head_rows, shape->sequences * pages, err);
    if (code == 0)
        random_rows_set(&pass->rows, shape, rounds->config.vocabulary, rounds->config.mask_token);
    return code;
}

static void run_pass(void *context)
{
    struct pass *pass = context;
    struct random_rows *rows = &pass->rows;

    if (pass->code == 0)
        pass->code =
            model_forward(pass->model, &rows->step, &rows->batch, &rows->result, pass->err);
}

static double pass_seconds(const struct bench_rounds *rounds, struct pass *pass)
{
    if (rounds->bench.on_device) { /* which the backend may record */
        pass->rows.step.rehearsal = true;
        run_pass(pass);
        pass->rows.step.rehearsal = false;
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
        pass.rows.batch.rows = 0; /* the hidden states are gathered all the same */
        figures->seconds_without_head = pass_seconds(rounds, &pass);
    }
    code = pass.code;
    random_rows_destroy(&pass.rows);
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
            pass.rows.page_table[i] += first * pages;
        pass.rows.step.rehearsal = true; /* whole canvases are measured at its size */
        run_pass(&pass);
        code = pass.code;
        random_rows_destroy(&pass.rows);
    }
    return code;
}

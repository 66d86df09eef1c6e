/* Every operation of a step by itself, over shapes of small and large models. */
#include "server/commands/bench_kernels.h"

#include <stdio.h>

#include "common/clock.h"
#include "common/error.h"
#include "kernels/cpu/cpu.h"
#include "server/commands/bench_workload.h"

enum {
    SLOWEST_S = 3, /* what would take longer is left out */
    CASES_MAX = 5,
    STEP_NS = 2000000, /* a step lasts so long at least, */
    STEP_CALLS_MAX = 1024,
};

/* What is measured of every layer. */
struct plan {
    int32_t max_rows, max_positions, kv_pages;
    struct {
        int32_t count, rows[CASES_MAX];
    } linear, head, others; /* rows of each case */
    struct rows_shape attention[CASES_MAX];
    int attentions;
};

static const struct plan PLAN = {
    .max_rows = 512,
    .max_positions = 4096,
    .kv_pages = 64,
    .linear = {5, {1, 8, 32, 128, 512}},
    .head = {2, {1, 32}},
    .others = {3, {1, 32, 512}},
    .attention = {{8, 32, 512}, {1, 1, 512}, {1, 32, 4096}},
    .attentions = 3,
};

static const struct plan QUICK_PLAN = {
    .max_rows = 32,
    .max_positions = 128,
    .kv_pages = 2,
    .linear = {2, {1, 8}},
    .head = {1, {8}},
    .others = {1, {8}},
    .attention = {{2, 8, 64}, {1, 32, 128}},
    .attentions = 2,
};

static const struct layer_shape SHAPES[] = {
    {512, 8, 64, 1408, 4096},
    {1024, 16, 64, 2816, 4096},
    {4096, 32, 128, 12288, 126464}, /* LLaDA-8B */
};

static const struct layer_shape QUICK_SHAPE = {64, 2, 32, 176, 512};

/* ---- one case -------------------------------------------------------------------------------- */

/* Flops and bytes are those of docs/KERNELS.md. */
struct operation_case {
    const char *operation;
    char shape[48];
    double flops, bytes;
    bool weighs;    /* its products are those of a matrix of weights */
    bool heads;     /* it is head: once a step, and never part of a recording of a step's body */
    double seconds; /* of one, as the last measure found */
};

static void report(const struct workload *workload, const struct operation_case *what)
{
    const struct bench_kernels *bench = workload->bench;
    double seconds = what->seconds,
           unit = bench->on_device ? 1e-12 : 1e-9; /* as the table's head says */
    double peak =
        bench->product_rates[what->weighs ? bench->options.weight_dtype : bench->options.dtype];
    double compute = what->flops / peak, memory = what->bytes / bench->read_rate;
    double floor_s = compute > memory ? compute : memory;
    const char *bound = compute > memory ? "products" : "memory";
    int rows = workload->rows.step.rows;

    bench_say(bench, "%-12s %-26s %5d %12.2f %10.*f %8.2f %8.1f  %s\n", what->operation,
              what->shape, rows, 1e6 * seconds, bench->on_device ? 3 : 1,
              unit * what->flops / seconds, 1e-9 * what->bytes / seconds, 100 * floor_s / seconds,
              bound);
    bench_add(bench, "kernels",
              json_pack("{s:s, s:s, s:i, s:f, s:f, s:f, s:f, s:f, s:f, s:s}", "operation",
                        what->operation, "shape", what->shape, "rows", rows, "us", 1e6 * seconds,
                        "flops", what->flops, "bytes", what->bytes, "gflops",
                        1e-9 * what->flops / seconds, "gb_per_s", 1e-9 * what->bytes / seconds,
                        "percent_of_floor", 100 * floor_s / seconds, "bound", bound));
}

/* One step that has the same operation so many times. */
struct repeated {
    struct workload *workload;
    void (*run)(void *context);
    int calls;
    int code; /* of the first step that failed: none is begun behind it */
    struct error *err;
};

static void run_repeated(void *context)
{
    struct repeated *repeated = context;
    struct workload *workload = repeated->workload;
    const struct backend_ops *ops = workload->backend->ops;

    if (repeated->code != 0)
        return;
    if (ops->step_begin(workload->backend, &workload->rows.step)) {
        for (int i = 0; i < repeated->calls; i++)
            repeated->run(workload);
    }
    repeated->code = ops->step_end(workload->backend, repeated->err);
}

/* As many calls as make a step so long that its begin and end do not matter. */
static void choose_calls(struct repeated *repeated)
{
    int64_t ns = 0;

    while (ns < STEP_NS && repeated->calls < STEP_CALLS_MAX && repeated->code == 0) {
        repeated->calls *= ns == 0 ? 1 : 2;
        int64_t begin = clock_now_ns();
        run_repeated(repeated);
        ns = clock_now_ns() - begin;
    }
}

/*
 * The operation for the workload's rows: sets what->seconds. A device computes while the host goes
 * on, and launching a small kernel and waiting for it takes longer than the kernel: so steps of
 * many calls are timed, which the backend may record as a program of their own.
 * Errors: those of step_end.
 */
static int measure(struct workload *workload, struct operation_case *what,
                   void (*run)(void *context), struct error *err)
{
    const struct bench_kernels *bench = workload->bench;
    struct repeated repeated = {.workload = workload, .run = run, .calls = 1, .err = err};

    workload->rows.step.program = 0;
    workload->rows.step.rehearsal = true; /* time to choose how it is computed */
    run_repeated(&repeated);
    workload->rows.step.rehearsal = false;
    if (!bench->quick && !what->heads)
        choose_calls(&repeated);
    if (!what->heads) {
        workload->rows.step.program = ++workload->programs;
        run_repeated(&repeated); /* which the backend may record */
    }
    what->seconds = bench_median_seconds(bench, run_repeated, &repeated) / repeated.calls;
    if (repeated.code == 0)
        report(workload, what);
    return repeated.code;
}

/* ---- linear ---------------------------------------------------------------------------------- */

static void run_linear(void *context)
{
    const struct workload *workload = context;
    workload->backend->ops->linear(workload->backend, workload->out, workload->in, workload->weight,
                                   workload->rows.step.rows);
}

static int bench_linear(struct workload *workload, const struct plan *plan, int64_t n, int64_t k,
                        const char *name, struct error *err)
{
    const struct bench_kernels *bench = workload->bench;
    double weight_element = (double)dtype_size(bench->options.weight_dtype);
    double element = (double)dtype_size(bench->options.dtype);
    struct operation_case what = {.operation = "linear", .weighs = true};
    bool fits;
    int code = workload_set_weight(workload, &fits, n, k, err);

    if (code != 0)
        return code;
    snprintf(what.shape, sizeof what.shape, "%lldx%lld %s", (long long)n, (long long)k, name);
    double slowest = 0; /* seconds of the last row count, for one row */
    for (int i = 0; i < plan->linear.count && code == 0; i++) {
        int32_t rows = plan->linear.rows[i];
        double l = rows;
        if (!fits || slowest * l > SLOWEST_S) {
            bench_leave_out(bench, "linear %s of %d rows: %s", what.shape, rows,
                            fits ? "it would take too long" : "too little memory");
            continue;
        }
        workload_set_rows(workload, &(struct rows_shape){1, rows, rows}, 0);
        what.flops = 2 * l * (double)n * (double)k;
        what.bytes =
            weight_element * (double)n * (double)k + element * (l * (double)k + l * (double)n);
        code = measure(workload, &what, run_linear, err);
        slowest = what.seconds / l;
    }
    return code;
}

static int bench_linears(struct workload *workload, const struct plan *plan, struct error *err)
{
    int64_t width = workload->shape.width, ffn = workload->shape.ffn_width;
    int code = bench_linear(workload, plan, 3 * width, width, "qkv", err);

    if (code == 0)
        code = bench_linear(workload, plan, width, width, "out", err);
    if (code == 0)
        code = bench_linear(workload, plan, 2 * ffn, width, "gate, up", err);
    if (code == 0)
        code = bench_linear(workload, plan, width, ffn, "down", err);
    return code;
}

/* ---- between the products -------------------------------------------------------------------- */

static void run_add_rmsnorm(void *context)
{
    const struct workload *workload = context;
    workload->backend->ops->add_rmsnorm(workload->backend, workload->out, workload->residual,
                                        workload->in, workload->scale, 1e-5F,
                                        workload->shape.width);
}

static void run_rope_store(void *context)
{
    const struct workload *workload = context;
    workload->backend->ops->rope_store(workload->backend, workload->in, NULL, NULL, 0);
}

static void run_swiglu(void *context)
{
    const struct workload *workload = context;
    workload->backend->ops->swiglu(workload->backend, workload->out, workload->in,
                                   workload->shape.ffn_width);
}

static void run_gather(void *context)
{
    const struct workload *workload = context;
    workload->backend->ops->gather(workload->backend, workload->out, workload->in,
                                   workload->shape.width);
}

static int bench_rows(struct workload *workload, int32_t rows, struct error *err)
{
    double s = (double)dtype_size(workload->bench->options.dtype), r = rows,
           d = workload->shape.width;
    double f = workload->shape.ffn_width;
    double h = workload->shape.heads * (double)workload->shape.head_dim; /* all heads' columns */
    struct operation_case what = {.operation = "add_rmsnorm"};

    workload_set_rows(workload, &(struct rows_shape){1, rows, rows}, 0);
    snprintf(what.shape, sizeof what.shape, "d %d", workload->shape.width);
    what.flops = 4 * r * d;
    what.bytes = r * d * (8 + 2 * s);
    int code = measure(workload, &what, run_add_rmsnorm, err);

    what.operation = "gather";
    what.flops = 0;
    what.bytes = 2 * s * d * r;
    if (code == 0)
        code = measure(workload, &what, run_gather, err);

    what.operation = "rope_store";
    snprintf(what.shape, sizeof what.shape, "%d heads of %d", workload->shape.heads,
             workload->shape.head_dim);
    what.flops = 6 * r * 2 * h;
    what.bytes = 3 * s * r * 3 * h;
    if (code == 0)
        code = measure(workload, &what, run_rope_store, err);

    what.operation = "swiglu";
    snprintf(what.shape, sizeof what.shape, "width %d", workload->shape.ffn_width);
    what.flops = 2 * r * f;
    what.bytes = 3 * s * r * f;
    return code != 0 ? code : measure(workload, &what, run_swiglu, err);
}

/* ---- attention ------------------------------------------------------------------------------- */

static void run_attention(void *context)
{
    const struct workload *workload = context;
    workload->backend->ops->attention(workload->backend, workload->out, workload->in, 0);
}

static int bench_attention(struct workload *workload, const struct rows_shape *rows,
                           struct error *err)
{
    double columns = workload->shape.heads * (double)workload->shape.head_dim;
    double element = (double)dtype_size(workload->bench->options.dtype);
    int32_t tiles = (rows->rows + ATTENTION_TILE_ROWS - 1) / ATTENTION_TILE_ROWS;
    struct operation_case what = {
        .operation = "attention",
        .flops = 4.0 * rows->positions * rows->sequences * rows->rows * columns,
        .bytes = 2 * element * rows->positions * columns * tiles * rows->sequences,
    };
    int code = workload_fill_cache(workload, rows, err);

    if (code != 0)
        return code;
    snprintf(what.shape, sizeof what.shape, "%dx%d, %d x %d of %d", workload->shape.heads,
             workload->shape.head_dim, rows->sequences, rows->rows, rows->positions);
    return measure(workload, &what, run_attention, err);
}

/* ---- embedding and head ---------------------------------------------------------------------- */

static void run_embed(void *context)
{
    const struct workload *workload = context;
    workload->backend->ops->embed(workload->backend, workload->residual, workload->weight);
}

static void run_head(void *context)
{
    struct workload *workload = context;
    workload->backend->ops->head(workload->backend, &workload->rows.result, workload->in,
                                 workload->weight, &workload->rows.batch);
}

/* The same matrix embeds the tokens and gives their logits, as in a model that ties the two. */
static int bench_vocabulary(struct workload *workload, const struct plan *plan, struct error *err)
{
    const struct bench_kernels *bench = workload->bench;
    double v = workload->shape.vocabulary, d = workload->shape.width;
    double weight_element = (double)dtype_size(bench->options.weight_dtype);
    struct operation_case what = {.operation = "embed"};
    bool fits;
    int code = workload_set_weight(workload, &fits, workload->shape.vocabulary,
                                   workload->shape.width, err);

    if (code != 0)
        return code;
    snprintf(what.shape, sizeof what.shape, "%dx%d", workload->shape.vocabulary,
             workload->shape.width);
    if (!fits) {
        bench_leave_out(bench, "embed and head of %s: too little memory", what.shape);
        return 0;
    }
    for (int i = 0; i < plan->others.count && code == 0; i++) {
        int32_t rows = plan->others.rows[i];
        workload_set_rows(workload, &(struct rows_shape){1, rows, rows}, 0);
        what.bytes = rows * d * (weight_element + 4);
        code = measure(workload, &what, run_embed, err);
    }
    what.operation = "head";
    what.weighs = what.heads = true;
    for (int i = 0; i < plan->head.count && code == 0; i++) {
        int32_t rows = plan->head.rows[i];
        workload_set_rows(workload, &(struct rows_shape){1, rows, rows}, 0);
        what.flops = 2 * v * d * rows;
        what.bytes = weight_element * v * d + 4 * v * rows; /* one slice */
        code = measure(workload, &what, run_head, err);
    }
    return code;
}

/* ---- all ------------------------------------------------------------------------------------- */

static int bench_layer(const struct bench_kernels *bench, const struct layer_shape *shape,
                       struct error *err)
{
    const struct plan *plan = bench->quick ? &QUICK_PLAN : &PLAN;
    struct workload workload;
    int code = workload_create(&workload, bench, shape, plan->max_rows, plan->max_positions,
                               plan->kv_pages, err);

    if (code != 0)
        return code;
    code = bench_linears(&workload, plan, err);
    for (int i = 0; i < plan->attentions && code == 0; i++)
        code = bench_attention(&workload, &plan->attention[i], err);
    for (int i = 0; i < plan->others.count && code == 0; i++)
        code = bench_rows(&workload, plan->others.rows[i], err);
    if (code == 0)
        code = bench_vocabulary(&workload, plan, err);
    workload_destroy(&workload);
    return code;
}

int bench_operations(const struct bench_kernels *bench, struct error *err)
{
    size_t count = bench->quick ? 1 : sizeof SHAPES / sizeof *SHAPES;
    int code = 0;

    bench_say(bench,
              "\nThe floor of an operation is the longer of its flops at the peak of the dtype and "
              "its bytes\n(docs/KERNELS.md) at the memory's rate above. What lies in a "
              "cache can be faster than that.\n"
              "attention: heads, sequences x rows of each over so many positions.\n\n"
              "%-12s %-26s %5s %12s %10s %8s %8s  %s\n",
              "operation", "shape", "rows", "us", bench->on_device ? "TFLOP/s" : "GFLOP/s", "GB/s",
              "% floor", "bound");
    for (size_t i = 0; i < count && code == 0; i++)
        code = bench_layer(bench, bench->quick ? &QUICK_SHAPE : &SHAPES[i], err);
    return code;
}

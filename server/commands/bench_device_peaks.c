/* What a device can do at most: a product of large matrices, and copies within its memory. */
#include "server/commands/bench_kernels.h"

#include "common/error.h"
#include "server/commands/bench_workload.h"
#include "server/engine/kv_pages.h"

enum {
    SIDE = 8192, /* of the matrices */
    QUICK_SIDE = 256,
    PRODUCTS = 4, /* of a step */
    COPY_BYTES = 1 << 30,
    QUICK_COPY_BYTES = 1 << 20,
};

static void run_products(void *context)
{
    struct workload *workload = context;
    const struct backend_ops *ops = workload->backend->ops;

    ops->step_begin(workload->backend, &workload->rows.step);
    for (int i = 0; i < PRODUCTS; i++)
        ops->linear(workload->backend, workload->out, workload->in, workload->weight,
                    workload->rows.step.rows);
    ops->step_end(workload->backend, NULL);
}

static int measure_product(double *rate, const struct bench_kernels *bench, struct error *err)
{
    int32_t side = bench->quick ? QUICK_SIDE : SIDE;
    const struct layer_shape shape = {side, side / 128, 128, side / 2, 512};
    struct workload workload;
    bool fits;
    int code = workload_create(&workload, bench, &shape, side, side, kv_pages_needed(side), err);

    if (code != 0)
        return code;
    code = workload_set_weight(&workload, &fits, side, side, err);
    if (code == 0 && !fits)
        code = error_set(err, ERROR_MEMORY,
                         "bench: no memory left for a matrix of %d x %d; free some, or use --quick",
                         side, side);
    if (code == 0) {
        workload_set_rows(&workload, &(struct rows_shape){1, side, side}, 0);
        workload.rows.step.rehearsal = true; /* time to choose how it is computed */
        run_products(&workload);
        workload.rows.step.rehearsal = false;
        double seconds = bench_median_seconds(bench, run_products, &workload);
        *rate = 2.0 * PRODUCTS * side * (double)side * side / seconds;
        /* A fault of the steps before would show again. */
        workload.backend->ops->step_begin(workload.backend, &workload.rows.step);
        code = workload.backend->ops->step_end(workload.backend, err);
    }
    workload_destroy(&workload);
    return code;
}

static int measure_copy(struct bench_kernels *bench, struct error *err)
{
    size_t size = bench->quick ? QUICK_COPY_BYTES : COPY_BYTES;
    struct backend *backend;
    int code = backend_create(&backend, bench->device, &bench->options, err);

    if (code != 0)
        return code;
    code = backend_copy_rate(&bench->read_rate, backend, size, err);
    backend_destroy(backend);
    if (code != 0)
        return code;
    bench_say(bench, "memory     copy %.1f GB/s (read and written), of %.0f MB\n",
              1e-9 * bench->read_rate, 1e-6 * (double)size);
    if (bench->document != NULL)
        json_object_set_new(bench->document, "memory",
                            json_pack("{s:f, s:f}", "copy_gb_per_s", 1e-9 * bench->read_rate, "mb",
                                      1e-6 * (double)size));
    return 0;
}

int bench_device_peaks(struct bench_kernels *bench, struct error *err)
{
    int side = bench->quick ? QUICK_SIDE : SIDE;

    bench_say(bench, "\n%-10s %-10s linear, %d x %d x %d\n", "peak", "TFLOP/s", side, side, side);
    for (int i = 0; i < DTYPE_COUNT; i++) {
        struct bench_kernels of_dtype = *bench;
        struct error refused = {0};
        of_dtype.options.weight_dtype = (enum dtype)i;
        int code = measure_product(&bench->product_rates[i], &of_dtype, &refused);
        if (code == ERROR_INVALID || code == ERROR_UNSUPPORTED)
            continue; /* not of this device */
        if (code != 0) {
            *err = refused;
            return code;
        }
        bench_say(bench, "%-10s %-10.1f\n", dtype_name((enum dtype)i),
                  1e-12 * bench->product_rates[i]);
        bench_add(bench, "peaks",
                  json_pack("{s:s, s:s, s:f}", "dtype", dtype_name((enum dtype)i), "instruction",
                            "linear", "gops", 1e-9 * bench->product_rates[i]));
    }
    return measure_copy(bench, err);
}

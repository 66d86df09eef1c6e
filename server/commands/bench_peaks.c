/* What the CPU can do at most: product instructions over registers, and memory. */
#include "server/commands/bench_kernels.h"

#include <string.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/memory_available.h"
#include "common/thread_pool.h"
#include "kernels/cpu/peak.h"
#include "kernels/memory_block.h"

enum {
    PARTS_PER_THREAD = 8, /* so that a thread that was interrupted does not hold up the others */
    PART_NS = 3000000,
    RUNS = 9, /* of which the best counts: nothing but the machine's other work makes it slower */
    PIECE_BYTES = 1 << 20, /* of memory, that a thread takes at once */
    MEMORY_PIECES = 1024,
    QUICK_PIECES = 8,
};

struct product_job {
    const struct cpu_peak *peak;
    int64_t repetitions;
};

static void run_products(void *context, int64_t part)
{
    const struct product_job *job = context;
    volatile float result = job->peak->run(job->repetitions);

    (void)part;
    (void)result;
}

/* Repetitions that take about so long on one thread that nothing interrupts. */
static int64_t repetitions_for(const struct cpu_peak *peak, int64_t ns)
{
    struct product_job job = {peak, 1000};
    int64_t shortest = 0;

    while (shortest < ns / 4) {
        job.repetitions *= 2;
        shortest = INT64_MAX;
        for (int run = 0; run < 3; run++) {
            int64_t begin = clock_now_ns();
            run_products(&job, 0);
            int64_t taken = clock_now_ns() - begin;
            shortest = taken < shortest ? taken : shortest;
        }
    }
    return job.repetitions * ns / shortest + 1;
}

static double product_rate(const struct bench_kernels *bench, struct thread_pool *pool,
                           const struct cpu_peak *peak)
{
    int64_t part_ns = bench->quick ? PART_NS / 30 : PART_NS;
    struct product_job job = {peak, repetitions_for(peak, part_ns)};
    int64_t parts = (int64_t)PARTS_PER_THREAD * thread_pool_threads(pool);
    double best = 0;

    for (int run = 0; run < (bench->quick ? 2 : RUNS); run++) {
        int64_t begin = clock_now_ns();
        thread_pool_run(pool, run_products, &job, parts);
        double ns = (double)(clock_now_ns() - begin);
        double rate = 1e9 * (double)parts * (double)job.repetitions * (double)peak->operations / ns;
        best = rate > best ? rate : best;
    }
    return best;
}

static void measure_products(struct bench_kernels *bench, struct thread_pool *pool)
{
    bench_say(bench, "\n%-10s %-10s best product instruction of %s, registers alone\n", "peak",
              "GOP/s", bench->options.instructions);
    for (int i = 0; i < DTYPE_COUNT; i++) {
        const char *name = dtype_name((enum dtype)i);
        struct cpu_peak peak;
        if (!cpu_peak_find(&peak, bench->options.instructions, (enum dtype)i))
            continue;
        double rate = product_rate(bench, pool, &peak);
        bench->product_rates[i] = rate;
        bench_say(bench, "%-10s %-10.1f %s\n", name, 1e-9 * rate, peak.instruction);
        bench_add(bench, "peaks",
                  json_pack("{s:s, s:s, s:f}", "dtype", name, "instruction", peak.instruction,
                            "gops", 1e-9 * rate));
    }
}

/* Memory in pieces; the copy goes from the first half of them to the second. */
struct memory_job {
    char *memory;
    int64_t pieces;
    cpu_peak_read *read;
};

static void read_piece(void *context, int64_t piece)
{
    const struct memory_job *job = context;
    volatile uint32_t result = job->read(job->memory + piece * PIECE_BYTES, PIECE_BYTES);

    (void)result;
}

static void copy_piece(void *context, int64_t piece)
{
    const struct memory_job *job = context;

    memcpy(job->memory + (job->pieces / 2 + piece) * PIECE_BYTES, job->memory + piece * PIECE_BYTES,
           PIECE_BYTES);
}

/* Memory that was never written is one page of zeros, many times. */
static void fill_piece(void *context, int64_t piece)
{
    const struct memory_job *job = context;

    memset(job->memory + piece * PIECE_BYTES, 1, PIECE_BYTES);
}

/* Bytes a second; `moved` are the bytes of one piece that go in or out. */
static double memory_rate(const struct bench_kernels *bench, struct thread_pool *pool,
                          struct memory_job *job, void (*work)(void *context, int64_t piece),
                          int64_t pieces, double moved)
{
    double best = 0;

    for (int run = 0; run < (bench->quick ? 1 : RUNS); run++) {
        int64_t begin = clock_now_ns();
        thread_pool_run(pool, work, job, pieces);
        double rate = 1e9 * (double)pieces * moved / (double)(clock_now_ns() - begin);
        best = rate > best ? rate : best;
    }
    return best;
}

/* Much larger than the caches, as far as a quarter of the free memory goes; an even number. */
static int64_t memory_pieces(const struct bench_kernels *bench)
{
    int64_t most = memory_available("") / 4 / PIECE_BYTES;

    if (bench->quick)
        return QUICK_PIECES;
    return (MEMORY_PIECES < most ? MEMORY_PIECES : most) / 2 * 2;
}

static int measure_memory(struct bench_kernels *bench, struct thread_pool *pool, struct error *err)
{
    struct memory_job job = {.pieces = memory_pieces(bench),
                             .read = cpu_peak_reader(bench->options.instructions)};
    void *memory;
    int code =
        memory_block_create(&memory, (size_t)job.pieces * PIECE_BYTES, "memory to read", err);
    if (code != 0)
        return code;
    job.memory = memory;
    thread_pool_run(pool, fill_piece, &job, job.pieces);
    double read = memory_rate(bench, pool, &job, read_piece, job.pieces, PIECE_BYTES);
    double copy = memory_rate(bench, pool, &job, copy_piece, job.pieces / 2, 2.0 * PIECE_BYTES);
    memory_block_destroy(memory);

    bench->read_rate = read;
    double megabytes = (double)job.pieces * PIECE_BYTES * 1e-6;
    bench_say(bench, "memory     read %.1f GB/s, copy %.1f GB/s (read and written), of %.0f MB\n",
              1e-9 * read, 1e-9 * copy, megabytes);
    if (bench->document != NULL)
        json_object_set_new(bench->document, "memory",
                            json_pack("{s:f, s:f, s:f}", "read_gb_per_s", 1e-9 * read,
                                      "copy_gb_per_s", 1e-9 * copy, "mb", megabytes));
    return 0;
}

int bench_peaks(struct bench_kernels *bench, struct error *err)
{
    struct thread_pool *pool;

    if (bench->on_device)
        return bench_device_peaks(bench, err);
    int code = thread_pool_create(&pool, bench->options.threads, err);
    if (code != 0)
        return code;
    measure_products(bench, pool);
    code = measure_memory(bench, pool, err);
    thread_pool_free(pool);
    return code;
}

/*
 * The operations of a step as struct backend_ops has them, around those of the kernels. In the
 * first step of a key, and in every rehearsal, they are noted, and enqueued once more for the
 * recording when the last one has come (recordings.h).
 */
#include "kernels/cuda/recorded_operations.h"

#include <math.h>
#include <stdlib.h>
#include "common/clock.h"
#include "common/error.h"
#include "common/log.h"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/few_lines.h"
#include "kernels/cuda/head.h"
#include "kernels/cuda/products.h"
#include "kernels/cuda/row_buckets.h"

enum kind { EMBED, ADD_RMSNORM, LINEAR, ROPE_STORE, ATTENTION, SWIGLU, GATHER };

/* An operation with its arguments under the names of struct backend_ops; not all have all of them.
 */
struct noted {
    enum kind kind;
    int32_t layer, columns;
    float epsilon;
    void *out;
    const void *in; /* delta of add_rmsnorm */
    float *residual;
    const struct weight *weight;
    const float *scale, *k_scale; /* q_scale of rope_store */
};

/* Of a step that is to be recorded. */
struct noted_operations {
    bool active;
    int32_t count;
    struct noted operation[NOTED_MAX];
};

int noted_operations_create(struct noted_operations **out, struct error *err)
{
    *out = calloc(1, sizeof **out);
    if (*out == NULL)
        return error_set(err, ERROR_MEMORY,
                         "cannot allocate the list of operations; free some memory");
    return 0;
}

void noted_operations_destroy(struct noted_operations *noted)
{
    free(noted);
}

/* `lines` of linear. */
static void issue(struct cuda_backend *cuda, const struct noted *operation, int32_t lines)
{
    struct backend *backend = &cuda->base;
    const struct noted *o = operation;
    switch (o->kind) {
    case EMBED:
        cuda_embed(backend, o->residual, o->weight);
        break;
    case ADD_RMSNORM:
        cuda_add_rmsnorm(backend, o->out, o->residual, o->in, o->scale, o->epsilon, o->columns);
        break;
    case LINEAR:
        cuda_linear(backend, o->out, o->in, o->weight, lines);
        break;
    case ROPE_STORE:
        cuda_rope_store(backend, o->out, o->scale, o->k_scale, o->layer);
        break;
    case ATTENTION:
        cuda_attention(backend, o->out, o->in, o->layer);
        break;
    case SWIGLU:
        cuda_swiglu(backend, o->out, o->in, o->columns);
        break;
    case GATHER:
        cuda_gather(backend, o->out, o->in, o->columns);
        break;
    }
}

/* Runs the operation, and notes it where the step is to be recorded. */
static void run(struct backend *backend, const struct noted *operation, int32_t lines)
{
    struct cuda_backend *cuda = cuda_self(backend);
    struct noted_operations *noted = cuda->noted;
    issue(cuda, operation, lines);
    if (!noted->active)
        return;
    if (noted->count < NOTED_MAX)
        noted->operation[noted->count] = *operation;
    noted->count++;
}

/* What was quantised when the operations ran is no part of a recording, and the other way round. */
static void begin_recording(struct cuda_backend *cuda)
{
    recordings_begin(cuda->recordings, &cuda->queue);
    cuda->recording = true;
    cuda->operand.of = NULL;
}

static void end_recording(struct cuda_backend *cuda)
{
    cuda->operand.of = NULL;
    cuda->recording = false;
    recordings_end(cuda->recordings, &cuda->queue);
}

/* The weight of the next product where operation i is the first behind one; else NULL. */
static const struct cuda_weight *weight_ahead(const struct noted_operations *noted, int32_t i)
{
    const struct noted *all = noted->operation;
    if (all[i].kind == LINEAR || (i > 0 && all[i - 1].kind != LINEAR))
        return NULL;
    while (i < noted->count && all[i].kind != LINEAR)
        i++;
    return i < noted->count ? (const struct cuda_weight *)all[i].weight : NULL;
}

/*
 * A recording serves every number of rows of the bucket, so its products have all of the bucket's
 * lines. While others run, the beginning of the next product's weight is fetched.
 */
static void record_body(struct cuda_backend *cuda)
{
    const struct noted_operations *noted = cuda->noted;
    begin_recording(cuda);
    for (int32_t i = 0; i < noted->count; i++) {
        const struct cuda_weight *ahead = weight_ahead(noted, i);
        if (ahead != NULL)
            cuda_prefetch(cuda, ahead, cuda->way.prefetch_bytes);
        issue(cuda, &noted->operation[i], cuda->row_bucket);
    }
    end_recording(cuda);
}

/* Of the row bucket, or of a smaller one that is known; else everything is left out. */
static struct step_way way_of(const struct cuda_backend *cuda)
{
    int32_t bucket = cuda->row_bucket;
    int32_t i = bucket <= STEP_WAY_ROWS_MAX ? (bucket + 15) / 16 : 0;
    while (i > 0 && !cuda->ways[i].known)
        i--;
    return cuda->ways[i];
}

static double way_time(struct cuda_backend *cuda, const struct step_way *way)
{
    cuda->way = *way;
    record_body(cuda);
    double seconds = recordings_time(cuda->recordings, &cuda->queue);
    log_line(LOG_DEBUG, "a recorded step was timed",
             "\"rows\":%d,\"own_products\":%d,\"prefetch_kb\":%zu,\"ms\":%.4f",
             (int)cuda->row_bucket, way->own_products, way->prefetch_bytes >> 10, 1e3 * seconds);
    return seconds;
}

/*
 * Which way is the fastest depends on the device: on its cache, on how fast it changes from kernel
 * to kernel. So a rehearsal records and times them all, and keeps that one.
 */
static void record_fastest_body(struct cuda_backend *cuda)
{
    const size_t cache = cuda->facts.cache_bytes;
    const size_t sizes[] = {0, cache / 8, cache / 4, cache / 2};
    const bool has_choice = !cuda->deterministic && !cuda->facts.own_alone;
    const int count = has_choice && cuda->row_bucket <= FEW_LINES_MAX ? 8 : 4;
    struct step_way ways[8];
    double least = INFINITY;
    int best = 0;
    for (int i = 0; i < count; i++) {
        ways[i] = (struct step_way){true, i >= 4, sizes[i % 4]};
        double seconds = way_time(cuda, &ways[i]);
        if (seconds < least) {
            least = seconds;
            best = i;
        }
    }
    cuda->ways[(cuda->row_bucket + 15) / 16] = cuda->way = ways[best];
    if (best != count - 1)
        record_body(cuda);
}

/* Every rehearsal does, because the rows of the one before it may have seen less. */
static bool chooses_way(const struct cuda_backend *cuda)
{
    return cuda->step.rehearsal && !cuda->facts.library_alone &&
           cuda->row_bucket <= STEP_WAY_ROWS_MAX;
}

/* Behind the last operation of a body: makes its recording. */
static void end_body(struct cuda_backend *cuda)
{
    struct noted_operations *noted = cuda->noted;
    if (!noted->active)
        return;
    noted->active = false;
    if (noted->count > NOTED_MAX)
        return;
    if (chooses_way(cuda))
        record_fastest_body(cuda);
    else
        record_body(cuda);
    recordings_keep(cuda->recordings);
}

static bool step_begin(struct backend *backend, const struct step_rows *rows)
{
    struct cuda_backend *cuda = cuda_self(backend);
    cuda_upload_tables(cuda, rows);
    /* A rehearsal begins with the library's products, which choose their algorithms there. */
    cuda->way = chooses_way(cuda) ? (struct step_way){0} : way_of(cuda);
    if (rows->program == 0)
        return true;
    const struct slot_key key = body_key(rows->program, cuda->row_bucket, cuda->parts);
    enum recordings_use use = chooses_way(cuda)
                                  ? recordings_renew(cuda->recordings, key)
                                  : recordings_use(cuda->recordings, &cuda->queue, key);
    cuda->noted->active = use == RECORDINGS_MAKE;
    cuda->noted->count = 0;
    return use != RECORDINGS_LAUNCHED;
}

static void embed(struct backend *backend, float *residual, const struct weight *table)
{
    const struct noted operation = {.kind = EMBED, .residual = residual, .weight = table};
    run(backend, &operation, 0);
}

static void add_rmsnorm(struct backend *backend, void *out, float *residual, const void *delta,
                        const float *scale, float epsilon, int32_t columns)
{
    const struct noted operation = {.kind = ADD_RMSNORM,
                                    .out = out,
                                    .residual = residual,
                                    .in = delta,
                                    .scale = scale,
                                    .epsilon = epsilon,
                                    .columns = columns};
    run(backend, &operation, 0);
}

static void linear(struct backend *backend, void *out, const void *in, const struct weight *weight,
                   int32_t lines)
{
    const struct noted operation = {.kind = LINEAR, .out = out, .in = in, .weight = weight};
    run(backend, &operation, lines);
}

static void rope_store(struct backend *backend, void *qkv, const float *q_scale,
                       const float *k_scale, int32_t layer)
{
    const struct noted operation = {
        .kind = ROPE_STORE, .out = qkv, .scale = q_scale, .k_scale = k_scale, .layer = layer};
    run(backend, &operation, 0);
}

static void attention(struct backend *backend, void *out, const void *qkv, int32_t layer)
{
    const struct noted operation = {.kind = ATTENTION, .out = out, .in = qkv, .layer = layer};
    run(backend, &operation, 0);
}

static void swiglu(struct backend *backend, void *out, const void *gate_up, int32_t width)
{
    const struct noted operation = {.kind = SWIGLU, .out = out, .in = gate_up, .columns = width};
    run(backend, &operation, 0);
}

static void gather(struct backend *backend, void *out, const void *in, int32_t columns)
{
    const struct noted operation = {.kind = GATHER, .out = out, .in = in, .columns = columns};
    run(backend, &operation, 0);
}

/* The buckets of what a head's recording is made for. */
static struct cuda_head_shape head_buckets(const struct cuda_backend *cuda,
                                           struct cuda_head_shape shape)
{
    shape.lines = row_bucket(shape.lines, 2 * cuda->limits.max_head_rows);
    return shape;
}

static void head(struct backend *backend, struct head_result *result, const void *gathered,
                 const struct weight *weight, const struct head_batch *batch)
{
    struct cuda_backend *cuda = cuda_self(backend);
    end_body(cuda);
    const struct cuda_head_shape shape = cuda_head_prepare(cuda, result, weight, batch);
    const struct cuda_head_shape buckets = head_buckets(cuda, shape);
    enum recordings_use use = RECORDINGS_NONE;
    if (cuda->step.program != 0 && shape.rows > 0)
        use = recordings_use(
            cuda->recordings, &cuda->queue,
            head_key(cuda->step.program, buckets.rows, buckets.lines, buckets.kinds));
    cuda->operand.of = NULL; /* a recording that was launched has left other lines */
    if (use == RECORDINGS_LAUNCHED)
        return;
    cuda_head_enqueue(cuda, gathered, weight, &shape);
    if (use == RECORDINGS_NONE)
        return;
    begin_recording(cuda);
    cuda_head_enqueue(cuda, gathered, weight, &buckets);
    end_recording(cuda);
    recordings_keep(cuda->recordings);
}

static int step_end(struct backend *backend, struct error *err)
{
    struct cuda_backend *cuda = cuda_self(backend);
    end_body(cuda);
    cuda_head_clear_lists(cuda); /* while the device computes */
    int64_t waiting_ns = clock_now_ns();
    int status = device_wait(&cuda->queue, err);
    backend->waited_ns += clock_now_ns() - waiting_ns;
    if (status == 0)
        cuda_head_finish(cuda);
    return status;
}

void recorded_operations_set(struct backend_ops *ops)
{
    ops->step_begin = step_begin;
    ops->embed = embed;
    ops->add_rmsnorm = add_rmsnorm;
    ops->linear = linear;
    ops->rope_store = rope_store;
    ops->attention = attention;
    ops->swiglu = swiglu;
    ops->gather = gather;
    ops->head = head;
    ops->step_end = step_end;
}

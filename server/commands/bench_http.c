/* What the server around the engine costs: streams over loopback from a server process. */
#include "server/commands/bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/error.h"
#include "server/commands/child_server.h"

enum { BATCH_WAVES = 3, IDLE_STREAMS = 2000 };

/* As many streams as the batch of bench_batch, with the same work and every draft sent. */
static int stream_batch(const struct child_server *child, struct error *err)
{
    struct child_stream streams[BENCH_BATCH];
    char body[400];
    int opened = 0, code = 0;

    while (opened < BENCH_BATCH && code == 0) {
        snprintf(body, sizeof body,
                 "{\"prompt\": \"Once upon a time\", \"max_tokens\": %d, \"block_length\": 32, "
                 "\"selection\": \"steps\", \"steps\": %d, \"cache\": \"dual\", \"seed\": %d, "
                 "\"temperature\": 0, \"ignore_eos\": true, \"stream\": true, "
                 "\"diffusing\": true}",
                 BENCH_TOKENS, BENCH_TOKENS / 2, opened);
        code = child_server_open(child, "/v1/completions", body, &streams[opened], err);
        opened += code == 0;
    }
    if (code == 0)
        code = child_server_drain(streams, opened, err);
    for (int i = 0; i < opened; i++)
        close(streams[i].socket);
    return code;
}

int bench_streams(const char *directory, const struct bench_flags *flags, struct error *err)
{
    struct child_server child;
    double forward_before = 0, forward_after = 0, seconds = 0;
    double compute_before, other_before, compute, other;
    int code = child_server_start(&child, directory, flags->all, err);

    if (code != 0)
        return code;
    code = stream_batch(&child, err); /* warm-up */
    if (code == 0)
        code = child_server_metric(&child, "denoised_forward_seconds_total", &forward_before, err);
    child_server_cpu_s(&child, &compute_before, &other_before);
    for (int wave = 0; wave < BATCH_WAVES && code == 0; wave++) {
        int64_t begin = clock_now_us();
        code = stream_batch(&child, err);
        seconds += (double)(clock_now_us() - begin) * 1e-6;
    }
    if (code == 0)
        code = child_server_metric(&child, "denoised_forward_seconds_total", &forward_after, err);
    child_server_cpu_s(&child, &compute, &other);
    child_server_stop(&child);
    if (code != 0)
        return code;
    compute -= compute_before;
    other -= other_before;
    bench_print("32 streams of drafts: outside forward passes",
                100 * (1 - (forward_after - forward_before) / seconds), "%",
                "(of the time; target < 5)");
    bench_print("32 streams of drafts: HTTP and JSON", 100 * other / (compute + other), "%",
                "(of the server's CPU time; target < 5)");
    return 0;
}

/* Requests that were accepted since the start, and those of them that wait now. */
static int count_requests(const struct child_server *child, double *accepted, double *waiting,
                          struct error *err)
{
    double running, finished;
    int code = child_server_metric(child, "denoised_num_requests_waiting", waiting, err);

    if (code == 0)
        code = child_server_metric(child, "denoised_num_requests_running", &running, err);
    if (code == 0)
        code = child_server_metric(child, "denoised_finished_total", &finished, err);
    if (code == 0)
        *accepted = *waiting + running + finished;
    return code;
}

/*
 * Opens them, with these further fields ("" or ", ..."), and waits until every one has been
 * accepted; almost none ends in that time.
 */
static int open_idle(const struct child_server *child, const char *fields,
                     struct child_stream *streams, int *opened, double *waiting, struct error *err)
{
    char body[300];
    double before, accepted = 0;
    int code = count_requests(child, &before, waiting, err);

    snprintf(body, sizeof body,
             "{\"prompt\": \"Once upon a time\", \"max_tokens\": 96, \"ignore_eos\": true, "
             "\"stream\": true, \"diffusing\": true%s}",
             fields);
    while (*opened < IDLE_STREAMS && code == 0) {
        code = child_server_open(child, "/v1/completions", body, &streams[*opened], err);
        *opened += code == 0;
    }
    for (int tries = 0; code == 0 && accepted - before < IDLE_STREAMS && tries < 6000; tries++) {
        usleep(10000);
        code = count_requests(child, &accepted, waiting, err);
    }
    if (code == 0 && accepted - before < IDLE_STREAMS)
        code = error_set(err, ERROR_IO, "bench: only %.0f of %d streams were accepted",
                         accepted - before, IDLE_STREAMS);
    return code;
}

/* Memory of a server with these flags that grows while the streams wait. */
static int measure_idle(const char *directory, const char *const *flags, const char *fields,
                        const char *what, const char *target, struct error *err)
{
    struct child_stream *streams = calloc(IDLE_STREAMS, sizeof *streams);
    struct child_server child;
    double waiting = 0, before, after, peak;
    char name[80];
    int opened = 0;

    if (streams == NULL)
        return error_set(err, ERROR_MEMORY, "bench: out of memory for %d streams", IDLE_STREAMS);
    int code = child_server_start(&child, directory, flags, err);
    if (code == 0) {
        code = stream_batch(&child, err); /* warm-up */
        child_server_memory_mb(&child, &before, &peak);
        if (code == 0)
            code = open_idle(&child, fields, streams, &opened, &waiting, err);
        snprintf(name, sizeof name, "%.0f streams that wait%s", waiting, what);
        child_server_memory_mb(&child, &after, &peak);
        if (code == 0)
            bench_print(name, after - before, "MB", target);
        for (int i = 0; i < opened; i++)
            close(streams[i].socket);
        child_server_stop(&child);
    }
    free(streams);
    return code;
}

int bench_idle_streams(const char *directory, const struct bench_flags *flags, struct error *err)
{
    const char *limits[CHILD_SERVER_FLAGS + 1] = {"--max-sequences=1", "--queue-limit=4000"};
    struct rlimit files;

    for (int i = 0; flags->compute[i] != NULL; i++)
        limits[2 + i] = flags->compute[i];
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    int code =
        measure_idle(directory, limits, "", "", "(more than none; target < 100 for 2000)", err);
    if (code == 0)
        code = measure_idle(directory, limits, ", \"logprobs\": 20", ", logprobs 20",
                            "(more than none)", err);
    return code;
}

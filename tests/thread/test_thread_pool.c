/*
 * The thread pool under many jobs of random size: every part runs exactly once, what the parts
 * wrote is visible afterwards, and idle workers sleep. A plain program, to be run under
 * ThreadSanitizer too.
 */
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/rng.h"
#include "common/thread_pool.h"

enum { PARTS_MAX = 200 };

static int passed, failed;

static void check(bool holds, const char *what, int threads)
{
    if (holds) {
        passed++;
    } else {
        failed++;
        printf("FAILED with %d threads: %s\n", threads, what);
    }
}

static struct thread_pool *create(int threads)
{
    struct thread_pool *pool;
    struct error err = {0};
    if (thread_pool_create(&pool, threads, &err) != 0) {
        printf("FAILED: %s\n", err.message);
        exit(1);
    }
    return pool;
}

/* Plain memory, so that ThreadSanitizer judges the pool's own ordering. */
struct job {
    int64_t parts;
    int runs[PARTS_MAX];
    int64_t input[PARTS_MAX], output[PARTS_MAX];
    int spin; /* iterations of work per part, so that parts end unevenly */
};

static void work_part(void *context, int64_t part)
{
    struct job *job = context;
    volatile int sink = 0;
    for (int i = 0; i < job->spin * (int)(part % 7); i++) {
        sink = sink + i;
    }
    job->runs[part]++;
    job->output[part] = 3 * job->input[part];
}

static bool run_job(struct thread_pool *pool, uint64_t number)
{
    struct job job = {.parts = rng_word(1, 0, 1, 0, (uint32_t)number) % (PARTS_MAX + 1),
                      .spin = (int)(rng_word(1, 1, 1, 0, (uint32_t)number) % 20)};
    for (int64_t part = 0; part < job.parts; part++) {
        job.input[part] = part + (int64_t)number;
    }
    thread_pool_run(pool, work_part, &job, job.parts);
    for (int64_t part = 0; part < PARTS_MAX; part++) {
        bool wanted = part < job.parts;
        if (job.runs[part] != wanted || (wanted && job.output[part] != 3 * job.input[part])) {
            return false;
        }
    }
    return true;
}

/* Back to back, and with gaps longer than the workers spin, so that they fall asleep between. */
static void test_every_part_runs_once(int threads, int jobs)
{
    struct thread_pool *pool = create(threads);
    int wrong = 0;
    for (int i = 0; i < jobs; i++) {
        wrong += !run_job(pool, (uint64_t)i);
        if (i % 50 == 0) {
            int64_t until = clock_now_us() + i % 400;
            while (clock_now_us() < until) {
            }
        }
    }
    check(wrong == 0, "every part of every job ran exactly once", threads);
    thread_pool_free(pool);
}

/* Neither a pool that never ran nor one that has just run hangs when it is freed. */
static void test_free_at_any_moment(int threads, int pools)
{
    int wrong = 0;
    for (int i = 0; i < pools; i++) {
        struct thread_pool *pool = create(threads);
        for (int job = 0; job < i % 3; job++) {
            wrong += !run_job(pool, (uint64_t)job);
        }
        thread_pool_free(pool);
    }
    check(wrong == 0, "pools are freed right after creation or work", threads);
}

/* Parts that wait for each other end only if as many threads take part in the job. */
struct meeting {
    atomic_int arrived;
    int wanted;
    int64_t give_up_us;
    atomic_bool late;
};

static void meet(void *context, int64_t part)
{
    (void)part;
    struct meeting *meeting = context;
    atomic_fetch_add(&meeting->arrived, 1);
    while (atomic_load(&meeting->arrived) < meeting->wanted) {
        if (clock_now_us() > meeting->give_up_us) {
            atomic_store(&meeting->late, true);
            return;
        }
    }
}

static void test_all_threads_take_part(int threads)
{
    struct thread_pool *pool = create(threads);
    struct meeting meeting = {.wanted = threads, .give_up_us = clock_now_us() + 20000000};
    thread_pool_run(pool, meet, &meeting, threads);
    check(!atomic_load(&meeting.late), "as many threads as asked for work at the same time",
          threads);
    thread_pool_free(pool);
}

static int64_t process_cpu_us(void)
{
    struct timespec used;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
    return (int64_t)used.tv_sec * 1000000 + used.tv_nsec / 1000;
}

/* Two idle stretches: workers that went on spinning would use threads - 1 CPUs in both. */
static void test_idle_workers_use_no_cpu(int threads)
{
    struct thread_pool *pool = create(threads);
    bool quiet = true;
    for (int i = 0; i < 2; i++) {
        quiet = run_job(pool, (uint64_t)i) && quiet;
        int64_t before = process_cpu_us();
        struct timespec idle = {.tv_nsec = 100000000};
        nanosleep(&idle, NULL);
        quiet = quiet && process_cpu_us() - before < 20000;
    }
    check(quiet, "idle workers sleep", threads);
    thread_pool_free(pool);
}

int main(void)
{
    for (int threads = 1; threads <= 6; threads++) {
        test_every_part_runs_once(threads, 3000);
        test_free_at_any_moment(threads, 60);
        test_all_threads_take_part(threads);
        test_idle_workers_use_no_cpu(threads);
    }
    printf("%d passed, %d failed, 0 skipped\n", passed, failed);
    return failed == 0 ? 0 : 1;
}

#include <string.h>

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include "common/cpu_count.h"
#include "common/error.h"
#include "common/thread_pool.h"

/* Every part writes its own element alone. */
static void count_part(void *context, int64_t part)
{
    int *counts = context;
    counts[part]++;
}

Test(thread_pool, runs_every_part_once_for_any_thread_count)
{
    for (int threads = 1; threads <= 5; threads++) {
        struct thread_pool *pool;
        struct error err = {0};
        cr_assert(eq(int, thread_pool_create(&pool, threads, &err), 0), "%s", err.message);
        cr_assert(eq(int, thread_pool_threads(pool), threads));
        for (int64_t parts = 0; parts <= 100; parts++) {
            int counts[100] = {0};
            thread_pool_run(pool, count_part, counts, parts);
            for (int64_t part = 0; part < 100; part++) {
                cr_assert(eq(int, counts[part], part < parts));
            }
        }
        thread_pool_free(pool);
    }
}

Test(thread_pool, zero_threads_takes_the_cpus_of_this_process)
{
    struct thread_pool *pool;
    struct error err = {0};
    cr_assert(eq(int, thread_pool_create(&pool, 0, &err), 0));
    cr_assert(ge(int, thread_pool_threads(pool), 1));
    cr_assert(eq(int, thread_pool_threads(pool), cpu_count()));
    thread_pool_free(pool);
}

Test(thread_pool, refuses_a_thread_count_out_of_range)
{
    struct thread_pool *pool = (struct thread_pool *)&pool;
    struct error err = {0};
    cr_assert(eq(int, thread_pool_create(&pool, -1, &err), ERROR_INVALID));
    cr_assert(eq(ptr, (void *)pool, NULL));
    cr_assert(eq(str, err.message,
                 "threads is -1; it must be from 0 (all CPUs of this process) to 1024"));
    cr_assert(eq(int, thread_pool_create(&pool, 1025, &err), ERROR_INVALID));
    thread_pool_free(NULL);
}

#include "common/thread_pool.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/cpu_count.h"
#include "common/error.h"

enum {
    THREADS_MAX = 1024,
    /*
     * The jobs of one forward pass follow each other within a few microseconds and a futex wake-up
     * costs tens; longer gaps are idle time, which must not burn a CPU.
     */
    SPIN_US = 50,
    SPIN_PAUSES_PER_CLOCK_READ = 32,
    CACHE_LINE = 64,
};

/*
 * The job word: bit 0 is set while workers may join, the next bits count the workers inside, the
 * rest numbers the jobs. A worker joins by compare-and-swap, so one that wakes up late finds the
 * job closed and the owner never waits for a thread that is still asleep. The job's fields are
 * written only while the word is closed and nobody is inside.
 */
enum { JOB_OPEN = 1u, JOB_ONE_INSIDE = 1u << 1, JOB_NUMBER_SHIFT = 13 };
#define JOB_INSIDE_MASK ((1u << JOB_NUMBER_SHIFT) - 2u)
_Static_assert(THREADS_MAX *JOB_ONE_INSIDE <= JOB_INSIDE_MASK, "the count fits its bits");

/* Owner and workers sleep on the same word; the bit set says who is meant. */
enum { FUTEX_WORKERS = 1u, FUTEX_OWNER = 2u };

struct thread_pool {
    alignas(CACHE_LINE) atomic_uint job;
    alignas(CACHE_LINE) _Atomic int64_t next_part;
    alignas(CACHE_LINE) atomic_int sleeping_workers;
    atomic_bool owner_sleeps;
    atomic_bool stop;
    void (*work)(void *context, int64_t part);
    void *context;
    int64_t parts;
    int threads;        /* the owner included */
    pthread_t *workers; /* [threads - 1] */
};

static void futex_wait(atomic_uint *word, unsigned expected, unsigned who)
{
    syscall(SYS_futex, word, FUTEX_WAIT_BITSET_PRIVATE, expected, NULL, NULL, who);
}

static void futex_wake(atomic_uint *word, int count, unsigned who)
{
    syscall(SYS_futex, word, FUTEX_WAKE_BITSET_PRIVATE, count, NULL, NULL, who);
}

static void spin_pause(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* One pause; false once SPIN_US have passed since the first call with a zeroed state. */
struct spin {
    int64_t end_us;
    int pauses;
};
static bool spin_once(struct spin *spin)
{
    if (spin->pauses++ % SPIN_PAUSES_PER_CLOCK_READ == 0) {
        int64_t now = clock_now_us();
        if (spin->end_us == 0) {
            spin->end_us = now + SPIN_US;
        } else if (now >= spin->end_us) {
            return false;
        }
    }
    spin_pause();
    return true;
}

/* ---- workers --------------------------------------------------------------------------------- */

static void take_parts(struct thread_pool *pool)
{
    for (;;) {
        int64_t part = atomic_fetch_add_explicit(&pool->next_part, 1, memory_order_relaxed);
        if (part >= pool->parts) {
            return;
        }
        pool->work(pool->context, part);
    }
}

static void leave_job(struct thread_pool *pool)
{
    unsigned job = atomic_fetch_sub(&pool->job, JOB_ONE_INSIDE) - JOB_ONE_INSIDE;
    bool last = (job & (JOB_OPEN | JOB_INSIDE_MASK)) == 0;
    if (last && atomic_load(&pool->owner_sleeps)) {
        futex_wake(&pool->job, 1, FUTEX_OWNER);
    }
}

/* Waits for a job other than number `done` and joins it; false when the pool stops. */
static bool join_next_job(struct thread_pool *pool, unsigned *done)
{
    struct spin spin = {0};
    for (;;) {
        unsigned job = atomic_load(&pool->job);
        if (atomic_load(&pool->stop)) {
            return false;
        }
        if ((job & JOB_OPEN) != 0 && job >> JOB_NUMBER_SHIFT != *done) {
            if (atomic_compare_exchange_strong(&pool->job, &job, job + JOB_ONE_INSIDE)) {
                *done = job >> JOB_NUMBER_SHIFT;
                return true;
            }
        } else if (!spin_once(&spin)) {
            /*
             * Count first, then let the kernel compare the word: either it has changed, or the
             * owner that changes it afterwards sees the count and wakes us.
             */
            atomic_fetch_add(&pool->sleeping_workers, 1);
            futex_wait(&pool->job, job, FUTEX_WORKERS);
            atomic_fetch_sub(&pool->sleeping_workers, 1);
            spin = (struct spin){0};
        }
    }
}

static void *worker_main(void *argument)
{
    struct thread_pool *pool = argument;
    unsigned done = 0; /* the first job is number 1 */
    while (join_next_job(pool, &done)) {
        take_parts(pool);
        leave_job(pool);
    }
    return NULL;
}

/* ---- the owner ------------------------------------------------------------------------------- */

/* Signals belong to the threads that asked for them: workers start with all blocked. */
static int start_worker(pthread_t *worker, struct thread_pool *pool)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int status = pthread_create(worker, NULL, worker_main, pool);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (status == 0) {
        pthread_setname_np(*worker, "pool-worker");
    }
    return status;
}

int thread_pool_create(struct thread_pool **out, int threads, struct error *err)
{
    *out = NULL;
    if (threads < 0 || threads > THREADS_MAX) {
        return error_set(err, ERROR_INVALID,
                         "threads is %d; it must be from 0 (all CPUs of this process) to %d",
                         threads, THREADS_MAX);
    }
    if (threads == 0) {
        int cpus = cpu_count();
        threads = cpus < THREADS_MAX ? cpus : THREADS_MAX;
    }
    struct thread_pool *pool = aligned_alloc(CACHE_LINE, sizeof *pool);
    pthread_t *workers = calloc((size_t)threads, sizeof *workers);
    if (pool == NULL || workers == NULL) {
        free(pool);
        free(workers);
        return error_set(err, ERROR_MEMORY, "no memory left for a pool of %d threads", threads);
    }
    memset(pool, 0, sizeof *pool);
    pool->workers = workers;
    pool->threads = 1;
    while (pool->threads < threads) {
        int status = start_worker(&workers[pool->threads - 1], pool);
        if (status != 0) {
            int started = pool->threads;
            thread_pool_free(pool);
            return error_set(err, ERROR_IO, "thread %d of %d cannot be started: %s; lower threads",
                             started + 1, threads, strerror(status));
        }
        pool->threads++;
    }
    *out = pool;
    return 0;
}

void thread_pool_free(struct thread_pool *pool)
{
    if (pool == NULL) {
        return;
    }
    atomic_store(&pool->stop, true);
    /* A new number without JOB_OPEN: who is about to sleep sees that the word has changed. */
    atomic_fetch_add(&pool->job, 1u << JOB_NUMBER_SHIFT);
    futex_wake(&pool->job, INT_MAX, FUTEX_WORKERS);
    for (int i = 0; i < pool->threads - 1; i++) {
        pthread_join(pool->workers[i], NULL);
    }
    free(pool->workers);
    free(pool);
}

int thread_pool_threads(const struct thread_pool *pool)
{
    return pool->threads;
}

static void open_job(struct thread_pool *pool)
{
    unsigned number = (atomic_load(&pool->job) >> JOB_NUMBER_SHIFT) + 1;
    atomic_store(&pool->job, number << JOB_NUMBER_SHIFT | JOB_OPEN);
    int sleeping = atomic_load(&pool->sleeping_workers);
    if (sleeping > 0) {
        int wanted = pool->parts - 1 < sleeping ? (int)(pool->parts - 1) : sleeping;
        futex_wake(&pool->job, wanted, FUTEX_WORKERS);
    }
}

/* Nobody joins any more; waits until those inside have left. */
static void close_job(struct thread_pool *pool)
{
    atomic_fetch_and(&pool->job, ~(unsigned)JOB_OPEN);
    struct spin spin = {0};
    for (;;) {
        unsigned job = atomic_load(&pool->job);
        if ((job & JOB_INSIDE_MASK) == 0) {
            return;
        }
        if (!spin_once(&spin)) {
            atomic_store(&pool->owner_sleeps, true);
            futex_wait(&pool->job, job, FUTEX_OWNER);
            atomic_store(&pool->owner_sleeps, false);
            spin = (struct spin){0};
        }
    }
}

void thread_pool_run(struct thread_pool *pool, void (*work)(void *context, int64_t part),
                     void *context, int64_t parts)
{
    if (pool->threads == 1 || parts <= 1) {
        for (int64_t part = 0; part < parts; part++) {
            work(context, part);
        }
        return;
    }
    pool->work = work;
    pool->context = context;
    pool->parts = parts;
    atomic_store_explicit(&pool->next_part, 0, memory_order_relaxed);
    open_job(pool);
    take_parts(pool);
    close_job(pool);
}

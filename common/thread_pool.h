/*
 * Fork-join pool: the caller and its workers run the parts of one job, then all stop. Persistent
 * threads that spin briefly for the next job and then sleep. One job at a time, started by one
 * owner thread. Which thread runs which part is not fixed: a part's result must not depend on it.
 */
#ifndef COMMON_THREAD_POOL_H
#define COMMON_THREAD_POOL_H

#include <stdint.h>

struct error;
struct thread_pool;

/* `threads` counts the caller too: 1 starts no thread. 0 takes the CPUs this process may use. */
int thread_pool_create(struct thread_pool **out, int threads, struct error *err);
void thread_pool_free(struct thread_pool *pool); /* NULL is fine */
int thread_pool_threads(const struct thread_pool *pool);

/*
 * Calls work(context, part) once for every part in [0, parts) and returns when all are done. Parts
 * are taken from a counter, so uneven ones balance. Allocates nothing, takes no lock while
 * spinning.
 */
void thread_pool_run(struct thread_pool *pool, void (*work)(void *context, int64_t part),
                     void *context, int64_t parts);

#endif

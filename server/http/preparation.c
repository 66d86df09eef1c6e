#include "server/http/preparation.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"

struct preparation {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct preparation_item *first, *last;
    bool stopping;
    void (*work)(struct preparation_item *item);
    int threads;
    pthread_t thread[];
};

static void *preparation_loop(void *context)
{
    struct preparation *preparation = context;

    pthread_setname_np(pthread_self(), "http-prepare");
    pthread_mutex_lock(&preparation->lock);
    for (;;) {
        struct preparation_item *item = preparation->first;
        if (item == NULL) {
            if (preparation->stopping)
                break;
            pthread_cond_wait(&preparation->changed, &preparation->lock);
            continue;
        }
        preparation->first = item->next;
        pthread_mutex_unlock(&preparation->lock);
        preparation->work(item);
        pthread_mutex_lock(&preparation->lock);
    }
    pthread_mutex_unlock(&preparation->lock);
    return NULL;
}

int preparation_start(struct preparation **out, int threads,
                      void (*work)(struct preparation_item *item), struct error *err)
{
    struct preparation *preparation =
        calloc(1, sizeof *preparation + (size_t)threads * sizeof(pthread_t));

    *out = NULL;
    if (preparation == NULL)
        return error_set(err, ERROR_MEMORY, "preparation pool: out of memory");
    preparation->work = work;
    pthread_mutex_init(&preparation->lock, NULL);
    pthread_cond_init(&preparation->changed, NULL);
    while (preparation->threads < threads) {
        int problem = pthread_create(&preparation->thread[preparation->threads], NULL,
                                     preparation_loop, preparation);
        if (problem != 0) {
            error_set(err, ERROR_IO, "preparation pool: cannot start thread %d of %d: %s",
                      preparation->threads + 1, threads, strerror(problem));
            preparation_stop(preparation);
            return ERROR_IO;
        }
        preparation->threads++;
    }
    *out = preparation;
    return 0;
}

void preparation_push(struct preparation *preparation, struct preparation_item *item)
{
    item->next = NULL;
    pthread_mutex_lock(&preparation->lock);
    if (preparation->first == NULL)
        preparation->first = item;
    else
        preparation->last->next = item;
    preparation->last = item;
    pthread_cond_signal(&preparation->changed);
    pthread_mutex_unlock(&preparation->lock);
}

void preparation_stop(struct preparation *preparation)
{
    if (preparation == NULL)
        return;
    pthread_mutex_lock(&preparation->lock);
    preparation->stopping = true;
    pthread_cond_broadcast(&preparation->changed);
    pthread_mutex_unlock(&preparation->lock);
    for (int i = 0; i < preparation->threads; i++)
        pthread_join(preparation->thread[i], NULL);
    pthread_cond_destroy(&preparation->changed);
    pthread_mutex_destroy(&preparation->lock);
    free(preparation);
}

/*
 * The preparation pool: a few threads that do the work which grows with a prompt (parsing,
 * templates, tokenising), so that one long prompt does not freeze the streams of an event thread.
 * First come, first served. The queue is intrusive and so needs no limit of its own: it holds at
 * most one item per connection, and connections are limited.
 */
#ifndef SERVER_HTTP_PREPARATION_H
#define SERVER_HTTP_PREPARATION_H

struct error;
struct preparation;

/* A member of whatever is to be prepared; the caller's memory. */
struct preparation_item {
    struct preparation_item *next;
};

/* work runs on one of the threads, once per item; afterwards the pool does not touch the item. */
int preparation_start(struct preparation **out, int threads,
                      void (*work)(struct preparation_item *item), struct error *err);

/* Any thread. Must not be called once preparation_stop has begun. */
void preparation_push(struct preparation *preparation, struct preparation_item *item);

/* Works through what is queued, then joins the threads. NULL is fine. */
void preparation_stop(struct preparation *preparation);

#endif

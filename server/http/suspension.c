#include "server/http/suspension.h"

#include <stddef.h>

#include "common/clock.h"
#include "server/api/api.h"
#include "server/http/server.h"

/* With the exchange's lock held. */
static void resume_locked(struct exchange *exchange)
{
    if (!exchange->suspended || exchange->preparing)
        return;
    exchange->suspended = false;
    MHD_resume_connection(exchange->connection);
}

/* The engine posted something; called with the stream's lock held. */
static void wake(void *context)
{
    struct exchange *exchange = context;

    pthread_mutex_lock(&exchange->lock);
    resume_locked(exchange);
    pthread_mutex_unlock(&exchange->lock);
}

bool suspension_prepare(struct exchange *exchange)
{
    struct http_server *server = exchange->server;

    exchange->ticket = watcher_add(server->watcher, exchange->fd, exchange,
                                   clock_now_us() + SUSPENSION_KEEP_ALIVE_US);
    pthread_mutex_lock(&exchange->lock);
    bool over = exchange->gone || exchange->stopped;
    if (!over) {
        exchange->preparing = true;
        exchange->suspended = true;
        MHD_suspend_connection(exchange->connection);
        /* Under the lock, so that whoever stops the server finds it pushed or not suspended. */
        preparation_push(server->preparation, &exchange->item);
    }
    pthread_mutex_unlock(&exchange->lock);
    return !over;
}

void suspension_prepare_item(struct preparation_item *item)
{
    struct exchange *exchange = (struct exchange *)((char *)item - offsetof(struct exchange, item));

    if (!suspension_over(exchange))
        api_call_prepare(exchange->call, exchange->body.data, exchange->body.length, wake,
                         exchange);
    /* All of it is in the call now; an answer may take minutes, and bodies are megabytes. */
    buffer_free(&exchange->body);
    pthread_mutex_lock(&exchange->lock);
    exchange->preparing = false;
    resume_locked(exchange);
    pthread_mutex_unlock(&exchange->lock);
}

struct attempt {
    struct exchange *exchange;
    bool suspended;
};

/* Called with the stream's lock held, so no wake can slip in between its check and this. */
static void suspend(void *context)
{
    struct attempt *attempt = context;
    struct exchange *exchange = attempt->exchange;

    pthread_mutex_lock(&exchange->lock);
    if (!exchange->gone && !exchange->stopped && !exchange->comment_due) {
        exchange->suspended = true;
        MHD_suspend_connection(exchange->connection);
        attempt->suspended = true;
    }
    pthread_mutex_unlock(&exchange->lock);
}

bool suspension_wait(struct exchange *exchange)
{
    struct attempt attempt = {.exchange = exchange};

    return api_call_wait(exchange->call, suspend, &attempt) && attempt.suspended;
}

bool suspension_over(struct exchange *exchange)
{
    pthread_mutex_lock(&exchange->lock);
    bool over = exchange->gone || exchange->stopped;
    pthread_mutex_unlock(&exchange->lock);
    return over;
}

void suspension_begin_stream(struct exchange *exchange)
{
    pthread_mutex_lock(&exchange->lock);
    exchange->streaming = true;
    exchange->comment_due = exchange->half_closed;
    exchange->written_us = clock_now_us();
    pthread_mutex_unlock(&exchange->lock);
}

bool suspension_take_comment(struct exchange *exchange)
{
    pthread_mutex_lock(&exchange->lock);
    bool due = exchange->comment_due;
    exchange->comment_due = false;
    if (due)
        exchange->written_us = clock_now_us();
    pthread_mutex_unlock(&exchange->lock);
    return due;
}

void suspension_note_written(struct exchange *exchange)
{
    pthread_mutex_lock(&exchange->lock);
    exchange->written_us = clock_now_us();
    pthread_mutex_unlock(&exchange->lock);
}

/* A half-closed client of a stream is asked by a comment line: one that has gone resets. */
static void note_half_closed(struct exchange *exchange, int64_t now_us)
{
    if (exchange->half_closed)
        return;
    exchange->half_closed = true;
    exchange->half_closed_us = now_us;
    if (exchange->streaming) {
        exchange->comment_due = true;
        resume_locked(exchange);
    }
}

/* With the exchange's lock held: what is due now; returns when to look again. */
static int64_t keep_time(struct exchange *exchange, int64_t now_us)
{
    if (exchange->streaming) {
        if (now_us - exchange->written_us >= SUSPENSION_KEEP_ALIVE_US) {
            exchange->comment_due = true;
            exchange->written_us = now_us;
            resume_locked(exchange);
        }
        return exchange->written_us + SUSPENSION_KEEP_ALIVE_US;
    }
    int64_t next_us = now_us + SUSPENSION_KEEP_ALIVE_US;
    if (!exchange->half_closed)
        return next_us;
    int64_t end_us =
        exchange->half_closed_us + (int64_t)(exchange->server->options.half_close_grace_s * 1e6);
    if (now_us >= end_us)
        exchange->gone = true;
    return end_us < next_us ? end_us : next_us;
}

int64_t suspension_notice(void *owner, enum watcher_sign sign, int64_t now_us)
{
    struct exchange *exchange = owner;
    int64_t next_us = INT64_MAX;

    pthread_mutex_lock(&exchange->lock);
    if (sign == WATCHER_GONE)
        exchange->gone = true;
    else if (sign == WATCHER_HALF_CLOSED)
        note_half_closed(exchange, now_us);
    if (!exchange->gone)
        next_us = keep_time(exchange, now_us);
    bool gone = exchange->gone;
    pthread_mutex_unlock(&exchange->lock);
    if (!gone)
        return next_us;
    /* Cancelled before it is resumed: the exchange lives until watcher_remove, and that waits. */
    api_call_cancel(exchange->call);
    pthread_mutex_lock(&exchange->lock);
    resume_locked(exchange);
    pthread_mutex_unlock(&exchange->lock);
    return INT64_MAX;
}

void suspension_stop(struct exchange *exchange)
{
    pthread_mutex_lock(&exchange->lock);
    exchange->stopped = true;
    resume_locked(exchange);
    pthread_mutex_unlock(&exchange->lock);
}

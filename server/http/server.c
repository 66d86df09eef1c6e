#include "server/http/server.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/error.h"
#include "server/http/connection.h"
#include "server/http/exchange.h"
#include "server/http/keys.h"
#include "server/http/library_log.h"
#include "server/http/listener.h"
#include "server/http/preparation.h"
#include "server/http/suspension.h"
#include "server/http/watcher.h"

/* What is left when the engine has ended, error events say, gets that long to reach its client. */
enum { STOP_GRACE_US = 2000000 };

bool server_enlist(struct http_server *server, struct exchange *exchange)
{
    pthread_mutex_lock(&server->lock);
    bool welcome = !server->stopping;
    if (welcome) {
        if (exchange->place != NULL)
            exchange->place->quiet_since_us = INT64_MAX;
        exchange->next = server->exchanges;
        if (exchange->next != NULL)
            exchange->next->previous = exchange;
        server->exchanges = exchange;
    }
    pthread_mutex_unlock(&server->lock);
    return welcome;
}

void server_delist(struct http_server *server, struct exchange *exchange)
{
    pthread_mutex_lock(&server->lock);
    if (exchange->previous != NULL)
        exchange->previous->next = exchange->next;
    else
        server->exchanges = exchange->next;
    if (exchange->next != NULL)
        exchange->next->previous = exchange->previous;
    if (exchange->place != NULL)
        exchange->place->quiet_since_us = clock_now_us();
    if (server->exchanges == NULL)
        pthread_cond_broadcast(&server->idle);
    pthread_mutex_unlock(&server->lock);
}

/* The routes read targets as they were sent: unescaped, "/health%00x" would be "/health". */
static size_t leave_escapes(void *context, struct MHD_Connection *connection, char *text)
{
    (void)context;
    (void)connection;
    return strlen(text);
}

static int daemon_start(struct http_server *server, int listen_fd, struct error *err)
{
    const struct http_options *options = &server->options;
    unsigned threads = (unsigned)options->event_threads;
    unsigned connections = (unsigned)options->max_connections;
    /* Each thread has its own share of the connections. */
    if (connections < threads)
        connections = threads;
    struct MHD_OptionItem items[] = {
        {MHD_OPTION_LISTEN_SOCKET, listen_fd, NULL},
        {MHD_OPTION_NOTIFY_COMPLETED, (intptr_t)exchange_completed, server},
        {MHD_OPTION_NOTIFY_CONNECTION, (intptr_t)connection_notify, server},
        {MHD_OPTION_CONNECTION_LIMIT, connections, NULL},
        {MHD_OPTION_CONNECTION_TIMEOUT, (intptr_t)ceil(options->idle_timeout_s), NULL},
        {MHD_OPTION_UNESCAPE_CALLBACK, (intptr_t)leave_escapes, NULL},
        /* A pool of one is told by leaving the option out. */
        {threads > 1 ? MHD_OPTION_THREAD_POOL_SIZE : MHD_OPTION_END, threads, NULL},
        {MHD_OPTION_END, 0, NULL},
    };

    server->daemon = MHD_start_daemon(
        MHD_USE_EPOLL_INTERNAL_THREAD | MHD_USE_ITC | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG,
        0, NULL, NULL, exchange_handle, server, MHD_OPTION_EXTERNAL_LOGGER, library_log, server,
        MHD_OPTION_ARRAY, items, MHD_OPTION_END);
    if (server->daemon == NULL)
        return error_set(err, ERROR_IO,
                         "the HTTP library did not start with event_threads %u and "
                         "max_connections %u: %s; lower them or raise the system's limits",
                         threads, connections, strerror(errno));
    return 0;
}

static struct http_server *server_create(const struct api *api, const struct http_options *options)
{
    struct http_server *server = calloc(1, sizeof *server);
    pthread_condattr_t attributes;

    if (server == NULL)
        return NULL;
    server->api = api;
    server->options = *options;
    server->options.host = NULL; /* the caller's, and not needed again */
    server->options.api_keys = NULL;
    pthread_mutex_init(&server->lock, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&server->idle, &attributes);
    pthread_condattr_destroy(&attributes);
    return server;
}

static void server_free(struct http_server *server)
{
    preparation_stop(server->preparation);
    watcher_stop(server->watcher);
    key_store_free(server->keys);
    pthread_cond_destroy(&server->idle);
    pthread_mutex_destroy(&server->lock);
    free(server);
}

int http_start(struct http_server **out, const struct api *api, const struct http_options *options,
               struct error *err)
{
    int listen_fd = -1;

    *out = NULL;
    struct http_server *server = server_create(api, options);
    if (server == NULL)
        return error_set(err, ERROR_MEMORY, "HTTP server: out of memory");
    listener_raise_file_limit(options->max_connections);
    int code = key_store_create(&server->keys, options->api_keys, err);
    if (code == 0)
        code = listener_open(&listen_fd, options->host, options->port, err);
    if (code == 0) {
        server->port = listener_port(listen_fd);
        code = watcher_start(&server->watcher, options->max_connections + options->event_threads,
                             SUSPENSION_KEEP_ALIVE_US, suspension_notice, err);
    }
    if (code == 0)
        code = preparation_start(&server->preparation, options->preparation_threads,
                                 suspension_prepare_item, err);
    if (code != 0 && listen_fd >= 0)
        close(listen_fd);
    /* The socket is libmicrohttpd's from here on, even if it fails. */
    if (code == 0)
        code = daemon_start(server, listen_fd, err);
    if (code != 0) {
        server_free(server);
        return code;
    }
    *out = server;
    return 0;
}

int http_port(const struct http_server *server)
{
    return server->port;
}

int http_reload_keys(struct http_server *server, struct error *err)
{
    return key_store_reload(server->keys, err);
}

void http_drain(struct http_server *server)
{
    atomic_store(&server->draining, true);
}

bool http_wait_idle(struct http_server *server, int64_t timeout_us)
{
    int64_t end_us = clock_now_us() + timeout_us;
    struct timespec end = {.tv_sec = (time_t)(end_us / 1000000),
                           .tv_nsec = (long)(end_us % 1000000 * 1000)};

    pthread_mutex_lock(&server->lock);
    while (server->exchanges != NULL &&
           pthread_cond_timedwait(&server->idle, &server->lock, &end) == 0)
        ;
    bool idle = server->exchanges == NULL;
    pthread_mutex_unlock(&server->lock);
    return idle;
}

/* From here on nothing is suspended but what is being prepared. */
static void resume_all(struct http_server *server)
{
    pthread_mutex_lock(&server->lock);
    server->stopping = true;
    for (struct exchange *exchange = server->exchanges; exchange != NULL; exchange = exchange->next)
        suspension_stop(exchange);
    pthread_mutex_unlock(&server->lock);
}

void http_stop(struct http_server *server)
{
    if (server == NULL)
        return;
    http_drain(server);
    http_wait_idle(server, STOP_GRACE_US);
    /* libmicrohttpd must not be stopped while a connection is suspended. */
    resume_all(server);
    preparation_stop(server->preparation);
    server->preparation = NULL;
    MHD_stop_daemon(server->daemon);
    server_free(server);
}

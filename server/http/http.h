/*
 * The HTTP listener: libmicrohttpd event threads, a preparation pool and a watcher thread. It owns
 * all three; struct api is the caller's and outlives it. Start and stop belong to one thread.
 */
#ifndef SERVER_HTTP_HTTP_H
#define SERVER_HTTP_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct api;
struct error;
struct http_server;

struct http_options {
    const char *host; /* numeric address or name */
    int port;         /* 0: a free one */
    int event_threads;
    int preparation_threads;
    int max_connections;
    size_t max_body_bytes;
    double half_close_grace_s; /* how long a request that is no stream goes on half-closed */
    double idle_timeout_s;     /* silent connections, and slow senders */
    const char *api_keys;      /* file of API keys, or NULL (see keys.h) */
    bool protect_metrics;      /* /metrics needs a key too */
    bool log_prompts;          /* bodies of requests and responses in the log */
    const char *cors_origins;  /* as in cors.h; outlives the server */
};

/* ERROR_INVALID names host and port when the address is in use or cannot be bound. */
int http_start(struct http_server **out, const struct api *api, const struct http_options *options,
               struct error *err);
int http_port(const struct http_server *server);
/* New requests get 503 draining and /ready turns 503; running ones go on. */
void http_drain(struct http_server *server);
/* Reads the API keys again; on failure the old ones stay. */
int http_reload_keys(struct http_server *server, struct error *err);
/*
 * To be called about once a second: ends connections whose next request's headers are not there
 * after twice idle_timeout_s. Any thread.
 */
void http_close_tricklers(struct http_server *server);
/* Waits until no request is left whose response is not sent, at most timeout_us; true: none is. */
bool http_wait_idle(struct http_server *server, int64_t timeout_us);
/* Gives responses two more seconds, then ends every connection and joins all threads. */
void http_stop(struct http_server *server); /* NULL is fine */

#endif

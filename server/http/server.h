/* The listener's insides, shared by the files of this folder. */
#ifndef SERVER_HTTP_SERVER_H
#define SERVER_HTTP_SERVER_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <microhttpd.h>

#include "server/http/http.h"
#include "server/http/tally.h"

struct connection;
struct exchange;
struct key_store;
struct preparation;
struct watcher;

struct http_server {
    /* Constant once started. */
    const struct api *api;
    struct http_options options;
    int port;
    struct MHD_Daemon *daemon;
    struct preparation *preparation;
    struct watcher *watcher;
    struct key_store *keys;

    struct tally tally;
    atomic_bool draining;

    pthread_mutex_t lock; /* taken before an exchange's own */
    pthread_cond_t idle;  /* the list has become empty */
    struct exchange *exchanges;
    struct connection *connections; /* see connection.h */
    bool stopping;
};

/* Puts an exchange on the list of those in progress; false when the server is stopping. */
bool server_enlist(struct http_server *server, struct exchange *exchange);
void server_delist(struct http_server *server, struct exchange *exchange);

#endif

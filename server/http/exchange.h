/*
 * An exchange: one HTTP request and its response, from the headers' arrival until libmicrohttpd
 * calls it completed. Its connection's event thread owns it, except for the fields under the lock.
 *
 * While a request is prepared or waits for the engine its connection is suspended. Three parties
 * may end the suspension: the preparation pool, the engine (a new draft) and the watcher (the
 * client has gone, or it is time for a comment line). Lock order: the stream's lock of the request
 * or the watcher's, then the exchange's, then libmicrohttpd's own.
 */
#ifndef SERVER_HTTP_EXCHANGE_H
#define SERVER_HTTP_EXCHANGE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <microhttpd.h>

#include "common/buffer.h"
#include "server/http/preparation.h"
#include "server/http/request_headers.h"
#include "server/http/response.h"
#include "server/http/watcher.h"

struct api_call;
struct connection;
struct http_server;
struct route;

enum exchange_phase {
    EXCHANGE_BODY,       /* the body is arriving */
    EXCHANGE_WHOLE,      /* it is there; to be handed over at the next turn */
    EXCHANGE_RUNNING,    /* handed over: the call says where it stands */
    EXCHANGE_RESPONDING, /* a response is queued */
};

enum { EXCHANGE_PATH_MAX = 1000 };

struct exchange {
    struct http_server *server;
    struct exchange *previous, *next; /* the server's list, under its lock */
    struct MHD_Connection *connection;
    struct connection *place; /* of that one; may be NULL */
    int fd;
    const struct route *route;
    uint64_t owner;                   /* whose API key it came with; 0 where the server has none */
    char path[EXCHANGE_PATH_MAX + 1]; /* as request_path_normalise writes it */
    char request_id[REQUEST_ID_MAX + 1];
    int64_t arrival_us;

    enum exchange_phase phase;
    struct buffer body;
    size_t received; /* bytes of body seen, kept or not */
    struct answer answer;
    int status;     /* that was sent; 0: none yet */
    bool preflight; /* of CORS: answered in the route's place */
    bool linger;    /* the client may still be sending when its socket is closed */
    struct buffer logged_request, logged_response; /* with log_prompts: their beginnings */
    struct api_call *call;
    struct preparation_item item;
    int ticket; /* of the watcher */

    pthread_mutex_t lock;
    bool suspended;   /* and not yet resumed by anyone */
    bool preparing;   /* a preparation thread works on the call: only it may resume */
    bool gone;        /* the client has left */
    bool stopped;     /* the server ends */
    bool half_closed; /* the client sends no more */
    bool streaming;
    bool comment_due; /* of a stream: the next thing to send if there is no event */
    int64_t half_closed_us;
    int64_t written_us; /* when the stream last had something to send */
};

/* Callbacks of libmicrohttpd; context is the struct http_server. */
enum MHD_Result exchange_handle(void *context, struct MHD_Connection *connection, const char *url,
                                const char *method, const char *version, const char *upload,
                                size_t *upload_size, void **connection_context);
void exchange_completed(void *context, struct MHD_Connection *connection, void **connection_context,
                        enum MHD_RequestTerminationCode reason);

#endif

/*
 * Answers with a body that is there as a whole, and the refusals that the HTTP side makes itself.
 * Plain values of one request; no locks.
 */
#ifndef SERVER_HTTP_RESPONSE_H
#define SERVER_HTTP_RESPONSE_H

#include <stdbool.h>
#include <microhttpd.h>

#include "common/buffer.h"

struct api;

/* status 0: none yet. The owner frees body, unless response_create took it over. */
struct answer {
    int status;
    struct buffer body;
    const char *content_type; /* NULL: JSON */
    const char *allow;        /* the Allow header of a 405, else NULL */
    int retry_after_s;        /* 0: no such header */
};

/* Fills in {"error": {...}}; type and code follow the status: code NULL is null. */
void answer_refuse(struct answer *answer, int status, const char *code, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
void answer_refuse_draining(struct answer *answer, const struct api *api);

/* The answer as libmicrohttpd wants it; its body moves into the response. NULL: out of memory. */
struct MHD_Response *response_create(struct answer *answer);

/* False when out of memory or when the value cannot be a header. */
bool response_header(struct MHD_Response *response, const char *name, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/*
 * Writes a whole HTTP/1.1 response with Connection: close straight to the socket, for the one
 * moment where libmicrohttpd takes none: in the middle of a body. The caller closes the connection.
 */
void response_send_raw(int fd, const struct answer *answer, const char *request_id);

#endif

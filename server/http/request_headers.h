/* Reading the few request headers that matter. HTTP thread of the connection only. */
#ifndef SERVER_HTTP_REQUEST_HEADERS_H
#define SERVER_HTTP_REQUEST_HEADERS_H

#include <stdbool.h>
#include <stddef.h>
#include <microhttpd.h>

enum { REQUEST_ID_MAX = 128 };

/* The client's x-request-id if it is at most 128 visible ASCII characters, else a new one. */
void request_headers_id(struct MHD_Connection *connection, char out[REQUEST_ID_MAX + 1]);

/*
 * Whether the body's end is told in a way that every proxy on the way understands alike: by
 * Content-Length or by "Transfer-Encoding: chunked", not by both and by nothing else.
 */
bool request_headers_framing_ok(struct MHD_Connection *connection);

/* The announced length is over the limit. */
bool request_headers_too_long(struct MHD_Connection *connection, size_t max_body_bytes);

/* The client waits for "100 Continue", or for a refusal, before it sends the body. */
bool request_headers_expect(struct MHD_Connection *connection);

/* Content-Type is application/json (parameters such as charset do not matter), not compressed. */
bool request_headers_json(struct MHD_Connection *connection);

#endif

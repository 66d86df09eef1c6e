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
 * NULL where every program on the way understands alike what the headers are, where the body ends
 * and whom the request is for; else what is wrong. libmicrohttpd looks at the first header of a
 * name only and takes names with blanks as they come, so that a proxy before this server could see
 * another body, and what is left of one of them would run as the next request. The connection must
 * be closed then. `version` is "HTTP/1.1" or "HTTP/1.0".
 */
const char *request_headers_problem(struct MHD_Connection *connection, const char *version);

/* The announced length is over the limit. */
bool request_headers_too_long(struct MHD_Connection *connection, size_t max_body_bytes);

/* The client waits for "100 Continue", or for a refusal, before it sends the body. */
bool request_headers_expect(struct MHD_Connection *connection);

/* Content-Type is application/json (parameters such as charset do not matter), not compressed. */
bool request_headers_json(struct MHD_Connection *connection);

#endif

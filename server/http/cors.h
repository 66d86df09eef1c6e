/*
 * Cross-origin requests: which web pages of other origins may read the answers (the Fetch
 * standard's CORS protocol). `origins` are those of the settings, with commas between them; "*" is
 * every one; NULL: none, and no header says anything. HTTP thread of the connection.
 */
#ifndef SERVER_HTTP_CORS_H
#define SERVER_HTTP_CORS_H

#include <stdbool.h>
#include <microhttpd.h>

bool cors_allows(const char *origins, const char *origin);

/* The browser asks, before it sends a request, whether it may; and it may. */
bool cors_is_preflight(const char *origins, struct MHD_Connection *connection, const char *method);

/* Every response gets these; of a preflight those that name `methods` too (else NULL). */
bool cors_add_headers(const char *origins, struct MHD_Connection *connection, const char *methods,
                      struct MHD_Response *response);

#endif

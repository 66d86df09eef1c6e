/*
 * Open connections, to end those whose request headers trickle in: libmicrohttpd's timeout begins
 * anew with every byte. The list is under the server's lock; a connection is on it from its accept
 * until just before its socket is closed.
 */
#ifndef SERVER_HTTP_CONNECTION_H
#define SERVER_HTTP_CONNECTION_H

#include <stdint.h>
#include <microhttpd.h>

struct connection {
    struct connection *previous, *next;
    int fd;
    int64_t quiet_since_us; /* it has no exchange since then; INT64_MAX while it has one */
};

/* MHD_NotifyConnectionCallback; context is the struct http_server. */
void connection_notify(void *context, struct MHD_Connection *connection, void **socket_context,
                       enum MHD_ConnectionNotificationCode code);

/* HTTP thread. NULL where there was no memory for it: then only libmicrohttpd looks at the time. */
struct connection *connection_of(struct MHD_Connection *connection);

#endif

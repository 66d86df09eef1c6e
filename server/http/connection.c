#include "server/http/connection.h"

#include <stdlib.h>
#include <sys/socket.h>

#include "common/clock.h"
#include "server/http/server.h"

static void connection_open(struct http_server *server, struct MHD_Connection *handle, void **out)
{
    struct connection *connection = calloc(1, sizeof *connection);

    *out = connection;
    if (connection == NULL)
        return;
    connection->fd = MHD_get_connection_info(handle, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
    connection->quiet_since_us = clock_now_us();
    pthread_mutex_lock(&server->lock);
    connection->next = server->connections;
    if (connection->next != NULL)
        connection->next->previous = connection;
    server->connections = connection;
    pthread_mutex_unlock(&server->lock);
}

static void connection_close(struct http_server *server, struct connection *connection)
{
    if (connection == NULL)
        return;
    pthread_mutex_lock(&server->lock);
    if (connection->previous != NULL)
        connection->previous->next = connection->next;
    else
        server->connections = connection->next;
    if (connection->next != NULL)
        connection->next->previous = connection->previous;
    pthread_mutex_unlock(&server->lock);
    free(connection);
}

void connection_notify(void *context, struct MHD_Connection *connection, void **socket_context,
                       enum MHD_ConnectionNotificationCode code)
{
    if (code == MHD_CONNECTION_NOTIFY_STARTED)
        connection_open(context, connection, socket_context);
    else
        connection_close(context, *socket_context);
}

struct connection *connection_of(struct MHD_Connection *connection)
{
    return MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT)->socket_context;
}

void http_close_tricklers(struct http_server *server)
{
    /* Once the timeout for silence, and once more for the headers themselves. */
    int64_t oldest_us = clock_now_us() - (int64_t)(2e6 * server->options.idle_timeout_s);

    pthread_mutex_lock(&server->lock);
    /* The socket is open: connection_close waits for the lock. Its event thread sees the end. */
    for (struct connection *i = server->connections; i != NULL; i = i->next) {
        if (i->quiet_since_us < oldest_us)
            shutdown(i->fd, SHUT_RDWR);
    }
    pthread_mutex_unlock(&server->lock);
}

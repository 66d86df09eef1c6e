#include "server/http/exchange.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "common/clock.h"
#include "server/api/api.h"
#include "server/http/connection.h"
#include "server/http/cors.h"
#include "server/http/keys.h"
#include "server/http/request_log.h"
#include "server/http/request_path.h"
#include "server/http/routes.h"
#include "server/http/server.h"
#include "server/http/suspension.h"

enum {
    STREAM_BUFFER_BYTES = 16384, /* for HTTP/1.0; else libmicrohttpd uses the connection's own */
    SLOW_BODY_BYTES = 65536,     /* that much of a body must come within idle_timeout */
};

static const char COMMENT[] = ": keep-alive\n\n";

static bool is_draining(const struct exchange *exchange)
{
    return atomic_load(&exchange->server->draining);
}

/* Queues the response and lets go of it; the exchange's common headers are added here. */
static enum MHD_Result queue_response(struct exchange *exchange, int status,
                                      struct MHD_Response *response)
{
    if (response == NULL)
        return MHD_NO;
    bool complete = response_header(response, "x-request-id", "%s", exchange->request_id);
    complete &= cors_add_headers(exchange->server->options.cors_origins, exchange->connection,
                                 exchange->preflight ? exchange->route->allow : NULL, response);
    /* A client with a kept connection learns this way to open its next one elsewhere. */
    if (is_draining(exchange))
        complete &= response_header(response, MHD_HTTP_HEADER_CONNECTION, "close");
    enum MHD_Result result =
        complete ? MHD_queue_response(exchange->connection, (unsigned)status, response) : MHD_NO;
    MHD_destroy_response(response);
    exchange->phase = EXCHANGE_RESPONDING;
    exchange->status = status;
    return result;
}

static enum MHD_Result respond(struct exchange *exchange)
{
    int status = exchange->answer.status;

    return queue_response(exchange, status, response_create(&exchange->answer));
}

static enum MHD_Result respond_call_answer(struct exchange *exchange)
{
    struct api_answer answer = api_call_answer(exchange->call);
    /* The body is the call's, which lives until the exchange is completed. */
    struct MHD_Response *response = MHD_create_response_from_buffer(
        answer.length, (void *)(uintptr_t)answer.body, MHD_RESPMEM_PERSISTENT);

    request_log_note(exchange, &exchange->logged_response, answer.body, answer.length);
    if (response == NULL)
        return MHD_NO;
    bool complete = response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, "application/json");
    if (answer.retry_after_s > 0)
        complete &=
            response_header(response, MHD_HTTP_HEADER_RETRY_AFTER, "%d", answer.retry_after_s);
    if (answer.queue_ms >= 0)
        complete &= response_header(response, "x-denoised-queue-ms", "%.3f", answer.queue_ms);
    if (answer.compute_ms >= 0)
        complete &= response_header(response, "x-denoised-compute-ms", "%.3f", answer.compute_ms);
    if (!complete) {
        MHD_destroy_response(response);
        return MHD_NO;
    }
    return queue_response(exchange, answer.status, response);
}

/* MHD_ContentReaderCallback of a stream: nothing is kept here, so nothing can pile up. */
static ssize_t read_stream(void *context, uint64_t position, char *out, size_t max)
{
    struct exchange *exchange = context;
    (void)position;

    for (;;) {
        if (suspension_over(exchange))
            return MHD_CONTENT_READER_END_WITH_ERROR;
        ptrdiff_t length = api_call_read(exchange->call, out, max);
        if (length < 0)
            return MHD_CONTENT_READER_END_OF_STREAM;
        if (length > 0) {
            suspension_note_written(exchange);
            request_log_note(exchange, &exchange->logged_response, out, (size_t)length);
            return length;
        }
        /* The call gives 0 between events only, so the line cannot cut one in two. */
        if (max >= sizeof COMMENT - 1 && suspension_take_comment(exchange)) {
            memcpy(out, COMMENT, sizeof COMMENT - 1);
            return (ssize_t)(sizeof COMMENT - 1);
        }
        if (suspension_wait(exchange))
            return 0;
    }
}

static enum MHD_Result respond_stream(struct exchange *exchange)
{
    struct MHD_Response *response = MHD_create_response_from_callback(
        MHD_SIZE_UNKNOWN, STREAM_BUFFER_BYTES, read_stream, exchange, NULL);

    if (response == NULL)
        return MHD_NO;
    if (!response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, "text/event-stream") ||
        !response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-cache") ||
        !response_header(response, "X-Accel-Buffering", "no")) {
        MHD_destroy_response(response);
        return MHD_NO;
    }
    suspension_begin_stream(exchange);
    return queue_response(exchange, MHD_HTTP_OK, response);
}

/* MHD_NO closes the connection. */
static enum MHD_Result follow_call(struct exchange *exchange)
{
    while (!suspension_over(exchange)) {
        switch (api_call_poll(exchange->call)) {
        case API_STATE_ANSWER:
            return respond_call_answer(exchange);
        case API_STATE_STREAM:
            return respond_stream(exchange);
        case API_STATE_WAITING:
            if (suspension_wait(exchange))
                return MHD_YES;
            break;
        }
    }
    return MHD_NO;
}

static enum MHD_Result body_complete(struct exchange *exchange)
{
    struct http_server *server = exchange->server;
    struct answer *answer = &exchange->answer;

    if (answer->status == 0 && exchange->route->kind != ROUTE_CALL)
        route_answer(exchange);
    if (answer->status == 0 && exchange->received == 0)
        answer_refuse(answer, MHD_HTTP_BAD_REQUEST, "invalid_json",
                      "the request has no body; send a JSON object");
    if (answer->status == 0) {
        exchange->call = api_call_create(server->api, (enum api_endpoint)exchange->route->endpoint,
                                         exchange->arrival_us, exchange->owner);
        if (exchange->call == NULL || exchange->body.failed)
            answer_refuse(answer, MHD_HTTP_INTERNAL_SERVER_ERROR, NULL,
                          "the server is out of memory; send a shorter request or try later");
    }
    if (answer->status != 0)
        return respond(exchange);
    /*
     * Suspending here would leave libmicrohttpd with the intention to read from the socket when it
     * is resumed, and a half-closed client would count as gone then. After one more turn of its
     * loop it knows that the request is complete and reads no further.
     */
    exchange->phase = EXCHANGE_WHOLE;
    return MHD_YES;
}

/*
 * libmicrohttpd takes no response in the middle of a body, and where the body's end is in doubt
 * nothing more may be read from the connection.
 */
static enum MHD_Result cut_off(struct exchange *exchange)
{
    response_send_raw(exchange->fd, &exchange->answer, exchange->request_id);
    exchange->status = exchange->answer.status;
    exchange->linger = true;
    return MHD_NO;
}

static void refuse_length(struct exchange *exchange)
{
    answer_refuse(&exchange->answer, MHD_HTTP_CONTENT_TOO_LARGE, NULL,
                  "the body is longer than the %zu bytes that max_body_bytes of this server "
                  "allows; send less",
                  exchange->server->options.max_body_bytes);
}

static enum MHD_Result body_arrives(struct exchange *exchange, const char *bytes, size_t *size)
{
    const struct http_options *options = &exchange->server->options;

    exchange->received += *size;
    if (exchange->received > options->max_body_bytes) {
        refuse_length(exchange);
        return cut_off(exchange);
    }
    size_t parts = 1 + exchange->received / SLOW_BODY_BYTES;
    double allowed_s = options->idle_timeout_s * (double)parts;
    if ((double)(clock_now_us() - exchange->arrival_us) * 1e-6 > allowed_s) {
        answer_refuse(&exchange->answer, MHD_HTTP_REQUEST_TIMEOUT, NULL,
                      "after %.0f s only %zu bytes of the body have arrived; send it faster",
                      allowed_s, exchange->received);
        return cut_off(exchange);
    }
    /* What cannot be answered well is read all the same, so that the connection can be kept. */
    if (exchange->answer.status == 0 && exchange->route->kind == ROUTE_CALL) {
        buffer_append(&exchange->body, bytes, *size);
        request_log_note(exchange, &exchange->logged_request, bytes, *size);
    }
    *size = 0;
    return MHD_YES;
}

static bool is_open(const struct exchange *exchange)
{
    return exchange->route->open &&
           !(exchange->route->kind == ROUTE_METRICS && exchange->server->options.protect_metrics);
}

/* Everything that can be told from the headers; leaves answer.status at 0 where all is well. */
static void check_request(struct exchange *exchange, const char *method)
{
    struct answer *answer = &exchange->answer;

    if (exchange->route == NULL) {
        answer_refuse(answer, MHD_HTTP_NOT_FOUND, "not_found", "there is nothing at %.200s",
                      exchange->path);
    } else if (cors_is_preflight(exchange->server->options.cors_origins, exchange->connection,
                                 method)) {
        /* Without a key: the browser sends none here. */
        exchange->preflight = true;
        answer->status = MHD_HTTP_NO_CONTENT;
    } else if (!route_allows(exchange->route, method)) {
        answer_refuse(answer, MHD_HTTP_METHOD_NOT_ALLOWED, NULL,
                      "%.20s is not allowed at %s; "
                      "use %s",
                      method, exchange->path, exchange->route->allow);
        answer->allow = exchange->route->allow;
    } else if (!key_store_allows(exchange->server->keys,
                                 MHD_lookup_connection_value(exchange->connection, MHD_HEADER_KIND,
                                                             MHD_HTTP_HEADER_AUTHORIZATION),
                                 &exchange->owner) &&
               !is_open(exchange)) {
        answer_refuse(answer, MHD_HTTP_UNAUTHORIZED, "invalid_api_key",
                      "this server needs an API key; send a valid one in the header "
                      "\"Authorization: Bearer KEY\"");
    } else if (exchange->route->kind == ROUTE_CALL) {
        if (is_draining(exchange))
            answer_refuse_draining(answer, exchange->server->api);
        else if (!request_headers_json(exchange->connection))
            answer_refuse(answer, MHD_HTTP_UNSUPPORTED_MEDIA_TYPE, NULL,
                          "the body must be plain JSON; send it with the header \"Content-Type: "
                          "application/json\" and no Content-Encoding");
    }
}

/*
 * The headers are there. What libmicrohttpd refuses before that it answers with pages of its own
 * in HTML, and offers no hook to change (library_log.h): a malformed request line or header line
 * (400), a Content-Length that is no number (400) or over 64 bits (413), broken chunks (400), a
 * target or headers beyond the connection's 32 KiB (414, 431), another major version (505). The
 * connection ends with all of them. Lines that end with a bare LF it takes: 0.9.75 has no option
 * against it, MHD_OPTION_STRICT_FOR_CLIENT concerns other things.
 */
static enum MHD_Result begin(struct exchange *exchange, const char *method, const char *version)
{
    struct MHD_Connection *connection = exchange->connection;
    size_t max_body_bytes = exchange->server->options.max_body_bytes;
    const char *problem = request_headers_problem(connection, version);

    request_headers_id(connection, exchange->request_id);
    if (problem != NULL) {
        answer_refuse(&exchange->answer, MHD_HTTP_BAD_REQUEST, NULL, "%s", problem);
        return cut_off(exchange);
    }
    if (request_headers_too_long(connection, max_body_bytes)) {
        refuse_length(exchange);
        exchange->linger = true;
        return respond(exchange);
    }
    check_request(exchange, method);
    /* Answered now the connection ends with this response; else it is kept, after the body. */
    if (exchange->answer.status != 0 && request_headers_expect(connection)) {
        exchange->linger = true;
        return respond(exchange);
    }
    return MHD_YES;
}

static struct exchange *exchange_create(struct http_server *server,
                                        struct MHD_Connection *connection, const char *target)
{
    struct exchange *exchange = calloc(1, sizeof *exchange);

    if (exchange == NULL)
        return NULL;
    exchange->server = server;
    exchange->connection = connection;
    exchange->place = connection_of(connection);
    exchange->fd =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
    exchange->arrival_us = clock_now_us();
    exchange->ticket = WATCHER_NONE;
    /* Known first, so that what is refused by its headers is counted under its path too. */
    if (request_path_normalise(exchange->path, sizeof exchange->path, target))
        exchange->route = route_find(exchange->path);
    pthread_mutex_init(&exchange->lock, NULL);
    if (server_enlist(server, exchange))
        return exchange;
    pthread_mutex_destroy(&exchange->lock);
    free(exchange);
    return NULL;
}

enum MHD_Result exchange_handle(void *context, struct MHD_Connection *connection, const char *url,
                                const char *method, const char *version, const char *upload,
                                size_t *upload_size, void **connection_context)
{
    struct exchange *exchange = *connection_context;

    if (exchange == NULL) {
        exchange = exchange_create(context, connection, url);
        *connection_context = exchange;
        return exchange == NULL ? MHD_NO : begin(exchange, method, version);
    }
    if (*upload_size > 0)
        return body_arrives(exchange, upload, upload_size);
    switch (exchange->phase) {
    case EXCHANGE_BODY:
        return body_complete(exchange);
    case EXCHANGE_WHOLE:
        exchange->phase = EXCHANGE_RUNNING;
        return suspension_prepare(exchange) ? MHD_YES : MHD_NO;
    case EXCHANGE_RUNNING:
        return follow_call(exchange);
    case EXCHANGE_RESPONDING:
        break;
    }
    return MHD_YES;
}

/*
 * libmicrohttpd's epoll is edge-triggered, and after a short read it waits for another edge. A
 * client that has half-closed together with its request gives none: its connection would be kept
 * until the idle timeout. Shutting down what is at its end already makes the edge come again.
 */
static void repeat_half_close(int fd)
{
    struct pollfd closed = {.fd = fd, .events = POLLRDHUP};

    if (poll(&closed, 1, 0) == 1)
        shutdown(fd, SHUT_RD);
}

/* Broken chunks: a client that leaves within its body has another reason. */
static bool was_refused_by_library(const struct exchange *exchange,
                                   enum MHD_RequestTerminationCode reason)
{
    return exchange->phase == EXCHANGE_BODY && exchange->status == 0 &&
           reason == MHD_REQUEST_TERMINATED_WITH_ERROR;
}

void exchange_completed(void *context, struct MHD_Connection *connection, void **connection_context,
                        enum MHD_RequestTerminationCode reason)
{
    struct http_server *server = context;
    struct exchange *exchange = *connection_context;
    (void)connection;

    if (exchange == NULL)
        return;
    *connection_context = NULL;
    /* The socket is closed when this returns: until then its number is certainly this one's. */
    watcher_remove(server->watcher, exchange->ticket);
    if (exchange->linger)
        watcher_linger(server->watcher, exchange->fd);
    else
        repeat_half_close(exchange->fd);
    if (was_refused_by_library(exchange, reason))
        exchange->status = MHD_HTTP_BAD_REQUEST; /* library_log has counted it */
    else
        tally_count(&server->tally, route_index(exchange->route),
                    exchange->status != 0 ? exchange->status : STATUS_CLIENT_LEFT,
                    clock_now_us() - exchange->arrival_us);
    request_log_write(exchange, reason == MHD_REQUEST_TERMINATED_COMPLETED_OK);
    api_call_free(exchange->call);
    server_delist(server, exchange);
    /* Whoever resumed the connection may still hold the lock on its way out. */
    pthread_mutex_lock(&exchange->lock);
    pthread_mutex_unlock(&exchange->lock);
    pthread_mutex_destroy(&exchange->lock);
    buffer_free(&exchange->body);
    buffer_free(&exchange->answer.body);
    buffer_free(&exchange->logged_request);
    buffer_free(&exchange->logged_response);
    free(exchange);
}

#include "server/http/response.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "server/api/api.h"

enum { HEADER_VALUE_MAX = 256 };

static const char *error_type(int status)
{
    if (status == MHD_HTTP_SERVICE_UNAVAILABLE)
        return "unavailable_error";
    if (status == MHD_HTTP_UNAUTHORIZED)
        return "authentication_error";
    return status >= 500 ? "server_error" : "invalid_request_error";
}

void answer_refuse(struct answer *answer, int status, const char *code, const char *format, ...)
{
    char message[512];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    answer->status = status;
    buffer_clear(&answer->body);
    api_error_body(&answer->body, error_type(status), NULL, code, message);
}

void answer_refuse_draining(struct answer *answer, const struct api *api)
{
    answer_refuse(answer, MHD_HTTP_SERVICE_UNAVAILABLE, "draining",
                  "this server is shutting down and takes no new requests; send it to another "
                  "one, or again in a moment");
    answer->retry_after_s = engine_counters_read(api->engine).retry_after_s;
}

bool response_header(struct MHD_Response *response, const char *name, const char *format, ...)
{
    char value[HEADER_VALUE_MAX];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(value, sizeof value, format, arguments);
    va_end(arguments);
    return MHD_add_response_header(response, name, value) == MHD_YES;
}

struct MHD_Response *response_create(struct answer *answer)
{
    if (answer->body.failed)
        return NULL;
    struct MHD_Response *response = MHD_create_response_from_buffer(
        answer->body.length, answer->body.data, MHD_RESPMEM_MUST_FREE);
    if (response == NULL)
        return NULL;
    answer->body = (struct buffer){0};
    const char *type = answer->content_type != NULL ? answer->content_type : "application/json";
    bool complete = true;
    if (answer->status != MHD_HTTP_NO_CONTENT)
        complete &= response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, "%s", type);
    if (answer->status == MHD_HTTP_UNAUTHORIZED)
        complete &= response_header(response, MHD_HTTP_HEADER_WWW_AUTHENTICATE, "Bearer");
    if (answer->allow != NULL)
        complete &= response_header(response, MHD_HTTP_HEADER_ALLOW, "%s", answer->allow);
    if (answer->retry_after_s > 0)
        complete &=
            response_header(response, MHD_HTTP_HEADER_RETRY_AFTER, "%d", answer->retry_after_s);
    if (complete)
        return response;
    MHD_destroy_response(response);
    return NULL;
}

void response_send_raw(int fd, const struct answer *answer, const char *request_id)
{
    struct buffer text = {0};

    buffer_format(&text,
                  "HTTP/1.1 %d %s\r\nConnection: close\r\nContent-Type: application/json\r\n"
                  "Content-Length: %zu\r\nx-request-id: %s\r\n\r\n",
                  answer->status, MHD_get_reason_phrase_for((unsigned)answer->status),
                  answer->body.length, request_id);
    buffer_append(&text, answer->body.data, answer->body.length);
    /* One try: these few hundred bytes fit any socket buffer that is not stuck already. */
    if (!text.failed && send(fd, text.data, text.length, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
        shutdown(fd, SHUT_RDWR);
    buffer_free(&text);
}

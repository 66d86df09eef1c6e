#include "tests/http/client.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/error.h"
#include "tests/support/openapi.h"

enum { WAIT_MS = 60000 };

static size_t collect(char *bytes, size_t size, size_t count, void *context)
{
    buffer_append(context, bytes, size * count);
    return size * count;
}

CURL *client_prepare(const struct server_process *server, const char *method, const char *path,
                     const char *body, struct curl_slist *headers, struct reply *reply)
{
    CURL *curl = curl_easy_init();
    char url[512];

    cr_assert_not_null(curl);
    snprintf(url, sizeof url, "http://127.0.0.1:%d%s", server->port, path);
    curl_easy_setopt(curl, CURLOPT_URL, url);
    curl_easy_setopt(curl, CURLOPT_NOPROXY, "*");
    curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, (long)WAIT_MS);
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, collect);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, &reply->body);
    curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, collect);
    curl_easy_setopt(curl, CURLOPT_HEADERDATA, &reply->head);
    if (body != NULL) {
        curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE, (long)strlen(body));
        curl_easy_setopt(curl, CURLOPT_POSTFIELDS, body);
    }
    if (strcmp(method, "HEAD") == 0)
        curl_easy_setopt(curl, CURLOPT_NOBODY, 1L);
    else
        curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, method);
    return curl;
}

void reply_check(const struct reply *reply, const char *method, const char *path)
{
    static struct openapi *document;
    struct error err = {0};
    char content_type[120] = "";

    if (document == NULL)
        cr_assert_eq(openapi_load(&document, "docs/openapi.json", &err), 0, "%s", err.message);
    bool typed = head_value(reply->head.data, "content-type", content_type, sizeof content_type);
    cr_assert_eq(openapi_check_response(document, method, path, (int)reply->status,
                                        typed ? content_type : NULL, reply->body.data,
                                        reply->body.length, &err),
                 0, "%s in %.600s", err.message, reply->body.data);
}

void client_perform(CURL *curl, const char *method, const char *path, struct reply *reply)
{
    CURLcode code = curl_easy_perform(curl);
    cr_assert_eq(code, CURLE_OK, "%s %s: %s", method, path, curl_easy_strerror(code));
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &reply->status);
    curl_easy_cleanup(curl);
    reply_check(reply, method, path);
}

struct reply client_send_with(const struct server_process *server, const char *method,
                              const char *path, const char *body, const char *header)
{
    bool typed = header != NULL && strncasecmp(header, "content-type", 12) == 0;
    struct curl_slist *headers = NULL;
    struct reply reply = {0};

    if (body != NULL && !typed)
        headers = curl_slist_append(headers, "Content-Type: application/json");
    if (header != NULL)
        headers = curl_slist_append(headers, header);
    CURL *curl = client_prepare(server, method, path, body, headers, &reply);
    client_perform(curl, method, path, &reply);
    curl_slist_free_all(headers);
    return reply;
}

struct reply client_send(const struct server_process *server, const char *method, const char *path,
                         const char *body)
{
    return client_send_with(server, method, path, body, NULL);
}

void reply_free(struct reply *reply)
{
    buffer_free(&reply->head);
    buffer_free(&reply->body);
}

bool head_value(const char *head, const char *name, char *out, size_t size)
{
    size_t length = strlen(name);
    bool found = false;

    for (const char *line = head; line != NULL && *line != '\0';) {
        const char *end = strstr(line, "\r\n");
        if (strncasecmp(line, name, length) == 0 && line[length] == ':' && end != NULL) {
            const char *value = line + length + 1;
            value += strspn(value, " ");
            snprintf(out, size, "%.*s", (int)(end - value), value);
            found = true;
        }
        line = end != NULL ? end + 2 : NULL;
    }
    return found;
}

json_t *reply_json(const struct reply *reply)
{
    json_error_t cause;
    json_t *json =
        json_loadb(reply->body.data != NULL ? reply->body.data : "", reply->body.length, 0, &cause);

    cr_assert_not_null(json, "%s in: %.500s", cause.text, reply->body.data);
    return json;
}

const char *error_message(json_t *body)
{
    return json_string_value(json_object_get(json_object_get(body, "error"), "message"));
}

void expect_answers_on_the_cpu(const struct server_process *server)
{
    struct reply props = client_send(server, "GET", "/props", NULL);
    cr_expect_eq(props.status, 200);
    cr_expect_not_null(strstr(props.body.data, "\"device\":{\"name\":\"cpu\""), "%s",
                       props.body.data);
    reply_free(&props);
    struct reply reply =
        client_send(server, "POST", "/v1/completions", "{\"prompt\":\"a\",\"max_tokens\":4}");
    cr_expect_eq(reply.status, 200);
    reply_free(&reply);
}

void expect_error(const struct reply *reply, long status, const char *type, const char *code)
{
    json_t *body = reply_json(reply);
    json_t *error = json_object_get(body, "error");
    const char *got_type = json_string_value(json_object_get(error, "type"));
    const char *got_code = json_string_value(json_object_get(error, "code"));

    cr_assert_eq(reply->status, status, "status %ld, body %.500s", reply->status, reply->body.data);
    cr_assert_eq(json_object_size(error), 4u, "%.500s", reply->body.data);
    cr_assert_str_eq(got_type != NULL ? got_type : "(none)", type);
    cr_assert_str_eq(got_code != NULL ? got_code : "(none)", code != NULL ? code : "(none)");
    cr_assert_not_null(error_message(body));
    json_decref(body);
}

struct events events_parse(const char *text)
{
    struct events events = {.list = json_array()};

    while (*text != '\0') {
        size_t length = strcspn(text, "\n");
        cr_assert_eq(text[length], '\n', "a line is cut short: %.200s", text);
        cr_assert_not(events.done && length > 0, "something follows [DONE]: %.200s", text);
        if (strncmp(text, "data: [DONE]", 12) == 0 && length == 12) {
            events.done = true;
        } else if (strncmp(text, "data: ", 6) == 0) {
            json_t *event = json_loadb(text + 6, length - 6, 0, NULL);
            cr_assert_not_null(event, "no JSON: %.*s", (int)length, text);
            json_array_append_new(events.list, event);
        } else if (text[0] == ':') {
            events.comments++;
        } else {
            cr_assert_eq(length, 0u, "unknown line: %.*s", (int)length, text);
        }
        text += length + 1;
    }
    return events;
}

void events_join(const json_t *list, struct buffer *out)
{
    size_t i;
    json_t *event;

    json_array_foreach(list, i, event)
    {
        json_t *choice = json_array_get(json_object_get(event, "choices"), 0);
        json_t *message = json_object_get(choice, "message");
        json_t *delta = json_object_get(
            message != NULL ? message : json_object_get(choice, "delta"), "content");
        json_t *text = delta != NULL ? delta : json_object_get(choice, "text");
        buffer_append(out, json_string_value(text), json_string_length(text));
    }
}

int socket_open(const struct server_process *server)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)server->port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    cr_assert_geq(fd, 0);
    cr_assert_eq(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
    return fd;
}

bool socket_send(int fd, const char *text)
{
    size_t left = strlen(text);

    while (left > 0) {
        ssize_t sent = send(fd, text, left, MSG_NOSIGNAL);
        if (sent <= 0)
            return false;
        text += sent;
        left -= (size_t)sent;
    }
    return true;
}

bool socket_post(int fd, const char *path, const char *json, const char *headers)
{
    struct buffer request = {0};

    buffer_format(&request,
                  "POST %s HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n%s"
                  "Content-Length: %zu\r\n\r\n%s",
                  path, headers, strlen(json), json);
    bool sent = socket_send(fd, request.data);
    buffer_free(&request);
    return sent;
}

bool socket_readable(int fd, int wait_ms)
{
    struct pollfd ready = {.fd = fd, .events = POLLIN};

    return poll(&ready, 1, wait_ms) == 1;
}

/* False at the end of what the peer sends. */
static bool read_some(int fd, struct buffer *in)
{
    char bytes[16384];

    cr_assert(socket_readable(fd, WAIT_MS), "nothing came in %d ms after: %.500s", WAIT_MS,
              in->data != NULL ? in->data : "");
    ssize_t length = recv(fd, bytes, sizeof bytes, 0);
    if (length <= 0)
        return false;
    buffer_append(in, bytes, (size_t)length);
    return true;
}

bool socket_read_until(int fd, struct buffer *in, const char *text)
{
    while (in->data == NULL || strstr(in->data, text) == NULL) {
        if (!read_some(fd, in))
            return false;
    }
    return true;
}

bool socket_read_to_end(int fd, struct buffer *in)
{
    while (read_some(fd, in))
        ;
    return in->length > 0;
}

/*
 * Two clients for the tests: libcurl for whole requests, and a bare socket for what a well-behaved
 * client would not send. Everything waits at most a minute.
 */
#ifndef TESTS_HTTP_CLIENT_H
#define TESTS_HTTP_CLIENT_H

#include <stdbool.h>
#include <stddef.h>
#include <jansson.h>
#include <curl/curl.h>

#include "common/buffer.h"
#include "tests/support/server_process.h"

struct reply {
    long status; /* 0: there was none */
    struct buffer head, body;
};

/*
 * body NULL: none. Sends Content-Type: application/json with a body. Fails the test when the
 * response is none that docs/openapi.json describes. The caller frees the reply.
 */
struct reply client_send(const struct server_process *server, const char *method, const char *path,
                         const char *body);
/* The same with one more header line, which replaces one of the same name. */
struct reply client_send_with(const struct server_process *server, const char *method,
                              const char *path, const char *body, const char *header);
/* A handle set up like those, that writes into the reply: for curl_multi, or to perform. */
CURL *client_prepare(const struct server_process *server, const char *method, const char *path,
                     const char *body, struct curl_slist *headers, struct reply *reply);
void client_perform(CURL *curl, const char *method, const char *path, struct reply *reply);
/* Fails the test when docs/openapi.json does not describe the reply; client_perform does it. */
void reply_check(const struct reply *reply, const char *method, const char *path);
void reply_free(struct reply *reply);

/* The value of a header in the last response of the text, or false. Names ignore case. */
bool head_value(const char *head, const char *name, char *out, size_t size);
/* The body as JSON (new reference); fails the test when it is none. */
json_t *reply_json(const struct reply *reply);
/* Fails the test unless the reply is this status with an error object of type and code. */
void expect_error(const struct reply *reply, long status, const char *type, const char *code);
const char *error_message(json_t *body);
/* Fails the test unless /props names the cpu as the device, and a completion comes. */
void expect_answers_on_the_cpu(const struct server_process *server);

/* The events of a stream. */
struct events {
    json_t *list; /* array of the data lines' objects */
    bool done;    /* [DONE] came last */
    int comments;
};
/* Fails the test when a line is neither data, comment nor empty. The caller decrefs the list. */
struct events events_parse(const char *text);
/* Appends choice 0's delta.content, message.content or text of every event. */
void events_join(const json_t *list, struct buffer *out);

/* Bare sockets; -1 and false where it fails. */
int socket_open(const struct server_process *server);
bool socket_send(int fd, const char *text);
/* Writes a POST of this JSON with these further header lines ("" or "Name: value\r\n"). */
bool socket_post(int fd, const char *path, const char *json, const char *headers);
/* Whether something (or the end) can be read within so many milliseconds. */
bool socket_readable(int fd, int wait_ms);
/* Reads until `text` is in the buffer; false when the peer ends before. */
bool socket_read_until(int fd, struct buffer *in, const char *text);
/* Reads until the peer closes (or resets). */
bool socket_read_to_end(int fd, struct buffer *in);

#endif

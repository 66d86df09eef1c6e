/*
 * Requests that libmicrohttpd judges before this program sees them. Its pages and its leniency have
 * no option in the installed version; these tests hold what docs/API.md says of them.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "tests/http/client.h"

static struct server_process server;

static void start(void)
{
    cr_assert(server_process_start(&server, (const char *const[]){"--log-format", "json", NULL}));
}

static void stop(void)
{
    cr_assert_eq(server_process_stop(&server), 0);
}

TestSuite(library, .init = start, .fini = stop);

/* Sends it and reads to the end; the caller frees the answer. */
static struct buffer exchange(const char *request)
{
    struct buffer in = {0};
    int fd = socket_open(&server);

    cr_assert(socket_send(fd, request));
    cr_assert(socket_read_to_end(fd, &in));
    close(fd);
    return in;
}

/* The library's page, the end of the connection, a line in the log and a count. */
static void expect_page(const char *request, int status)
{
    struct buffer in = exchange(request);
    char text[100];

    snprintf(text, sizeof text, "HTTP/1.1 %d ", status);
    cr_assert_neq(in.length, 0, "%.60s", request);
    cr_expect_eq(strncmp(in.data, text, strlen(text)), 0, "%.60s\n%s", request, in.data);
    cr_expect_not_null(strstr(in.data, "\r\n\r\n<html>"), "%s", in.data);
    cr_expect_not_null(strstr(in.data, "\r\nConnection: close\r\n"), "%s", in.data);
    buffer_free(&in);
    snprintf(text, sizeof text,
             "\"a malformed request was refused by the HTTP library\",\"status\":%d}", status);
    cr_expect(server_process_wait_for_log(&server, text));
    struct reply reply = client_send(&server, "GET", "/metrics", NULL);
    snprintf(text, sizeof text, "denoised_http_requests_total{path=\"other\",status=\"%d\"} ",
             status);
    cr_expect_not_null(strstr(reply.body.data, text), "%s", text);
    reply_free(&reply);
}

Test(library, a_malformed_line_is_400)
{
    expect_page("GET / HTTP/1.1 more\r\nHost: a\r\n\r\n", 400);
    expect_page("GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n", 400);
    expect_page("GET / HTTP/1.1\rHost: a\r\n\r\n", 400);
}

Test(library, a_length_that_is_no_number_is_400_and_one_over_64_bits_413)
{
    expect_page("POST /tokenize HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n", 400);
    expect_page(
        "POST /tokenize HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n", 413);
}

Test(library, another_major_version_is_505)
{
    expect_page("GET /health HTTP/3.0\r\nHost: a\r\n\r\n", 505);
}

static void expect_too_long(const char *before, const char *behind, int status)
{
    enum { TOO_LONG = 40000 };
    struct buffer request = {0};

    buffer_append_text(&request, before);
    for (int i = 0; i < TOO_LONG; i++)
        buffer_append_char(&request, 'a');
    buffer_append_text(&request, behind);
    expect_page(request.data, status);
    buffer_free(&request);
}

Test(library, a_target_beyond_its_memory_is_414_and_headers_are_431)
{
    expect_too_long("GET /", " HTTP/1.1\r\nHost: a\r\n\r\n", 414);
    expect_too_long("GET /health HTTP/1.1\r\nHost: a\r\nX: ", "\r\n\r\n", 431);
}

/* Here the exchange has begun: its line names path and id. */
Test(library, broken_chunks_are_400_and_logged_with_their_path)
{
    expect_page("POST /tokenize HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
                "x-request-id: chunky\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
                400);
    cr_expect(server_process_wait_for_log(
        &server, "\"request_id\":\"chunky\",\"path\":\"/tokenize\",\"status\":400,"));
    struct reply reply = client_send(&server, "GET", "/metrics", NULL);
    cr_expect_null(strstr(reply.body.data, "status=\"499\""), "%s", reply.body.data);
    cr_expect_null(strstr(reply.body.data, "path=\"/tokenize\""), "counted once, as \"other\"");
    reply_free(&reply);
}

Test(library, lines_that_end_with_a_bare_line_feed_are_taken)
{
    static const char *const REQUESTS[] = {
        "GET /health HTTP/1.1\nHost: a\nConnection: close\n\n",
        "GET /health HTTP/1.1\r\nHost: a\nConnection: close\r\n\r\n",
        "\n\nGET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        "POST /tokenize HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nConnection: close"
        "\r\nTransfer-Encoding: chunked\r\n\r\ne\n{\"prompt\":\"a\"}\n0\n\n",
    };

    for (size_t i = 0; i < sizeof REQUESTS / sizeof *REQUESTS; i++) {
        struct buffer in = exchange(REQUESTS[i]);
        cr_assert_neq(in.length, 0, "%zu", i);
        cr_expect_eq(strncmp(in.data, "HTTP/1.1 200 ", 13), 0, "%zu\n%s", i, in.data);
        buffer_free(&in);
    }
}

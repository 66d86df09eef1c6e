/* Requests whose end two programs could see in different places: refused, and nothing of them runs
 * as a second request. */
#include <criterion/criterion.h>
#include <string.h>
#include <unistd.h>

#include "tests/http/client.h"

static struct server_process server;

static void start(void)
{
    cr_assert(server_process_start(&server, NULL));
}

static void stop(void)
{
    cr_assert_eq(server_process_stop(&server), 0);
}

TestSuite(framing, .init = start, .fini = stop);

/* These headers, then a whole body and a request that must not be answered. */
static void expect_refused(const char *version, const char *headers)
{
    struct buffer request = {0}, in = {0};
    int fd = socket_open(&server);

    buffer_format(&request,
                  "POST /tokenize %s\r\nContent-Type: application/json\r\n%s\r\n"
                  "{\"prompt\":\"a\"}GET /version HTTP/1.1\r\nHost: a\r\n\r\n",
                  version, headers);
    cr_assert(socket_send(fd, request.data));
    cr_assert(socket_read_to_end(fd, &in));
    cr_expect_eq(strncmp(in.data, "HTTP/1.1 400 ", 13), 0, "%s\n%s", headers, in.data);
    cr_expect_null(strstr(in.data, "}HTTP/1.1 "), "%s\n%s", headers, in.data);
    cr_expect_not_null(strstr(in.data, "\r\nx-request-id: "), "%s\n%s", headers, in.data);
    cr_expect_not_null(strstr(in.data, "\r\n\r\n{\"error\":{\"message\":\""), "%s\n%s", headers,
                       in.data);
    buffer_free(&request);
    buffer_free(&in);
    close(fd);
}

Test(framing, a_body_whose_length_is_told_twice_or_badly_is_refused_and_nothing_behind_it_runs)
{
    static const char *const HEADERS[] = {
        "Host: a\r\nContent-Length: 14\r\nContent-Length: 40\r\n",
        "Host: a\r\nContent-Length: 14\r\nContent-Length: 14\r\n",
        "Host: a\r\nContent-Length: 14\r\nTransfer-Encoding: chunked\r\n",
        "Host: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "Host: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Host: a\r\nTransfer-Encoding: gzip, chunked\r\n",
        "Host: a\r\nTransfer-Encoding: identity\r\n",
        "Host: a\r\nContent-Length : 14\r\n",
        "Host: a\r\nContent-Length\t: 14\r\n",
        "Host: a\r\nTransfer-Encoding : chunked\r\n",
        "Host: a\r\nContent-Length:\r\n 14\r\n",
        "Host: a\r\nContent-Length: 1\r\n 4\r\n",
        "Host: a\r\nX: a\r\n Content-Length: 14\r\n",
        "Host: a\r\nX: a\rContent-Length: 14\r\n",
    };

    for (size_t i = 0; i < sizeof HEADERS / sizeof *HEADERS; i++)
        expect_refused("HTTP/1.1", HEADERS[i]);
    expect_refused("HTTP/1.0", "Transfer-Encoding: chunked\r\n");
}

Test(framing, a_request_of_http_1_1_names_one_host)
{
    expect_refused("HTTP/1.1", "Content-Length: 14\r\n");
    expect_refused("HTTP/1.1", "Host: a\r\nHost: b\r\nContent-Length: 14\r\n");
    expect_refused("HTTP/1.0", "Host: a\r\nHost: b\r\nContent-Length: 14\r\n");
}

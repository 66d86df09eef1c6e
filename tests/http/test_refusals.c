/* Everything that is refused says so in an error object with the right status. */
#include <criterion/criterion.h>
#include <ctype.h>
#include <string.h>
#include <unistd.h>

#include "tests/http/client.h"

static struct server_process server;

static void start(void)
{
    cr_assert(server_process_start(
        &server, (const char *const[]){"--max-body-bytes", "10000", "--idle-timeout", "1", NULL}));
}

static void stop(void)
{
    cr_assert_eq(server_process_stop(&server), 0);
}

TestSuite(refusals, .init = start, .fini = stop);

static void refused(const char *method, const char *path, const char *body, const char *header,
                    long status, const char *code)
{
    struct reply reply = client_send_with(&server, method, path, body, header);

    json_t *object = reply_json(&reply);
    const char *message = error_message(object);

    expect_error(&reply, status, "invalid_request_error", code);
    /* One voice, whoever refuses: a clause that starts small and has no full stop. */
    cr_expect_not(isupper((unsigned char)message[0]), "%s", message);
    cr_expect_neq(message[strlen(message) - 1], '.', "%s", message);
    json_decref(object);
    reply_free(&reply);
}

Test(refusals, unknown_paths_are_404)
{
    refused("GET", "/", NULL, NULL, 404, "not_found");
    refused("GET", "/v1/model", NULL, NULL, 404, "not_found");
    refused("POST", "/v1/completions/", "{}", NULL, 404, "not_found");
    refused("GET", "/v1/models/other", NULL, NULL, 404, "model_not_found");
}

Test(refusals, wrong_methods_are_405_and_name_the_right_ones)
{
    static const struct {
        const char *method, *path, *allow;
    } CASES[] = {
        {"GET", "/v1/completions", "POST"},  {"OPTIONS", "/v1/chat/completions", "POST"},
        {"POST", "/v1/models", "GET, HEAD"}, {"DELETE", "/v1/models/tiny", "GET, HEAD"},
        {"PUT", "/health", "GET, HEAD"},
    };

    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        const char *body = strcmp(CASES[i].method, "POST") == 0 ? "{}" : NULL;
        struct reply reply = client_send(&server, CASES[i].method, CASES[i].path, body);
        char allow[64] = "";

        expect_error(&reply, 405, "invalid_request_error", NULL);
        cr_assert(head_value(reply.head.data, "allow", allow, sizeof allow));
        cr_assert_str_eq(allow, CASES[i].allow);
        reply_free(&reply);
    }
}

Test(refusals, only_json_is_taken)
{
    static const char BODY[] = "{\"prompt\":\"a\",\"max_tokens\":4}";
    static const char *const REFUSED[] = {"Content-Type: text/plain",
                                          "Content-Type:", "Content-Type: application/jsonx",
                                          "Content-Encoding: gzip"};
    static const char *const TAKEN[] = {"Content-Type: application/json; charset=utf-8",
                                        "Content-Type: Application/JSON"};

    for (size_t i = 0; i < sizeof REFUSED / sizeof *REFUSED; i++)
        refused("POST", "/v1/completions", BODY, REFUSED[i], 415, NULL);
    for (size_t i = 0; i < sizeof TAKEN / sizeof *TAKEN; i++) {
        struct reply reply = client_send_with(&server, "POST", "/v1/completions", BODY, TAKEN[i]);
        cr_assert_eq(reply.status, 200, "%s: %s", TAKEN[i], reply.body.data);
        reply_free(&reply);
    }
}

Test(refusals, an_empty_body_is_400)
{
    refused("POST", "/v1/completions", "", NULL, 400, "invalid_json");
}

Test(refusals, broken_json_names_line_and_column)
{
    struct reply reply =
        client_send(&server, "POST", "/v1/completions", "{\n  \"prompt\": \"a\",\n  oops\n}");
    json_t *body = reply_json(&reply);

    expect_error(&reply, 400, "invalid_request_error", "invalid_json");
    cr_assert_not_null(strstr(error_message(body), "line 3"), "%s", error_message(body));
    cr_assert_not_null(strstr(error_message(body), "column"), "%s", error_message(body));
    json_decref(body);
    reply_free(&reply);
}

Test(refusals, fields_that_are_wrong_or_not_carried_out_are_400)
{
    static const char PATH[] = "/v1/completions";

    refused("POST", PATH, "{\"prompt\":\"a\",\"model\":\"other\"}", NULL, 404, "model_not_found");
    refused("POST", PATH, "{\"prompt\":\"a\",\"max_tokens\":0}", NULL, 400, "invalid_value");
    refused("POST", PATH, "{\"prompt\":[2],\"max_tokens\":4}", NULL, 400, "invalid_value");
    refused("POST", PATH, "{\"prompt\":\"a\",\"regex\":\"a+\"}", NULL, 400,
            "unsupported_parameter");
    refused("POST", PATH, "{\"prompt\":\"a\",\"max_tokens\":513}", NULL, 400,
            "context_length_exceeded");
}

Test(refusals, an_announced_body_over_the_limit_is_413_before_any_of_it_is_sent)
{
    struct buffer in = {0};
    int fd = socket_open(&server);

    cr_assert(socket_send(fd, "POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: "
                              "application/json\r\nContent-Length: 1073741824\r\n\r\n"));
    cr_assert(socket_read_to_end(fd, &in));
    cr_assert_eq(strncmp(in.data, "HTTP/1.1 413 ", 13), 0, "%s", in.data);
    cr_assert_not_null(strstr(in.data, "10000 bytes"), "%s", in.data);
    buffer_free(&in);
    close(fd);
}

Test(refusals, a_client_that_sends_its_whole_long_body_all_the_same_can_read_the_413)
{
    enum { LENGTH = 32 << 20 };
    struct buffer request = {0}, in = {0};
    int fd = socket_open(&server);

    buffer_format(&request,
                  "POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: "
                  "application/json\r\nContent-Length: %d\r\n\r\n",
                  LENGTH);
    for (int i = 0; i < LENGTH; i += 64)
        buffer_append_text(&request,
                           "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx");
    cr_assert(socket_send(fd, request.data), "the server reset the connection");
    cr_assert(socket_read_to_end(fd, &in));
    cr_assert_eq(strncmp(in.data, "HTTP/1.1 413 ", 13), 0, "%s", in.data);
    buffer_free(&request);
    buffer_free(&in);
    close(fd);
}

Test(refusals, a_chunked_body_is_cut_off_at_the_limit)
{
    char chunk[5000 + 16];
    struct buffer in = {0};
    int fd = socket_open(&server);

    cr_assert(socket_send(fd, "POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: "
                              "application/json\r\nTransfer-Encoding: chunked\r\n\r\n"));
    snprintf(chunk, sizeof chunk, "1388\r\n%5000s\r\n", "");
    for (int i = 0; i < 3; i++)
        cr_assert(socket_send(fd, chunk));
    /* The last chunk is never sent. */
    cr_assert(socket_read_to_end(fd, &in));
    cr_assert_eq(strncmp(in.data, "HTTP/1.1 413 ", 13), 0, "%s", in.data);
    cr_assert_not_null(strstr(in.data, "\r\nx-request-id: "), "%s", in.data);
    cr_assert_not_null(strstr(in.data, "{\"error\":{"), "%s", in.data);
    buffer_free(&in);
    close(fd);
}

Test(refusals, connections_without_a_whole_request_are_closed_after_the_idle_timeout)
{
    struct buffer in = {0};
    int silent = socket_open(&server), halfway = socket_open(&server);

    cr_assert(socket_send(halfway, "POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: "
                                   "application/json\r\nContent-Length: 10\r\n\r\n{"));
    cr_assert_not(socket_read_to_end(silent, &in));
    cr_assert_not(socket_read_to_end(halfway, &in));
    close(silent);
    close(halfway);
}

/* Every byte begins libmicrohttpd's timeout anew. */
Test(refusals, headers_that_trickle_in_end_the_connection)
{
    int fd = socket_open(&server), sent = 0;

    cr_assert(socket_send(fd, "GET /health HTTP/1.1\r\nHost: a\r\nX: "));
    while (sent < 400 && !socket_readable(fd, 50) && socket_send(fd, "a"))
        sent++;
    cr_expect_lt(sent, 400, "twenty times the idle timeout have passed");
    close(fd);
}

Test(refusals, a_kept_connection_outlives_many_idle_timeouts)
{
    struct buffer in = {0};
    int fd = socket_open(&server);

    /* Each request in time, all together in far more than a header may take. */
    for (int i = 0; i < 8; i++) {
        cr_assert_not(socket_readable(fd, 500));
        cr_assert(socket_send(fd, "GET /health HTTP/1.1\r\nHost: a\r\n\r\n"));
        cr_assert(socket_read_until(fd, &in, "{\"status\":\"ok\"}"));
        buffer_clear(&in);
    }
    buffer_free(&in);
    close(fd);
}

Test(refusals, a_body_that_trickles_in_is_408)
{
    struct buffer in = {0};
    int fd = socket_open(&server);

    cr_assert(socket_send(fd, "POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: "
                              "application/json\r\nContent-Length: 9000\r\n\r\n"));
    for (int sent = 0; sent < 9000 && !socket_readable(fd, 50); sent++)
        cr_assert(socket_send(fd, " "));
    cr_assert(socket_read_to_end(fd, &in));
    cr_assert_eq(strncmp(in.data, "HTTP/1.1 408 ", 13), 0, "%s", in.data);
    buffer_free(&in);
    close(fd);
}

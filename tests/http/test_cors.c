/* Web pages of other origins: off by default, then those that the settings name. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/http/client.h"

static struct server_process server;

/* The whole response, with Connection: close. */
static struct buffer ask(const char *method, const char *path, const char *headers)
{
    struct buffer request = {0}, in = {0};
    int fd = socket_open(&server);

    buffer_format(&request, "%s %s HTTP/1.1\r\nHost: a\r\nConnection: close\r\n%s\r\n", method,
                  path, headers);
    cr_assert(socket_send(fd, request.data));
    cr_assert(socket_read_to_end(fd, &in));
    buffer_free(&request);
    close(fd);
    return in;
}

static void expect_header(const struct buffer *in, const char *name, const char *expected)
{
    char value[200] = "(none)";

    head_value(in->data, name, value, sizeof value);
    cr_expect_str_eq(value, expected, "%s in %s", name, in->data);
}

#define ORIGIN(name)    "Origin: " name "\r\n"
#define PREFLIGHT(name) ORIGIN(name) "Access-Control-Request-Method: POST\r\n"

Test(cors, without_origins_nothing_is_said)
{
    cr_assert(server_process_start(&server, NULL));
    struct buffer in = ask("GET", "/version", ORIGIN("https://a.example"));
    expect_header(&in, "access-control-allow-origin", "(none)");
    expect_header(&in, "vary", "(none)");
    buffer_free(&in);
    in = ask("OPTIONS", "/v1/completions", PREFLIGHT("https://a.example"));
    cr_expect_eq(strncmp(in.data, "HTTP/1.1 405 ", 13), 0, "%s", in.data);
    buffer_free(&in);
    cr_expect_eq(server_process_stop(&server), 0);
}

Test(cors, a_named_origin_may_read_answers_and_refusals_and_no_other_may)
{
    static const char *const PATHS[] = {"/version", "/nope", "/v1/models"};

    setenv("DENOISED_API_KEY", "alpha", 1);
    cr_assert(server_process_start(
        &server,
        (const char *const[]){"--cors-origins", "https://a.example, https://b.example", NULL}));
    for (size_t i = 0; i < sizeof PATHS / sizeof *PATHS; i++) {
        struct buffer in = ask("GET", PATHS[i], ORIGIN("https://b.example"));
        expect_header(&in, "access-control-allow-origin", "https://b.example");
        expect_header(&in, "vary", "Origin");
        buffer_free(&in);
        in = ask("GET", PATHS[i], ORIGIN("https://b.exampl"));
        expect_header(&in, "access-control-allow-origin", "(none)");
        expect_header(&in, "vary", "Origin");
        buffer_free(&in);
    }
    cr_expect_eq(server_process_stop(&server), 0);
}

Test(cors, a_preflight_is_answered_without_a_key_for_named_origins_and_known_paths)
{
    setenv("DENOISED_API_KEY", "alpha", 1);
    cr_assert(server_process_start(
        &server, (const char *const[]){"--cors-origins", "https://a.example", NULL}));
    struct buffer in = ask("OPTIONS", "/v1/chat/completions", PREFLIGHT("https://a.example"));
    cr_expect_eq(strncmp(in.data, "HTTP/1.1 204 ", 13), 0, "%s", in.data);
    expect_header(&in, "access-control-allow-origin", "https://a.example");
    expect_header(&in, "access-control-allow-methods", "POST");
    expect_header(&in, "access-control-allow-headers", "Authorization, Content-Type, X-Request-Id");
    expect_header(&in, "content-type", "(none)");
    buffer_free(&in);
    in = ask("OPTIONS", "/v1/chat/completions", PREFLIGHT("https://evil.example"));
    cr_expect_eq(strncmp(in.data, "HTTP/1.1 405 ", 13), 0, "%s", in.data);
    expect_header(&in, "access-control-allow-origin", "(none)");
    buffer_free(&in);
    in = ask("OPTIONS", "/nope", PREFLIGHT("https://a.example"));
    cr_expect_eq(strncmp(in.data, "HTTP/1.1 404 ", 13), 0, "%s", in.data);
    buffer_free(&in);
    cr_expect_eq(server_process_stop(&server), 0);
}

Test(cors, a_star_is_every_origin)
{
    cr_assert(server_process_start(&server, (const char *const[]){"--cors-origins", "*", NULL}));
    struct buffer in = ask("GET", "/version", ORIGIN("https://a.example"));
    expect_header(&in, "access-control-allow-origin", "*");
    expect_header(&in, "vary", "(none)");
    buffer_free(&in);
    cr_expect_eq(server_process_stop(&server), 0);
}

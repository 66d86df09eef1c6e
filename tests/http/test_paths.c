/* How a path may be written, and under which one a request is counted. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "tests/http/client.h"

static struct server_process server;

static void start(void)
{
    cr_assert(
        server_process_start(&server, (const char *const[]){"--max-body-bytes", "10000",
                                                            "--model-name", "owner/a b", NULL}));
}

static void stop(void)
{
    cr_assert_eq(server_process_stop(&server), 0);
}

TestSuite(paths, .init = start, .fini = stop, .timeout = 60);

/* Sends it as it is, and gives the status. */
static int status_of(const char *request)
{
    struct buffer in = {0};
    int fd = socket_open(&server), status = 0;

    cr_assert(socket_send(fd, request));
    cr_assert(socket_read_until(fd, &in, "\r\n"));
    sscanf(in.data, "HTTP/1.1 %d", &status);
    buffer_free(&in);
    close(fd);
    return status;
}

static int status_of_target(const char *target)
{
    char request[300];

    snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: a\r\n\r\n", target);
    return status_of(request);
}

Test(paths, a_target_is_found_by_the_one_spelling_of_its_path)
{
    cr_expect_eq(status_of_target("/health"), 200);
    cr_expect_eq(status_of_target("/health?verbose=1&x=%00"), 200);
    cr_expect_eq(status_of_target("/%68ealth"), 200);
    cr_expect_eq(status_of_target("http://x/health"), 200);
    cr_expect_eq(status_of_target("HTTP://x:80/health?a"), 200);
    cr_expect_eq(status_of_target("http://x"), 404);
    cr_expect_eq(status_of_target("/health%00x"), 404);
    cr_expect_eq(status_of_target("/health%00"), 404);
    cr_expect_eq(status_of_target("/v1%2fmodels"), 404);
    cr_expect_eq(status_of_target("//health"), 404);
}

Test(paths, the_id_of_a_model_may_be_escaped)
{
    cr_expect_eq(status_of_target("/v1/models/owner/a%20b"), 200);
    cr_expect_eq(status_of_target("/v1/models/owner%2Fa%20b"), 200);
    cr_expect_eq(status_of_target("/v1/models/owner/a%20b%00"), 404);
}

Test(paths, the_models_are_listed_where_mercurys_client_asks_too)
{
    static const char *const PATHS[] = {"/v1/chat/completions/models", "/v1/fim/completions/models",
                                        "/v1/edit/completions/models"};
    struct reply models = client_send(&server, "GET", "/v1/models", NULL);

    cr_assert_eq(models.status, 200);
    for (size_t i = 0; i < sizeof PATHS / sizeof *PATHS; i++) {
        struct reply reply = client_send(&server, "GET", PATHS[i], NULL);
        cr_expect_eq(reply.status, 200, "%s", PATHS[i]);
        cr_expect_str_eq(reply.body.data, models.body.data, "%s", PATHS[i]);
        reply_free(&reply);
    }
    reply_free(&models);
}

Test(paths, a_path_that_is_too_long_is_no_route)
{
    char target[2000] = "/v1/models/", request[2100];

    memset(target + strlen(target), 'a', sizeof target - 1 - strlen(target));
    snprintf(request, sizeof request, "GET %.1900s HTTP/1.1\r\nHost: a\r\n\r\n", target);
    cr_expect_eq(status_of(request), 404);
}

/* A request is counted a moment after its answer was read. Hangs where it never is. */
static void wait_until_counted(const char *status)
{
    char line[120];

    snprintf(line, sizeof line,
             "\ndenoised_http_requests_total{path=\"/v1/completions\",status=\"%s\"} 1\n", status);
    for (bool counted = false; !counted;) {
        struct reply reply = client_send(&server, "GET", "/metrics", NULL);
        counted = strstr(reply.body.data, line) != NULL;
        reply_free(&reply);
    }
}

Test(paths, what_is_refused_by_its_headers_is_counted_under_its_path)
{
    cr_expect_eq(
        status_of("POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 99999\r\n\r\n"),
        413);
    cr_expect_eq(status_of("POST /v1/completions HTTP/1.1\r\n\r\n"), 400);
    static const char *const STATUSES[] = {"413", "400"};
    for (size_t i = 0; i < sizeof STATUSES / sizeof *STATUSES; i++)
        wait_until_counted(STATUSES[i]);
}

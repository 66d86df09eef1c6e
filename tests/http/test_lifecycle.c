/* Starting and stopping. */
#include <criterion/criterion.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/http/client.h"

/* Two answers one after the other. */
#define LONG_STREAM                                                                                \
    "{\"prompt\":\"a\",\"max_tokens\":64,\"steps\":64,\"ignore_eos\":true,\"n\":2,"                \
    "\"stream\":true}"

static struct server_process server;

/* A connection on which a long stream has begun. */
static int begin_stream(struct buffer *in)
{
    int fd = socket_open(&server);

    cr_assert(socket_post(fd, "/v1/completions", LONG_STREAM, "Connection: close\r\n"));
    cr_assert(socket_read_until(fd, in, "data: {"));
    return fd;
}

Test(lifecycle, sigterm_refuses_new_requests_finishes_running_ones_and_exits_with_0)
{
    struct buffer in = {0};
    char retry[16];

    cr_assert(server_process_start(&server, (const char *const[]){"--max-sequences", "1", NULL}));
    int fd = begin_stream(&in);
    server_process_signal(&server, SIGTERM);
    cr_assert(server_process_wait_for_log(&server, "draining"));
    struct reply ready = client_send(&server, "GET", "/ready", NULL);
    while (ready.status == 200) { /* the log line comes a moment before the deed */
        reply_free(&ready);
        ready = client_send(&server, "GET", "/ready", NULL);
    }
    expect_error(&ready, 503, "unavailable_error", "draining");
    cr_assert(head_value(ready.head.data, "retry-after", retry, sizeof retry));
    struct reply refused =
        client_send(&server, "POST", "/v1/completions", "{\"prompt\":\"a\",\"max_tokens\":4}");
    expect_error(&refused, 503, "unavailable_error", "draining");
    cr_assert(head_value(refused.head.data, "retry-after", retry, sizeof retry));
    struct reply health = client_send(&server, "GET", "/health", NULL);
    cr_assert_eq(health.status, 200);
    cr_assert(socket_read_to_end(fd, &in));
    cr_assert_not_null(strstr(in.data, "data: [DONE]\n\n"), "%s", in.data);
    cr_assert_eq(server_process_wait(&server), 0);
    reply_free(&ready);
    reply_free(&refused);
    reply_free(&health);
    buffer_free(&in);
    close(fd);
}

Test(lifecycle, what_outlasts_the_drain_timeout_ends_with_an_error_event)
{
    struct buffer in = {0};

    cr_assert(server_process_start(
        &server, (const char *const[]){"--max-sequences", "1", "--drain-timeout", "0.1", NULL}));
    int fd = begin_stream(&in);
    server_process_signal(&server, SIGTERM);
    cr_assert(socket_read_to_end(fd, &in));
    cr_assert_not_null(strstr(in.data, "data: {\"error\":{"), "%s", in.data);
    cr_assert_null(strstr(in.data, "[DONE]"), "%s", in.data);
    cr_assert_eq(server_process_wait(&server), 0);
    buffer_free(&in);
    close(fd);
}

Test(lifecycle, a_second_signal_ends_at_once_even_with_clients_that_wait)
{
    struct buffer in = {0}, unstreamed = {0};

    cr_assert(server_process_start(&server, (const char *const[]){"--max-sequences", "1", NULL}));
    int fd = begin_stream(&in), waiting = socket_open(&server), idle = socket_open(&server);
    cr_assert(socket_post(waiting, "/v1/completions", "{\"prompt\":\"a\",\"n\":64}", ""));
    server_process_signal(&server, SIGTERM);
    cr_assert(server_process_wait_for_log(&server, "draining"));
    server_process_signal(&server, SIGTERM);
    cr_assert_eq(server_process_wait(&server), 0);
    cr_assert(socket_read_to_end(fd, &in));
    cr_assert_not_null(strstr(in.data, "data: {\"error\":{"), "%s", in.data);
    socket_read_to_end(waiting, &unstreamed);
    cr_assert(unstreamed.data == NULL || strstr(unstreamed.data, " 200 OK") == NULL);
    buffer_free(&in);
    buffer_free(&unstreamed);
    close(fd);
    close(waiting);
    close(idle);
}

Test(lifecycle, sighup_during_a_drain_reloads_and_ends_nothing)
{
    struct buffer in = {0};

    cr_assert(server_process_start(&server, (const char *const[]){"--max-sequences", "1", NULL}));
    int fd = begin_stream(&in);
    server_process_signal(&server, SIGTERM);
    cr_assert(server_process_wait_for_log(&server, "draining"));
    server_process_signal(&server, SIGHUP);
    cr_assert(server_process_wait_for_log(&server, "re-read"));
    cr_assert(socket_read_to_end(fd, &in));
    cr_assert_not_null(strstr(in.data, "data: [DONE]\n\n"), "%s", in.data);
    cr_assert_eq(server_process_wait(&server), 0);
    buffer_free(&in);
    close(fd);
}

Test(lifecycle, a_slow_reader_gets_its_whole_answer_within_the_drain_timeout)
{
    struct buffer request = {0}, in = {0};
    char length[20] = "";
    int small = 16384;

    cr_assert(server_process_start(&server, NULL));
    int fd = socket_open(&server);
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    /* Long, and there at once. */
    buffer_append_text(&request, "{\"prompt\":\"");
    for (int i = 0; i < 2500; i++)
        buffer_append_text(&request, "ab ");
    buffer_append_text(&request, "\"}");
    cr_assert(socket_post(fd, "/tokenize", request.data, "Connection: close\r\n"));
    cr_assert(socket_readable(fd, 60000)); /* an answer begins when all of it is there */
    server_process_signal(&server, SIGTERM);
    cr_assert(server_process_wait_for_log(&server, "draining"));
    for (;;) {
        /* Three seconds and more for the whole: longer than the grace that follows a drain. */
        usleep(30000);
        char bytes[1024];
        ssize_t got = recv(fd, bytes, sizeof bytes, 0);
        if (got <= 0)
            break;
        buffer_append(&in, bytes, (size_t)got);
    }
    cr_assert(head_value(in.data, "content-length", length, sizeof length));
    cr_expect_eq(in.length,
                 (size_t)(strstr(in.data, "\r\n\r\n") + 4 - in.data) + (size_t)atol(length),
                 "%zu of %s bytes came", in.length, length);
    cr_expect_eq(server_process_wait(&server), 0);
    buffer_free(&request);
    buffer_free(&in);
    close(fd);
}

Test(lifecycle, sighup_reads_flags_and_file_again_and_says_whether_it_could)
{
    char path[] = "/tmp/denoised-config-XXXXXX";
    int file = mkstemp(path);

    cr_assert_eq(write(file, "{\"log_level\":\"error\"}", 21), 21);
    cr_assert(server_process_start(
        &server, (const char *const[]){"--log-level", "debug", "--config", path, NULL}));
    server_process_signal(&server, SIGHUP);
    cr_assert(server_process_wait_for_log(&server, "re-read"));
    struct reply reply =
        client_send_with(&server, "GET", "/health", NULL, "x-request-id: afterwards");
    cr_assert(server_process_wait_for_log(&server, "\"request_id\":\"afterwards\""));
    cr_assert_eq(ftruncate(file, 5), 0);
    server_process_signal(&server, SIGHUP);
    cr_assert(server_process_wait_for_log(&server, path));
    reply_free(&reply);
    /* Were it to say so all the same, it would do it before the next line. */
    reply = client_send_with(&server, "GET", "/health", NULL, "x-request-id: broken");
    cr_assert(server_process_wait_for_log(&server, "\"request_id\":\"broken\""));
    cr_expect_null(strstr(strstr(server.log.data, "re-read") + 1, "re-read"), "%s",
                   server.log.data);
    reply_free(&reply);
    cr_expect_eq(server_process_stop(&server), 0);
    close(file);
    unlink(path);
}

Test(lifecycle, a_port_in_use_is_exit_2_and_a_message_that_names_it)
{
    struct server_process second;
    char port[16];

    cr_assert(server_process_start(&server, NULL));
    snprintf(port, sizeof port, "%d", server.port);
    cr_assert_eq(server_process_try(&second, (const char *const[]){"--port", port, NULL}), 2);
    cr_assert_not_null(strstr(second.log.data, port), "%s", second.log.data);
    cr_assert_not_null(strstr(second.log.data, "in use"), "%s", second.log.data);
    buffer_free(&second.log);
    cr_assert_eq(server_process_stop(&server), 0);
}

Test(lifecycle, one_event_thread_and_one_preparation_thread_suffice)
{
    cr_assert(
        server_process_start(&server, (const char *const[]){"--event-threads", "1",
                                                            "--preparation-threads", "1", NULL}));
    struct reply reply =
        client_send(&server, "POST", "/v1/completions", "{\"prompt\":\"a\",\"max_tokens\":4}");
    cr_assert_eq(reply.status, 200);
    reply_free(&reply);
    cr_assert_eq(server_process_stop(&server), 0);
}

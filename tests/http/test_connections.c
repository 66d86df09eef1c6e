/* Connections: kept, pipelined, old, half-closed, lost, slow, many. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/http/client.h"

/*
 * One sequence at a time, so that what a lost client leaves behind delays the next request; and a
 * queue that LONG_FIELDS fills, so that /ready tells when such a request is in.
 */
static const char *const ONE_AT_A_TIME[] = {
    "--max-sequences", "1", "--queue-limit", "63", "--half-close-grace", "0.2", NULL};

static struct server_process server;

static void start(void)
{
    cr_assert(server_process_start(&server, ONE_AT_A_TIME));
}

static void stop(void)
{
    cr_assert_eq(server_process_stop(&server), 0);
}

TestSuite(connections, .init = start, .fini = stop);

#define SHORT "{\"prompt\":\"a\",\"max_tokens\":8,\"seed\":1}"
/* 64 answers one after the other: ends only after many seconds. */
#define LONG_FIELDS                                                                                \
    "\"prompt\":\"a\",\"max_tokens\":160,\"steps\":160,\"ignore_eos\":true,\"n\":64,\"seed\":1"

static int count(const char *text, const char *what)
{
    int found = 0;

    for (const char *at = strstr(text, what); at != NULL; at = strstr(at + 1, what))
        found++;
    return found;
}

Test(connections, a_refusal_does_not_end_a_kept_connection)
{
    struct buffer in = {0};
    int fd = socket_open(&server);

    /* All at once: the later ones wait in the socket while the first is answered. */
    cr_assert(socket_post(fd, "/nope", "{\"prompt\":\"a\"}", ""));
    cr_assert(socket_post(fd, "/v1/completions", "{\"prompt\":", ""));
    cr_assert(socket_post(fd, "/v1/completions", SHORT, ""));
    cr_assert(socket_send(fd, "GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"));
    cr_assert(socket_read_to_end(fd, &in));
    cr_assert_eq(count(in.data, "HTTP/1.1 "), 4, "%s", in.data);
    const char *missing = strstr(in.data, "HTTP/1.1 404 ");
    const char *broken = strstr(in.data, "HTTP/1.1 400 ");
    const char *answer = strstr(in.data, "text_completion");
    const char *health = strstr(in.data, "{\"status\":\"ok\"}");
    cr_assert(missing != NULL && broken != NULL && answer != NULL && health != NULL, "%s", in.data);
    cr_assert(missing < broken && broken < answer && answer < health, "%s", in.data);
    buffer_free(&in);
    close(fd);
}

Test(connections, a_stream_leaves_the_connection_for_the_next_request)
{
    struct buffer in = {0};
    int fd = socket_open(&server);

    cr_assert(socket_post(fd, "/v1/completions",
                          "{\"prompt\":\"a\",\"max_tokens\":8,\"stream\":true}", ""));
    cr_assert(socket_read_until(fd, &in, "data: [DONE]\n\n\r\n0\r\n\r\n"));
    cr_assert(socket_send(fd, "GET /health HTTP/1.1\r\nHost: a\r\n\r\n"));
    cr_assert(socket_read_until(fd, &in, "{\"status\":\"ok\"}"));
    buffer_free(&in);
    close(fd);
}

Test(connections, http_1_0_gets_answers_and_streams_that_end_with_the_connection)
{
    static const char *const BODIES[] = {
        SHORT, "{\"prompt\":\"a\",\"max_tokens\":8,\"seed\":1,\"stream\":true}"};

    for (int stream = 0; stream < 2; stream++) {
        struct buffer request = {0}, in = {0};
        int fd = socket_open(&server);

        buffer_format(&request,
                      "POST /v1/completions HTTP/1.0\r\nContent-Type: application/json\r\n"
                      "Content-Length: %zu\r\n\r\n%s",
                      strlen(BODIES[stream]), BODIES[stream]);
        cr_assert(socket_send(fd, request.data));
        cr_assert(socket_read_to_end(fd, &in));
        cr_assert_not_null(strstr(in.data, " 200 OK\r\n"), "%s", in.data);
        cr_assert_null(strstr(in.data, "chunked"), "%s", in.data);
        if (stream)
            cr_assert_str_eq(in.data + in.length - 14, "data: [DONE]\n\n");
        else
            cr_assert_eq(in.data[in.length - 1], '}');
        buffer_free(&request);
        buffer_free(&in);
        close(fd);
    }
}

Test(connections, connection_close_is_honoured_for_streams)
{
    struct buffer in = {0};
    int fd = socket_open(&server);

    cr_assert(socket_post(fd, "/v1/completions",
                          "{\"prompt\":\"a\",\"max_tokens\":8,\"stream\":true}",
                          "Connection: close\r\n"));
    cr_assert(socket_read_to_end(fd, &in));
    cr_assert_not_null(strstr(in.data, "data: [DONE]"), "%s", in.data);
    buffer_free(&in);
    close(fd);
}

Test(connections, expect_100_continue_is_answered_before_the_body)
{
    struct buffer in = {0};
    int fd = socket_open(&server);

    cr_assert(socket_send(fd, "POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: "
                              "application/json\r\nExpect: 100-continue\r\nContent-Length: 40\r\n"
                              "\r\n"));
    cr_assert(socket_read_until(fd, &in, "HTTP/1.1 100 Continue\r\n\r\n"));
    cr_assert(socket_send(fd, "{\"prompt\":\"a\",\"max_tokens\":8,\"seed\":1  }"));
    cr_assert(socket_read_until(fd, &in, "HTTP/1.1 200 OK"));
    close(fd);
    /* What would be refused is refused instead. */
    buffer_clear(&in);
    fd = socket_open(&server);
    cr_assert(socket_send(fd, "POST /nope HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n"
                              "Content-Length: 40\r\n\r\n"));
    cr_assert(socket_read_to_end(fd, &in));
    cr_assert_eq(strncmp(in.data, "HTTP/1.1 404 ", 13), 0, "%s", in.data);
    buffer_free(&in);
    close(fd);
}

static void wait_until_ready_is(long status)
{
    for (;;) {
        struct reply reply = client_send(&server, "GET", "/ready", NULL);
        bool there = reply.status == status;
        if (there && status == 503)
            expect_error(&reply, 503, "unavailable_error", "queue_full");
        reply_free(&reply);
        if (there)
            return;
    }
}

/*
 * The next request is answered long before 64 answers could be, and the log knows of the loss: with
 * the status that was sent, or 499 where the client left before that.
 */
static void expect_freed(const char *request_id, int status)
{
    struct buffer line = {0};

    wait_until_ready_is(200);
    struct reply reply = client_send(&server, "POST", "/v1/completions", SHORT);
    cr_assert_eq(reply.status, 200, "%s", reply.body.data);
    buffer_format(&line,
                  "\"request_id\":\"%s\",\"path\":\"/v1/completions\",\"status\":%d,"
                  "\"completed\":false",
                  request_id, status);
    cr_assert(server_process_wait_for_log(&server, line.data));
    buffer_free(&line);
    reply_free(&reply);
}

Test(connections, a_client_that_closes_its_stream_frees_its_rows)
{
    struct buffer in = {0};
    int fd = socket_open(&server);

    cr_assert(socket_post(fd, "/v1/completions", "{" LONG_FIELDS ",\"stream\":true}",
                          "x-request-id: lost\r\n"));
    cr_assert(socket_read_until(fd, &in, "data: {"));
    close(fd);
    expect_freed("lost", 200);
    buffer_free(&in);
}

Test(connections, a_client_that_resets_before_its_answer_frees_its_rows)
{
    struct linger reset = {.l_onoff = 1, .l_linger = 0};
    int fd = socket_open(&server);

    cr_assert(socket_post(fd, "/v1/completions", "{" LONG_FIELDS "}", "x-request-id: lost\r\n"));
    wait_until_ready_is(503);
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    close(fd);
    expect_freed("lost", 499);
}

/* Of a reply that must have the header. */
static long retry_after(const struct reply *reply)
{
    char value[16] = "";

    cr_assert(head_value(reply->head.data, "retry-after", value, sizeof value));
    return atol(value);
}

Test(connections, ready_and_refusals_agree_on_when_to_come_back)
{
    int fd = socket_open(&server);

    /* Sixty-three wait for a single place: that is no matter of one second. */
    cr_assert(socket_post(fd, "/v1/completions", "{" LONG_FIELDS "}", ""));
    wait_until_ready_is(503);
    struct reply ready = client_send(&server, "GET", "/ready", NULL);
    struct reply refused =
        client_send(&server, "POST", "/v1/completions", "{\"prompt\":\"a\",\"n\":2}");
    expect_error(&ready, 503, "unavailable_error", "queue_full");
    expect_error(&refused, 429, "rate_limit_error", "queue_full");
    cr_expect(retry_after(&ready) > 1 && retry_after(&ready) <= 120, "%s", ready.head.data);
    /* One more place may have become free in between. */
    cr_expect_leq(labs(retry_after(&refused) - retry_after(&ready)), retry_after(&ready) / 2 + 1);
    reply_free(&ready);
    reply_free(&refused);
    close(fd);
}

Test(connections, a_client_that_only_closes_before_its_answer_frees_its_rows_after_the_grace)
{
    int fd = socket_open(&server);

    cr_assert(socket_post(fd, "/v1/completions", "{" LONG_FIELDS "}", "x-request-id: lost\r\n"));
    wait_until_ready_is(503);
    close(fd);
    expect_freed("lost", 499);
}

Test(connections, a_half_closed_client_gets_its_whole_stream_and_a_comment_line_at_once)
{
    struct buffer in = {0};
    int fd = socket_open(&server);

    cr_assert(socket_post(fd, "/v1/completions",
                          "{\"prompt\":\"a\",\"max_tokens\":48,\"steps\":48,\"ignore_eos\":true,"
                          "\"stream\":true}",
                          "Connection: close\r\n"));
    cr_assert(socket_read_until(fd, &in, "data: {"));
    cr_assert_eq(shutdown(fd, SHUT_WR), 0);
    cr_assert(socket_read_to_end(fd, &in));
    const char *comment = strstr(in.data, ": keep-alive\n\n");
    const char *done = strstr(in.data, "data: [DONE]\n\n");
    cr_assert(comment != NULL && done != NULL && comment < done, "%s", in.data);
    buffer_free(&in);
    close(fd);
}

/* The chunk framing taken away from a response with one chunked body. */
static void unchunk(const char *response, struct buffer *out)
{
    const char *at = strstr(response, "\r\n\r\n") + 4;

    for (;;) {
        char *data;
        unsigned long length = strtoul(at, &data, 16);
        cr_assert_eq(strncmp(data, "\r\n", 2), 0, "%.100s", at);
        if (length == 0)
            return;
        buffer_append(out, data + 2, length);
        at = data + 2 + length + 2;
    }
}

static json_int_t sum_of_skipped(const json_t *events)
{
    json_int_t skipped = 0;
    size_t i;
    json_t *event;

    json_array_foreach(events, i, event)
    {
        skipped +=
            json_integer_value(json_object_get(json_object_get(event, "denoised"), "skipped"));
    }
    return skipped;
}

Test(connections, a_slow_reader_does_not_hold_the_engine_and_misses_only_rounds)
{
    struct buffer in = {0}, text = {0};
    int fd = socket_open(&server), tiny = 2048;

    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &tiny, sizeof tiny);
    cr_assert(socket_post(fd, "/v1/completions",
                          "{\"prompt\":\"a\",\"max_tokens\":64,\"steps\":64,\"ignore_eos\":true,"
                          "\"stream\":true,\"diffusing\":true,\"diffusing_mask\":"
                          "\"________________________________________________________________\"}",
                          "Connection: close\r\n"));
    cr_assert(socket_read_until(fd, &in, "data: {"));
    /* First come, first served: this answer means that the slow reader's is complete. */
    struct reply reply = client_send(&server, "POST", "/v1/completions", SHORT);
    cr_assert_eq(reply.status, 200);
    cr_assert(socket_read_to_end(fd, &in));
    unchunk(in.data, &text);
    struct events events = events_parse(text.data);
    cr_assert(events.done);
    cr_assert_eq(count(text.data, "\"final\":true"), 1);
    cr_assert_gt(sum_of_skipped(events.list), 0);
    json_decref(events.list);
    reply_free(&reply);
    buffer_free(&in);
    buffer_free(&text);
    close(fd);
}

/* The end of what it sends often arrives together with the request, so it is tried many times. */
Test(connections, a_half_closed_client_sees_the_end_after_a_refusal)
{
    for (int i = 0; i < 20; i++) {
        struct buffer in = {0};
        int fd = socket_open(&server);

        cr_assert(socket_post(fd, "/nope", "{}", ""));
        cr_assert_eq(shutdown(fd, SHUT_WR), 0);
        cr_assert(socket_read_to_end(fd, &in));
        cr_assert_eq(strncmp(in.data, "HTTP/1.1 404 ", 13), 0, "%s", in.data);
        buffer_free(&in);
        close(fd);
    }
}

TestSuite(defaults);

/* The idle connection keeps libmicrohttpd from looking at the other one out of turn. */
Test(defaults, a_half_closed_client_gets_its_answer)
{
    struct buffer in = {0};

    cr_assert(server_process_start(&server, (const char *const[]){"--event-threads", "1", NULL}));
    int idle = socket_open(&server), fd = socket_open(&server);
    cr_assert(socket_post(fd, "/v1/completions", SHORT, ""));
    cr_assert_eq(shutdown(fd, SHUT_WR), 0);
    cr_assert(socket_read_to_end(fd, &in));
    cr_assert_eq(strncmp(in.data, "HTTP/1.1 200 OK", 15), 0, "%s", in.data);
    cr_assert_eq(in.data[in.length - 1], '}', "%s", in.data);
    buffer_free(&in);
    close(fd);
    close(idle);
    cr_assert_eq(server_process_stop(&server), 0);
}

enum { MANY = 64 };

Test(defaults, sixty_four_clients_at_once_get_the_same_answer)
{
    cr_assert(server_process_start(&server, NULL));
    struct curl_slist *headers = curl_slist_append(NULL, "Content-Type: application/json");
    struct reply replies[MANY] = {0};
    CURL *handles[MANY];
    CURLM *multi = curl_multi_init();
    int running = MANY;

    for (int i = 0; i < MANY; i++) {
        handles[i] = client_prepare(
            &server, "POST", "/v1/completions",
            i % 2 == 0 ? "{\"prompt\":\"One day\",\"max_tokens\":4,\"seed\":1}"
                       : "{\"prompt\":\"One day\",\"max_tokens\":4,\"seed\":1,\"stream\":true}",
            headers, &replies[i]);
        curl_multi_add_handle(multi, handles[i]);
    }
    while (running > 0) {
        cr_assert_eq(curl_multi_perform(multi, &running), CURLM_OK);
        if (running > 0)
            curl_multi_poll(multi, NULL, 0, 20000, NULL);
    }
    json_t *first = reply_json(&replies[0]);
    const char *expected = json_string_value(
        json_object_get(json_array_get(json_object_get(first, "choices"), 0), "text"));
    for (int i = 0; i < MANY; i++) {
        struct buffer text = {0};
        curl_easy_getinfo(handles[i], CURLINFO_RESPONSE_CODE, &replies[i].status);
        cr_assert_eq(replies[i].status, 200, "%d: %s", i, replies[i].body.data);
        reply_check(&replies[i], "POST", "/v1/completions");
        struct events events = {.list = json_array()};
        if (i % 2 == 0) {
            json_array_append_new(events.list, reply_json(&replies[i]));
        } else {
            json_decref(events.list);
            events = events_parse(replies[i].body.data);
        }
        events_join(events.list, &text);
        cr_assert_str_eq(text.data, expected, "client %d", i);
        json_decref(events.list);
        buffer_free(&text);
        curl_multi_remove_handle(multi, handles[i]);
        curl_easy_cleanup(handles[i]);
        reply_free(&replies[i]);
    }
    json_decref(first);
    curl_multi_cleanup(multi);
    curl_slist_free_all(headers);
    cr_assert_eq(server_process_stop(&server), 0);
}

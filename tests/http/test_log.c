/* What a request leaves in the log. */
#include <criterion/criterion.h>
#include <string.h>
#include <unistd.h>

#include "tests/http/client.h"

static struct server_process server;

/* The line of the request with this id as JSON; fails the test when there is none. */
static json_t *logged_request(const char *request_id)
{
    char closing[] = "\"total_ms\":";
    json_t *found = NULL;

    cr_assert(server_process_wait_for_log(&server, closing));
    cr_assert(server_process_wait_for_log(&server, "}\n"));
    for (const char *line = server.log.data; *line != '\0' && found == NULL;) {
        size_t length = strcspn(line, "\n");
        json_error_t cause;
        json_t *object = json_loadb(line, length, JSON_REJECT_DUPLICATES, &cause);
        cr_assert_not_null(object, "%s in %.*s", cause.text, (int)length, line);
        const char *id = json_string_value(json_object_get(object, "request_id"));
        if (id != NULL && strcmp(id, request_id) == 0)
            found = json_incref(object);
        json_decref(object);
        line += length + (line[length] == '\n');
    }
    cr_assert_not_null(found, "no line of %s in:\n%s", request_id, server.log.data);
    return found;
}

Test(log, a_request_id_with_quotes_or_backslashes_forges_no_fields)
{
    static const char *const IDS[] = {"a\",\"level\":\"error\",\"evil\":\"1", "a\\", "\\\"",
                                      "%s%n"};

    for (size_t i = 0; i < sizeof IDS / sizeof *IDS; i++) {
        char header[200], echoed[200] = "";

        cr_assert(
            server_process_start(&server, (const char *const[]){"--log-format", "json", NULL}));
        snprintf(header, sizeof header, "x-request-id: %s", IDS[i]);
        struct reply reply = client_send_with(&server, "GET", "/version", NULL, header);
        cr_assert(head_value(reply.head.data, "x-request-id", echoed, sizeof echoed));
        cr_expect_str_eq(echoed, IDS[i]);
        json_t *line = logged_request(IDS[i]);
        cr_expect_str_eq(json_string_value(json_object_get(line, "level")), "info");
        cr_expect_null(json_object_get(line, "evil"));
        json_decref(line);
        reply_free(&reply);
        cr_expect_eq(server_process_stop(&server), 0);
    }
}

/* Both a whole answer and a stream; the lines' "request" and "response", or NULL where they have
 * none. */
static void expect_texts(const char *const *arguments, bool logged)
{
    static const char *const BODIES[] = {
        "{\"prompt\":\"a \\\"secret\\\"\",\"max_tokens\":4}",
        "{\"prompt\":\"a \\\"secret\\\"\",\"max_tokens\":4,\"stream\":true}"};

    for (int i = 0; i < 2; i++) {
        cr_assert(server_process_start(&server, arguments));
        struct reply reply =
            client_send_with(&server, "POST", "/v1/completions", BODIES[i], "x-request-id: one");
        json_t *line = logged_request("one");
        const char *request = json_string_value(json_object_get(line, "request"));
        const char *response = json_string_value(json_object_get(line, "response"));
        cr_assert_eq(reply.status, 200);
        if (logged) {
            cr_expect_str_eq(request, BODIES[i]);
            cr_expect_str_eq(response, reply.body.data);
        } else {
            cr_expect(request == NULL && response == NULL);
            cr_expect_null(strstr(server.log.data, "secret"), "%s", server.log.data);
        }
        json_decref(line);
        reply_free(&reply);
        cr_expect_eq(server_process_stop(&server), 0);
    }
}

Test(log, prompts_and_answers_are_logged_only_if_asked_for)
{
    expect_texts((const char *const[]){"--log-format", "json", NULL}, false);
    expect_texts((const char *const[]){"--log-format", "json", "--log-prompts", NULL}, true);
}

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <jansson.h>

#include "common/buffer.h"
#include "common/log.h"

static int reader = -1;

/* Puts a pipe in stderr's place. */
static void capture_stderr(void)
{
    int ends[2];
    cr_assert(eq(int, pipe(ends), 0));
    cr_assert(ge(int, dup2(ends[1], STDERR_FILENO), 0));
    close(ends[1]);
    cr_assert(eq(int, fcntl(ends[0], F_SETFL, O_NONBLOCK), 0));
    reader = ends[0];
}

/* What was written since the last call; one write is one read here. */
static void read_captured(char *text, size_t size)
{
    ssize_t count = read(reader, text, size - 1);
    text[count < 0 ? 0 : count] = '\0';
}

TestSuite(log, .init = capture_stderr);

Test(log, a_json_line_parses_and_keeps_every_character)
{
    log_configure(LOG_INFO, LOG_JSON);
    log_line(LOG_WARNING, "a \"quoted\" \\ line\nwith \x01 and \xC3\xA9 \xFF",
             "\"port\":%d,\"path\":\"%s\"", 8080, "/v1");
    char text[1024];
    read_captured(text, sizeof text);
    cr_assert(eq(ptr, strchr(text, '\n'), text + strlen(text) - 1), "one line: %s", text);
    json_t *line = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
    cr_assert(eq(int, json_typeof(line), JSON_OBJECT), "%s", text);
    const char *level = json_string_value(json_object_get(line, "level"));
    const char *message = json_string_value(json_object_get(line, "message"));
    cr_assert(eq(str, (char *)level, "warning"));
    cr_assert(
        eq(str, (char *)message, "a \"quoted\" \\ line\nwith \x01 and \xC3\xA9 \xEF\xBF\xBD"));
    cr_assert(eq(i64, json_integer_value(json_object_get(line, "port")), 8080));
    const char *time = json_string_value(json_object_get(line, "time"));
    cr_assert(eq(sz, strlen(time), strlen("2026-01-31T12:00:00.000Z")));
    json_decref(line);
}

Test(log, a_json_line_without_fields_parses)
{
    log_configure(LOG_INFO, LOG_JSON);
    log_line(LOG_ERROR, "stopped", NULL);
    char text[1024];
    read_captured(text, sizeof text);
    json_t *line = json_loads(text, 0, NULL);
    cr_assert(eq(sz, json_object_size(line), 3), "%s", text);
    json_decref(line);
}

Test(log, a_text_line_has_no_control_characters)
{
    log_configure(LOG_INFO, LOG_TEXT);
    log_line(LOG_INFO, "two\nlines\x1b[31m", "\"port\":%d", 80);
    char text[1024];
    read_captured(text, sizeof text);
    cr_assert(
        eq(str, text + strlen("2026-01-31T12:00:00.000Z"), " info: two lines [31m \"port\":80\n"));
}

Test(log, levels_below_the_configured_one_are_silent)
{
    char text[1024];
    log_configure(LOG_WARNING, LOG_TEXT);
    log_line(LOG_INFO, "silent", NULL);
    read_captured(text, sizeof text);
    cr_assert(eq(str, text, ""));
    log_set_level(LOG_DEBUG);
    log_line(LOG_DEBUG, "loud", NULL);
    read_captured(text, sizeof text);
    cr_assert(ne(ptr, strstr(text, "debug: loud\n"), NULL));
}

Test(log, leaves_errno_alone)
{
    close(STDERR_FILENO);
    errno = ENOENT;
    log_line(LOG_ERROR, "nobody reads this", NULL);
    cr_assert(eq(int, errno, ENOENT));
}

Test(log, names_of_levels)
{
    cr_assert(eq(int, log_level_from_name("debug"), LOG_DEBUG));
    cr_assert(eq(int, log_level_from_name("info"), LOG_INFO));
    cr_assert(eq(int, log_level_from_name("warning"), LOG_WARNING));
    cr_assert(eq(int, log_level_from_name("error"), LOG_ERROR));
    cr_assert(eq(int, log_level_from_name("warn"), -1));
    cr_assert(eq(int, log_level_from_name(""), -1));
}

Test(log, a_json_string_is_escaped_for_every_byte)
{
    struct buffer out = {0};
    log_append_json_string(&out, "\0\b\t\n\r\x1f\x7f\"\\/\xE2\x82x", 13);
    cr_assert(eq(str, out.data, "\"\\u0000\\u0008\\t\\n\\r\\u001f\\u007f\\\"\\\\/\xEF\xBF\xBDx\""));
    buffer_free(&out);
}

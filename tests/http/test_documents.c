/* Every curl command of README.md and docs/API.md, as a reader would paste it into a shell. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/http/client.h"

static struct server_process server;

/* What the shell calls in place of curl: the body into a file, the rest of the answer in a line. */
static const char PRELUDE[] =
    "set -f; curl() { command curl --noproxy '*' --max-time 60 -o \"$BODY\" -w "
    "'%{http_code} %{method} %{url} %{content_type}' \"$@\"; }\n";

static void replace_all(struct buffer *out, const char *text, const char *from, const char *to)
{
    for (const char *found; (found = strstr(text, from)) != NULL; text = found + strlen(from)) {
        buffer_append(out, text, (size_t)(found - text));
        buffer_append_text(out, to);
    }
    buffer_append_text(out, text);
}

static void read_body(const char *path, struct buffer *body)
{
    char chunk[4096];
    size_t got;
    FILE *file = fopen(path, "r");

    cr_assert_not_null(file);
    while ((got = fread(chunk, 1, sizeof chunk, file)) > 0)
        buffer_append(body, chunk, got);
    buffer_append_char(body, '\0');
    body->length--;
    fclose(file);
}

/* Runs one command against the test's server and holds the answer against docs/openapi.json. */
static long run_command(const char *command)
{
    char body_path[] = "/tmp/denoised-document-XXXXXX", address[40], line[600] = "";
    char method[16], url[300], content_type[100] = "";
    struct buffer script = {0};
    struct reply reply = {0};

    close(mkstemp(body_path));
    snprintf(address, sizeof address, "http://127.0.0.1:%d", server.port);
    buffer_format(&script, "BODY=%s; %s", body_path, PRELUDE);
    replace_all(&script, command, "http://127.0.0.1:8080", address);
    buffer_append_char(&script, '\0');
    FILE *shell = popen(script.data, "r");
    cr_assert_not_null(shell);
    cr_assert_not_null(fgets(line, sizeof line, shell), "%s", command);
    cr_assert_eq(pclose(shell), 0, "%s", command);
    cr_assert_geq(sscanf(line, "%ld %15s %299s %99[^\n]", &reply.status, method, url, content_type),
                  3, "%s", line);
    buffer_format(&reply.head, "content-type: %s\r\n", content_type);
    buffer_append_char(&reply.head, '\0');
    read_body(body_path, &reply.body);
    reply_check(&reply, method, url + strlen(address));
    long status = reply.status;
    unlink(body_path);
    buffer_free(&script);
    reply_free(&reply);
    return status;
}

/* A command goes on while its lines end with a backslash. */
static int run_document(const char *path)
{
    FILE *file = fopen(path, "r");
    struct buffer command = {0};
    char *line = NULL;
    size_t capacity = 0;
    int count = 0;
    bool refusals = false;

    cr_assert_not_null(file);
    while (getline(&line, &capacity, file) > 0) {
        if (line[0] == '#')
            refusals = strcmp(line, "## Errors\n") == 0;
        if (command.length == 0 && strncmp(line, "curl ", 5) != 0)
            continue;
        buffer_append_text(&command, line);
        if (strlen(line) > 1 && strcmp(line + strlen(line) - 2, "\\\n") == 0)
            continue;
        buffer_append_char(&command, '\0');
        cr_expect_eq(run_command(command.data), refusals ? 400 : 200, "%s: %s", path, command.data);
        buffer_clear(&command);
        count++;
    }
    buffer_free(&command);
    free(line);
    fclose(file);
    return count;
}

/* The targets of [text](target) that are no web addresses. */
static int check_links(const char *folder, const char *name)
{
    struct buffer path = {0}, text = {0};
    int count = 0;

    buffer_format(&path, "%s%s", folder, name);
    read_body(path.data, &text);
    for (char *link = text.data; (link = strstr(link, "](")) != NULL;) {
        char *target = link + 2, *end = target + strcspn(target, ")#");
        link = end;
        if (end == target || strncmp(target, "http", 4) == 0)
            continue;
        struct buffer file = {0};
        buffer_format(&file, "%s%.*s", folder, (int)(end - target), target);
        cr_expect_eq(access(file.data, F_OK), 0, "%s leads to %s, which is not there", path.data,
                     file.data);
        buffer_free(&file);
        count++;
    }
    buffer_free(&path);
    buffer_free(&text);
    return count;
}

Test(documents, every_link_leads_somewhere)
{
    cr_expect_gt(check_links("", "README.md"), 5);
    check_links("docs/", "API.md");
    check_links("docs/", "KERNELS.md");
    check_links("docs/", "SPEED.md");
}

Test(documents, every_curl_command_works)
{
    cr_assert(server_process_start(&server, NULL));
    cr_expect_geq(run_document("README.md"), 3);
    cr_expect_geq(run_document("docs/API.md"), 20);
    cr_expect_eq(server_process_stop(&server), 0);
}

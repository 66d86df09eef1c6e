/*
 * The files of deploy/: nginx and HAProxy, where they are installed, in front of two servers, and
 * what the Kubernetes manifest asks of one.
 */
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/clock.h"
#include "tests/http/client.h"

enum { PATIENCE_US = 60000000 };

/* A second and more on any machine; it is ended early. */
static const char LONG_STREAM[] =
    "{\"prompt\":\"a\",\"max_tokens\":500,\"steps\":500,\"block_length\":500,\"cache\":\"none\","
    "\"ignore_eos\":true,\"eos_early_stop\":false,\"stream\":true,\"diffusing\":true}";
/* Long enough that the server drains meanwhile, and short enough to wait for. */
static const char STREAM[] =
    "{\"prompt\":\"a\",\"max_tokens\":200,\"steps\":200,\"block_length\":200,\"cache\":\"none\","
    "\"ignore_eos\":true,\"eos_early_stop\":false,\"stream\":true,\"diffusing\":true}";
static const char SHORT[] = "{\"prompt\":\"a\",\"max_tokens\":4}";

struct proxy {
    pid_t pid;
    char directory[32], config[64];
    struct server_process front; /* its port, for the client */
};

static struct server_process first, second;
static struct proxy proxy;

static char *read_file(const char *path)
{
    static char text[16384];
    FILE *file = fopen(path, "r");

    cr_assert_not_null(file, "%s", path);
    size_t length = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[length] = '\0';
    return text;
}

static void replace(struct buffer *out, const char *text, const char *from, const char *to)
{
    const char *at = strstr(text, from);

    cr_assert_not_null(at, "%s", from);
    buffer_append(out, text, (size_t)(at - text));
    buffer_append_text(out, to);
    buffer_append_text(out, at + strlen(from));
}

union address {
    struct sockaddr any;
    struct sockaddr_in four;
};

static union address local_address(int port)
{
    return (union address){.four = {.sin_family = AF_INET,
                                    .sin_port = htons((uint16_t)port),
                                    .sin_addr = {htonl(INADDR_LOOPBACK)}}};
}

static bool listens(int port)
{
    union address address = local_address(port);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    bool connected = connect(fd, &address.any, sizeof address.four) == 0;

    close(fd);
    return connected;
}

/* A port that was free a moment ago. */
static int free_port(void)
{
    union address address = local_address(0);
    socklen_t length = sizeof address.four;
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    cr_assert_eq(bind(fd, &address.any, length), 0);
    cr_assert_eq(getsockname(fd, &address.any, &length), 0);
    close(fd);
    return ntohs(address.four.sin_port);
}

/* The file with the ports of this test in place of its own. */
static void write_config(const char *path, const char *listen, const char *listen_here)
{
    struct buffer once = {0}, twice = {0}, all = {0};
    char here[64], port[64];

    snprintf(here, sizeof here, "%s127.0.0.1:%d", listen_here, proxy.front.port);
    replace(&once, read_file(path), listen, here);
    snprintf(port, sizeof port, "127.0.0.1:%d", first.port);
    replace(&twice, once.data, "127.0.0.1:8080", port);
    snprintf(port, sizeof port, "127.0.0.1:%d", second.port);
    replace(&all, twice.data, "127.0.0.1:8081", port);
    snprintf(proxy.config, sizeof proxy.config, "%s/proxy.conf", proxy.directory);
    FILE *file = fopen(proxy.config, "w");
    cr_assert_not_null(file);
    cr_assert_eq(fwrite(all.data, 1, all.length, file), all.length);
    fclose(file);
    buffer_free(&once);
    buffer_free(&twice);
    buffer_free(&all);
}

static bool is_installed(const char *program)
{
    char path[64];

    snprintf(path, sizeof path, "/usr/sbin/%s", program);
    return access(path, X_OK) == 0;
}

/* An answer of this status through the proxy, within a minute. */
static void wait_for_ready(void)
{
    int64_t end_us = clock_now_us() + PATIENCE_US;
    struct buffer in = {0};

    while (!listens(proxy.front.port)) {
        poll(NULL, 0, 10);
        cr_assert(clock_now_us() < end_us, "nothing listens");
    }
    do {
        int fd = socket_open(&proxy.front);
        buffer_clear(&in);
        socket_send(fd, "GET /ready HTTP/1.0\r\n\r\n");
        socket_read_to_end(fd, &in);
        close(fd);
        cr_assert(clock_now_us() < end_us, "%s", in.length > 0 ? in.data : "");
    } while (in.length < 12 || strncmp(in.data + 8, " 200", 4) != 0);
    buffer_free(&in);
}

static void proxy_start(const char *const *command)
{
    proxy.pid = fork();
    if (proxy.pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* a test that fails leaves nothing behind */
        dup2(open("/dev/null", O_WRONLY | O_CLOEXEC), STDOUT_FILENO);
        execv(command[0], (char *const *)(uintptr_t)command);
        perror(command[0]);
        _exit(127);
    }
    wait_for_ready();
}

/* Skips the test where the program is not installed. */
static void start(const char *program, const char *path, const char *listen,
                  const char *listen_here)
{
    if (!is_installed(program))
        cr_skip_test("%s is not installed: deploy/install-deps.sh proxies", program);
    snprintf(proxy.directory, sizeof proxy.directory, "/tmp/denoised-XXXXXX");
    cr_assert_not_null(mkdtemp(proxy.directory));
    cr_assert(server_process_start(&first, NULL));
    cr_assert(server_process_start(&second, NULL));
    proxy.front = (struct server_process){.port = free_port()};
    write_config(path, listen, listen_here);
}

static void start_nginx(void)
{
    start("nginx", "deploy/nginx.conf", "listen 8000", "listen ");
    proxy_start((const char *const[]){"/usr/sbin/nginx", "-p", proxy.directory, "-e", "stderr",
                                      "-c", proxy.config, "-g",
                                      "daemon off; master_process off; pid nginx.pid;", NULL});
}

static void start_haproxy(void)
{
    start("haproxy", "deploy/haproxy.cfg", "bind :8000", "bind ");
    proxy_start((const char *const[]){"/usr/sbin/haproxy", "-q", "-db", "-f", proxy.config, NULL});
}

static void stop(void)
{
    char pid_file[64];

    kill(proxy.pid, SIGTERM);
    waitpid(proxy.pid, NULL, 0);
    snprintf(pid_file, sizeof pid_file, "%s/nginx.pid", proxy.directory);
    unlink(pid_file);
    unlink(proxy.config);
    cr_expect_eq(rmdir(proxy.directory), 0);
    cr_expect_eq(server_process_stop(&second), 0);
}

static int running(const struct server_process *server)
{
    struct reply reply = client_send(server, "GET", "/metrics", NULL);
    const char *name = "\ndenoised_num_requests_running ";
    const char *line = strstr(reply.body.data, name);

    cr_assert_not_null(line);
    int count = atoi(line + strlen(name));
    reply_free(&reply);
    return count;
}

static void wait_until_nothing_runs(void)
{
    int64_t end_us = clock_now_us() + PATIENCE_US;

    while (running(&first) + running(&second) > 0)
        cr_assert(clock_now_us() < end_us, "a request goes on without its client");
}

/* Its first draft is here while most of its rounds are still to come. */
static int open_stream(const struct server_process *server, const char *request)
{
    struct buffer in = {0};
    int fd = socket_open(server);

    cr_assert(socket_post(fd, "/v1/completions", request, ""));
    cr_assert(socket_read_until(fd, &in, "\"final\":false"), "%s", in.data);
    buffer_free(&in);
    return fd;
}

static void expect_drafts_as_they_form(void)
{
    int fd = open_stream(&proxy.front, LONG_STREAM);

    cr_expect_eq(running(&first) + running(&second), 1, "the draft came with the answer's end");
    close(fd);
    wait_until_nothing_runs();
}

/* A request whose body comes behind its header, and is too long for one packet. */
static void expect_answer(void)
{
    enum { SPACES = 20000 };
    struct buffer text = {0}, in = {0};
    int fd = socket_open(&proxy.front);

    buffer_format(&text,
                  "POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
                  "Connection: close\r\nContent-Length: %zu\r\n\r\n",
                  strlen(SHORT) + SPACES);
    cr_assert(socket_send(fd, text.data));
    usleep(5000);
    buffer_clear(&text);
    buffer_format(&text, "%*s%s", SPACES, "", SHORT);
    cr_assert(socket_send(fd, text.data));
    cr_assert(socket_read_until(fd, &in, "\r\n"));
    cr_expect_not_null(strstr(in.data, " 200 "), "%s", in.data);
    close(fd);
    buffer_free(&text);
    buffer_free(&in);
}

/* While one server drains every request is answered by the other, and its stream goes on. */
static void expect_another_to_answer(void)
{
    struct buffer in = {0};
    int fd = open_stream(&first, STREAM);

    server_process_signal(&first, SIGTERM);
    for (int i = 0; i < 20; i++)
        expect_answer();
    cr_expect(socket_read_until(fd, &in, "data: [DONE]"), "%s", in.data);
    close(fd);
    buffer_free(&in);
    cr_expect_eq(server_process_wait(&first), 0);
    expect_answer();
}

Test(deployment, nginx_passes_drafts_as_they_form_and_goes_to_the_server_that_does_not_drain)
{
    start_nginx();
    expect_drafts_as_they_form();
    expect_another_to_answer();
    stop();
}

Test(deployment, haproxy_passes_drafts_as_they_form_and_goes_to_the_server_that_does_not_drain)
{
    start_haproxy();
    expect_drafts_as_they_form();
    expect_another_to_answer();
    stop();
}

/* The manifest's list behind this key as JSON; it is written as such. */
static json_t *manifest_list(const char *text, const char *key)
{
    const char *at = strstr(text, key);

    cr_assert_not_null(at, "%s", key);
    json_t *list = json_loadb(at + strlen(key), strcspn(at + strlen(key), "\n"), 0, NULL);
    cr_assert(json_is_array(list), "%s", key);
    return list;
}

static int manifest_number(const char *text, const char *key)
{
    const char *at = strstr(text, key);

    cr_assert_not_null(at, "%s", key);
    return atoi(at + strlen(key));
}

/* Its arguments but for model, address and port, which are the test's. */
static void start_as_in(const char *text, int *drain_s)
{
    const char *arguments[24];
    size_t i, count = 0;
    json_t *word, *list = manifest_list(text, " args: ");

    cr_assert_str_eq(json_string_value(json_array_get(list, 0)), "serve");
    json_array_foreach(list, i, word)
    {
        const char *name = json_string_value(word);
        const char *value = json_string_value(json_array_get(list, i + 1));
        if (i % 2 == 0) /* "serve", then names and values */
            continue;
        if (strcmp(name, "--drain-timeout") == 0)
            *drain_s = atoi(value);
        if (strcmp(name, "--model") == 0 || strcmp(name, "--host") == 0 ||
            strcmp(name, "--port") == 0)
            continue;
        arguments[count++] = name;
        arguments[count++] = value;
    }
    arguments[count] = NULL;
    cr_assert(server_process_start(&first, arguments));
    json_decref(list);
}

Test(deployment, a_server_starts_with_the_arguments_of_the_manifest_and_answers_its_probes)
{
    const char *text = read_file("deploy/kubernetes.yaml");
    int drain_s = 0, probes = 0;

    start_as_in(text, &drain_s);
    for (const char *at = text; (at = strstr(at, "httpGet: {path: ")) != NULL; probes++) {
        char path[40] = "";
        at += strlen("httpGet: {path: ");
        snprintf(path, sizeof path, "%.*s", (int)strcspn(at, ","), at);
        struct reply reply = client_send(&first, "GET", path, NULL);
        cr_expect_eq(reply.status, 200, "%s", path);
        reply_free(&reply);
    }
    cr_expect_eq(probes, 3);
    cr_expect_gt(drain_s, 0);
    cr_expect_gt(manifest_number(text, "terminationGracePeriodSeconds: "),
                 drain_s + manifest_number(text, "command: [\"sleep\", \""));
    cr_expect_not_null(strstr(text, "\n      enableServiceLinks: false\n"));
    cr_expect_eq(server_process_stop(&first), 0);
}

#include "server/commands/child_server.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/buffer.h"
#include "common/clock.h"
#include "common/error.h"

static int start_failed(struct child_server *child, const char *what, struct error *err)
{
    child_server_stop(child);
    return error_set(err, ERROR_IO, "bench: the server %s", what);
}

/* Reads the child's start-up lines until it says where it listens. */
static int read_welcome(struct child_server *child, int from, struct error *err)
{
    FILE *lines = fdopen(from, "r");
    char line[1024];

    if (lines == NULL)
        return start_failed(child, "could not be read", err);
    while (child->port == 0 && fgets(line, sizeof line, lines) != NULL) {
        int positions;
        const char *address = strstr(line, "listening on http://127.0.0.1:");
        sscanf(line, "memory weights %lf MB, KV pool %lf MB (%d positions), activations %lf MB",
               &child->weights_mb, &child->kv_mb, &positions, &child->activations_mb);
        if (address != NULL)
            sscanf(address, "listening on http://127.0.0.1:%d", &child->port);
    }
    fclose(lines);
    return child->port != 0 ? 0 : start_failed(child, "ended before it listened", err);
}

int child_server_start(struct child_server *child, const char *model_directory,
                       const char *const *flags, struct error *err)
{
    const char *argv[10 + CHILD_SERVER_FLAGS + 1] = {
        "denoised",  "serve",   "--port",        "0",           "--host",
        "127.0.0.1", "--model", model_directory, "--log-level", "warning"};
    int ends[2];

    for (int i = 0; flags[i] != NULL; i++)
        argv[10 + i] = flags[i];
    memset(child, 0, sizeof *child);
    if (pipe(ends) != 0)
        return error_set(err, ERROR_IO, "bench: no pipe: %s", strerror(errno));
    child->started_us = clock_now_us();
    child->process = fork();
    if (child->process == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        dup2(ends[1], STDOUT_FILENO);
        close(ends[0]);
        close(ends[1]);
        execv("/proc/self/exe", (char *const *)argv);
        _exit(127);
    }
    close(ends[1]);
    if (child->process < 0) {
        close(ends[0]);
        return error_set(err, ERROR_IO, "bench: no child process: %s", strerror(errno));
    }
    return read_welcome(child, ends[0], err);
}

static int send_all(int socket_fd, const char *data, size_t length)
{
    while (length > 0) {
        ssize_t sent = send(socket_fd, data, length, MSG_NOSIGNAL);
        if (sent <= 0)
            return -1;
        data += sent;
        length -= (size_t)sent;
    }
    return 0;
}

static int open_request(const struct child_server *child, const char *method, const char *path,
                        const char *body)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)child->port),
                                  .sin_addr = {htonl(INADDR_LOOPBACK)}};
    struct buffer request = {0};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    buffer_format(&request,
                  "%s %s HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n"
                  "content-type: application/json\r\ncontent-length: %zu\r\n\r\n%s",
                  method, path, strlen(body), body);
    if (fd >= 0 &&
        (request.failed || connect(fd, (struct sockaddr *)&address, sizeof address) != 0 ||
         send_all(fd, request.data, request.length) != 0)) {
        close(fd);
        fd = -1;
    }
    buffer_free(&request);
    return fd;
}

static bool is_ok(const char *response, size_t length)
{
    return length >= 12 && strncmp(response + 9, "200", 3) == 0;
}

static int exchange(const struct child_server *child, const char *method, const char *path,
                    const char *body, struct buffer *response, struct error *err)
{
    char chunk[65536];
    ssize_t got = -1;
    int fd = open_request(child, method, path, body);

    buffer_clear(response);
    if (fd >= 0) {
        while ((got = recv(fd, chunk, sizeof chunk, 0)) > 0)
            buffer_append(response, chunk, (size_t)got);
        close(fd);
    }
    if (got != 0 || response->failed || !is_ok(response->data, response->length))
        return error_set(err, ERROR_IO, "bench: %s %s was answered \"%.200s\"", method, path,
                         response->data != NULL ? response->data : "nothing");
    return 0;
}

int child_server_post(const struct child_server *child, const char *path, const char *body,
                      struct buffer *response, struct error *err)
{
    return exchange(child, "POST", path, body, response, err);
}

int child_server_metric(const struct child_server *child, const char *name, double *out,
                        struct error *err)
{
    struct buffer response = {0};
    size_t length = strlen(name);
    bool found = false;
    int code = exchange(child, "GET", "/metrics", "", &response, err);

    *out = 0;
    buffer_append_char(&response, '\0');
    for (const char *line = code == 0 && !response.failed ? response.data : NULL; line != NULL;
         line = strchr(line, '\n')) {
        line += *line == '\n';
        if (strncmp(line, name, length) != 0 || (line[length] != ' ' && line[length] != '{'))
            continue;
        const char *value = strchr(line, line[length] == '{' ? '}' : ' ');
        *out += value != NULL ? strtod(value + 1, NULL) : 0;
        found = true;
    }
    buffer_free(&response);
    if (code == 0 && !found)
        code = error_set(err, ERROR_IO, "bench: /metrics has no %s", name);
    return code;
}

int child_server_open(const struct child_server *child, const char *path, const char *body,
                      struct child_stream *out, struct error *err)
{
    *out = (struct child_stream){.socket = open_request(child, "POST", path, body)};
    if (out->socket < 0)
        return error_set(err, ERROR_IO, "bench: no connection to the server: %s", strerror(errno));
    return 0;
}

static void read_stream(struct child_stream *stream)
{
    char chunk[65536];
    ssize_t got = recv(stream->socket, chunk, sizeof chunk, 0);

    if (stream->received == 0 && got > 0)
        stream->ok = is_ok(chunk, (size_t)got);
    stream->received += got > 0 ? (size_t)got : 0;
    stream->ended = got <= 0;
}

int child_server_drain(struct child_stream *streams, int count, struct error *err)
{
    struct pollfd *polled = calloc((size_t)count, sizeof *polled);
    bool all_ok = true;

    if (polled == NULL)
        return error_set(err, ERROR_MEMORY, "bench: out of memory for %d streams", count);
    for (int open = count; open > 0;) {
        for (int i = 0; i < count; i++)
            polled[i] =
                (struct pollfd){.fd = streams[i].ended ? -1 : streams[i].socket, .events = POLLIN};
        if (poll(polled, (nfds_t)count, -1) < 0 && errno != EINTR)
            break;
        for (int i = 0; i < count; i++) {
            if (polled[i].revents == 0)
                continue;
            read_stream(&streams[i]);
            open -= streams[i].ended;
        }
    }
    for (int i = 0; i < count; i++)
        all_ok = all_ok && streams[i].ok;
    free(polled);
    return all_ok ? 0 : error_set(err, ERROR_IO, "bench: a stream was not answered with 200");
}

void child_server_memory_mb(const struct child_server *child, double *now, double *peak)
{
    char path[64], line[256];

    *now = *peak = 0;

    snprintf(path, sizeof path, "/proc/%d/status", (int)child->process);
    FILE *status = fopen(path, "r");
    while (status != NULL && fgets(line, sizeof line, status) != NULL) {
        sscanf(line, "VmRSS: %lf", now);
        sscanf(line, "VmHWM: %lf", peak);
    }
    if (status != NULL)
        fclose(status);
    *now *= 1024 / 1e6;
    *peak *= 1024 / 1e6;
}

/* One thread's name and CPU seconds; false when it has ended. */
static bool read_thread(const char *path, char name[32], double *seconds)
{
    unsigned long user = 0, kernel = 0;
    FILE *file = fopen(path, "r");
    int got = 0;

    if (file == NULL)
        return false;
    got = fscanf(file, "%*d (%31[^)]) %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", name,
                 &user, &kernel);
    fclose(file);
    *seconds = (double)(user + kernel) / (double)sysconf(_SC_CLK_TCK);
    return got == 3;
}

void child_server_cpu_s(const struct child_server *child, double *compute, double *other)
{
    char folder[64], path[64 + 256 + 8], name[32];
    double seconds;

    *compute = *other = 0;
    snprintf(folder, sizeof folder, "/proc/%d/task", (int)child->process);
    DIR *tasks = opendir(folder);
    for (struct dirent *task; tasks != NULL && (task = readdir(tasks)) != NULL;) {
        snprintf(path, sizeof path, "%s/%s/stat", folder, task->d_name);
        if (task->d_name[0] == '.' || !read_thread(path, name, &seconds))
            continue;
        bool computes = strcmp(name, "engine") == 0 || strcmp(name, "pool-worker") == 0;
        *(computes ? compute : other) += seconds;
    }
    if (tasks != NULL)
        closedir(tasks);
}

void child_server_stop(struct child_server *child)
{
    if (child->process > 0) {
        kill(child->process, SIGTERM);
        waitpid(child->process, NULL, 0);
    }
    child->process = 0;
}

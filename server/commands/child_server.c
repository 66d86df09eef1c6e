#include "server/commands/child_server.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
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

int child_server_start(struct child_server *child, const char *model_directory, struct error *err)
{
    int ends[2];

    memset(child, 0, sizeof *child);
    if (pipe(ends) != 0)
        return error_set(err, ERROR_IO, "bench: no pipe: %s", strerror(errno));
    child->started_us = clock_now_us();
    child->process = fork();
    if (child->process == 0) {
        dup2(ends[1], STDOUT_FILENO);
        close(ends[0]);
        close(ends[1]);
        execl("/proc/self/exe", "denoised", "serve", "--port", "0", "--host", "127.0.0.1",
              "--model", model_directory, "--log-level", "warning", (char *)NULL);
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

int child_server_post(const struct child_server *child, const char *path, const char *body,
                      struct buffer *response, struct error *err)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)child->port),
                                  .sin_addr = {htonl(INADDR_LOOPBACK)}};
    struct buffer request = {0};
    char chunk[65536];
    ssize_t got = -1;
    int socket_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    buffer_clear(response);
    buffer_format(&request,
                  "POST %s HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n"
                  "content-type: application/json\r\ncontent-length: %zu\r\n\r\n%s",
                  path, strlen(body), body);
    if (socket_fd >= 0 && !request.failed &&
        connect(socket_fd, (struct sockaddr *)&address, sizeof address) == 0 &&
        send_all(socket_fd, request.data, request.length) == 0) {
        while ((got = recv(socket_fd, chunk, sizeof chunk, 0)) > 0)
            buffer_append(response, chunk, (size_t)got);
    }
    if (socket_fd >= 0)
        close(socket_fd);
    buffer_free(&request);
    if (got != 0 || response->failed || response->length < 12 ||
        strncmp(response->data + 9, "200", 3) != 0)
        return error_set(err, ERROR_IO, "bench: POST %s was answered \"%.200s\"", path,
                         response->data != NULL ? response->data : "nothing");
    return 0;
}

double child_server_resident_mb(const struct child_server *child)
{
    char path[64], line[256];
    double kilobytes = 0;

    snprintf(path, sizeof path, "/proc/%d/status", (int)child->process);
    FILE *status = fopen(path, "r");
    while (status != NULL && fgets(line, sizeof line, status) != NULL)
        sscanf(line, "VmRSS: %lf", &kilobytes);
    if (status != NULL)
        fclose(status);
    return kilobytes * 1024 / 1e6;
}

void child_server_stop(struct child_server *child)
{
    if (child->process > 0) {
        kill(child->process, SIGTERM);
        waitpid(child->process, NULL, 0);
    }
    child->process = 0;
}

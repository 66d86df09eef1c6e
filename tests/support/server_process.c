#include "tests/support/server_process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/clock.h"

enum {
    ARGUMENTS_MAX = 32,
    LOG_WAIT_US = 60000000,
    END_WAIT_US = 60000000,
    PIPE_BYTES = 1 << 20, /* nobody reads the log while a test does something else */
};

static void run_program(const char *const *arguments, int out, int log)
{
    const char *binary = getenv("DENOISED_BINARY");
    const char *command[ARGUMENTS_MAX] = {binary != NULL ? binary : "build/release/denoised",
                                          "serve",
                                          "--port",
                                          "0",
                                          "--host",
                                          "127.0.0.1",
                                          "--model",
                                          "models/tiny"};
    int count = 8;

    while (arguments != NULL && *arguments != NULL && count < ARGUMENTS_MAX - 1)
        command[count++] = *arguments++;
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* a test that crashes leaves no server behind */
    dup2(out, STDOUT_FILENO);
    dup2(log, STDERR_FILENO);
    execv(command[0], (char *const *)(uintptr_t)command);
    perror(command[0]);
    _exit(127);
}

/* The address line; the rest of the start-up text is of no interest. */
static int read_port(int out)
{
    FILE *lines = fdopen(out, "r");
    char line[1024];
    int port = 0;

    while (lines != NULL && port == 0 && fgets(line, sizeof line, lines) != NULL)
        sscanf(line, "listening on http://127.0.0.1:%d", &port);
    if (lines != NULL)
        fclose(lines);
    return port;
}

/* Starts the program and reads where it listens: port 0 when it does not. */
static bool launch(struct server_process *server, const char *const *arguments)
{
    int out[2], log[2];

    *server = (struct server_process){.log_fd = -1};
    if (pipe2(out, O_CLOEXEC) != 0 || pipe2(log, O_CLOEXEC) != 0)
        return false;
    fcntl(log[0], F_SETPIPE_SZ, PIPE_BYTES);
    server->log_fd = log[0];
    server->pid = fork();
    if (server->pid == 0)
        run_program(arguments, out[1], log[1]);
    close(out[1]);
    close(log[1]);
    server->port = server->pid < 0 ? 0 : read_port(out[0]);
    return server->pid > 0;
}

/* One read of the log, after waiting for it until `end_us`; false at its end or when time is up. */
static bool read_log(struct server_process *server, int64_t end_us)
{
    int64_t left_us = end_us - clock_now_us();
    struct pollfd ready = {.fd = server->log_fd, .events = POLLIN};
    char bytes[4096];

    if (left_us <= 0 || poll(&ready, 1, (int)(left_us / 1000) + 1) <= 0)
        return false;
    ssize_t length = read(server->log_fd, bytes, sizeof bytes);
    if (length <= 0)
        return false;
    buffer_append(&server->log, bytes, (size_t)length);
    return true;
}

bool server_process_wait_for_log(struct server_process *server, const char *text)
{
    int64_t end_us = clock_now_us() + LOG_WAIT_US;

    do {
        if (server->log.data != NULL && strstr(server->log.data, text) != NULL)
            return true;
    } while (read_log(server, end_us));
    fprintf(stderr, "the server's log has no \"%s\":\n%s\n", text,
            server->log.data != NULL ? server->log.data : "");
    return false;
}

void server_process_signal(const struct server_process *server, int signal)
{
    kill(server->pid, signal);
}

/* Waits for the end, reading the rest of the log; the exit status, or -1. */
static int wait_for_end(struct server_process *server)
{
    int64_t end_us = clock_now_us() + END_WAIT_US;
    int status = 0;

    /* The log ends when the process does. */
    while (read_log(server, end_us))
        ;
    if (clock_now_us() >= end_us)
        kill(server->pid, SIGKILL);
    waitpid(server->pid, &status, 0);
    close(server->log_fd);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

int server_process_wait(struct server_process *server)
{
    int status = wait_for_end(server);

    if (status != 0)
        fprintf(stderr, "the server ended with status %d; its log:\n%s\n", status,
                server->log.data != NULL ? server->log.data : "");
    buffer_free(&server->log);
    return status;
}

bool server_process_start(struct server_process *server, const char *const *arguments)
{
    if (!launch(server, arguments))
        return false;
    if (server->port != 0)
        return true;
    server_process_wait(server);
    return false;
}

int server_process_try(struct server_process *server, const char *const *arguments)
{
    if (!launch(server, arguments))
        return -1;
    if (server->port != 0)
        server_process_signal(server, SIGTERM);
    return wait_for_end(server);
}

int server_process_stop(struct server_process *server)
{
    server_process_signal(server, SIGTERM);
    return server_process_wait(server);
}

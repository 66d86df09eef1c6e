/*
 * A real server for a test: build/FLAVOR/denoised serve with models/tiny on a free port. The
 * program comes from DENOISED_BINARY (default build/release/denoised). Free of Criterion. One
 * thread at a time; the struct is the caller's.
 */
#ifndef TESTS_SUPPORT_SERVER_PROCESS_H
#define TESTS_SUPPORT_SERVER_PROCESS_H

#include <stdbool.h>
#include <sys/types.h>

#include "common/buffer.h"

struct server_process {
    pid_t pid;
    int port;
    int log_fd;        /* its stderr */
    struct buffer log; /* what was read of it so far */
};

/*
 * Starts it with these further arguments (NULL-terminated; NULL for none) and waits until it
 * listens. False when it does not: its stderr is printed then, and nothing is left to stop.
 */
bool server_process_start(struct server_process *server, const char *const *arguments);

/*
 * For arguments with which it should not start: its exit status, with all of its stderr in log (the
 * caller frees that). If it does start it is stopped, and the status is that of its end.
 */
int server_process_try(struct server_process *server, const char *const *arguments);

/* Reads the log until `text` is in it; false when it has ended or a minute has passed without. */
bool server_process_wait_for_log(struct server_process *server, const char *text);

void server_process_signal(const struct server_process *server, int signal);

/*
 * Waits for the end of the process, at most a minute (then it is killed); its exit status, or -1
 * when it was killed. Anything but 0 prints its stderr. Frees what the struct holds.
 */
int server_process_wait(struct server_process *server);

/* SIGTERM, then server_process_wait. */
int server_process_stop(struct server_process *server);

#endif

/*
 * This program as a child process that serves on a free port, and the few lines of HTTP that
 * measuring it takes. One thread.
 */
#ifndef SERVER_COMMANDS_CHILD_SERVER_H
#define SERVER_COMMANDS_CHILD_SERVER_H

#include <stdint.h>
#include <sys/types.h>

struct buffer;
struct error;

struct child_server {
    pid_t process;
    int port;
    int64_t started_us;                       /* clock just before fork */
    double weights_mb, kv_mb, activations_mb; /* as its start-up table prints them */
};

/* Starts it and waits until it listens. */
int child_server_start(struct child_server *child, const char *model_directory, struct error *err);

/* Posts a JSON body and reads the whole response; ERROR_IO unless it is a 200. */
int child_server_post(const struct child_server *child, const char *path, const char *body,
                      struct buffer *response, struct error *err);

/* Resident memory in MB, from /proc. */
double child_server_resident_mb(const struct child_server *child);

void child_server_stop(struct child_server *child);

#endif

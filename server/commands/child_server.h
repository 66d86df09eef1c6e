/*
 * This program as a child process that serves on a free port, and the few lines of HTTP that
 * measuring it takes. One thread.
 */
#ifndef SERVER_COMMANDS_CHILD_SERVER_H
#define SERVER_COMMANDS_CHILD_SERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct buffer;
struct error;

/* One connection that posts a JSON body and reads what comes back. */
struct child_stream {
    int socket;
    size_t received; /* bytes */
    bool ok;         /* the answer began with a 200 */
    bool ended;      /* the server has closed it */
};

struct child_server {
    pid_t process;
    int port;
    int64_t started_us;                       /* clock just before fork */
    double weights_mb, kv_mb, activations_mb; /* as its start-up table prints them */
};

/*
 * Starts it and waits until it listens; it ends with this process. `flags` are further ones, NULL
 * last, at most CHILD_SERVER_FLAGS.
 */
enum { CHILD_SERVER_FLAGS = 8 };
int child_server_start(struct child_server *child, const char *model_directory,
                       const char *const *flags, struct error *err);

/* Posts a JSON body and reads the whole response; ERROR_IO unless it is a 200. */
int child_server_post(const struct child_server *child, const char *path, const char *body,
                      struct buffer *response, struct error *err);

/* The sum of a metric's samples, over all labels; ERROR_IO where there is none. */
int child_server_metric(const struct child_server *child, const char *name, double *out,
                        struct error *err);

/*
 * CPU seconds that its threads have used: those that compute (the engine and its pool), and all
 * others, which do HTTP and JSON.
 */
void child_server_cpu_s(const struct child_server *child, double *compute, double *other);

/* Connects and posts without waiting for an answer; the caller closes the socket. */
int child_server_open(const struct child_server *child, const char *path, const char *body,
                      struct child_stream *out, struct error *err);
/* Reads and drops what has arrived on any of them, until all have ended. */
int child_server_drain(struct child_stream *streams, int count, struct error *err);

/* Resident memory in MB, now and at its highest, from /proc. */
void child_server_memory_mb(const struct child_server *child, double *now, double *peak);

void child_server_stop(struct child_server *child);

#endif

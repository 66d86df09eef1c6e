/* The listening socket. */
#ifndef SERVER_HTTP_LISTENER_H
#define SERVER_HTTP_LISTENER_H

struct error;

/*
 * A non-blocking socket that listens on host (numeric address or name) and port (0: a free one),
 * the caller's to close. ERROR_INVALID names host, port and what to do.
 */
int listener_open(int *out, const char *host, int port, struct error *err);
/* The port it really listens on. */
int listener_port(int fd);

/* Lifts the soft limit on open files as far as `connections` need it and the hard limit allows. */
void listener_raise_file_limit(int connections);

#endif

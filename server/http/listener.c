#include "server/http/listener.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/error.h"

enum { UNSENT_BYTES = 16384 };

/* A descriptor, or -1 with errno. */
static int open_address(const struct addrinfo *address)
{
    int fd = socket(address->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int one = 1, unsent = UNSENT_BYTES;

    if (fd < 0)
        return -1;
    /* Without it a restart would have to wait for the old connections' TIME_WAIT. */
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    /*
     * Accepted sockets inherit it: with more than this unsent the kernel takes nothing further, so
     * that a slow reader of a stream gets new drafts instead of megabytes of old ones.
     */
    setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &unsent, sizeof unsent);
    if (bind(fd, address->ai_addr, address->ai_addrlen) == 0 && listen(fd, SOMAXCONN) == 0)
        return fd;
    int problem = errno;
    close(fd);
    errno = problem;
    return -1;
}

static const char *advice(int problem)
{
    switch (problem) {
    case EADDRINUSE:
        return "stop the program that uses it, or take another --port (0: a free one)";
    case EACCES:
        return "ports below 1024 need a privilege; take a higher --port";
    case EADDRNOTAVAIL:
        return "--host must be an address of this machine, such as 127.0.0.1 or 0.0.0.0";
    default:
        return "check --host and --port";
    }
}

int listener_open(int *out, const char *host, int port, struct error *err)
{
    struct addrinfo hints = {
        .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
    struct addrinfo *addresses = NULL;
    char service[16];

    *out = -1;
    snprintf(service, sizeof service, "%d", port);
    int problem = getaddrinfo(host, service, &hints, &addresses);
    if (problem != 0)
        return error_set(err, ERROR_INVALID, "cannot listen on host \"%s\" port %d: %s; %s", host,
                         port, gai_strerror(problem), advice(0));
    for (struct addrinfo *address = addresses; address != NULL && *out < 0;
         address = address->ai_next)
        *out = open_address(address);
    problem = errno;
    freeaddrinfo(addresses);
    if (*out < 0)
        return error_set(err, ERROR_INVALID, "cannot listen on host \"%s\" port %d: %s; %s", host,
                         port, strerror(problem), advice(problem));
    return 0;
}

int listener_port(int fd)
{
    union {
        struct sockaddr any;
        struct sockaddr_in four;
        struct sockaddr_in6 six;
    } address = {0};
    socklen_t length = sizeof address;

    if (getsockname(fd, &address.any, &length) != 0)
        return 0;
    return ntohs(address.any.sa_family == AF_INET6 ? address.six.sin6_port : address.four.sin_port);
}

void listener_raise_file_limit(int connections)
{
    enum { OTHER_FILES = 512 }; /* model shards, epoll sets, sockets that linger */
    rlim_t wanted = (rlim_t)connections + OTHER_FILES;
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= wanted)
        return;
    limit.rlim_cur = limit.rlim_max < wanted ? limit.rlim_max : wanted;
    setrlimit(RLIMIT_NOFILE, &limit);
}

/*
 * The watcher: one epoll thread that sees clients leave while libmicrohttpd has their connection
 * suspended (it does not look then), keeps time for them, and lets refused senders read their
 * answer before the socket goes (lingering close).
 *
 * It is told of a socket per request, not per connection: watcher_remove must come before the file
 * descriptor can be closed, because its number may then name another connection.
 */
#ifndef SERVER_HTTP_WATCHER_H
#define SERVER_HTTP_WATCHER_H

#include <stdint.h>

struct error;
struct watcher;

enum watcher_sign {
    WATCHER_HALF_CLOSED, /* the client sends no more; it may still be reading */
    WATCHER_GONE,        /* reset or hung up */
    WATCHER_TIME,        /* the moment asked for has come */
};

enum { WATCHER_NONE = -1 };

/*
 * notice(owner, sign, now) runs on the watcher's thread with its lock held, never after
 * watcher_remove has returned, and returns the clock's time at which it wants WATCHER_TIME next.
 * At most `capacity` sockets are watched at once. longest_sleep_us: no first_time of watcher_add is
 * nearer than this.
 */
int watcher_start(struct watcher **out, int capacity, int64_t longest_sleep_us,
                  int64_t (*notice)(void *owner, enum watcher_sign sign, int64_t now_us),
                  struct error *err);
void watcher_stop(struct watcher *watcher); /* NULL is fine */

/*
 * Any thread. A ticket, or WATCHER_NONE when all places are taken or the system refuses: then the
 * client's leaving is noticed only when writing to it fails.
 */
int watcher_add(struct watcher *watcher, int fd, void *owner, int64_t first_time_us);
void watcher_remove(struct watcher *watcher, int ticket); /* WATCHER_NONE is fine */

/*
 * Before a socket is closed on a client that is still sending: keeps a duplicate open for a moment
 * and throws away what arrives. Closing at once would make the kernel answer with a reset, and that
 * can destroy the response before the client has read it.
 */
void watcher_linger(struct watcher *watcher, int fd);

#endif

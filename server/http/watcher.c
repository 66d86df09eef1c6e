#include "server/http/watcher.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/error.h"

enum {
    EVENTS_PER_WAIT = 64,
    LINGERING_MAX = 256,
    LINGER_US = 2000000,
    DISCARD_BYTES = 1 << 20,
    WAKE_EVENT = -1,
};

/* One watched socket, or, without an owner, one that lingers until its client is done. */
struct place {
    int fd; /* -1: free */
    void *owner;
    int64_t time_us;
    uint32_t generation; /* tells an event of an earlier user of this place from the present one */
    int next_free;
};

struct watcher {
    int64_t (*notice)(void *owner, enum watcher_sign sign, int64_t now_us);
    int64_t longest_sleep_us;
    int epoll_fd, wake_fd;
    pthread_t thread;
    pthread_mutex_t lock;
    bool stopping;
    int64_t next_us; /* no place's time is before this */
    int first_free, lingering, capacity;
    struct place places[]; /* [capacity] */
};

static uint64_t event_name(int ticket, uint32_t generation)
{
    return (uint64_t)(uint32_t)ticket << 32 | generation;
}

static int place_take(struct watcher *watcher, int fd, void *owner, int64_t time_us,
                      uint32_t events)
{
    int ticket = watcher->first_free;
    if (ticket == WATCHER_NONE)
        return WATCHER_NONE;
    struct place *place = &watcher->places[ticket];
    struct epoll_event event = {.events = events,
                                .data.u64 = event_name(ticket, place->generation)};
    if (epoll_ctl(watcher->epoll_fd, EPOLL_CTL_ADD, fd, &event) != 0)
        return WATCHER_NONE;
    watcher->first_free = place->next_free;
    place->fd = fd;
    place->owner = owner;
    place->time_us = time_us;
    return ticket;
}

static void place_give_back(struct watcher *watcher, int ticket)
{
    struct place *place = &watcher->places[ticket];

    epoll_ctl(watcher->epoll_fd, EPOLL_CTL_DEL, place->fd, NULL);
    place->fd = -1;
    place->owner = NULL;
    place->generation++;
    place->next_free = watcher->first_free;
    watcher->first_free = ticket;
}

static void linger_end(struct watcher *watcher, int ticket)
{
    int fd = watcher->places[ticket].fd;

    place_give_back(watcher, ticket);
    close(fd);
    watcher->lingering--;
}

/* Bounded work per event: the rest waits for the next one (level-triggered). */
static void linger_discard(struct watcher *watcher, int ticket)
{
    /* MSG_TRUNC on a TCP socket drops the bytes without copying them. */
    ssize_t got = recv(watcher->places[ticket].fd, NULL, DISCARD_BYTES, MSG_TRUNC | MSG_DONTWAIT);

    if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR))
        linger_end(watcher, ticket);
}

static void handle_event(struct watcher *watcher, const struct epoll_event *event, int64_t now_us)
{
    int ticket = (int)(event->data.u64 >> 32);
    struct place *place = &watcher->places[ticket];

    if (place->fd < 0 || place->generation != (uint32_t)event->data.u64)
        return;
    if (place->owner == NULL) {
        linger_discard(watcher, ticket);
        return;
    }
    bool gone = (event->events & (EPOLLHUP | EPOLLERR)) != 0;
    place->time_us =
        watcher->notice(place->owner, gone ? WATCHER_GONE : WATCHER_HALF_CLOSED, now_us);
    if (place->time_us < watcher->next_us)
        watcher->next_us = place->time_us;
}

/* Tells the owners whose time has come and finds out when the next one's does. */
static void handle_times(struct watcher *watcher, int64_t now_us)
{
    watcher->next_us = now_us + watcher->longest_sleep_us;
    for (int ticket = 0; ticket < watcher->capacity; ticket++) {
        struct place *place = &watcher->places[ticket];
        if (place->fd < 0)
            continue;
        if (place->time_us <= now_us && place->owner == NULL) {
            linger_end(watcher, ticket);
            continue;
        }
        if (place->time_us <= now_us)
            place->time_us = watcher->notice(place->owner, WATCHER_TIME, now_us);
        if (place->time_us < watcher->next_us)
            watcher->next_us = place->time_us;
    }
}

static void *watcher_loop(void *context)
{
    struct watcher *watcher = context;
    struct epoll_event events[EVENTS_PER_WAIT];
    int64_t next_us = 0;

    pthread_setname_np(pthread_self(), "http-watch");
    for (;;) {
        int64_t wait_us = next_us - clock_now_us();
        int wait_ms = wait_us <= 0 ? 0 : (int)((wait_us + 999) / 1000);
        int count = epoll_wait(watcher->epoll_fd, events, EVENTS_PER_WAIT, wait_ms);

        pthread_mutex_lock(&watcher->lock);
        int64_t now_us = clock_now_us();
        for (int i = 0; i < count; i++) {
            if (events[i].data.u64 != event_name(WAKE_EVENT, 0))
                handle_event(watcher, &events[i], now_us);
        }
        if (now_us >= watcher->next_us)
            handle_times(watcher, now_us);
        next_us = watcher->next_us;
        bool stopping = watcher->stopping;
        pthread_mutex_unlock(&watcher->lock);
        if (stopping)
            return NULL;
    }
}

static int open_descriptors(struct watcher *watcher, struct error *err)
{
    /* Edge-triggered, every write is an event, and nothing has to be read. */
    struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.u64 = event_name(WAKE_EVENT, 0)};

    watcher->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    watcher->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (watcher->epoll_fd < 0 || watcher->wake_fd < 0 ||
        epoll_ctl(watcher->epoll_fd, EPOLL_CTL_ADD, watcher->wake_fd, &event) != 0)
        return error_set(err, ERROR_IO, "connection watcher: cannot open epoll: %s",
                         strerror(errno));
    return 0;
}

static void watcher_free(struct watcher *watcher)
{
    for (int ticket = 0; ticket < watcher->capacity; ticket++) {
        if (watcher->places[ticket].fd >= 0)
            linger_end(watcher, ticket);
    }
    if (watcher->epoll_fd >= 0)
        close(watcher->epoll_fd);
    if (watcher->wake_fd >= 0)
        close(watcher->wake_fd);
    pthread_mutex_destroy(&watcher->lock);
    free(watcher);
}

int watcher_start(struct watcher **out, int capacity, int64_t longest_sleep_us,
                  int64_t (*notice)(void *owner, enum watcher_sign sign, int64_t now_us),
                  struct error *err)
{
    int places = capacity + LINGERING_MAX;
    struct watcher *watcher = calloc(1, sizeof *watcher + (size_t)places * sizeof(struct place));

    *out = NULL;
    if (watcher == NULL)
        return error_set(err, ERROR_MEMORY, "connection watcher: out of memory for %d places",
                         places);
    watcher->notice = notice;
    watcher->longest_sleep_us = longest_sleep_us;
    watcher->capacity = places;
    for (int ticket = 0; ticket < places; ticket++) {
        watcher->places[ticket].fd = -1;
        watcher->places[ticket].next_free = ticket + 1 < places ? ticket + 1 : WATCHER_NONE;
    }
    pthread_mutex_init(&watcher->lock, NULL);
    int code = open_descriptors(watcher, err);
    if (code == 0) {
        int problem = pthread_create(&watcher->thread, NULL, watcher_loop, watcher);
        if (problem != 0)
            code = error_set(err, ERROR_IO, "connection watcher: cannot start its thread: %s",
                             strerror(problem));
    }
    if (code != 0) {
        watcher_free(watcher);
        return code;
    }
    *out = watcher;
    return 0;
}

static void watcher_wake(struct watcher *watcher)
{
    uint64_t one = 1;
    ssize_t written = write(watcher->wake_fd, &one, sizeof one);
    (void)written; /* only an overflowing counter could fail, after 2^64 wake-ups */
}

void watcher_stop(struct watcher *watcher)
{
    if (watcher == NULL)
        return;
    pthread_mutex_lock(&watcher->lock);
    watcher->stopping = true;
    pthread_mutex_unlock(&watcher->lock);
    watcher_wake(watcher);
    pthread_join(watcher->thread, NULL);
    watcher_free(watcher);
}

int watcher_add(struct watcher *watcher, int fd, void *owner, int64_t first_time_us)
{
    pthread_mutex_lock(&watcher->lock);
    /* Edge-triggered: a half-closed socket stays so, and must be told only once. */
    int ticket = place_take(watcher, fd, owner, first_time_us, EPOLLRDHUP | EPOLLET);
    pthread_mutex_unlock(&watcher->lock);
    return ticket;
}

void watcher_remove(struct watcher *watcher, int ticket)
{
    if (ticket == WATCHER_NONE)
        return;
    pthread_mutex_lock(&watcher->lock);
    place_give_back(watcher, ticket);
    pthread_mutex_unlock(&watcher->lock);
}

void watcher_linger(struct watcher *watcher, int fd)
{
    pthread_mutex_lock(&watcher->lock);
    int duplicate = watcher->lingering < LINGERING_MAX ? dup(fd) : -1;
    if (duplicate >= 0) {
        int64_t end_us = clock_now_us() + LINGER_US;
        if (place_take(watcher, duplicate, NULL, end_us, EPOLLIN) == WATCHER_NONE)
            close(duplicate);
        else
            watcher->lingering++;
        if (end_us < watcher->next_us)
            watcher->next_us = end_us;
    }
    pthread_mutex_unlock(&watcher->lock);
    if (duplicate >= 0)
        watcher_wake(watcher); /* its end may be nearer than what the thread sleeps for */
}

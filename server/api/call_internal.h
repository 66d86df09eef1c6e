/* A call as the files that carry it out see it; server/api/api.h is its contract. */
#ifndef SERVER_API_CALL_INTERNAL_H
#define SERVER_API_CALL_INTERNAL_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/arena.h"
#include "common/buffer.h"
#include "server/api/api.h"
#include "server/api/api_error.h"
#include "server/api/reply.h"
#include "server/engine/request.h"

/* What the engine wakes: one choice of a call. */
struct choice_waker {
    struct api_call *call;
    struct stream *stream;
    bool final_only; /* nobody looks before the choice is final */
};

/*
 * Every choice is an engine request of its own, so that a stop string frees the rows of its choice
 * alone. Each has a stream with a lock of its own; `gate` turns them into one thing to wait for.
 * Lock order: the registry's lock, a stream's lock, the gate.
 */
struct api_call {
    struct reply reply;
    struct arena arena;
    char id[64]; /* "" where the engine has no part in it */
    uint64_t owner;
    enum api_state state;
    struct api_error error; /* status 0 while nothing failed */
    struct buffer output;   /* the answer, or the events not read yet */
    size_t output_read;
    const char *body; /* of the answer */
    size_t body_length;

    struct request **requests; /* [reply.choice_count] */
    struct choice_waker *wakers;
    void (*wake)(void *context);
    void *wake_context;

    struct api_call *next, **link; /* of the registry, under its lock; link NULL: not in it */

    pthread_mutex_t gate; /* guards what follows */
    bool cancelled;       /* its client has gone, or has ended it */
    int32_t submitted;    /* requests that cancel has to reach */
    bool notified;        /* something was posted since the reader armed the streams */
    bool suspended;       /* wake has to be called */
};

/* The output, or the error, becomes the answer. */
void call_set_answer(struct api_call *call);
void call_set_error_answer(struct api_call *call);

/*
 * Everything of api_call_prepare before the engine sees it: makes the requests of the choices, or
 * the answer where the engine has no part in it. The error is in call->error.
 */
int call_read_body(struct api_call *call, const char *body, size_t length);

/* A call is in the registry from its submission until it is freed. NULL: there is none. */
void call_registry_add(struct call_registry *registry, struct api_call *call);
void call_registry_remove(struct call_registry *registry, struct api_call *call);

#endif

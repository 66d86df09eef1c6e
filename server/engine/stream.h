/*
 * The event stream of a request: the only object that the engine and the HTTP side both write. It
 * holds no queue but the newest draft, so a slow reader costs no memory and never holds the engine
 * back: what it missed is folded into the next draft it reads. One lock.
 *
 * The engine posts (stream_post); one reader reads (stream_read) and waits (stream_wait).
 */
#ifndef SERVER_ENGINE_STREAM_H
#define SERVER_ENGINE_STREAM_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "server/engine/decode.h"

struct arena;

/* The state of an answer after a round. Positions count from the answer's first position. */
struct draft {
    int32_t length;                 /* answer positions */
    int32_t *tokens;                /* [length] the mask token where undecided */
    float *confidence;              /* [length] of the committed token, 0 where masked */
    float *raw_logprob;             /* [length] of the committed token in the raw row */
    int32_t top_count;              /* raw top entries kept for every position; 0: none */
    int32_t *top_token;             /* [length, top_count] of the raw row when the token was chosen;
                                       -1 where masked, and where the row had no more; not set, nor
                                       touched by anyone, before the first round is done: most of a
                                       waiting request's memory is this */
    float *top_logprob;             /* the same, -INFINITY there */
    int32_t round;                  /* rounds done, from 1 */
    int32_t of;                     /* upper bound of the rounds, -1 unknown */
    int32_t masked;                 /* positions without a token now */
    int32_t revised;                /* positions changed or masked again since the request began */
    int32_t settled;                /* leading positions that can no longer change */
    int32_t block_begin, block_end; /* the region decoded in this round */
    int32_t forward_passes;
    int32_t text_tokens; /* settled tokens before the first stop id; once final: the text's */
    int64_t admitted_us; /* clock of the engine: when its first round could start */
    int64_t updated_us;  /* when the newest round ended */
    enum finish finish;  /* FINISH_NONE until the draft is final */
};

struct stream {
    pthread_mutex_t lock;
    struct draft draft;          /* the newest */
    uint64_t version;            /* counts posts */
    bool waiting;                /* the reader is suspended until the next post */
    void (*wake)(void *context); /* ends the reader's suspension; called with the lock held */
    void *wake_context;
    struct error error; /* why the request failed; code 0 while it did not */
};

/* The draft of an answer of `length` positions, all masked, from the request's arena. */
int stream_init(struct stream *stream, struct arena *arena, int32_t length, int32_t top_count,
                int32_t mask_token, struct error *err);
void stream_destroy(struct stream *stream);

/* Memory for one more draft of the same length and top_count, for a reader's own copy. */
int draft_create(struct draft *draft, struct arena *arena, int32_t length, int32_t top_count,
                 int32_t mask_token, struct error *err);

/*
 * Before submit. The pointer may be NULL: nobody is woken. It is called inside a tick, with the
 * stream's lock held, so it must be brief: no allocation, no waiting, and no lock but those of its
 * own request that nobody holds for longer than a few stores. (api/ and http/ take the call's gate
 * and the suspension's lock, then tell libmicrohttpd's event thread, which is one write to a pipe.)
 */
void stream_set_wake(struct stream *stream, void (*wake)(void *context), void *context);

/* Engine: publishes the state after a round (copied) and wakes the reader. */
void stream_post(struct stream *stream, const struct draft *draft);
/* Engine, or whoever drops the request: an unfinished answer ends with `finish`. The error (NULL:
 * none) is copied. */
void stream_fail(struct stream *stream, enum finish finish, const struct error *error);

/* Reader: copies the newest draft; returns the stream's version at that moment. */
uint64_t stream_read(struct stream *stream, struct draft *copy);
/* Reader: true when the draft is final. */
bool stream_finished(struct stream *stream);

/*
 * Reader: unless something newer than `version` was posted or the draft is final, marks the
 * reader as waiting, calls suspend(context) while the lock is held, and returns true; the next post
 * calls wake once.
 */
bool stream_wait(struct stream *stream, uint64_t version, void (*suspend)(void *context),
                 void *context);

#endif

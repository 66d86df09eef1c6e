#include "server/engine/stream.h"

#include <assert.h>
#include <string.h>

#include "common/arena.h"

int draft_create(struct draft *draft, struct arena *arena, int32_t length, int32_t top_count,
                 int32_t mask_token, struct error *err)
{
    size_t count = (size_t)length, tops = count * (size_t)top_count;
    *draft = (struct draft){.length = length, .top_count = top_count, .of = -1, .masked = length};
    draft->tokens = arena_alloc(arena, count * sizeof *draft->tokens);
    draft->confidence = arena_alloc(arena, count * sizeof *draft->confidence);
    draft->raw_logprob = arena_alloc(arena, count * sizeof *draft->raw_logprob);
    /* One piece, so that more whole pages of it are touched by nobody. */
    draft->top_token = arena_alloc_uncleared(
        arena, tops * (sizeof *draft->top_token + sizeof *draft->top_logprob));
    if (draft->tokens == NULL || draft->confidence == NULL || draft->raw_logprob == NULL ||
        draft->top_token == NULL)
        return error_set(err, ERROR_MEMORY,
                         "out of memory for a draft of %d positions: try again later", length);
    draft->top_logprob = (float *)(draft->top_token + tops);
    for (size_t i = 0; i < count; i++)
        draft->tokens[i] = mask_token;
    return 0;
}

int stream_init(struct stream *stream, struct arena *arena, int32_t length, int32_t top_count,
                int32_t mask_token, struct error *err)
{
    *stream = (struct stream){0};
    int rc = draft_create(&stream->draft, arena, length, top_count, mask_token, err);
    if (rc != 0)
        return rc;
    if (pthread_mutex_init(&stream->lock, NULL) != 0)
        return error_set(err, ERROR_MEMORY, "no lock for an event stream: try again later");
    return 0;
}

void stream_destroy(struct stream *stream)
{
    pthread_mutex_destroy(&stream->lock);
}

void stream_set_wake(struct stream *stream, void (*wake)(void *context), void *context)
{
    pthread_mutex_lock(&stream->lock);
    stream->wake = wake;
    stream->wake_context = context;
    pthread_mutex_unlock(&stream->lock);
}

static void draft_copy(struct draft *to, const struct draft *from)
{
    assert(to->length == from->length && to->top_count == from->top_count);
    struct draft copy = *from;
    size_t count = (size_t)from->length;
    size_t tops = from->round > 0 ? count * (size_t)from->top_count : 0;
    copy.tokens = memcpy(to->tokens, from->tokens, count * sizeof *to->tokens);
    copy.confidence = memcpy(to->confidence, from->confidence, count * sizeof *to->confidence);
    copy.raw_logprob = memcpy(to->raw_logprob, from->raw_logprob, count * sizeof *to->raw_logprob);
    copy.top_token = to->top_token;
    copy.top_logprob = to->top_logprob;
    if (tops > 0) {
        memcpy(to->top_token, from->top_token, tops * sizeof *to->top_token);
        memcpy(to->top_logprob, from->top_logprob, tops * sizeof *to->top_logprob);
    }
    *to = copy;
}

/* With the lock held: counts a post and ends the reader's suspension, if it is suspended. */
static void stream_announce(struct stream *stream)
{
    stream->version++;
    if (!stream->waiting)
        return;
    stream->waiting = false;
    if (stream->wake != NULL)
        stream->wake(stream->wake_context);
}

/* With the lock held. */
static bool is_final(const struct stream *stream)
{
    return stream->draft.finish != FINISH_NONE;
}

void stream_post(struct stream *stream, const struct draft *draft)
{
    pthread_mutex_lock(&stream->lock);
    draft_copy(&stream->draft, draft);
    stream_announce(stream);
    pthread_mutex_unlock(&stream->lock);
}

void stream_fail(struct stream *stream, enum finish finish, const struct error *error)
{
    assert(finish != FINISH_NONE);
    pthread_mutex_lock(&stream->lock);
    if (!is_final(stream)) {
        stream->draft.finish = finish;
        if (error != NULL)
            stream->error = *error;
        stream_announce(stream);
    }
    pthread_mutex_unlock(&stream->lock);
}

uint64_t stream_read(struct stream *stream, struct draft *copy)
{
    pthread_mutex_lock(&stream->lock);
    draft_copy(copy, &stream->draft);
    uint64_t version = stream->version;
    pthread_mutex_unlock(&stream->lock);
    return version;
}

bool stream_finished(struct stream *stream)
{
    pthread_mutex_lock(&stream->lock);
    bool finished = is_final(stream);
    pthread_mutex_unlock(&stream->lock);
    return finished;
}

bool stream_wait(struct stream *stream, uint64_t version, void (*suspend)(void *context),
                 void *context)
{
    pthread_mutex_lock(&stream->lock);
    bool wait = stream->version == version && !is_final(stream);
    if (wait) {
        stream->waiting = true;
        if (suspend != NULL)
            suspend(context);
    }
    pthread_mutex_unlock(&stream->lock);
    return wait;
}

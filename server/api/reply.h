/*
 * What is sent back for one call: its choices, read from the engine's streams, and the three forms
 * they are written in (a whole answer, plain deltas, drafts). Knows nothing of how requests are
 * parsed or submitted. One thread at a time.
 */
#ifndef SERVER_API_REPLY_H
#define SERVER_API_REPLY_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/arena.h"
#include "server/api/answer_text.h"
#include "server/api/api.h"
#include "server/api/api_error.h"
#include "server/api/parameters.h"
#include "server/engine/stream.h"

struct choice {
    int32_t index;
    struct stream *stream;
    const struct decode_params *params;
    const int32_t *prompt; /* [prompt_length] */
    int32_t prompt_length;
    const char *echo; /* [echo_length] raw bytes of the prompt's text, where it is echoed */
    size_t echo_length;

    struct draft draft; /* the newest that was read */
    uint64_t version;   /* of the stream at that moment */
    int32_t tokens;     /* of the text so far */
    enum answer_end ended;
    bool done; /* nothing that comes later changes the answer */

    /* Streams: what the client has. */
    bool opened, closed; /* first and last event are written */
    size_t sent;         /* plain: raw bytes of the text */
    int32_t listed;      /* plain: tokens whose log-probabilities were sent */
    size_t listed_bytes; /* plain: bytes of those tokens */
    int32_t *delivered;  /* diffusing: [draft.length] tokens of the last event */
    int32_t delivered_round;
};

struct reply {
    const struct api *api;
    enum api_endpoint endpoint;
    const char *id;
    int64_t created;    /* seconds since 1970 */
    int64_t arrival_us; /* clock when the request came */
    struct api_parameters parameters;
    struct answer_rules rules;
    int32_t prompt_tokens;  /* of all prompts, each counted once */
    struct choice *choices; /* [choice_count] prompt-major */
    int32_t choice_count;
    /* Set by any thread before the requests are cancelled: the client has ended them. */
    atomic_bool cancelled;

    struct answer_text text; /* of the choice read last */
    struct buffer scratch;
    int32_t cursor; /* streams: the choice to look at next */
    bool ended;     /* streams: the last event is written */
};

/* Rules from api, parameters and stop ids, which are set before. */
void reply_set_rules(struct reply *reply);
/* Choices for `count` streams; choice_open sets each. ERROR_MEMORY. */
int reply_create_choices(struct reply *reply, int32_t count, struct arena *arena);
int choice_open(struct reply *reply, int32_t index, struct stream *stream,
                const struct decode_params *params, const int32_t *prompt, int32_t prompt_length,
                struct arena *arena);
void reply_free(struct reply *reply); /* the buffers; choices are the arena's */

/* Reads a choice's newest draft; false where there is nothing new. Its text is in reply->text. */
bool choice_refresh(struct reply *reply, struct choice *choice);
/* The text of the draft that was read last, into reply->text. */
void choice_read_text(struct reply *reply, const struct choice *choice);
/* "stop" or "length" of a choice that is done. */
const char *choice_finish_reason(const struct choice *choice);
/* Whether the engine gave up on it; choice_failure says why, and logs what the client is not told.
 */
bool choice_failed(const struct reply *reply, const struct choice *choice);
void choice_failure(const struct reply *reply, const struct choice *choice, struct api_error *err);

bool reply_done(const struct reply *reply);
/* Milliseconds waited and computed; both -1 where the engine never began. */
void reply_times(const struct reply *reply, double *queue_ms, double *compute_ms);

/* Pieces of JSON shared by the forms: "key":value pairs without braces around them. */
void reply_append_identity(struct buffer *out, const struct reply *reply, const char *object);
void reply_append_usage(struct buffer *out, const struct reply *reply);
/* Members of `denoised` for the choices [first, first + count). */
void reply_append_summary(struct buffer *out, const struct reply *reply, int32_t first,
                          int32_t count);
void reply_append_times(struct buffer *out, const struct reply *reply);
/* ,"token_ids":..., where the request asked for them. */
void choice_append_extras(struct buffer *out, const struct reply *reply,
                          const struct choice *choice);

/* The prompt's text, repaired, where it is echoed. */
void choice_append_echo(struct buffer *out, const struct choice *choice);

/* The body of an answer that is no stream; every choice is done. */
void answer_append(struct buffer *out, struct reply *reply);

/*
 * Appends the next events, of one choice at most: 1; nothing new yet: 0; the stream has ended: -1.
 * Work and memory grow with one canvas.
 */
int events_next(struct reply *reply, struct buffer *out);

#endif

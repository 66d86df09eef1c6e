/*
 * The JSON surface, without sockets: bodies become engine requests, drafts become answers and
 * server-sent events. struct api is filled once at start and then shared read-only by all threads.
 * A struct api_call is one HTTP request's way through; one thread at a time works on it: first a
 * preparation thread (api_call_prepare), then the HTTP thread of its connection.
 */
#ifndef SERVER_API_API_H
#define SERVER_API_API_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buffer.h"
#include "server/engine/engine.h"
#include "server/model/chat_template.h"
#include "server/model/model.h"
#include "server/model/tokenizer.h"

/* Decode keys of flags, environment and config file; a negative number, NAN or NULL says nothing.
 */
struct api_decode_defaults {
    int32_t max_tokens, block_length, steps, top_k;
    double temperature, top_p, threshold;
    const char *selection, *cache;
};

struct call_registry;

struct api {
    struct engine *engine;       /* NULL: bodies can be checked, but nothing submitted */
    struct call_registry *calls; /* that run; NULL: none can be cancelled by its id */
    const struct tokenizer *tokenizer;
    const struct chat_template *chat_template; /* NULL: chat requests are a 400 */
    const char *chat_template_reason;          /* why it is NULL */
    struct model_config config;
    struct generation_defaults generation;
    struct api_decode_defaults settings;
    const char *model_name;
    const char *system_fingerprint; /* names build and model */
    const char *version;            /* of the build */
    const char *device;             /* what computes: "cpu", "cuda" */
    const char *device_description; /* instruction set and threads, or the card */
    const char *dtype;              /* of the weights: "bfloat16", "int8", ... */
    struct model_memory memory;     /* that the model holds on it, from start to end */
    int64_t created;                /* start of the server, seconds since 1970 */
    int64_t max_body_bytes;         /* that http takes; for /props */
    int32_t max_choices;            /* n at most */
    bool strict;                    /* unknown fields are a 400 */
};

/*
 * What each of the tokenizer's ids adds to an answer's text, for struct engine_options. One block,
 * freed with free(), pointing into the tokenizer; NULL when out of memory.
 */
struct token_text *api_token_texts(const struct tokenizer *tokenizer);

/* The calls that run, by id. NULL when out of memory. Freed after the last call. */
struct call_registry *call_registry_create(void);
void call_registry_free(struct call_registry *registry); /* NULL is fine */

/* The last two are answered by prepare: they never wait, and the engine does not see them. */
enum api_endpoint { API_COMPLETIONS, API_CHAT_COMPLETIONS, API_TOKENIZE, API_DETOKENIZE };

struct api_call;

/*
 * NULL when out of memory. arrival_us is the clock when the request's first byte was seen; owner
 * names the key that it came with (0: the server has no keys).
 */
struct api_call *api_call_create(const struct api *api, enum api_endpoint endpoint,
                                 int64_t arrival_us, uint64_t owner);

/*
 * Preparation thread: parses and checks the body, renders, tokenises and submits. Whatever goes
 * wrong becomes the call's answer. wake(context) is called by the engine, with a lock held, when a
 * suspended reader may go on.
 */
void api_call_prepare(struct api_call *call, const char *body, size_t length,
                      void (*wake)(void *context), void *context);

enum api_state {
    API_STATE_WAITING, /* not a stream, and the answer is not there yet */
    API_STATE_ANSWER,  /* status and body are there: api_call_answer */
    API_STATE_STREAM,  /* 200, text/event-stream: api_call_read */
};

/* HTTP thread, after prepare: where the call stands; makes the answer once the engine is done. */
enum api_state api_call_poll(struct api_call *call);

/*
 * HTTP thread, in state WAITING or when api_call_read gave 0: suspends through suspend(context)
 * unless something happened meanwhile; false: nothing was suspended, poll or read again.
 */
bool api_call_wait(struct api_call *call, void (*suspend)(void *context), void *context);

struct api_answer {
    int status;
    const char *body; /* JSON, of the call */
    size_t length;
    int retry_after_s;           /* 0: no such header */
    double queue_ms, compute_ms; /* < 0: the engine never saw it */
};
struct api_answer api_call_answer(const struct api_call *call);

/* HTTP thread, stream: copies up to max bytes of events. 0: nothing yet; -1: the stream has ended.
 */
ptrdiff_t api_call_read(struct api_call *call, char *out, size_t max);

/* Any thread: the client is gone; the engine frees its rows at the next tick. */
void api_call_cancel(struct api_call *call);
/* Cancels if still running. */
void api_call_free(struct api_call *call); /* NULL is fine */

/* For the log line; complete once the call has ended. */
struct api_call_summary {
    const char *id; /* "chatcmpl-..." or "" */
    int32_t prompt_tokens, completion_tokens, rounds;
    double queue_ms, compute_ms;
};
struct api_call_summary api_call_summarise(const struct api_call *call);

/*
 * Any thread: ends the running call of this id and owner at the next tick; it is answered with the
 * text that was settled. False where there is none, or where it has already ended.
 */
bool api_cancel(const struct api *api, const char *id, size_t id_length, uint64_t owner);

/* {"error": {...}}; param and code may be NULL (null). */
void api_error_body(struct buffer *out, const char *type, const char *param, const char *code,
                    const char *message);

/* Bodies of GET /v1/models and /v1/models/{id}; the latter returns false for another id. */
void api_models_body(const struct api *api, struct buffer *out);
bool api_model_body(const struct api *api, const char *id, size_t id_length, struct buffer *out);

/* Bodies of GET /version and GET /props. */
void api_version_body(const struct api *api, struct buffer *out);
void api_props_body(const struct api *api, struct buffer *out);

/* The engine's numbers and the build in Prometheus' text form; http adds its own behind them. */
void api_append_metrics(const struct api *api, struct buffer *out);

#endif

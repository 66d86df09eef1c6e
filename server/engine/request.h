/*
 * A request: one answer to one prompt, its parameters and its event stream, in an arena of its own.
 * Several answers to a prompt are several requests. Reference counted: the side that made it holds
 * one reference, the engine one from submit until it is done.
 */
#ifndef SERVER_ENGINE_REQUEST_H
#define SERVER_ENGINE_REQUEST_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/arena.h"
#include "server/engine/decode.h"
#include "server/engine/stream.h"

struct error;

/* Why a request is to end before its answer is complete. */
enum request_ending {
    REQUEST_GOES_ON,
    REQUEST_SATISFIED, /* its reader has all it wants: a stop string has ended the text */
    REQUEST_CANCELLED, /* nobody waits for it */
};

/* What submit has found wrong with a request, for those who name it in words of their own. */
enum request_fault {
    REQUEST_FAULT_NONE,
    REQUEST_FAULT_LENGTH,       /* the canvas, or its guidance partner's, can never run */
    REQUEST_FAULT_CHOICES,      /* more than can ever run and wait */
    REQUEST_FAULT_PENALTIES,    /* out of range */
    REQUEST_FAULT_STOP_TOKENS,  /* too many, or no tokens of the model */
    REQUEST_FAULT_BIASES,       /* the same, or out of range */
    REQUEST_FAULT_BANNED_WORDS, /* too many, too long, or their text is not known */
    REQUEST_FAULT_NO_TOKEN,     /* biases, allowed tokens and banned words leave none */
};

struct request {
    /* Set before submit, constant afterwards. */
    struct arena arena;
    struct request *first; /* whose prompt and lists these are: a reference; NULL: its own */
    const int32_t *prompt; /* [prompt_length] */
    int32_t prompt_length;
    struct decode_params params;
    int64_t arrival_us;
    int64_t deadline_us; /* INT64_MAX: none */

    struct stream stream;
    atomic_int ending; /* enum request_ending; any thread; carried out at the next tick */
    atomic_int references;

    enum request_fault fault; /* written by a submit that refuses it */

    /* The engine's. */
    struct request *next;    /* intake and queue */
    bool drafted;            /* a first draft was posted */
    const uint32_t *allowed; /* from submit: params.allowed less the tokens that hold a banned word;
                                NULL: all */
};

/* One reference. Copies the prompt (prompt_length >= 1) and the params, but not the lists that they
 * point to. Ids of prompts are checked by the caller. */
int request_create(struct request **out, const int32_t *prompt, int32_t prompt_length,
                   const struct decode_params *params, int32_t mask_token, struct error *err);
/*
 * One more answer to the prompt of `first`, no sibling itself, with its parameters but for the
 * seed. Prompt and lists are those of `first`, which it holds a reference of; nothing of them is
 * copied. `first` is submitted before it, or in front of it in the same list.
 */
int request_create_sibling(struct request **out, struct request *first, uint64_t seed,
                           int32_t mask_token, struct error *err);
struct request *request_retain(struct request *request);
void request_release(struct request *request); /* NULL is fine; frees with the last one */
/* False, and nothing done, where the caller's reference is the last one. */
bool request_release_unless_last(struct request *request);
/* Any thread. The engine frees the rows at its next tick. What is asked for first holds. */
void request_end(struct request *request, enum request_ending ending);
void request_cancel(struct request *request);

/* Positions of the canvas. */
int64_t request_canvas_length(const struct request *request);
/* Positions of its guidance partner's canvas; 0 without guidance. */
int64_t request_partner_length(const struct request *request);

#endif

/*
 * Whole calls over the tiny model, with an engine that the test ticks by hand. One server a test:
 * Criterion runs each in a process of its own.
 */
#ifndef TESTS_UNIT_API_SUPPORT_SERVER_H
#define TESTS_UNIT_API_SUPPORT_SERVER_H

#include "tests/unit/api/support.h"

struct server {
    struct api *api;
    struct model *model;
    struct token_text *token_texts;
    int woken; /* by the engine, since the last wait */
};

/* An engine for so many sequences, and so many waiting ones. */
struct server server_start(int32_t sequences, int32_t waiting);
/* One with these limits; the tokenizer's part of them is filled in. */
struct server server_start_with(const struct engine_options *options);
void server_stop(struct server *server);
/* False when nothing is left to do. */
bool server_tick(struct server *server);

struct api_call *server_begin(struct server *server, enum api_endpoint endpoint, const char *body);
/* For api_call_wait; the context is an int that counts. */
void server_suspend(void *context);
/* The answer that is there. */
json_t *server_parse_answer(struct api_call *call, int status);
/* Suspends as a connection would and ticks until the answer is there: a 200. */
json_t *server_finish(struct server *server, struct api_call *call);
/* All of it. */
json_t *server_ask(struct server *server, enum api_endpoint endpoint, const char *body);
/* A call that is refused with this status and code; the rest of the error is the caller's. */
json_t *server_refuse(struct server *server, enum api_endpoint endpoint, const char *body,
                      int status, const char *code);

/* All bytes of a stream, read in small pieces, ticking whenever there is nothing to read. */
void server_read_stream(struct server *server, struct api_call *call, struct buffer *out);
/* The texts of all events of choice 0, joined. */
void join_stream(struct buffer *text, const char *events);

#endif

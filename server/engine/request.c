#include "server/engine/request.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/error.h"

/* Prompt and drafts in the request's arena. */
static int request_fill(struct request *request, const int32_t *prompt, int32_t mask_token,
                        struct error *err)
{
    size_t size = (size_t)request->prompt_length * sizeof *prompt;
    request->prompt = arena_alloc(&request->arena, size);
    if (request->prompt == NULL)
        return error_set(err, ERROR_MEMORY,
                         "out of memory for a prompt of %d tokens: try again later",
                         request->prompt_length);
    memcpy(request->prompt, prompt, size);
    return stream_init(&request->stream, &request->arena, request->choices,
                       request->params.max_tokens, mask_token, err);
}

int request_create(struct request **out, const int32_t *prompt, int32_t prompt_length,
                   const struct decode_params *params, int32_t choices, int32_t mask_token,
                   struct error *err)
{
    assert(prompt_length >= 1 && choices >= 1 && params->max_tokens >= 1);
    struct request *request = calloc(1, sizeof *request);
    if (request == NULL)
        return error_set(err, ERROR_MEMORY, "out of memory for a request: try again later");
    arena_init(&request->arena);
    request->prompt_length = prompt_length;
    request->params = *params;
    request->choices = choices;
    request->arrival_us = clock_now_us();
    request->deadline_us = INT64_MAX;
    atomic_init(&request->cancelled, false);
    atomic_init(&request->references, 1);
    int rc = request_fill(request, prompt, mask_token, err);
    if (rc != 0) {
        arena_free(&request->arena);
        free(request);
        return rc;
    }
    *out = request;
    return 0;
}

struct request *request_retain(struct request *request)
{
    atomic_fetch_add_explicit(&request->references, 1, memory_order_relaxed);
    return request;
}

void request_release(struct request *request)
{
    if (request == NULL)
        return;
    if (atomic_fetch_sub_explicit(&request->references, 1, memory_order_acq_rel) != 1)
        return;
    stream_destroy(&request->stream);
    arena_free(&request->arena);
    free(request);
}

void request_cancel(struct request *request)
{
    atomic_store_explicit(&request->cancelled, true, memory_order_release);
}

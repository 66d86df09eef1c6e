#include "server/engine/request.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/error.h"

static int copy_prompt(struct request *request, const int32_t *prompt, struct error *err)
{
    size_t size = (size_t)request->prompt_length * sizeof *prompt;
    int32_t *copy = arena_alloc(&request->arena, size);
    if (copy == NULL)
        return error_set(err, ERROR_MEMORY,
                         "out of memory for a prompt of %d tokens: try again later",
                         request->prompt_length);
    request->prompt = memcpy(copy, prompt, size);
    return 0;
}

/* A request without its prompt. */
static int create(struct request **out, int32_t prompt_length, const struct decode_params *params,
                  int32_t mask_token, struct error *err)
{
    assert(prompt_length >= 1 && params->max_tokens >= 1);
    assert(params->top_logprobs >= 0 && params->top_logprobs <= HEAD_RAW_TOP_MAX);
    struct request *request = calloc(1, sizeof *request);
    if (request == NULL)
        return error_set(err, ERROR_MEMORY, "out of memory for a request: try again later");
    arena_init(&request->arena);
    request->prompt_length = prompt_length;
    request->params = *params;
    request->arrival_us = clock_now_us();
    request->deadline_us = INT64_MAX;
    atomic_init(&request->ending, REQUEST_GOES_ON);
    atomic_init(&request->references, 1);
    int rc = stream_init(&request->stream, &request->arena, params->max_tokens,
                         params->top_logprobs, mask_token, err);
    if (rc != 0) {
        arena_free(&request->arena);
        free(request);
        return rc;
    }
    *out = request;
    return 0;
}

int request_create(struct request **out, const int32_t *prompt, int32_t prompt_length,
                   const struct decode_params *params, int32_t mask_token, struct error *err)
{
    struct request *request;
    int rc = create(&request, prompt_length, params, mask_token, err);
    if (rc != 0)
        return rc;
    rc = copy_prompt(request, prompt, err);
    if (rc != 0) {
        request_release(request);
        return rc;
    }
    *out = request;
    return 0;
}

int request_create_sibling(struct request **out, struct request *first, uint64_t seed,
                           int32_t mask_token, struct error *err)
{
    assert(first->first == NULL);
    int rc = create(out, first->prompt_length, &first->params, mask_token, err);
    if (rc != 0)
        return rc;
    (*out)->params.seed = seed;
    (*out)->first = request_retain(first);
    (*out)->prompt = first->prompt;
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
    struct request *first = request->first;
    stream_destroy(&request->stream);
    arena_free(&request->arena);
    free(request);
    request_release(first); /* which has no first itself */
}

bool request_release_unless_last(struct request *request)
{
    int references = atomic_load_explicit(&request->references, memory_order_acquire);
    while (references > 1) {
        if (atomic_compare_exchange_weak_explicit(&request->references, &references, references - 1,
                                                  memory_order_acq_rel, memory_order_acquire))
            return true;
    }
    return false;
}

void request_end(struct request *request, enum request_ending ending)
{
    int going_on = REQUEST_GOES_ON;
    atomic_compare_exchange_strong(&request->ending, &going_on, ending);
}

void request_cancel(struct request *request)
{
    request_end(request, REQUEST_CANCELLED);
}

int64_t request_canvas_length(const struct request *request)
{
    return (int64_t)request->prompt_length + request->params.max_tokens;
}

int64_t request_partner_length(const struct request *request)
{
    const struct decode_params *params = &request->params;
    if (!(params->cfg_scale > 0))
        return 0;
    int32_t prompt_length =
        params->negative_prompt != NULL ? params->negative_prompt_length : request->prompt_length;
    return (int64_t)prompt_length + params->max_tokens;
}

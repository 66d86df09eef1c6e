#include "server/http/routes.h"

#include <string.h>

#include "server/api/api.h"

static const char READ_METHODS[] = "GET, HEAD";
static const char MODEL_PREFIX[] = "/v1/models/";

static const struct route ROUTES[] = {
    {"/v1/chat/completions", ROUTE_CALL, API_CHAT_COMPLETIONS, "POST"},
    {"/v1/completions", ROUTE_CALL, API_COMPLETIONS, "POST"},
    {"/v1/models", ROUTE_MODELS, 0, READ_METHODS},
    {"/health", ROUTE_HEALTH, 0, READ_METHODS},
    {"/ready", ROUTE_READY, 0, READ_METHODS},
};
static const struct route MODEL_ROUTE = {MODEL_PREFIX, ROUTE_MODEL, 0, READ_METHODS};

const struct route *route_find(const char *path)
{
    for (size_t i = 0; i < sizeof ROUTES / sizeof *ROUTES; i++) {
        if (strcmp(path, ROUTES[i].path) == 0)
            return &ROUTES[i];
    }
    /* All that follows is the id: names like "owner/model" have a slash of their own. */
    return strncmp(path, MODEL_PREFIX, strlen(MODEL_PREFIX)) == 0 ? &MODEL_ROUTE : NULL;
}

bool route_allows(const struct route *route, const char *method)
{
    if (route->kind == ROUTE_CALL)
        return strcmp(method, MHD_HTTP_METHOD_POST) == 0;
    return strcmp(method, MHD_HTTP_METHOD_GET) == 0 || strcmp(method, MHD_HTTP_METHOD_HEAD) == 0;
}

static void answer_ready(const struct api *api, bool draining, struct answer *answer)
{
    struct engine_counters counters = engine_counters_read(api->engine);

    if (draining || counters.draining) {
        answer_refuse_draining(answer);
    } else if (counters.device_lost) {
        answer_refuse(answer, MHD_HTTP_SERVICE_UNAVAILABLE, "device_lost",
                      "The device that runs the model has failed; this server must be restarted.");
    } else if (counters.waiting >= counters.queue_limit) {
        answer_refuse(answer, MHD_HTTP_SERVICE_UNAVAILABLE, "queue_full",
                      "The queue is full: %d sequences wait and queue_limit is %d.",
                      counters.waiting, counters.queue_limit);
        answer->retry_after_s = 1;
    } else {
        answer->status = MHD_HTTP_OK;
        buffer_append_text(&answer->body, "{\"status\":\"ready\"}");
    }
}

static void answer_model(const char *id, const struct api *api, struct answer *answer)
{
    answer->status = MHD_HTTP_OK;
    if (!api_model_body(api, id, strlen(id), &answer->body))
        answer_refuse(answer, MHD_HTTP_NOT_FOUND, "model_not_found",
                      "There is no model \"%.200s\" here; GET /v1/models lists what is served.",
                      id);
}

void route_answer(const struct route *route, const char *path, const struct api *api, bool draining,
                  struct answer *answer)
{
    switch (route->kind) {
    case ROUTE_HEALTH:
        answer->status = MHD_HTTP_OK;
        buffer_append_text(&answer->body, "{\"status\":\"ok\"}");
        break;
    case ROUTE_READY:
        answer_ready(api, draining, answer);
        break;
    case ROUTE_MODELS:
        answer->status = MHD_HTTP_OK;
        api_models_body(api, &answer->body);
        break;
    case ROUTE_MODEL:
        answer_model(path + strlen(MODEL_PREFIX), api, answer);
        break;
    case ROUTE_CALL:
        break; /* answered by the API */
    }
}

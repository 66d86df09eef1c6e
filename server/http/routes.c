#include "server/http/routes.h"

#include <string.h>

#include "common/log.h"
#include "server/api/api.h"
#include "server/http/exchange.h"
#include "server/http/request_path.h"
#include "server/http/server.h"

static const char READ_METHODS[] = "GET, HEAD";
static const char MODEL_PREFIX[] = "/v1/models/";
static const char CANCEL_PREFIX[] = "/v1/requests/";
static const char CANCEL_SUFFIX[] = "/cancel";

static const struct route ROUTES[] = {
    {"/v1/chat/completions", ROUTE_CALL, API_CHAT_COMPLETIONS, "POST", false},
    {"/v1/completions", ROUTE_CALL, API_COMPLETIONS, "POST", false},
    {"/tokenize", ROUTE_CALL, API_TOKENIZE, "POST", false},
    {"/detokenize", ROUTE_CALL, API_DETOKENIZE, "POST", false},
    {"/v1/models", ROUTE_MODELS, 0, READ_METHODS, false},
    {"/v1/chat/completions/models", ROUTE_MODELS, 0, READ_METHODS, false}, /* Mercury's client */
    {"/v1/fim/completions/models", ROUTE_MODELS, 0, READ_METHODS, false},
    {"/v1/edit/completions/models", ROUTE_MODELS, 0, READ_METHODS, false},
    {"/health", ROUTE_HEALTH, 0, READ_METHODS, true},
    {"/ready", ROUTE_READY, 0, READ_METHODS, true},
    {"/version", ROUTE_VERSION, 0, READ_METHODS, true},
    {"/props", ROUTE_PROPS, 0, READ_METHODS, false},
    {"/metrics", ROUTE_METRICS, 0, READ_METHODS, true}, /* unless settings say otherwise */
    {"/v1/models/{id}", ROUTE_MODEL, 0, READ_METHODS, false},
    {"/v1/requests/{id}/cancel", ROUTE_CANCEL, 0, "POST", false},
};
enum { EXACT_ROUTES = 13, MODEL_ROUTE = EXACT_ROUTES, CANCEL_ROUTE };
_Static_assert(sizeof ROUTES / sizeof *ROUTES + 1 == (size_t)ROUTE_COUNT,
               "every route and the unknown one are counted");

/* The id in "/v1/requests/{id}/cancel"; length 0 where the path is another. */
static const char *cancel_id(const char *path, size_t *length)
{
    size_t whole = strlen(path), frame = strlen(CANCEL_PREFIX) + strlen(CANCEL_SUFFIX);

    *length = 0;
    if (whole > frame && strncmp(path, CANCEL_PREFIX, strlen(CANCEL_PREFIX)) == 0 &&
        strcmp(path + whole - strlen(CANCEL_SUFFIX), CANCEL_SUFFIX) == 0)
        *length = whole - frame;
    return path + strlen(CANCEL_PREFIX);
}

const struct route *route_find(const char *path)
{
    size_t length;

    for (size_t i = 0; i < EXACT_ROUTES; i++) {
        if (strcmp(path, ROUTES[i].path) == 0)
            return &ROUTES[i];
    }
    cancel_id(path, &length);
    if (length > 0)
        return &ROUTES[CANCEL_ROUTE];
    /* All that follows is the id: names like "owner/model" have a slash of their own. */
    return strncmp(path, MODEL_PREFIX, strlen(MODEL_PREFIX)) == 0 ? &ROUTES[MODEL_ROUTE] : NULL;
}

bool route_allows(const struct route *route, const char *method)
{
    if (route->allow != READ_METHODS)
        return strcmp(method, MHD_HTTP_METHOD_POST) == 0;
    return strcmp(method, MHD_HTTP_METHOD_GET) == 0 || strcmp(method, MHD_HTTP_METHOD_HEAD) == 0;
}

int route_index(const struct route *route)
{
    return route != NULL ? (int)(route - ROUTES) : ROUTE_COUNT - 1;
}

const char *route_label(int index)
{
    return index < ROUTE_COUNT - 1 ? ROUTES[index].path : "other";
}

static void answer_ready(const struct api *api, bool draining, struct answer *answer)
{
    struct engine_counters counters = engine_counters_read(api->engine);

    if (draining || counters.draining) {
        answer_refuse_draining(answer, api);
    } else if (counters.device_lost) {
        answer_refuse(answer, MHD_HTTP_SERVICE_UNAVAILABLE, "device_lost",
                      "the device that runs the model has failed; this server must be restarted");
    } else if (counters.waiting + counters.running >=
               counters.max_sequences + counters.queue_limit) {
        answer_refuse(answer, MHD_HTTP_SERVICE_UNAVAILABLE, "queue_full",
                      "the queue is full: %d sequences run and %d wait; queue_limit is %d",
                      counters.running, counters.waiting, counters.queue_limit);
    } else {
        answer->status = MHD_HTTP_OK;
        buffer_append_text(&answer->body, "{\"status\":\"ready\"}");
        return;
    }
    answer->retry_after_s = counters.retry_after_s;
}

static void answer_model(const char *path, const struct api *api, struct answer *answer)
{
    const char *part = path + strlen(MODEL_PREFIX);
    char id[EXCHANGE_PATH_MAX + 1];

    answer->status = MHD_HTTP_OK;
    if (!request_path_decode(id, sizeof id, part) ||
        !api_model_body(api, id, strlen(id), &answer->body))
        answer_refuse(answer, MHD_HTTP_NOT_FOUND, "model_not_found",
                      "there is no model \"%.200s\" here; GET /v1/models lists what is served",
                      part);
}

static void answer_cancel(const struct exchange *exchange, struct answer *answer)
{
    size_t length;
    const char *id = cancel_id(exchange->path, &length);

    if (!api_cancel(exchange->server->api, id, length, exchange->owner)) {
        answer_refuse(answer, MHD_HTTP_NOT_FOUND, "not_found",
                      "no request \"%.*s\" of yours is running here", (int)length, id);
        return;
    }
    answer->status = MHD_HTTP_OK;
    buffer_append_text(&answer->body, "{\"id\":");
    log_append_json_string(&answer->body, id, length);
    buffer_append_text(&answer->body, ",\"cancelled\":true}");
}

void route_answer(struct exchange *exchange)
{
    struct http_server *server = exchange->server;
    struct answer *answer = &exchange->answer;
    const struct api *api = server->api;

    answer->status = MHD_HTTP_OK;
    switch (exchange->route->kind) {
    case ROUTE_HEALTH:
        buffer_append_text(&answer->body, "{\"status\":\"ok\"}");
        break;
    case ROUTE_READY:
        answer_ready(api, atomic_load(&server->draining), answer);
        break;
    case ROUTE_MODELS:
        api_models_body(api, &answer->body);
        break;
    case ROUTE_MODEL:
        answer_model(exchange->path, api, answer);
        break;
    case ROUTE_VERSION:
        api_version_body(api, &answer->body);
        break;
    case ROUTE_PROPS:
        api_props_body(api, &answer->body);
        break;
    case ROUTE_METRICS:
        answer->content_type = "text/plain; version=0.0.4; charset=utf-8";
        api_append_metrics(api, &answer->body);
        tally_append_metrics(&server->tally, &answer->body);
        break;
    case ROUTE_CANCEL:
        answer_cancel(exchange, answer);
        break;
    case ROUTE_CALL:
        break; /* answered by the API */
    }
}

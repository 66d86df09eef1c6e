#include "server/http/request_log.h"

#include <string.h>

#include "common/clock.h"
#include "common/log.h"
#include "server/api/api.h"
#include "server/http/routes.h"
#include "server/http/server.h"

enum { TEXT_MAX = 65536 }; /* of a request and of a response in the log */

void request_log_note(const struct exchange *exchange, struct buffer *text, const char *bytes,
                      size_t length)
{
    size_t room = TEXT_MAX - text->length;

    if (exchange->server->options.log_prompts)
        buffer_append(text, bytes, length < room ? length : room);
}

static void append_text(struct buffer *fields, const char *name, const struct buffer *text)
{
    buffer_format(fields, ",\"%s\":", name);
    log_append_json_string(fields, text->length > 0 ? text->data : "", text->length);
}

void request_log_write(const struct exchange *exchange, bool completed)
{
    struct api_call_summary summary = {.id = "", .queue_ms = 0, .compute_ms = 0};
    bool probe = exchange->route != NULL &&
                 (exchange->route->kind == ROUTE_HEALTH || exchange->route->kind == ROUTE_READY);
    struct buffer names = {0};

    if (exchange->call != NULL)
        summary = api_call_summarise(exchange->call);
    /* The client's words, quotes and backslashes among them: never into the line as they are. */
    buffer_append_text(&names, "\"request_id\":");
    log_append_json_string(&names, exchange->request_id, strlen(exchange->request_id));
    buffer_append_text(&names, ",\"path\":");
    log_append_json_string(&names, exchange->path, strlen(exchange->path));
    if (exchange->server->options.log_prompts) {
        append_text(&names, "request", &exchange->logged_request);
        append_text(&names, "response", &exchange->logged_response);
    }
    /* Load balancers ask for /health and /ready every few seconds. */
    log_line(probe ? LOG_DEBUG : LOG_INFO, "request",
             "\"id\":\"%s\",%s,\"status\":%d,\"completed\":%s,"
             "\"prompt_tokens\":%d,\"completion_tokens\":%d,\"rounds\":%d,\"queue_ms\":%.3f,"
             "\"compute_ms\":%.3f,\"total_ms\":%.3f",
             summary.id, names.failed ? "\"path\":null" : names.data,
             exchange->status != 0 ? exchange->status : STATUS_CLIENT_LEFT,
             completed ? "true" : "false", summary.prompt_tokens, summary.completion_tokens,
             summary.rounds, summary.queue_ms > 0 ? summary.queue_ms : 0.0,
             summary.compute_ms > 0 ? summary.compute_ms : 0.0,
             (double)(clock_now_us() - exchange->arrival_us) * 1e-3);
    buffer_free(&names);
}

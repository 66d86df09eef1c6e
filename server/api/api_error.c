#include "server/api/api_error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "common/buffer.h"
#include "common/error.h"
#include "common/json.h"
#include "common/log.h"
#include "server/api/api.h"

__attribute__((format(printf, 6, 0))) static void fill(struct api_error *err, int status,
                                                       const char *type, const char *code,
                                                       const char *param, const char *format,
                                                       va_list arguments)
{
    err->status = status;
    err->type = type;
    err->code = code;
    err->retry_after_s = 0;
    snprintf(err->param, sizeof err->param, "%s", param ? param : "");
    vsnprintf(err->message, sizeof err->message, format, arguments);
}

__attribute__((format(printf, 5, 6))) static void
set(struct api_error *err, int status, const char *type, const char *code, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fill(err, status, type, code, NULL, format, arguments);
    va_end(arguments);
}

int api_error_refuse(struct api_error *err, const char *code, const char *param, const char *format,
                     ...)
{
    va_list arguments;
    va_start(arguments, format);
    fill(err, 400, "invalid_request_error", code, param, format, arguments);
    va_end(arguments);
    return ERROR_INVALID;
}

/* Small values as they were sent, large ones by type and size. */
static void describe(char *out, size_t size, const json_t *value)
{
    size_t written =
        json_dumpb(value, out, size - 1, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(12));
    if (written > 0 && written < size) {
        out[written] = '\0';
        return;
    }
    if (json_is_string(value)) {
        snprintf(out, size, "a string of %zu bytes", json_string_length(value));
    } else if (json_is_array(value)) {
        snprintf(out, size, "an array of %zu", json_array_size(value));
    } else {
        snprintf(out, size, "%s", json_type_name(value));
    }
}

int api_error_value(struct api_error *err, const char *param, const json_t *value,
                    const char *expected)
{
    char text[96];
    describe(text, sizeof text, value);
    return api_error_refuse(err, "invalid_value", param, "%s is %s; it must be %s", param, text,
                            expected);
}

int api_error_unsupported(struct api_error *err, const char *param, const json_t *value)
{
    char text[96];
    describe(text, sizeof text, value);
    return api_error_refuse(err, "unsupported_parameter", param,
                            "%s %s is not carried out by this build; leave it out", param, text);
}

static int retry_after(const struct engine_counters *counters)
{
    return counters ? counters->retry_after_s : ENGINE_RESTART_S;
}

int api_error_from(struct api_error *err, const struct error *cause,
                   const struct engine_counters *counters)
{
    switch (cause->code) {
    case ERROR_LIMIT:
        set(err, 429, "rate_limit_error", "queue_full", "%s", cause->message);
        err->retry_after_s = retry_after(counters);
        break;
    case ERROR_UNAVAILABLE:
        set(err, 503, "unavailable_error", "draining", "%s",
            cause->message[0] ? cause->message : "the server is stopping; ask again shortly");
        err->retry_after_s = retry_after(counters);
        break;
    case ERROR_DEVICE_LOST:
        set(err, 503, "unavailable_error", "device_lost",
            "the device failed while running; the server has to be restarted");
        err->retry_after_s = retry_after(counters);
        break;
    case ERROR_INVALID:
        set(err, 400, "invalid_request_error", "invalid_value", "%s", cause->message);
        break;
    case ERROR_UNSUPPORTED:
        set(err, 400, "invalid_request_error", "unsupported_parameter", "%s", cause->message);
        break;
    case ERROR_MEMORY:
        return api_error_out_of_memory(err);
    default:
        set(err, 500, "server_error", NULL, "the server failed to carry out the request");
        break;
    }
    return cause->code;
}

int api_error_out_of_memory(struct api_error *err)
{
    set(err, 500, "server_error", NULL, "the server is out of memory; ask again later");
    return ERROR_MEMORY;
}

static void append_text_or_null(struct buffer *out, const char *text)
{
    if (text) {
        log_append_json_string(out, text, strlen(text));
    } else {
        buffer_append_text(out, "null");
    }
}

void api_error_body(struct buffer *out, const char *type, const char *param, const char *code,
                    const char *message)
{
    buffer_append_text(out, "{\"error\":{\"message\":");
    append_text_or_null(out, message);
    buffer_append_text(out, ",\"type\":");
    append_text_or_null(out, type);
    buffer_append_text(out, ",\"param\":");
    append_text_or_null(out, param);
    buffer_append_text(out, ",\"code\":");
    append_text_or_null(out, code);
    buffer_append_text(out, "}}");
}

void api_error_append(struct buffer *out, const struct api_error *err)
{
    api_error_body(out, err->type, err->param[0] ? err->param : NULL, err->code, err->message);
}

#include "common/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/buffer.h"
#include "common/clock.h"
#include "common/utf8.h"

static const char *const LEVEL_NAMES[] = {"debug", "info", "warning", "error"};
enum { LEVELS = sizeof LEVEL_NAMES / sizeof LEVEL_NAMES[0] };

static atomic_int configured_level = LOG_INFO;
static atomic_int configured_format = LOG_TEXT;

void log_configure(enum log_level level, enum log_format format)
{
    atomic_store_explicit(&configured_format, format, memory_order_relaxed);
    log_set_level(level);
}

void log_set_level(enum log_level level)
{
    atomic_store_explicit(&configured_level, level, memory_order_relaxed);
}

int log_level_from_name(const char *name)
{
    for (int level = 0; level < LEVELS; level++) {
        if (strcmp(name, LEVEL_NAMES[level]) == 0) {
            return level;
        }
    }
    return -1;
}

void log_append_json_string(struct buffer *out, const char *text, size_t length)
{
    buffer_append_char(out, '"');
    size_t offset = 0;
    while (offset < length) {
        uint32_t code_point;
        int step = utf8_next(text + offset, length - offset, &code_point);
        size_t bytes = (size_t)(step < 0 ? -step : step);
        if (step < 0) {
            utf8_append_repaired(out, text + offset, bytes);
        } else if (code_point == '"' || code_point == '\\') {
            buffer_append_char(out, '\\');
            buffer_append_char(out, (char)code_point);
        } else if (code_point == '\n') {
            buffer_append_text(out, "\\n");
        } else if (code_point == '\r') {
            buffer_append_text(out, "\\r");
        } else if (code_point == '\t') {
            buffer_append_text(out, "\\t");
        } else if (code_point < 0x20 || code_point == 0x7F) {
            buffer_format(out, "\\u%04x", (unsigned)code_point);
        } else {
            buffer_append(out, text + offset, bytes);
        }
        offset += bytes;
    }
    buffer_append_char(out, '"');
}

/* 2026-01-31T12:00:00.000Z */
static void append_time(struct buffer *line)
{
    int64_t now = clock_wall_us();
    time_t seconds = (time_t)(now / 1000000);
    struct tm parts = {0};
    gmtime_r(&seconds, &parts);
    buffer_format(line, "%04d-%02d-%02dT%02d:%02d:%02d.%03dZ", parts.tm_year + 1900,
                  parts.tm_mon + 1, parts.tm_mday, parts.tm_hour, parts.tm_min, parts.tm_sec,
                  (int)(now / 1000 % 1000));
}

/* A message may quote what a client sent: no control character reaches the terminal. */
static void append_plain(struct buffer *line, const char *message)
{
    for (const char *c = message; *c != '\0'; c++) {
        bool control = (unsigned char)*c < 0x20 || *c == 0x7F;
        buffer_append_char(line, control ? ' ' : *c);
    }
}

static void write_all(const char *bytes, size_t length)
{
    while (length > 0) {
        ssize_t written = write(STDERR_FILENO, bytes, length);
        if (written < 0 && errno != EINTR) {
            return; /* nowhere left to report it */
        }
        if (written > 0) {
            bytes += written;
            length -= (size_t)written;
        }
    }
}

void log_line(enum log_level level, const char *message, const char *fields, ...)
{
    if ((int)level < atomic_load_explicit(&configured_level, memory_order_relaxed)) {
        return;
    }
    bool json = atomic_load_explicit(&configured_format, memory_order_relaxed) == LOG_JSON;
    int saved_errno = errno;
    struct buffer line = {0};
    if (json) {
        buffer_append_text(&line, "{\"time\":\"");
        append_time(&line);
        buffer_format(&line, "\",\"level\":\"%s\",\"message\":", LEVEL_NAMES[level]);
        log_append_json_string(&line, message, strlen(message));
    } else {
        append_time(&line);
        buffer_format(&line, " %s: ", LEVEL_NAMES[level]);
        append_plain(&line, message);
    }
    if (fields != NULL) {
        buffer_append_char(&line, json ? ',' : ' ');
        va_list arguments;
        va_start(arguments, fields);
        buffer_format_list(&line, fields, arguments);
        va_end(arguments);
    }
    buffer_append_text(&line, json ? "}\n" : "\n");
    if (line.failed) {
        static const char LOST[] =
            "{\"level\":\"error\",\"message\":\"log line lost: no memory\"}\n";
        write_all(LOST, sizeof LOST - 1);
    } else {
        write_all(line.data, line.length);
    }
    buffer_free(&line);
    errno = saved_errno;
}

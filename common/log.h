/*
 * Log lines on stderr, one write(2) per line, JSON or text. Any thread. The engine's tick never
 * logs. Fields come as printf pieces of a JSON object: log_line(LOG_INFO, "listening",
 * "\"port\":%d", port). Text form prints the same fields after the message.
 */
#ifndef COMMON_LOG_H
#define COMMON_LOG_H

#include <stddef.h>

struct buffer;

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARNING, LOG_ERROR };
enum log_format { LOG_TEXT, LOG_JSON };

void log_configure(enum log_level level, enum log_format format);
/* SIGHUP changes the level alone. */
void log_set_level(enum log_level level);
/* -1 for a name that is none of debug, info, warning, error. */
int log_level_from_name(const char *name);

/* `fields` is NULL or a printf format of comma-separated "key":value pairs, already valid JSON. */
void log_line(enum log_level level, const char *message, const char *fields, ...)
    __attribute__((format(printf, 3, 4)));

/* Appends text as a JSON string with quotes; invalid UTF-8 becomes U+FFFD. */
void log_append_json_string(struct buffer *out, const char *text, size_t length);

#endif

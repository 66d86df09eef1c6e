/*
 * What libmicrohttpd says of its own accord. Requests that it refuses before this program sees them
 * get a page of its own, HTML instead of an error object, which no option changes; so that they are
 * not lost they are counted (path "other") and leave a line in the log. Everything else that it
 * says is a line of the level debug. Any thread.
 */
#ifndef SERVER_HTTP_LIBRARY_LOG_H
#define SERVER_HTTP_LIBRARY_LOG_H

#include <stdarg.h>

/* MHD_OPTION_EXTERNAL_LOGGER; the context is the struct http_server. */
void library_log(void *context, const char *format, va_list arguments)
    __attribute__((format(printf, 2, 0)));

#endif

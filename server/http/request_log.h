/* The log line of a request. HTTP thread of its connection. */
#ifndef SERVER_HTTP_REQUEST_LOG_H
#define SERVER_HTTP_REQUEST_LOG_H

#include <stdbool.h>
#include <stddef.h>

#include "server/http/exchange.h"

enum { STATUS_CLIENT_LEFT = 499 }; /* in log and metrics only, where no response was begun */

/* Keeps some of what was received or sent for the line, where log_prompts asks for it. */
void request_log_note(const struct exchange *exchange, struct buffer *text, const char *bytes,
                      size_t length);

void request_log_write(const struct exchange *exchange, bool completed);

#endif

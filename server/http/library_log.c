#include "server/http/library_log.h"

#include <stdio.h>
#include <string.h>

#include "common/buffer.h"
#include "common/log.h"
#include "server/http/server.h"

/* libmicrohttpd 0.9.75 says it in these words, with the status and then the page. */
static const char refused[] = "Error processing request (HTTP response code is %d";

void library_log(void *context, const char *format, va_list arguments)
{
    struct http_server *server = context;
    struct buffer text = {0};
    char message[500];
    int status;

    vsnprintf(message, sizeof message, format, arguments);
    message[strcspn(message, "\n")] = '\0';
    if (sscanf(message, refused, &status) == 1) {
        tally_count_untimed(&server->tally, route_index(NULL), status);
        log_line(LOG_INFO, "a malformed request was refused by the HTTP library", "\"status\":%d",
                 status);
        return;
    }
    log_append_json_string(&text, message, strlen(message));
    if (!text.failed)
        log_line(LOG_DEBUG, "HTTP library", "\"message\":%s", text.data);
    buffer_free(&text);
}

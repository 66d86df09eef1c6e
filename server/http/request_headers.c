#include "server/http/request_headers.h"

#include <ctype.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "common/rng.h"

static const char *header(struct MHD_Connection *connection, const char *name)
{
    return MHD_lookup_connection_value(connection, MHD_HEADER_KIND, name);
}

static bool is_request_id(const char *text)
{
    size_t length = 0;

    for (; text[length] != '\0'; length++) {
        if (length == REQUEST_ID_MAX || text[length] <= ' ' || text[length] > '~')
            return false;
    }
    return length > 0;
}

void request_headers_id(struct MHD_Connection *connection, char out[REQUEST_ID_MAX + 1])
{
    const char *given = header(connection, "x-request-id");

    if (given != NULL && is_request_id(given))
        snprintf(out, REQUEST_ID_MAX + 1, "%s", given);
    else
        snprintf(out, REQUEST_ID_MAX + 1, "req-%014llx", (unsigned long long)rng_random_seed());
}

bool request_headers_framing_ok(struct MHD_Connection *connection)
{
    const char *encoding = header(connection, MHD_HTTP_HEADER_TRANSFER_ENCODING);

    return encoding == NULL || (strcasecmp(encoding, "chunked") == 0 &&
                                header(connection, MHD_HTTP_HEADER_CONTENT_LENGTH) == NULL);
}

bool request_headers_too_long(struct MHD_Connection *connection, size_t max_body_bytes)
{
    const char *length = header(connection, MHD_HTTP_HEADER_CONTENT_LENGTH);

    /* libmicrohttpd has refused what is not a number or does not fit 64 bits. */
    return length != NULL && strtoull(length, NULL, 10) > max_body_bytes;
}

bool request_headers_expect(struct MHD_Connection *connection)
{
    return header(connection, MHD_HTTP_HEADER_EXPECT) != NULL;
}

bool request_headers_json(struct MHD_Connection *connection)
{
    static const char JSON[] = "application/json";
    const char *type = header(connection, MHD_HTTP_HEADER_CONTENT_TYPE);
    const char *coding = header(connection, MHD_HTTP_HEADER_CONTENT_ENCODING);

    if (type == NULL || strncasecmp(type, JSON, strlen(JSON)) != 0)
        return false;
    char behind = type[strlen(JSON)];
    return (behind == '\0' || behind == ';' || isspace((unsigned char)behind)) &&
           (coding == NULL || strcasecmp(coding, "identity") == 0);
}

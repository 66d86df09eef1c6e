#include "server/http/cors.h"

#include <string.h>

#include "server/http/response.h"

static const char ASKED[] = "Authorization, Content-Type, X-Request-Id";
static const char SHOWN[] = "Retry-After, x-request-id, x-denoised-queue-ms, x-denoised-compute-ms";

static bool is_any(const char *origins)
{
    return strcmp(origins, "*") == 0;
}

bool cors_allows(const char *origins, const char *origin)
{
    if (origins == NULL || origin == NULL)
        return false;
    if (is_any(origins))
        return true;
    for (const char *at = origins; *at != '\0';) {
        at += strspn(at, ", ");
        size_t length = strcspn(at, ", ");
        if (length > 0 && strlen(origin) == length && strncmp(at, origin, length) == 0)
            return true;
        at += length;
    }
    return false;
}

static const char *header(struct MHD_Connection *connection, const char *name)
{
    return MHD_lookup_connection_value(connection, MHD_HEADER_KIND, name);
}

bool cors_is_preflight(const char *origins, struct MHD_Connection *connection, const char *method)
{
    return strcmp(method, MHD_HTTP_METHOD_OPTIONS) == 0 &&
           header(connection, "Access-Control-Request-Method") != NULL &&
           cors_allows(origins, header(connection, MHD_HTTP_HEADER_ORIGIN));
}

bool cors_add_headers(const char *origins, struct MHD_Connection *connection, const char *methods,
                      struct MHD_Response *response)
{
    if (origins == NULL)
        return true;
    const char *origin = header(connection, MHD_HTTP_HEADER_ORIGIN);
    bool complete = true;
    /* A cache must not give one page the answer that names another. */
    if (!is_any(origins))
        complete &= response_header(response, MHD_HTTP_HEADER_VARY, "Origin");
    if (!cors_allows(origins, origin))
        return complete;
    complete &= response_header(response, "Access-Control-Allow-Origin", "%s",
                                is_any(origins) ? "*" : origin);
    complete &= response_header(response, "Access-Control-Expose-Headers", "%s", SHOWN);
    if (methods == NULL)
        return complete;
    complete &= response_header(response, "Access-Control-Allow-Methods", "%s", methods);
    complete &= response_header(response, "Access-Control-Allow-Headers", "%s", ASKED);
    return complete & response_header(response, "Access-Control-Max-Age", "600");
}

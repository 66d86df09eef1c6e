/* Which paths there are, what may be done with them, and the answers that need no engine. */
#ifndef SERVER_HTTP_ROUTES_H
#define SERVER_HTTP_ROUTES_H

#include <stdbool.h>

#include "server/http/response.h"

struct api;

enum route_kind {
    ROUTE_CALL,   /* POST: the JSON body goes through the API */
    ROUTE_HEALTH, /* the process works */
    ROUTE_READY,  /* a request sent now would be accepted */
    ROUTE_MODELS,
    ROUTE_MODEL,
};

struct route {
    const char *path;
    enum route_kind kind;
    int endpoint;      /* enum api_endpoint of a ROUTE_CALL */
    const char *allow; /* methods, as the Allow header lists them */
};

/* NULL for an unknown path. */
const struct route *route_find(const char *path);
bool route_allows(const struct route *route, const char *method);

/* Makes the answer to a GET of any route but ROUTE_CALL. `draining` is the listener's own state. */
void route_answer(const struct route *route, const char *path, const struct api *api, bool draining,
                  struct answer *answer);

#endif

/* Which paths there are, what may be done with them, and the answers that need no engine. */
#ifndef SERVER_HTTP_ROUTES_H
#define SERVER_HTTP_ROUTES_H

#include <stdbool.h>

#include "server/http/response.h"

struct exchange;

enum route_kind {
    ROUTE_CALL,   /* POST: the JSON body goes through the API */
    ROUTE_HEALTH, /* the process works */
    ROUTE_READY,  /* a request sent now would be accepted */
    ROUTE_MODELS,
    ROUTE_MODEL,
    ROUTE_VERSION,
    ROUTE_PROPS,
    ROUTE_METRICS,
    ROUTE_CANCEL, /* POST: ends the call that is named in the path */
};

struct route {
    const char *path;
    enum route_kind kind;
    int endpoint;      /* enum api_endpoint of a ROUTE_CALL */
    const char *allow; /* methods, as the Allow header lists them */
    bool open;         /* needs no API key */
};

enum { ROUTE_COUNT = 16 };

/* Place in the table, for counting: [0, ROUTE_COUNT); NULL (an unknown path) is the last. */
int route_index(const struct route *route);
/* Its path as a label: "/v1/models/{id}"; "other" for the last. */
const char *route_label(int index);

/* path: as request_path_normalise writes it. NULL for an unknown one. */
const struct route *route_find(const char *path);
bool route_allows(const struct route *route, const char *method);

/* Makes the answer of an exchange on any route but ROUTE_CALL. */
void route_answer(struct exchange *exchange);

#endif

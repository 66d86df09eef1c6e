/* Counting requests by path and status, and their time. Any thread, without locks. */
#ifndef SERVER_HTTP_TALLY_H
#define SERVER_HTTP_TALLY_H

#include <stdatomic.h>
#include <stdint.h>

#include "common/metrics.h"
#include "server/http/routes.h"

struct buffer;

enum { TALLY_STATUSES = 17 };

/* A zeroed struct is empty. */
struct tally {
    atomic_uint_least64_t requests[ROUTE_COUNT][TALLY_STATUSES];
    struct histogram seconds; /* from arrival to the last byte */
};

/* route: as route_index gives it. */
void tally_count(struct tally *tally, int route, int status, int64_t microseconds);
/* The same for a request whose time nobody knows. */
void tally_count_untimed(struct tally *tally, int route, int status);
void tally_append_metrics(const struct tally *tally, struct buffer *out);

#endif

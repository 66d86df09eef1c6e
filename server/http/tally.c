#include "server/http/tally.h"

#include <stdio.h>

/* 0: any other. 499: the client left before its answer began. */
static const int STATUSES[TALLY_STATUSES] = {200, 204, 400, 401, 404, 405, 408, 413, 414,
                                             415, 429, 431, 499, 500, 503, 505, 0};

void tally_count_untimed(struct tally *tally, int route, int status)
{
    int i = 0;

    while (STATUSES[i] != status && STATUSES[i] != 0)
        i++;
    atomic_fetch_add_explicit(&tally->requests[route][i], 1, memory_order_relaxed);
}

void tally_count(struct tally *tally, int route, int status, int64_t microseconds)
{
    tally_count_untimed(tally, route, status);
    histogram_observe_us(&tally->seconds, microseconds);
}

void tally_append_metrics(const struct tally *tally, struct buffer *out)
{
    char labels[120], status[8];

    metrics_append_head(out, "denoised_http_requests_total", "counter",
                        "Requests by path and status; 499: the client left before its answer.");
    for (int route = 0; route < ROUTE_COUNT; route++) {
        for (int i = 0; i < TALLY_STATUSES; i++) {
            uint64_t count = atomic_load_explicit(&tally->requests[route][i], memory_order_relaxed);
            if (count == 0)
                continue;
            snprintf(status, sizeof status, STATUSES[i] != 0 ? "%d" : "other", STATUSES[i]);
            snprintf(labels, sizeof labels, "path=\"%s\",status=\"%s\"", route_label(route),
                     status);
            metrics_append_value(out, "denoised_http_requests_total", labels, (double)count);
        }
    }
    metrics_append_head(out, "denoised_http_request_seconds", "histogram",
                        "From a request's arrival to the last byte of its response.");
    metrics_append_histogram(out, "denoised_http_request_seconds", NULL, &tally->seconds);
}

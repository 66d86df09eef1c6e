/*
 * Measuring: histograms that any thread may observe without a lock, and Prometheus' text form
 * (exposition format 0.0.4). Whoever owns numbers keeps them in plain atomics and writes them out
 * with the functions below.
 */
#ifndef COMMON_METRICS_H
#define COMMON_METRICS_H

#include <stdatomic.h>
#include <stdint.h>

struct buffer;

enum { HISTOGRAM_BUCKETS = 16 };

/* Seconds, in powers of about two from 100 us up. A zeroed struct is empty. */
struct histogram {
    atomic_uint_least64_t counts[HISTOGRAM_BUCKETS + 1]; /* the last: above every bound */
    atomic_uint_least64_t sum_us;
};

void histogram_observe_us(struct histogram *histogram, int64_t microseconds);

/* "# HELP" and "# TYPE" lines; type is "counter", "gauge" or "histogram". */
void metrics_append_head(struct buffer *out, const char *name, const char *type, const char *help);

/* One sample; labels is NULL or `a="b",c="d"` with values already escaped. */
void metrics_append_value(struct buffer *out, const char *name, const char *labels, double value);

/* All series of a histogram: name_bucket, name_sum, name_count. */
void metrics_append_histogram(struct buffer *out, const char *name, const char *labels,
                              const struct histogram *histogram);

/* A label value with \, " and newline escaped. */
void metrics_append_escaped(struct buffer *out, const char *text);

#endif

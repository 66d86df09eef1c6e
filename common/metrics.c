#include "common/metrics.h"

#include <stddef.h>

#include "common/buffer.h"

/* 100 us, 200 us, 500 us, 1 ms, ... 10 s: three to a decade, so that a reader can name them. */
static const int64_t BOUNDS_US[HISTOGRAM_BUCKETS] = {
    100,   200,    500,    1000,   2000,    5000,    10000,   20000,
    50000, 100000, 200000, 500000, 1000000, 2000000, 5000000, 10000000};

void histogram_observe_us(struct histogram *histogram, int64_t microseconds)
{
    int bucket = 0;

    while (bucket < HISTOGRAM_BUCKETS && microseconds > BOUNDS_US[bucket])
        bucket++;
    atomic_fetch_add_explicit(&histogram->counts[bucket], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&histogram->sum_us, microseconds > 0 ? (uint64_t)microseconds : 0,
                              memory_order_relaxed);
}

static uint64_t bucket_count(const struct histogram *histogram, int bucket)
{
    return atomic_load_explicit(&histogram->counts[bucket], memory_order_relaxed);
}

void metrics_append_head(struct buffer *out, const char *name, const char *type, const char *help)
{
    buffer_format(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

void metrics_append_value(struct buffer *out, const char *name, const char *labels, double value)
{
    buffer_append_text(out, name);
    if (labels != NULL)
        buffer_format(out, "{%s}", labels);
    buffer_format(out, " %.15g\n", value);
}

void metrics_append_histogram(struct buffer *out, const char *name, const char *labels,
                              const struct histogram *histogram)
{
    const char *comma = labels != NULL ? "," : "";
    const char *given = labels != NULL ? labels : "";
    uint64_t count = 0;

    for (int i = 0; i < HISTOGRAM_BUCKETS; i++) {
        count += bucket_count(histogram, i);
        buffer_format(out, "%s_bucket{%s%sle=\"%g\"} %llu\n", name, given, comma,
                      (double)BOUNDS_US[i] * 1e-6, (unsigned long long)count);
    }
    count += bucket_count(histogram, HISTOGRAM_BUCKETS);
    buffer_format(out, "%s_bucket{%s%sle=\"+Inf\"} %llu\n", name, given, comma,
                  (unsigned long long)count);
    buffer_format(out, labels != NULL ? "%s_sum{%s} %.15g\n" : "%s_sum%s %.15g\n", name, given,
                  (double)atomic_load_explicit(&histogram->sum_us, memory_order_relaxed) * 1e-6);
    buffer_format(out, labels != NULL ? "%s_count{%s} %llu\n" : "%s_count%s %llu\n", name, given,
                  (unsigned long long)count);
}

void metrics_append_escaped(struct buffer *out, const char *text)
{
    for (; *text != '\0'; text++) {
        if (*text == '\\' || *text == '"')
            buffer_append_char(out, '\\');
        if (*text == '\n')
            buffer_append_text(out, "\\n");
        else
            buffer_append_char(out, *text);
    }
}

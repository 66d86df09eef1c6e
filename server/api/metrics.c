/* The engine's numbers and the build in Prometheus' text form. */
#include "common/metrics.h"

#include <stdio.h>

#include "common/buffer.h"
#include "server/api/api.h"
#include "server/engine/engine.h"

static void append_sample(struct buffer *out, const char *name, const char *type, const char *help,
                          double value)
{
    metrics_append_head(out, name, type, help);
    metrics_append_value(out, name, NULL, value);
}

static void append_label(struct buffer *labels, const char *name, const char *value)
{
    buffer_format(labels, "%s%s=\"", labels->length > 0 ? "," : "", name);
    metrics_append_escaped(labels, value ? value : "");
    buffer_append_char(labels, '"');
}

static void append_build(struct buffer *out, const struct api *api)
{
    struct buffer labels = {0};
    append_label(&labels, "version", api->version);
    append_label(&labels, "model", api->model_name);
    append_label(&labels, "device", api->device);
    append_label(&labels, "dtype", api->dtype);
    metrics_append_head(out, "denoised_build_info", "gauge", "What runs here; always 1.");
    metrics_append_value(out, "denoised_build_info", labels.data, 1);
    out->failed |= labels.failed;
    buffer_free(&labels);
    append_sample(out, "denoised_start_time_seconds", "gauge",
                  "When the server was started, in seconds since 1970.", (double)api->created);
}

static void append_memory(struct buffer *out, const struct model_memory *memory)
{
    static const char name[] = "denoised_memory_bytes";
    metrics_append_head(out, name, "gauge",
                        "Memory of the device that was taken at start, by use.");
    metrics_append_value(out, name, "use=\"weights\"", (double)(memory->weights + memory->norms));
    metrics_append_value(out, name, "use=\"kv_pool\"", (double)memory->kv_pool);
    metrics_append_value(out, name, "use=\"activations\"", (double)memory->activations);
}

static void append_gauges(struct buffer *out, const struct engine_counters *counters)
{
    double pages = counters->kv_pages_total;
    const struct {
        const char *name, *help;
        double value;
    } gauges[] = {
        {"denoised_num_requests_waiting", "Sequences that wait for a place.", counters->waiting},
        {"denoised_num_requests_running", "Sequences that are being refined.", counters->running},
        {"denoised_max_sequences", "Sequences that can run at the same time.",
         counters->max_sequences},
        {"denoised_queue_limit", "Sequences that can wait beyond those.", counters->queue_limit},
        {"denoised_kv_cache_usage_ratio", "Share of the KV pages in use, 0 to 1.",
         pages > 0 ? counters->kv_pages_used / pages : 0},
        {"denoised_kv_pages_used", "KV pages in use.", counters->kv_pages_used},
        {"denoised_kv_pages_total", "KV pages of the pool.", pages},
        {"denoised_draining", "1 while new requests are refused.", counters->draining},
        {"denoised_device_lost", "1 after the device has failed.", counters->device_lost},
    };
    for (size_t i = 0; i < sizeof gauges / sizeof gauges[0]; i++) {
        append_sample(out, gauges[i].name, "gauge", gauges[i].help, gauges[i].value);
    }
}

static void append_counters(struct buffer *out, const struct engine_counters *counters)
{
    const struct {
        const char *name, *help;
        double value;
    } totals[] = {
        {"denoised_ticks_total", "Batched forward passes.", (double)counters->ticks},
        {"denoised_rows_total", "Rows of those.", (double)counters->rows},
        {"denoised_rounds_total", "Refinement rounds of all sequences.", (double)counters->rounds},
        {"denoised_committed_tokens_total", "Masked positions that received a token.",
         (double)counters->committed_tokens},
        {"denoised_revised_tokens_total", "Committed positions that changed again.",
         (double)counters->revised_tokens},
        {"denoised_finished_total", "Requests that the engine finished.",
         (double)counters->finished},
        {"denoised_cancelled_total", "Requests that were ended before.",
         (double)counters->cancelled},
        {"denoised_rejected_total", "Requests that the engine refused.",
         (double)counters->rejected},
        {"denoised_deadline_misses_total", "Requests that finished behind their deadline.",
         (double)counters->deadline_misses},
        {"denoised_forward_seconds_total", "Time inside forward passes.",
         (double)counters->forward_us / 1e6},
        {"denoised_busy_seconds_total", "Time inside ticks that had rows.",
         (double)counters->tick_us / 1e6},
    };
    for (size_t i = 0; i < sizeof totals / sizeof totals[0]; i++) {
        append_sample(out, totals[i].name, "counter", totals[i].help, totals[i].value);
    }
}

static void append_rows(struct buffer *out, const struct engine_histograms *histograms, double sum)
{
    static const char name[] = "denoised_rows_per_tick";
    uint64_t count = 0;
    metrics_append_head(out, name, "histogram", "Rows of a tick.");
    for (int i = 0; i <= ENGINE_ROW_BUCKETS; i++) {
        count += atomic_load_explicit(&histograms->rows[i], memory_order_relaxed);
        char bound[32];
        snprintf(bound, sizeof bound, i < ENGINE_ROW_BUCKETS ? "le=\"%lld\"" : "le=\"+Inf\"",
                 1LL << (i % 63));
        metrics_append_value(out, "denoised_rows_per_tick_bucket", bound, (double)count);
    }
    metrics_append_value(out, "denoised_rows_per_tick_sum", NULL, sum);
    metrics_append_value(out, "denoised_rows_per_tick_count", NULL, (double)count);
}

static void append_histograms(struct buffer *out, const struct engine_histograms *histograms)
{
    metrics_append_head(out, "denoised_tick_seconds", "histogram",
                        "Time of a tick that had rows, by phase.");
    metrics_append_histogram(out, "denoised_tick_seconds", "phase=\"pack\"", &histograms->pack);
    metrics_append_histogram(out, "denoised_tick_seconds", "phase=\"forward\"",
                             &histograms->forward);
    metrics_append_histogram(out, "denoised_tick_seconds", "phase=\"select\"", &histograms->select);
    metrics_append_head(out, "denoised_time_to_first_draft_seconds", "histogram",
                        "From a request's arrival to its first draft.");
    metrics_append_histogram(out, "denoised_time_to_first_draft_seconds", NULL,
                             &histograms->first_draft);
    metrics_append_head(out, "denoised_time_to_answer_seconds", "histogram",
                        "From a request's arrival to the end of its decoding.");
    metrics_append_histogram(out, "denoised_time_to_answer_seconds", NULL, &histograms->answer);
}

void api_append_metrics(const struct api *api, struct buffer *out)
{
    struct engine_counters counters = engine_counters_read(api->engine);
    const struct engine_histograms *histograms = engine_histograms(api->engine);
    append_build(out, api);
    append_memory(out, &api->memory);
    append_gauges(out, &counters);
    append_counters(out, &counters);
    append_rows(out, histograms, (double)counters.rows);
    append_histograms(out, histograms);
}

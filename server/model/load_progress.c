#include "server/model/load_progress.h"

#include <stdio.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/log.h"

enum {
    SILENT_US = 1000000, /* loading that is over by then says nothing */
    TERMINAL_US = 200000,
    LOG_US = 10000000,
};

void load_progress_begin(struct load_progress *progress, size_t total)
{
    *progress = (struct load_progress){
        .total = total, .started_us = clock_now_us(), .on_terminal = isatty(STDERR_FILENO) == 1};
    progress->shown_us = progress->started_us + SILENT_US - LOG_US;
}

void load_progress_text(char *out, size_t size, const struct load_progress *progress,
                        int64_t elapsed_us)
{
    double total = (double)progress->total, done = (double)progress->done;
    double seconds = elapsed_us > 0 ? (double)elapsed_us * 1e-6 : 1e-6;

    bool small = total < 1e9;
    double unit = small ? 1e-6 : 1e-9;
    const char *name = small ? "MB" : "GB";
    snprintf(out, size, "loading: %.0f %%, %.1f of %.1f %s, %.1f %s/s",
             total > 0 ? 100 * done / total : 100, done * unit, total * unit, name,
             done * unit / seconds, name);
}

void load_progress_add(struct load_progress *progress, size_t bytes)
{
    int64_t now_us = clock_now_us(), pause_us = progress->on_terminal ? TERMINAL_US : LOG_US;
    char text[100];

    progress->done += bytes;
    if (now_us - progress->started_us < SILENT_US || now_us - progress->shown_us < pause_us)
        return;
    progress->shown_us = now_us;
    progress->shown = true;
    load_progress_text(text, sizeof text, progress, now_us - progress->started_us);
    if (progress->on_terminal)
        fprintf(stderr, "\r%s ", text);
    else
        log_line(LOG_INFO, text, NULL);
}

void load_progress_end(struct load_progress *progress)
{
    int64_t elapsed_us = clock_now_us() - progress->started_us;
    char text[100];

    if (elapsed_us < SILENT_US)
        return;
    progress->shown = true;
    load_progress_text(text, sizeof text, progress, elapsed_us);
    if (progress->on_terminal)
        fprintf(stderr, "\r%s \n", text);
    else
        log_line(LOG_INFO, text, NULL);
}

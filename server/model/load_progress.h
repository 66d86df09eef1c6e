/*
 * How far loading has come, on stderr, where it takes long enough to be asked about: on a terminal
 * one line that is written over, else a log line now and then, and one at the end. One thread.
 */
#ifndef SERVER_MODEL_LOAD_PROGRESS_H
#define SERVER_MODEL_LOAD_PROGRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct load_progress {
    size_t total, done; /* bytes of the checkpoint */
    int64_t started_us, shown_us;
    bool on_terminal, shown;
};

void load_progress_begin(struct load_progress *progress, size_t total);
void load_progress_add(struct load_progress *progress, size_t bytes);
void load_progress_end(struct load_progress *progress);

/* "loading: 42 %, 6.7 of 16.0 GB, 2.1 GB/s" after so many microseconds. */
void load_progress_text(char *out, size_t size, const struct load_progress *progress,
                        int64_t elapsed_us);

#endif

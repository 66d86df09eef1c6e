/*
 * The program as a shell starts it, with what it writes and its exit status. For tests: a system
 * call that fails ends the test.
 */
#ifndef TESTS_HTTP_PROGRAM_H
#define TESTS_HTTP_PROGRAM_H

#include <stdbool.h>
#include <sys/types.h>

#include "common/buffer.h"

struct outcome {
    int status; /* exit status; -1: ended by a signal */
    struct buffer out, log;
};

void outcome_free(struct outcome *outcome);

/* Starts the program with these arguments (NULL-terminated); it has a time limit. */
pid_t program_start(const char *const *arguments, int out, int log);
int program_finish(pid_t pid); /* the exit status, as in struct outcome */

/* A file in memory to write to, and all that was written to such a file, which is closed. */
int output_open(void);
struct buffer output_read(int fd);

/* With stdout and stderr in files. */
struct outcome program_run(const char *const *arguments);

#define RUN(...) program_run((const char *const[]){__VA_ARGS__, NULL})

bool output_contains(const struct buffer *text, const char *what);
size_t output_lines(const struct buffer *text);

#endif

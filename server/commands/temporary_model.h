/*
 * A folder for a model that was made for a benchmark. It goes away with this process, however that
 * ends: a small process beside it waits for the end and removes it. One thread.
 */
#ifndef SERVER_COMMANDS_TEMPORARY_MODEL_H
#define SERVER_COMMANDS_TEMPORARY_MODEL_H

#include <limits.h>
#include <sys/types.h>

struct error;

struct temporary_model {
    char directory[PATH_MAX];
    int lifeline; /* open as long as the model is needed */
    pid_t guard;
};

/* Makes the empty folder, in TMPDIR or /tmp. ERROR_IO. */
int temporary_model_create(struct temporary_model *model, struct error *err);

/* Removes it with what a model consists of; returns when that is done. */
void temporary_model_remove(struct temporary_model *model);

#endif

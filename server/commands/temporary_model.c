#include "server/commands/temporary_model.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/error.h"

/* A child of a process that may have threads: only calls that are safe there. No signal ends it. */
static void guard(const char *directory, int folder, int lifeline)
{
    static const char *const files[] = {"tokenizer.json", "config.json", "model.safetensors"};
    char end;

    while (read(lifeline, &end, 1) < 0 && errno == EINTR)
        continue;
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        unlinkat(folder, files[i], 0);
    rmdir(directory);
    _exit(0);
}

int temporary_model_create(struct temporary_model *model, struct error *err)
{
    const char *parent = getenv("TMPDIR");
    int ends[2], folder = -1;
    sigset_t all, before;

    if (pipe2(ends, O_CLOEXEC) != 0)
        return error_set(err, ERROR_IO, "bench: no pipe: %s", strerror(errno));
    snprintf(model->directory, sizeof model->directory, "%s/denoised-bench-XXXXXX",
             parent != NULL ? parent : "/tmp");
    model->guard = -1;
    model->lifeline = ends[1];
    sigfillset(&all); /* Ctrl-C goes to all of a terminal's processes: blocked in the child */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    if (mkdtemp(model->directory) != NULL)
        folder = open(model->directory, O_DIRECTORY | O_CLOEXEC);
    if (folder >= 0)
        model->guard = fork();
    if (model->guard == 0) {
        close(ends[1]);
        guard(model->directory, folder, ends[0]);
    }
    int cause = errno;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    close(ends[0]);
    if (folder >= 0)
        close(folder);
    if (model->guard > 0)
        return 0;
    close(ends[1]);
    rmdir(model->directory);
    return error_set(err, ERROR_IO, "bench: no temporary directory %s can be made: %s",
                     model->directory, strerror(cause));
}

void temporary_model_remove(struct temporary_model *model)
{
    close(model->lifeline);
    while (waitpid(model->guard, NULL, 0) < 0 && errno == EINTR)
        continue;
}

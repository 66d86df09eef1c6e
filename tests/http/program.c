#include "tests/http/program.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { ARGUMENTS_MAX = 24, SECONDS_MAX = 120 };

void outcome_free(struct outcome *outcome)
{
    buffer_free(&outcome->out);
    buffer_free(&outcome->log);
}

pid_t program_start(const char *const *arguments, int out, int log)
{
    const char *binary = getenv("DENOISED_BINARY");
    const char *command[ARGUMENTS_MAX] = {binary != NULL ? binary : "build/release/denoised"};
    int count = 1;

    while (*arguments != NULL && count < ARGUMENTS_MAX - 1)
        command[count++] = *arguments++;
    pid_t pid = fork();
    if (pid != 0)
        return pid;
    alarm(SECONDS_MAX);
    dup2(out, STDOUT_FILENO);
    dup2(log, STDERR_FILENO);
    execv(command[0], (char *const *)(uintptr_t)command);
    perror(command[0]);
    _exit(127);
}

int program_finish(pid_t pid)
{
    int status = 0;

    cr_assert_eq(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

int output_open(void)
{
    int fd = memfd_create("output", MFD_CLOEXEC);

    cr_assert_geq(fd, 0);
    return fd;
}

struct buffer output_read(int fd)
{
    struct buffer all = {0};
    char bytes[4096];
    ssize_t length;

    lseek(fd, 0, SEEK_SET);
    while ((length = read(fd, bytes, sizeof bytes)) > 0)
        buffer_append(&all, bytes, (size_t)length);
    buffer_append(&all, "", 0);
    close(fd);
    return all;
}

struct outcome program_run(const char *const *arguments)
{
    int out = output_open(), log = output_open();
    int status = program_finish(program_start(arguments, out, log));

    return (struct outcome){status, output_read(out), output_read(log)};
}

bool output_contains(const struct buffer *text, const char *what)
{
    return text->data != NULL && strstr(text->data, what) != NULL;
}

size_t output_lines(const struct buffer *text)
{
    size_t lines = 0;

    for (size_t i = 0; i < text->length; i++)
        lines += text->data[i] == '\n';
    return lines;
}

/* The subcommands beside serve, as a shell and a terminal see them. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/buffer.h"

enum { ARGUMENTS_MAX = 24, SECONDS_MAX = 120 };

struct outcome {
    int status; /* exit status; -1: ended by a signal */
    struct buffer out, log;
};

static void outcome_free(struct outcome *outcome)
{
    buffer_free(&outcome->out);
    buffer_free(&outcome->log);
}

/* Starts the program with these arguments (NULL-terminated); it has a time limit. */
static pid_t start(const char *const *arguments, int out, int log)
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

static int finish(pid_t pid)
{
    int status = 0;

    cr_assert_eq(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static int open_memory(void)
{
    int fd = memfd_create("output", MFD_CLOEXEC);

    cr_assert_geq(fd, 0);
    return fd;
}

/* All that was written to such a file, which is closed. */
static struct buffer read_memory(int fd)
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

/* With stdout and stderr in files. */
static struct outcome run(const char *const *arguments)
{
    int out = open_memory(), log = open_memory();
    int status = finish(start(arguments, out, log));

    return (struct outcome){status, read_memory(out), read_memory(log)};
}

#define RUN(...) run((const char *const[]){__VA_ARGS__, NULL})
/* A short answer, for models/tiny. */
#define SHORT "--model", "models/tiny", "--max-tokens", "8", "--steps", "2", "--temperature", "0"

static bool contains(const struct buffer *text, const char *what)
{
    return text->data != NULL && strstr(text->data, what) != NULL;
}

static size_t count_lines(const struct buffer *text)
{
    size_t lines = 0;

    for (size_t i = 0; i < text->length; i++)
        lines += text->data[i] == '\n';
    return lines;
}

Test(generate, refuses_the_mask_token_in_a_prompt)
{
    struct outcome outcome = RUN("generate", SHORT, "a <|mdm_mask|> b");

    cr_expect_eq(outcome.status, 2);
    cr_expect_eq(outcome.out.length, 0, "%s", outcome.out.data);
    cr_expect(contains(&outcome.log, "holds the mask token (id 2)"), "%s", outcome.log.data);
    cr_expect_eq(count_lines(&outcome.log), 1, "%s", outcome.log.data);
    outcome_free(&outcome);
}

Test(generate, takes_the_name_of_the_mask_as_text_in_a_chat)
{
    struct outcome outcome = RUN("generate", "--chat", SHORT, "a <|mdm_mask|> b");

    cr_expect_eq(outcome.status, 0, "%s", outcome.log.data);
    outcome_free(&outcome);
}

Test(generate, refuses_a_prompt_that_is_no_utf_8)
{
    struct outcome outcome = RUN("generate", SHORT, "a \xff b");

    cr_expect_eq(outcome.status, 2);
    cr_expect(contains(&outcome.log, "UTF-8"), "%s", outcome.log.data);
    cr_expect_eq(count_lines(&outcome.log), 1, "%s", outcome.log.data);
    outcome_free(&outcome);
}

#define SAMPLED "--model", "models/tiny", "--max-tokens", "8", "--steps", "2", "--temperature", "1"

Test(generate, samples_the_same_text_from_the_seed_that_it_printed)
{
    struct outcome first = RUN("generate", SAMPLED, "One day");
    char seed[32] = "", flag[48];

    cr_assert_eq(first.status, 0, "%s", first.log.data);
    const char *printed = strstr(first.log.data, ", seed ");
    cr_assert_not_null(printed, "%s", first.log.data);
    cr_assert_eq(sscanf(printed, ", seed %31[0-9]", seed), 1);
    snprintf(flag, sizeof flag, "--seed=%s", seed);
    struct outcome second = RUN("generate", SAMPLED, flag, "One day");
    cr_expect_eq(second.status, 0, "%s", second.log.data);
    cr_expect_str_eq(second.out.data, first.out.data);
    cr_expect(contains(&second.log, seed), "%s", second.log.data);
    outcome_free(&first);
    outcome_free(&second);
}

Test(generate, prints_no_seed_where_nothing_is_sampled)
{
    struct outcome outcome = RUN("generate", SHORT, "One day");

    cr_expect_eq(outcome.status, 0, "%s", outcome.log.data);
    cr_expect(!contains(&outcome.log, "seed"), "%s", outcome.log.data);
    outcome_free(&outcome);
}

/* The exit status when nothing that is written arrives, with a message that says so. */
static void expect_full(const char *const *arguments)
{
    int out = open("/dev/full", O_WRONLY | O_CLOEXEC), log = open_memory();

    cr_assert_geq(out, 0);
    int status = finish(start(arguments, out, log));
    struct buffer message = read_memory(log);
    cr_expect_eq(status, 1, "%s: %d", arguments[0], status);
    cr_expect(contains(&message, "could not be written to stdout: "), "%s: %s", arguments[0],
              message.data);
    buffer_free(&message);
    close(out);
}

Test(program, output_that_cannot_be_written_is_exit_1)
{
    expect_full((const char *const[]){"generate", SHORT, "One day", NULL});
    expect_full((const char *const[]){"inspect", "models/tiny", NULL});
    expect_full((const char *const[]){"serve", "--print-config", NULL});
    expect_full((const char *const[]){"serve", "--help", NULL});
    expect_full((const char *const[]){"--help", NULL});
    expect_full((const char *const[]){"--version", NULL});
}

/* A directory of its own with this config.json and, of models/tiny, links to the named files. */
static void make_directory(char directory[PATH_MAX], const char *config, const char *const *files)
{
    char path[PATH_MAX + 64], target[PATH_MAX];

    snprintf(directory, PATH_MAX, "/tmp/denoised-test-XXXXXX");
    cr_assert_not_null(mkdtemp(directory));
    snprintf(path, sizeof path, "%s/config.json", directory);
    FILE *file = fopen(path, "w");
    cr_assert_not_null(file);
    cr_assert_geq(fputs(config, file), 0);
    fclose(file);
    for (; *files != NULL; files++) {
        snprintf(path, sizeof path, "models/tiny/%s", *files);
        cr_assert_not_null(realpath(path, target));
        snprintf(path, sizeof path, "%s/%s", directory, *files);
        cr_assert_eq(symlink(target, path), 0);
    }
}

static void remove_directory(const char *directory)
{
    static const char *const NAMES[] = {"config.json", "model.safetensors", "tokenizer.json"};
    char path[PATH_MAX + 64];

    for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++) {
        snprintf(path, sizeof path, "%s/%s", directory, NAMES[i]);
        unlink(path);
    }
    cr_expect_eq(rmdir(directory), 0);
}

/* The config of models/tiny with so many layers; the caller frees it. */
static char *tiny_config(int layers)
{
    json_t *config = json_load_file("models/tiny/config.json", 0, NULL);

    json_object_set_new(config, "n_layers", json_integer(layers));
    char *text = json_dumps(config, 0);
    cr_assert_not_null(text);
    json_decref(config);
    return text;
}

Test(inspect, shows_every_form_of_checkpoint)
{
    static const char *const FORMS[] = {"plain", "grouped", "tied", "int8"};
    char directory[64];

    for (size_t i = 0; i < sizeof FORMS / sizeof *FORMS; i++) {
        snprintf(directory, sizeof directory, "build/fixtures/llada/%s", FORMS[i]);
        struct outcome outcome = RUN("inspect", directory);
        cr_expect_eq(outcome.status, 0, "%s: %s", FORMS[i], outcome.log.data);
        cr_expect(contains(&outcome.out, "\nparameters "), "%s: %s", FORMS[i], outcome.out.data);
        cr_expect(contains(&outcome.out, "\nmemory needed "), "%s: %s", FORMS[i], outcome.out.data);
        cr_expect(contains(&outcome.log, "tokenizer.json is missing"), "%s: %s", FORMS[i],
                  outcome.log.data);
        outcome_free(&outcome);
    }
}

Test(inspect, says_after_the_listing_that_config_and_weights_do_not_belong_together)
{
    char directory[PATH_MAX];
    char *text = tiny_config(5);

    make_directory(directory, text,
                   (const char *const[]){"model.safetensors", "tokenizer.json", NULL});
    struct outcome outcome = RUN("inspect", directory);
    cr_expect_eq(outcome.status, 2);
    cr_expect(contains(&outcome.out, "\nmemory needed "), "%s", outcome.out.data);
    cr_expect(contains(&outcome.log, "do not belong together"), "%s", outcome.log.data);
    cr_expect_eq(count_lines(&outcome.log), 1, "%s", outcome.log.data);
    outcome_free(&outcome);
    remove_directory(directory);
    free(text);
}

Test(inspect, says_that_a_tokenizer_cannot_be_used)
{
    char directory[PATH_MAX], path[PATH_MAX + 64];
    char *text = tiny_config(6);

    make_directory(directory, text, (const char *const[]){"model.safetensors", NULL});
    snprintf(path, sizeof path, "%s/tokenizer.json", directory);
    FILE *file = fopen(path, "w");
    cr_assert_not_null(file);
    fputs("{}", file);
    fclose(file);
    struct outcome outcome = RUN("inspect", directory);
    cr_expect_eq(outcome.status, 2);
    cr_expect(contains(&outcome.log, "tokenizer.json"), "%s", outcome.log.data);
    outcome_free(&outcome);
    remove_directory(directory);
    free(text);
}

Test(inspect, names_a_model_type_that_it_does_not_know)
{
    char directory[PATH_MAX];

    make_directory(directory, "{\"model_type\": \"gpt_neox\"}", (const char *const[]){NULL});
    struct outcome outcome = RUN("inspect", directory);
    cr_expect_eq(outcome.status, 2);
    cr_expect(contains(&outcome.log, "model_type"), "%s", outcome.log.data);
    cr_expect(contains(&outcome.log, "gpt_neox"), "%s", outcome.log.data);
    outcome_free(&outcome);
    remove_directory(directory);
}

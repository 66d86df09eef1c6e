/* denoised: the program and its subcommands. */
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "common/error.h"
#include "common/log.h"
#include "server/commands/commands.h"
#include "server/settings/settings.h"

static const struct {
    const char *name, *arguments, *help;
    enum command command;
    int (*run)(struct settings *settings);
    int least_positional, most_positional;
} COMMANDS[] = {
    {"serve", "", "answer HTTP requests (what happens when no subcommand is named)", COMMAND_SERVE,
     command_serve, 0, 0},
    {"generate", "\"TEXT\"",
     "continue a text, or with --chat answer it; the draft refines in place", COMMAND_GENERATE,
     command_generate, 1, 1},
    {"bench", "[kernels|rounds]",
     "measure this program on this machine; kernels: each beside the CPU's peaks", COMMAND_BENCH,
     command_bench, 0, 1},
    {"inspect", "DIR", "show a model directory: config, tensors, sizes, memory needed",
     COMMAND_INSPECT, command_inspect, 0, 1},
};
enum { COMMAND_COUNT = sizeof COMMANDS / sizeof *COMMANDS };

static void print_usage(FILE *out)
{
    fprintf(out, "denoised %s: an HTTP server for diffusion language models\n\n", DENOISED_VERSION);
    for (int i = 0; i < COMMAND_COUNT; i++)
        fprintf(out, "  denoised %-9s %-9s %s\n", COMMANDS[i].name, COMMANDS[i].arguments,
                COMMANDS[i].help);
    fprintf(
        out,
        "\n  denoised SUBCOMMAND --help lists its flags. Each is also a key of the --config file\n"
        "  (max_tokens) and an environment variable (DENOISED_MAX_TOKENS); flags win, then the\n"
        "  environment, then the file. A first try, with the model that comes with the program:\n\n"
        "      denoised generate \"Once upon a time\"\n"
        "      denoised serve\n");
}

/* The exit status once all output is written: 1 where it could not be. */
static int finish_output(int status)
{
    bool flushed = fflush(stdout) == 0;

    if (flushed && !ferror(stdout))
        return status;
    /* What failed earlier is no longer in errno. */
    fprintf(stderr, "denoised: the output could not be written to stdout: %s\n",
            flushed ? "part of it is lost; is there space left?" : strerror(errno));
    return status != 0 ? status : 1;
}

static int run_command(int index, int argc, char **argv)
{
    struct settings settings;
    struct error err = {0};
    int status = 0;
    bool serves = false;

    if (settings_read(&settings, COMMANDS[index].command, argc, argv, &err) != 0) {
        fprintf(stderr, "denoised: %s\n", err.message);
        status = error_exit_status(err.code);
    } else if (settings.help) {
        printf("denoised %s %s: %s\n\n", COMMANDS[index].name, COMMANDS[index].arguments,
               COMMANDS[index].help);
        settings_print_help(COMMANDS[index].command, stdout);
    } else if (settings.print_config) {
        settings_print(&settings, stdout);
    } else if (settings.positional_count < COMMANDS[index].least_positional ||
               settings.positional_count > COMMANDS[index].most_positional) {
        fprintf(stderr, "denoised: usage: denoised %s [FLAGS] %s (%d arguments were given)\n",
                COMMANDS[index].name, COMMANDS[index].arguments, settings.positional_count);
        status = 2;
    } else {
        log_configure((enum log_level)log_level_from_name(settings.log_level),
                      strcmp(settings.log_format, "json") == 0 ? LOG_JSON : LOG_TEXT);
        status = COMMANDS[index].run(&settings);
        serves = COMMANDS[index].command == COMMAND_SERVE;
    }
    settings_free(&settings);
    /* A server has served whether or not somebody read its welcome. */
    return serves ? status : finish_output(status);
}

int main(int argc, char **argv)
{
    if (argc > 1 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 ||
                     strcmp(argv[1], "help") == 0)) {
        print_usage(stdout);
        return finish_output(0);
    }
    if (argc > 1 && strcmp(argv[1], "--version") == 0) {
        printf("denoised %s\n", DENOISED_VERSION);
        return finish_output(0);
    }
    if (argc < 2 || argv[1][0] == '-')
        return run_command(0, argc - 1, argv + 1);
    for (int i = 0; i < COMMAND_COUNT; i++) {
        if (strcmp(argv[1], COMMANDS[i].name) == 0)
            return run_command(i, argc - 2, argv + 2);
    }
    fprintf(stderr, "denoised: there is no subcommand \"%s\"\n\n", argv[1]);
    print_usage(stderr);
    return 2;
}

/* denoised: the program and its subcommands. */
#include <stdio.h>
#include <string.h>

#include "common/error.h"
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
    {"bench", "", "measure this program on this machine", COMMAND_BENCH, command_bench, 0, 0},
    {"inspect", "DIR", "show a model directory: config, tensors, sizes, memory needed",
     COMMAND_INSPECT, command_inspect, 0, 1},
};
enum { COMMAND_COUNT = sizeof COMMANDS / sizeof *COMMANDS };

static void print_usage(FILE *out)
{
    fprintf(out, "denoised %s: an HTTP server for diffusion language models\n\n", DENOISED_VERSION);
    for (int i = 0; i < COMMAND_COUNT; i++)
        fprintf(out, "  denoised %-9s %-7s %s\n", COMMANDS[i].name, COMMANDS[i].arguments,
                COMMANDS[i].help);
    fprintf(
        out,
        "\n  denoised SUBCOMMAND --help lists its flags. Each is also a key of the --config file\n"
        "  (max_tokens) and an environment variable (DENOISED_MAX_TOKENS); flags win, then the\n"
        "  environment, then the file. A first try, with the model that comes with the program:\n\n"
        "      denoised generate \"Once upon a time\"\n"
        "      denoised serve\n");
}

static int run_command(int index, int argc, char **argv)
{
    struct settings settings;
    struct error err = {0};
    int status = 0;

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
        status = COMMANDS[index].run(&settings);
    }
    settings_free(&settings);
    return status;
}

int main(int argc, char **argv)
{
    if (argc > 1 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 ||
                     strcmp(argv[1], "help") == 0)) {
        print_usage(stdout);
        return 0;
    }
    if (argc > 1 && strcmp(argv[1], "--version") == 0) {
        printf("denoised %s\n", DENOISED_VERSION);
        return 0;
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

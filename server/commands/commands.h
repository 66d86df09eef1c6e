/* The subcommands of the program. Each returns the process's exit status. */
#ifndef SERVER_COMMANDS_COMMANDS_H
#define SERVER_COMMANDS_COMMANDS_H

struct settings;

int command_serve(struct settings *settings);
int command_generate(struct settings *settings);
int command_bench(struct settings *settings);
int command_inspect(struct settings *settings);

#endif

/* The keys: for the files of this folder alone. Constant data; any thread. */
#ifndef SERVER_SETTINGS_SETTINGS_TABLE_H
#define SERVER_SETTINGS_SETTINGS_TABLE_H

#include <stdbool.h>
#include <stddef.h>

#include "server/settings/settings.h"

#define MODEL_COMMANDS (COMMAND_SERVE | COMMAND_GENERATE | COMMAND_BENCH)
#define ALL_COMMANDS   (MODEL_COMMANDS | COMMAND_INSPECT)

enum kind {
    KIND_TEXT,
    KIND_LIST, /* a text with commas; in a config file also an array of texts */
    KIND_CHOICE,
    KIND_INTEGER,
    KIND_NUMBER,
    KIND_SWITCH,
};

struct setting {
    const char *name; /* as in the config file; flags use '-' for '_' */
    enum kind kind;
    size_t offset;
    const char *initial; /* default as text; NULL: unset */
    double min, max;
    const char *choices; /* "a|b|c" */
    unsigned commands;   /* set of enum command */
    bool flag_only;      /* neither in the environment nor in a config file */
    const char *help;
};

extern const struct setting SETTINGS_TABLE[];
extern const int settings_table_size;

#endif

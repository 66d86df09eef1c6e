/*
 * Settings: one table of keys for flags (--max-rows-per-tick), environment
 * (DENOISED_MAX_ROWS_PER_TICK) and config file ("max_rows_per_tick"). Precedence: flag >
 * environment > file > default. Filled once by the main thread, then read-only.
 */
#ifndef SERVER_SETTINGS_SETTINGS_H
#define SERVER_SETTINGS_SETTINGS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "common/arena.h"

struct error;

/* Subcommands, as a set: which of them a key belongs to. */
enum command {
    COMMAND_SERVE = 1,
    COMMAND_GENERATE = 2,
    COMMAND_BENCH = 4,
    COMMAND_INSPECT = 8,
};

enum { SETTINGS_MAX = 64 };

/* Unset integers are -1, unset numbers NAN, unset texts NULL: then the program decides. */
struct settings {
    const char *model, *model_name, *device, *dtype, *config;
    int64_t threads, max_sequences, max_rows_per_tick, queue_limit, kv_cache_tokens, max_choices;
    bool deterministic;

    const char *host, *api_keys, *cors_origins;
    int64_t port, event_threads, preparation_threads, max_connections, max_body_bytes;
    double drain_timeout, half_close_grace, idle_timeout;
    bool strict, protect_metrics, log_prompts;

    int64_t max_tokens, block_length, steps, top_k;
    double temperature, top_p, threshold;
    const char *selection, *cache;

    const char *log_level, *log_format;

    bool print_config, help, chat, quick, json;
    const char *instructions, *shape, *report;
    double price_per_hour;
    int64_t seed;

    enum command command; /* what settings_read was given, to be read again; not copied */
    int argc;
    char **argv;

    const char *source[SETTINGS_MAX]; /* where each key's value came from, by table index */
    const char *const *positional;    /* [positional_count] arguments that are no flags */
    int positional_count;
    struct arena arena;
};

/*
 * Reads the arguments behind the subcommand, the environment and the config file. argv outlives the
 * settings; they are to be freed after a failure too. ERROR_INVALID names the key, its value, what
 * is allowed and, for an unknown key, the closest known one.
 */
int settings_read(struct settings *settings, enum command command, int argc, char **argv,
                  struct error *err);
/* Reads the same arguments, the environment and the file as they are now. */
int settings_read_again(struct settings *settings, const struct settings *before,
                        struct error *err);
void settings_free(struct settings *settings);

/* Every key of the subcommand with its meaning and default. */
void settings_print_help(enum command command, FILE *out);
/* Every key that a config file may hold, with its value and where that came from. */
void settings_print(const struct settings *settings, FILE *out);

#endif

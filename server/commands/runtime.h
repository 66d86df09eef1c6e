/*
 * What serve, generate and bench have in common: settings → backend, model, tokenizer, engine and
 * the api struct over them. One thread starts and stops it.
 */
#ifndef SERVER_COMMANDS_RUNTIME_H
#define SERVER_COMMANDS_RUNTIME_H

#include <limits.h>
#include <stdio.h>

#include "server/api/api.h"
#include "server/settings/settings.h"

struct error;

struct runtime {
    char model_directory[PATH_MAX];
    char model_name[256];
    char fingerprint[256];
    struct model *model;
    struct tokenizer *tokenizer;
    struct chat_template *chat_template;
    struct token_text *token_texts;
    struct engine *engine;
    struct api api;
};

/* Loads everything; the engine's thread is not started. On failure nothing is left behind. */
int runtime_start(struct runtime *runtime, const struct settings *settings, struct error *err);
void runtime_stop(struct runtime *runtime);

/* Where the model directory is: the setting, or models/tiny beside the program. */
int runtime_find_model(char out[PATH_MAX], const struct settings *settings, struct error *err);

/*
 * Sets the number formats: what the setting names, or what "auto" stands for with this model. int8
 * and fp8 weights go with activations in bfloat16 as far as the device has that in hardware.
 */
int runtime_choose_dtype(struct backend_options *options, const struct settings *settings,
                         const char *directory, struct error *err);

/* The memory table of the start-up: weights, KV pool, activations. */
void runtime_print_memory(const struct runtime *runtime, FILE *out);

/* Prints "denoised: MESSAGE" and returns the exit status that belongs to it. */
int runtime_complain(const struct error *err);

#endif

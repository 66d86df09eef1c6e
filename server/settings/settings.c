#include "server/settings/settings.h"

#include <errno.h>
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/json.h"

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

#define FIELD(name)    offsetof(struct settings, name)
#define MODEL_COMMANDS (COMMAND_SERVE | COMMAND_GENERATE | COMMAND_BENCH)
#define ALL_COMMANDS   (MODEL_COMMANDS | COMMAND_INSPECT)
#define TEXT(key, commands, initial, help)                                                         \
    {                                                                                              \
#key, KIND_TEXT, FIELD(key), initial, 0, 0, NULL, commands, false, help                    \
    }
#define CHOICE(key, commands, initial, choices, help)                                              \
    {                                                                                              \
#key, KIND_CHOICE, FIELD(key), initial, 0, 0, choices, commands, false, help               \
    }
#define INTEGER(key, commands, initial, min, max, help)                                            \
    {                                                                                              \
#key, KIND_INTEGER, FIELD(key), initial, min, max, NULL, commands, false, help             \
    }
#define NUMBER(key, commands, initial, min, max, help)                                             \
    {                                                                                              \
#key, KIND_NUMBER, FIELD(key), initial, min, max, NULL, commands, false, help              \
    }
#define SWITCH(key, commands, flag_only, help)                                                     \
    {                                                                                              \
#key, KIND_SWITCH, FIELD(key), "false", 0, 0, NULL, commands, flag_only, help              \
    }

static const struct setting TABLE[] = {
    TEXT(
        model, ALL_COMMANDS, NULL,
        "model directory (config.json, *.safetensors, tokenizer.json); default: models/tiny beside "
        "the program"),
    TEXT(model_name, COMMAND_SERVE, NULL,
         "name of the model for clients; default: the directory's"),
    CHOICE(device, MODEL_COMMANDS, "auto", "auto|cpu|ref|cuda",
           "where to compute; auto takes a GPU if there is one (ref: slow reference code)"),
    CHOICE(dtype, MODEL_COMMANDS, "auto", "auto|float32|bfloat16|int8|fp8",
           "number format of weights, activations and KV cache; auto follows the checkpoint"),
    INTEGER(threads, MODEL_COMMANDS, NULL, 1, 1024,
            "CPU threads of the engine; default: as many as the process may use"),
    INTEGER(max_sequences, MODEL_COMMANDS, "32", 1, 4096, "sequences refined at the same time"),
    INTEGER(max_rows_per_tick, MODEL_COMMANDS, NULL, 1, 1 << 20,
            "rows of one forward pass; default: 32 x max_sequences, at least twice the model's "
            "context"),
    INTEGER(queue_limit, MODEL_COMMANDS, "256", 0, 1 << 20, "sequences that may wait"),
    INTEGER(kv_cache_tokens, MODEL_COMMANDS, NULL, 64, 1LL << 32,
            "positions of the KV cache; default: max_sequences full contexts, at most a quarter of "
            "the free memory"),
    INTEGER(max_choices, COMMAND_SERVE, "128", 1, 4096, "answers of one request (prompts x n)"),
    SWITCH(deterministic, MODEL_COMMANDS, false,
           "results independent of the batch (always so on the CPU)"),

    TEXT(host, COMMAND_SERVE, "127.0.0.1", "address to listen on"),
    INTEGER(port, COMMAND_SERVE, "8080", 0, 65535, "port to listen on; 0 takes a free one"),
    INTEGER(event_threads, COMMAND_SERVE, "2", 1, 64, "HTTP event-loop threads"),
    INTEGER(preparation_threads, COMMAND_SERVE, "2", 1, 64,
            "threads that parse and tokenise requests"),
    INTEGER(max_connections, COMMAND_SERVE, "4096", 1, 1 << 20, "open connections"),
    INTEGER(max_body_bytes, COMMAND_SERVE, "8388608", 1024, 1LL << 31, "largest request body"),
    NUMBER(drain_timeout, COMMAND_SERVE, "30", 0, 86400,
           "seconds that running requests get after SIGTERM"),
    NUMBER(half_close_grace, COMMAND_SERVE, "5", 0, 3600,
           "seconds that a request goes on after its client closed one direction"),
    NUMBER(idle_timeout, COMMAND_SERVE, "75", 1, 86400,
           "seconds until a connection without a request is closed"),
    TEXT(api_keys, COMMAND_SERVE, NULL,
         "file of API keys, one a line (more in DENOISED_API_KEY, separated by commas); default: "
         "everybody may ask"),
    SWITCH(protect_metrics, COMMAND_SERVE, false, "/metrics needs an API key too"),
    {"cors_origins", KIND_LIST, FIELD(cors_origins), NULL, 0, 0, NULL, COMMAND_SERVE, false,
     "origins whose web pages may ask (\"https://a.example,https://b.example\", \"*\": all); "
     "default: "
     "none"},
    SWITCH(strict, COMMAND_SERVE, false, "unknown request fields are an error"),

    INTEGER(max_tokens, COMMAND_SERVE | COMMAND_GENERATE, NULL, 1, 1 << 20,
            "answer length where a request names none"),
    INTEGER(block_length, COMMAND_SERVE | COMMAND_GENERATE, NULL, 1, 1 << 20,
            "positions decoded together"),
    INTEGER(steps, COMMAND_SERVE | COMMAND_GENERATE, NULL, 1, 1 << 20,
            "refinement rounds for the whole answer"),
    CHOICE(selection, COMMAND_SERVE | COMMAND_GENERATE, NULL, "steps|threshold|factor|random",
           "which positions commit in a round"),
    NUMBER(threshold, COMMAND_SERVE | COMMAND_GENERATE, NULL, 0, 1,
           "confidence at which a position commits"),
    CHOICE(cache, COMMAND_SERVE | COMMAND_GENERATE, NULL, "none|prefix|dual", "KV reuse"),
    NUMBER(temperature, COMMAND_SERVE | COMMAND_GENERATE, NULL, 0, 2, "0 takes the best token"),
    INTEGER(top_k, COMMAND_SERVE | COMMAND_GENERATE, NULL, 0, 1 << 20, "0: off"),
    NUMBER(top_p, COMMAND_SERVE | COMMAND_GENERATE, NULL, 0, 1, "1: off"),

    CHOICE(log_level, ALL_COMMANDS, "info", "debug|info|warning|error",
           "least important line logged"),
    CHOICE(log_format, COMMAND_SERVE, "text", "text|json", "form of the log lines on stderr"),

    SWITCH(log_prompts, COMMAND_SERVE, false,
           "prompts and answers in the request log, which has none of them otherwise"),

    {"config", KIND_TEXT, FIELD(config), NULL, 0, 0, NULL, ALL_COMMANDS, true,
     "JSON file with any of these keys (see config/denoised.json)"},
    SWITCH(print_config, ALL_COMMANDS, true, "print every key, its value and its source, and exit"),
    SWITCH(chat, COMMAND_GENERATE, true, "send the text as a chat message, through the template"),
    {"seed", KIND_INTEGER, FIELD(seed), NULL, 0, (1LL << 53) - 1, NULL, COMMAND_GENERATE, true,
     "with a temperature: the same seed gives the same text; default: a new one every time"},
    SWITCH(quick, COMMAND_BENCH, true, "only the figures that take seconds"),
    SWITCH(help, ALL_COMMANDS, true, "this text"),
};
enum { TABLE_SIZE = sizeof TABLE / sizeof *TABLE };
_Static_assert((int)TABLE_SIZE <= (int)SETTINGS_MAX, "struct settings has a source for every key");

static bool choice_allows(const char *choices, const char *value)
{
    size_t length = strlen(value);

    for (const char *at = choices; at != NULL; at = strchr(at, '|')) {
        at += *at == '|';
        if (strncmp(at, value, length) == 0 && (at[length] == '|' || at[length] == '\0'))
            return true;
    }
    return false;
}

static int value_refused(const struct setting *setting, const char *value, const char *source,
                         struct error *err)
{
    switch (setting->kind) {
    case KIND_INTEGER:
        return error_set(err, ERROR_INVALID,
                         "%s: %s is \"%s\"; it must be a whole number from %.0f to %.0f", source,
                         setting->name, value, setting->min, setting->max);
    case KIND_NUMBER:
        return error_set(err, ERROR_INVALID, "%s: %s is \"%s\"; it must be a number from %g to %g",
                         source, setting->name, value, setting->min, setting->max);
    case KIND_SWITCH:
        return error_set(err, ERROR_INVALID, "%s: %s is \"%s\"; it must be true or false", source,
                         setting->name, value);
    case KIND_CHOICE:
        return error_set(err, ERROR_INVALID, "%s: %s is \"%s\"; it must be one of %s", source,
                         setting->name, value, setting->choices);
    case KIND_TEXT:
    case KIND_LIST:
        break;
    }
    return error_set(err, ERROR_INVALID, "%s: %s is empty; give a value or leave the key out",
                     source, setting->name);
}

/* Stores a value given as text; NULL unsets the key. */
static int setting_store(struct settings *settings, int index, const char *value,
                         const char *source, struct error *err)
{
    const struct setting *setting = &TABLE[index];
    void *field = (char *)settings + setting->offset;
    char *end = NULL;

    settings->source[index] = source;
    errno = 0;
    switch (setting->kind) {
    case KIND_INTEGER: {
        long long number = value == NULL ? -1 : strtoll(value, &end, 10);
        if (value != NULL && (end == value || *end != '\0' || errno != 0 ||
                              (double)number < setting->min || (double)number > setting->max))
            return value_refused(setting, value, source, err);
        *(int64_t *)field = number;
        return 0;
    }
    case KIND_NUMBER: {
        double number = value == NULL ? (double)NAN : strtod(value, &end);
        if (value != NULL &&
            (end == value || *end != '\0' || !(number >= setting->min && number <= setting->max)))
            return value_refused(setting, value, source, err);
        *(double *)field = number;
        return 0;
    }
    case KIND_SWITCH:
        if (value == NULL || (strcmp(value, "true") != 0 && strcmp(value, "false") != 0))
            return value_refused(setting, value == NULL ? "null" : value, source, err);
        *(bool *)field = value[0] == 't';
        return 0;
    case KIND_CHOICE:
        if (value != NULL && !choice_allows(setting->choices, value))
            return value_refused(setting, value, source, err);
        break;
    case KIND_TEXT:
    case KIND_LIST:
        if (value != NULL && *value == '\0')
            return value_refused(setting, value, source, err);
        break;
    }
    char *copy = value == NULL ? NULL : arena_copy(&settings->arena, value, strlen(value));
    if (value != NULL && copy == NULL)
        return error_set(err, ERROR_MEMORY, "out of memory while reading the settings");
    *(const char **)field = copy;
    return 0;
}

/* Levenshtein distance of two short names. */
static int name_distance(const char *a, const char *b)
{
    int row[80];
    int width = (int)strlen(b);

    if (strlen(a) > 64 || width > 64)
        return 1000;
    for (int j = 0; j <= width; j++)
        row[j] = j;
    for (int i = 1; a[i - 1] != '\0'; i++) {
        int diagonal = row[0];
        row[0] = i;
        for (int j = 1; j <= width; j++) {
            int change = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            int gap = (row[j] < row[j - 1] ? row[j] : row[j - 1]) + 1;
            row[j] = change < gap ? change : gap;
        }
    }
    return row[width];
}

static int key_find(const char *name, unsigned commands, bool with_flags_only)
{
    for (int i = 0; i < TABLE_SIZE; i++) {
        if (strcmp(TABLE[i].name, name) == 0 && (TABLE[i].commands & commands) != 0 &&
            (with_flags_only || !TABLE[i].flag_only))
            return i;
    }
    return -1;
}

static int key_unknown(const char *name, unsigned commands, bool as_flag, const char *source,
                       struct error *err)
{
    int best = -1, best_distance = 1000;
    char shown[80];

    for (int i = 0; i < TABLE_SIZE; i++) {
        if ((TABLE[i].commands & commands) == 0 || (TABLE[i].flag_only && !as_flag))
            continue;
        int distance = name_distance(name, TABLE[i].name);
        if (distance < best_distance) {
            best_distance = distance;
            best = i;
        }
    }
    snprintf(shown, sizeof shown, "%s%s", as_flag ? "--" : "", TABLE[best].name);
    for (char *c = shown; as_flag && *c != '\0'; c++)
        *c = *c == '_' ? '-' : *c;
    return error_set(err, ERROR_INVALID, "%s: there is no such key; did you mean %s?", source,
                     shown);
}

/* "--max-rows-per-tick" → "max_rows_per_tick"; false where it does not fit. */
static bool flag_to_key(const char *flag, size_t length, char key[80])
{
    if (length >= 80)
        return false;
    for (size_t i = 0; i < length; i++)
        key[i] = flag[i] == '-' ? '_' : flag[i];
    key[length] = '\0';
    return true;
}

static int read_flags(struct settings *settings, enum command command, int argc, char **argv,
                      struct error *err)
{
    const char **positional =
        arena_alloc(&settings->arena, (size_t)(argc + 1) * sizeof *positional);
    bool only_positional = false;

    if (positional == NULL)
        return error_set(err, ERROR_MEMORY, "out of memory while reading the settings");
    for (int i = 0; i < argc; i++) {
        char key[80] = "";
        if (only_positional || argv[i][0] != '-' || strcmp(argv[i], "-") == 0) {
            positional[settings->positional_count++] = argv[i];
            continue;
        }
        if (strcmp(argv[i], "--") == 0) {
            only_positional = true;
            continue;
        }
        if (strcmp(argv[i], "-h") == 0) {
            settings->help = true;
            continue;
        }
        if (strncmp(argv[i], "--", 2) != 0)
            return error_set(err, ERROR_INVALID, "%s: flags start with two dashes; see --help",
                             argv[i]);
        const char *name = argv[i] + 2;
        const char *equals = strchr(name, '=');
        size_t length = equals != NULL ? (size_t)(equals - name) : strlen(name);
        int index = -1;
        if (flag_to_key(name, length, key))
            index = key_find(key, command, true);
        if (index < 0)
            return key_unknown(key, command, true, argv[i], err);
        const char *value = equals != NULL ? equals + 1 : NULL;
        if (value == NULL && TABLE[index].kind == KIND_SWITCH)
            value = "true";
        else if (value == NULL && i + 1 < argc)
            value = argv[++i];
        if (value == NULL)
            return error_set(err, ERROR_INVALID, "--%.*s: a value is missing; see --help",
                             (int)length, name);
        int code = setting_store(settings, index, value, "flag", err);
        if (code != 0)
            return code;
    }
    settings->positional = positional;
    return 0;
}

/* The environment's value of a key; "" counts as absent. */
static const char *environment_value(const struct setting *setting)
{
    char name[96] = "DENOISED_";
    size_t at = strlen(name);

    for (const char *c = setting->name; *c != '\0' && at + 1 < sizeof name; c++)
        name[at++] = *c >= 'a' && *c <= 'z' ? (char)(*c - 32) : *c;
    name[at] = '\0';
    const char *value = getenv(name);
    return value != NULL && *value != '\0' ? value : NULL;
}

/* The array's texts with commas between them; false where it holds something else. */
static bool join_texts(const json_t *array, char *out, size_t size)
{
    size_t i, length = 0;
    json_t *item;

    out[0] = '\0';
    json_array_foreach(array, i, item)
    {
        const char *text = json_string_value(item);
        if (text == NULL || strchr(text, ',') != NULL || length + strlen(text) + 2 > size)
            return false;
        length += (size_t)snprintf(out + length, size - length, "%s%s", i > 0 ? "," : "", text);
    }
    return true;
}

static int file_value(struct settings *settings, int index, const json_t *value, const char *path,
                      struct error *err)
{
    const struct setting *setting = &TABLE[index];
    char text[64], list[2000];

    if (json_is_null(value))
        return setting->initial == NULL ? setting_store(settings, index, NULL, path, err) : 0;
    if (setting->kind == KIND_LIST && json_is_array(value) && join_texts(value, list, sizeof list))
        return setting_store(settings, index, list, path, err);
    if (json_is_string(value) &&
        (setting->kind == KIND_TEXT || setting->kind == KIND_LIST || setting->kind == KIND_CHOICE))
        return setting_store(settings, index, json_string_value(value), path, err);
    if (json_is_integer(value) && (setting->kind == KIND_INTEGER || setting->kind == KIND_NUMBER)) {
        snprintf(text, sizeof text, "%lld", (long long)json_integer_value(value));
        return setting_store(settings, index, text, path, err);
    }
    if (json_is_real(value) && setting->kind == KIND_NUMBER) {
        snprintf(text, sizeof text, "%.17g", json_real_value(value));
        return setting_store(settings, index, text, path, err);
    }
    if (json_is_boolean(value) && setting->kind == KIND_SWITCH)
        return setting_store(settings, index, json_is_true(value) ? "true" : "false", path, err);
    static const char *const expected[] = {"a string", "an array of strings",
                                           "a string", "a whole number",
                                           "a number", "true or false"};
    return error_set(err, ERROR_INVALID, "%s: %s is %s; it must be %s", path, setting->name,
                     json_type_name(value), expected[setting->kind]);
}

static int read_file(struct settings *settings, const char *path, struct error *err)
{
    json_t *root = json_read_file(path, 1 << 20, err);
    const char *key;
    json_t *value;
    int code = 0;

    if (root == NULL)
        return err != NULL && err->code != 0 ? err->code : ERROR_INVALID;
    if (!json_is_object(root))
        code = error_set(err, ERROR_INVALID, "%s: is %s; it must be an object of settings", path,
                         json_type_name(root));
    json_object_foreach(root, key, value)
    {
        if (code != 0)
            break;
        char source[320];
        int index = key_find(key, ALL_COMMANDS, false);
        snprintf(source, sizeof source, "%.240s: %.60s", path, key);
        code = index < 0 ? key_unknown(key, ALL_COMMANDS, false, source, err)
                         : file_value(settings, index, value, path, err);
    }
    json_decref(root);
    return code;
}

int settings_read(struct settings *settings, enum command command, int argc, char **argv,
                  struct error *err)
{
    struct settings flags = {0}; /* read first: they name the file and may ask for help */
    int code = 0;

    memset(settings, 0, sizeof *settings);
    settings->command = command;
    settings->argc = argc;
    settings->argv = argv;
    arena_init(&settings->arena);
    arena_init(&flags.arena);
    code = read_flags(&flags, command, argc, argv, err);
    for (int i = 0; i < TABLE_SIZE && code == 0; i++)
        code = setting_store(settings, i, TABLE[i].initial, "default", err);
    const char *path = flags.config != NULL ? flags.config : getenv("DENOISED_CONFIG");
    if (code == 0 && !flags.help && path != NULL && *path != '\0')
        code = read_file(settings, arena_copy(&settings->arena, path, strlen(path)), err);
    for (int i = 0; i < TABLE_SIZE && code == 0; i++) {
        const char *value = TABLE[i].flag_only ? NULL : environment_value(&TABLE[i]);
        if (value != NULL)
            code = setting_store(settings, i, value, "environment", err);
    }
    arena_free(&flags.arena);
    if (code == 0)
        code = read_flags(settings, command, argc, argv, err);
    return code;
}

int settings_read_again(struct settings *settings, const struct settings *before, struct error *err)
{
    return settings_read(settings, before->command, before->argc, before->argv, err);
}

void settings_free(struct settings *settings)
{
    arena_free(&settings->arena);
}

void settings_print_help(enum command command, FILE *out)
{
    for (int i = 0; i < TABLE_SIZE; i++) {
        const struct setting *setting = &TABLE[i];
        char flag[120];
        static const char *const values[] = {" TEXT", " TEXT,...", "", " N", " X", ""};

        if ((setting->commands & command) == 0)
            continue;
        snprintf(flag, sizeof flag, "--%s%s%s", setting->name,
                 setting->kind == KIND_CHOICE ? " " : values[setting->kind],
                 setting->kind == KIND_CHOICE ? setting->choices : "");
        for (char *c = flag; *c != '\0' && *c != ' '; c++)
            *c = *c == '_' ? '-' : *c;
        fprintf(out, "  %s\n        %s", flag, setting->help);
        if (setting->initial != NULL && setting->kind != KIND_SWITCH)
            fprintf(out, " [%s]", setting->initial);
        fputc('\n', out);
    }
}

static void print_value(const struct settings *settings, const struct setting *setting, char *out,
                        size_t size)
{
    const void *field = (const char *)settings + setting->offset;

    switch (setting->kind) {
    case KIND_INTEGER:
        if (*(const int64_t *)field >= 0)
            snprintf(out, size, "%lld", (long long)*(const int64_t *)field);
        else
            snprintf(out, size, "null");
        return;
    case KIND_NUMBER:
        if (isnan(*(const double *)field))
            snprintf(out, size, "null");
        else
            snprintf(out, size, "%g", *(const double *)field);
        return;
    case KIND_SWITCH:
        snprintf(out, size, "%s", *(const bool *)field ? "true" : "false");
        return;
    case KIND_TEXT:
    case KIND_LIST:
    case KIND_CHOICE:
        break;
    }
    const char *text = *(const char *const *)field;
    if (text == NULL)
        snprintf(out, size, "null");
    else
        snprintf(out, size, "\"%s\"", text);
}

void settings_print(const struct settings *settings, FILE *out)
{
    for (int i = 0; i < TABLE_SIZE; i++) {
        char value[512];

        if (TABLE[i].flag_only)
            continue;
        print_value(settings, &TABLE[i], value, sizeof value);
        fprintf(out, "%-22s %-24s %s\n", TABLE[i].name, value, settings->source[i]);
    }
}

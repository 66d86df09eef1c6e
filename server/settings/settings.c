#include "server/settings/settings.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/error.h"
#include "common/json.h"
#include "server/settings/settings_table.h"

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
    const struct setting *setting = &SETTINGS_TABLE[index];
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
    for (int i = 0; i < settings_table_size; i++) {
        if (strcmp(SETTINGS_TABLE[i].name, name) == 0 &&
            (SETTINGS_TABLE[i].commands & commands) != 0 &&
            (with_flags_only || !SETTINGS_TABLE[i].flag_only))
            return i;
    }
    return -1;
}

static int key_unknown(const char *name, unsigned commands, bool as_flag, const char *source,
                       struct error *err)
{
    int best = -1, best_distance = 1000;
    char shown[80];

    for (int i = 0; i < settings_table_size; i++) {
        if ((SETTINGS_TABLE[i].commands & commands) == 0 ||
            (SETTINGS_TABLE[i].flag_only && !as_flag))
            continue;
        int distance = name_distance(name, SETTINGS_TABLE[i].name);
        if (distance < best_distance) {
            best_distance = distance;
            best = i;
        }
    }
    snprintf(shown, sizeof shown, "%s%s", as_flag ? "--" : "", SETTINGS_TABLE[best].name);
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
        if (value == NULL && SETTINGS_TABLE[index].kind == KIND_SWITCH)
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

/*
 * Names of the environment that are no keys: those read elsewhere, and what the tests tell each
 * other.
 */
static bool environment_reserved(const char *name)
{
    static const char *const names[] = {"API_KEY", "CONFIG", "BINARY", "CONFORMANCE"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strcmp(name, names[i]) == 0)
            return true;
    }
    return false;
}

/* What Kubernetes gives every pod beside a Service called "denoised": its address by many names. */
static bool is_service_link(const char *name, const char *value)
{
    return strncmp(value, "tcp://", 6) == 0 || strncmp(value, "udp://", 6) == 0 ||
           strncmp(name, "SERVICE_", 8) == 0 || strncmp(name, "PORT_", 5) == 0;
}

/* Every DENOISED_ variable must be a key, whatever subcommand has it: a typo is not ignored. */
static int check_environment(struct error *err)
{
    static const char prefix[] = "DENOISED_";

    for (char **entry = environ; entry != NULL && *entry != NULL; entry++) {
        if (strncmp(*entry, prefix, sizeof prefix - 1) != 0)
            continue;
        char source[80], key[80];
        size_t length = 0;
        snprintf(source, sizeof source, "%.*s", (int)strcspn(*entry, "="), *entry);
        const char *name = source + sizeof prefix - 1;
        for (; name[length] != '\0'; length++)
            key[length] = name[length] >= 'A' && name[length] <= 'Z' ? (char)(name[length] + 32)
                                                                     : name[length];
        key[length] = '\0';
        if (is_service_link(name, *entry + strcspn(*entry, "=") + 1))
            return error_set(err, ERROR_INVALID,
                             "%s: this is Kubernetes' link to a Service of that name and no "
                             "setting; give the pod enableServiceLinks: false",
                             source);
        if (!environment_reserved(name) && key_find(key, ALL_COMMANDS, false) < 0)
            return key_unknown(key, ALL_COMMANDS, false, source, err);
    }
    return 0;
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
    const struct setting *setting = &SETTINGS_TABLE[index];
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
    for (int i = 0; i < settings_table_size && code == 0; i++)
        code = setting_store(settings, i, SETTINGS_TABLE[i].initial, "default", err);
    const char *path = flags.config != NULL ? flags.config : getenv("DENOISED_CONFIG");
    if (code == 0 && !flags.help && path != NULL && *path != '\0')
        code = read_file(settings, arena_copy(&settings->arena, path, strlen(path)), err);
    if (code == 0 && !flags.help)
        code = check_environment(err);
    for (int i = 0; i < settings_table_size && code == 0; i++) {
        const char *value =
            SETTINGS_TABLE[i].flag_only ? NULL : environment_value(&SETTINGS_TABLE[i]);
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

#include <math.h>
#include <stdio.h>

#include "server/settings/settings_table.h"

void settings_print_help(enum command command, FILE *out)
{
    for (int i = 0; i < settings_table_size; i++) {
        const struct setting *setting = &SETTINGS_TABLE[i];
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
    for (int i = 0; i < settings_table_size; i++) {
        char value[512];

        if (SETTINGS_TABLE[i].flag_only)
            continue;
        print_value(settings, &SETTINGS_TABLE[i], value, sizeof value);
        fprintf(out, "%-22s %-24s %s\n", SETTINGS_TABLE[i].name, value, settings->source[i]);
    }
}

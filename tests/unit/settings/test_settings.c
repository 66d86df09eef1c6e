/* Settings: the three sources, their precedence, and what refusals say. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/error.h"
#include "common/json.h"
#include "server/settings/settings.h"

static int read_arguments(struct settings *settings, enum command command, struct error *err,
                          const char *const *arguments)
{
    int count = 0;

    while (arguments[count] != NULL)
        count++;
    return settings_read(settings, command, count, (char **)arguments, err);
}

#define READ(settings, command, err, ...)                                                          \
    read_arguments(settings, command, err, (const char *const[]){__VA_ARGS__, NULL})

static char *write_file(const char *content)
{
    static char path[] = "/tmp/denoised-settings-XXXXXX";
    int file = mkstemp(path);

    cr_assert(file >= 0);
    cr_assert_eq(write(file, content, strlen(content)), (ssize_t)strlen(content));
    close(file);
    return path;
}

static void expect_refusal(const char *const *arguments, const char *part, const char *other)
{
    struct settings settings;
    struct error err = {0};

    cr_expect_lt(read_arguments(&settings, COMMAND_SERVE, &err, arguments), 0);
    cr_expect_eq(error_exit_status(err.code), 2);
    cr_expect_not_null(strstr(err.message, part), "\"%s\" lacks \"%s\"", err.message, part);
    cr_expect_not_null(strstr(err.message, other), "\"%s\" lacks \"%s\"", err.message, other);
    settings_free(&settings);
}

Test(settings, defaults_hold_where_nothing_is_said)
{
    struct settings settings;
    struct error err = {0};

    cr_assert_eq(settings_read(&settings, COMMAND_SERVE, 0, NULL, &err), 0, "%s", err.message);
    cr_expect_eq(settings.port, 8080);
    cr_expect_str_eq(settings.host, "127.0.0.1");
    cr_expect_null(settings.model);
    cr_expect_eq(settings.max_tokens, -1);
    cr_expect(isnan(settings.threshold));
    settings_free(&settings);
}

Test(settings, a_flag_beats_the_environment_which_beats_the_file)
{
    struct settings settings;
    struct error err = {0};
    char *path =
        write_file("{\"port\": 1, \"queue_limit\": 2, \"threshold\": 0.5, \"host\": null}");

    setenv("DENOISED_PORT", "3", 1);
    setenv("DENOISED_QUEUE_LIMIT", "4", 1);
    cr_assert_eq(READ(&settings, COMMAND_SERVE, &err, "--port=5", "--config", path), 0, "%s",
                 err.message);
    cr_expect_eq(settings.port, 5);
    cr_expect_eq(settings.queue_limit, 4);
    cr_expect_eq(settings.threshold, 0.5);
    cr_expect_str_eq(settings.host, "127.0.0.1", "null in the file means the default");
    settings_free(&settings);
    unlink(path);
}

Test(settings, flags_take_their_value_with_a_space_or_an_equals_sign)
{
    struct settings settings;
    struct error err = {0};

    cr_assert_eq(READ(&settings, COMMAND_GENERATE, &err, "--max-tokens", "7", "hello", "--chat",
                      "--cache=dual", "--", "--not-a-flag"),
                 0, "%s", err.message);
    cr_expect_eq(settings.max_tokens, 7);
    cr_expect(settings.chat);
    cr_expect_str_eq(settings.cache, "dual");
    cr_assert_eq(settings.positional_count, 2);
    cr_expect_str_eq(settings.positional[0], "hello");
    cr_expect_str_eq(settings.positional[1], "--not-a-flag");
    settings_free(&settings);
}

Test(settings, refusals_name_key_value_and_what_is_allowed)
{
    expect_refusal((const char *const[]){"--port", "70000", NULL}, "port is \"70000\"", "65535");
    expect_refusal((const char *const[]){"--port", "80x", NULL}, "port is \"80x\"", "whole number");
    expect_refusal((const char *const[]){"--threshold", "nan", NULL}, "threshold", "from 0 to 1");
    expect_refusal((const char *const[]){"--dtype", "float", NULL}, "dtype is \"float\"",
                   "auto|float32");
    expect_refusal((const char *const[]){"--strict=1", NULL}, "strict is \"1\"", "true or false");
    expect_refusal((const char *const[]){"--model", "", NULL}, "model is empty", "value");
    expect_refusal((const char *const[]){"--port", NULL}, "--port", "value is missing");
    expect_refusal((const char *const[]){"-p", NULL}, "-p", "two dashes");
}

Test(settings, an_unknown_key_is_answered_with_the_closest_one)
{
    expect_refusal((const char *const[]){"--max-sequence", "1", NULL}, "--max-sequence",
                   "did you mean --max-sequences?");
    expect_refusal((const char *const[]){"--chat", NULL}, "--chat", "did you mean");
    char endless[300] = "--";
    memset(endless + 2, 'x', sizeof endless - 3);
    endless[sizeof endless - 1] = '\0';
    expect_refusal((const char *const[]){endless, NULL}, "--xxx", "did you mean");
}

Test(settings, an_unknown_variable_is_answered_with_the_closest_key)
{
    setenv("DENOISED_PROT", "9", 1);
    expect_refusal((const char *const[]){NULL}, "DENOISED_PROT", "did you mean port?");
    unsetenv("DENOISED_PROT");
    setenv("DENOISED_CHAT", "true", 1); /* a flag alone */
    expect_refusal((const char *const[]){NULL}, "DENOISED_CHAT", "no such key");
    unsetenv("DENOISED_CHAT");
    char endless[300] = "DENOISED_";
    memset(endless + 9, 'X', sizeof endless - 10);
    setenv(endless, "1", 1);
    expect_refusal((const char *const[]){NULL}, "DENOISED_XXX", "did you mean");
}

Test(settings, the_links_of_kubernetes_are_refused_with_the_field_that_ends_them)
{
    static const char *const links[][2] = {
        {"DENOISED_PORT", "tcp://10.0.0.1:8080"},
        {"DENOISED_SERVICE_HOST", "10.0.0.1"},
        {"DENOISED_SERVICE_PORT_HTTP", "8080"},
        {"DENOISED_PORT_8080_TCP_ADDR", "10.0.0.1"},
    };

    for (size_t i = 0; i < sizeof links / sizeof *links; i++) {
        setenv(links[i][0], links[i][1], 1);
        expect_refusal((const char *const[]){NULL}, links[i][0], "enableServiceLinks: false");
        unsetenv(links[i][0]);
    }
}

Test(settings, variables_of_other_commands_keys_and_tests_are_known)
{
    static const char *const names[] = {
        "DENOISED_API_KEY",        "DENOISED_BINARY", "DENOISED_CONFORMANCE",
        "DENOISED_MAX_BODY_BYTES", "DENOISEDX",       "DENOISED_CONFIG"};
    struct settings settings;
    struct error err = {0};

    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        setenv(names[i], i + 1 < sizeof names / sizeof *names ? "4096" : "", 1);
    cr_expect_eq(settings_read(&settings, COMMAND_INSPECT, 0, NULL, &err), 0, "%s", err.message);
    settings_free(&settings);
}

Test(settings, a_config_file_is_checked_key_by_key)
{
    static const struct {
        const char *content, *part, *other;
    } cases[] = {
        {"{\"prot\": 1}", "prot", "did you mean port?"},
        {"{\"port\": \"8080\"}", "port is a string", "a whole number"},
        {"{\"port\": 1.5}", "port is", "a whole number"},
        {"{\"port\": 99999}", "port is \"99999\"", "65535"},
        {"{\"config\": \"x\"}", "config", "no such key"},
        {"[]", "is an array", "object"},
        {"{\"cors_origins\": [1]}", "cors_origins is an array", "an array of strings"},
        {"{\"host\": [\"a\"]}", "host is an array", "a string"},
        {"{\"port\": 1,}", "line 1", "column"},
        {"", "empty", "denoised-settings"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char template[] = "/tmp/denoised-settings-XXXXXX";
        int file = mkstemp(template);
        cr_assert(file >= 0);
        cr_assert_geq(write(file, cases[i].content, strlen(cases[i].content)), 0);
        close(file);
        expect_refusal((const char *const[]){"--config", template, NULL}, cases[i].part,
                       cases[i].other);
        unlink(template);
    }
}

/* The shipped file documents every key: it holds each with its default and nothing else. */
Test(settings, the_shipped_config_file_says_just_the_defaults)
{
    struct settings from_file, none;
    struct error err = {0};
    char *file_text = NULL, *none_text = NULL;
    size_t file_size, none_size, keys = 0;

    cr_assert_eq(READ(&from_file, COMMAND_SERVE, &err, "--config", "config/denoised.json"), 0, "%s",
                 err.message);
    cr_assert_eq(settings_read(&none, COMMAND_SERVE, 0, NULL, &err), 0);
    for (int i = 0; i < SETTINGS_MAX; i++) {
        from_file.source[i] = "";
        none.source[i] = "";
    }
    FILE *out = open_memstream(&file_text, &file_size);
    settings_print(&from_file, out);
    fclose(out);
    out = open_memstream(&none_text, &none_size);
    settings_print(&none, out);
    fclose(out);
    cr_expect_str_eq(file_text, none_text);
    for (char *c = none_text; *c != '\0'; c++)
        keys += *c == '\n';
    json_t *root = json_read_file("config/denoised.json", 1 << 16, &err);
    cr_expect_eq(json_object_size(root), keys);
    json_decref(root);
    free(file_text);
    free(none_text);
    settings_free(&from_file);
    settings_free(&none);
}

/* Until there is a CUDA backend. */
Test(settings, help_promises_no_device_that_the_build_lacks)
{
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);

    settings_print_help(COMMAND_SERVE, out);
    fclose(out);
    cr_expect_null(strstr(text, "takes a GPU"));
    cr_expect_not_null(strstr(text, "cuda: an NVIDIA GPU, in programs built with nvcc"));
    cr_expect_not_null(
        strstr(text, "fp8: the same in 8-bit floating point, for devices that have"));
    cr_expect_not_null(strstr(text, "always so on the CPU, where this changes nothing"));
    free(text);
}

Test(settings, reading_again_keeps_the_flags_and_sees_what_changed)
{
    struct settings settings, again;
    struct error err = {0};
    char *arguments[] = {"--log-level", "debug"};

    setenv("DENOISED_QUEUE_LIMIT", "4", 1);
    setenv("DENOISED_LOG_LEVEL", "error", 1);
    cr_assert_eq(settings_read(&settings, COMMAND_SERVE, 2, arguments, &err), 0, "%s", err.message);
    setenv("DENOISED_QUEUE_LIMIT", "5", 1);
    cr_assert_eq(settings_read_again(&again, &settings, &err), 0, "%s", err.message);
    cr_expect_str_eq(again.log_level, "debug");
    cr_expect_eq(again.queue_limit, 5);
    settings_free(&again);
    settings_free(&settings);
}

Test(settings, a_list_is_a_text_with_commas_or_an_array_of_the_file)
{
    struct settings settings;
    struct error err = {0};
    char *path = write_file("{\"cors_origins\": [\"https://a.example\", \"https://b.example\"]}");

    cr_assert_eq(READ(&settings, COMMAND_SERVE, &err, "--config", path), 0, "%s", err.message);
    cr_expect_str_eq(settings.cors_origins, "https://a.example,https://b.example");
    settings_free(&settings);
    cr_assert_eq(READ(&settings, COMMAND_SERVE, &err, "--cors-origins", "a,b"), 0);
    cr_expect_str_eq(settings.cors_origins, "a,b");
    settings_free(&settings);
    unlink(path);
}

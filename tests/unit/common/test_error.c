#include <stdlib.h>
#include <string.h>

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include "common/error.h"

Test(error, set_writes_the_line_and_returns_the_code)
{
    struct error err = {0};
    int code = error_set(&err, ERROR_LIMIT, "%s: %d pages are too many", "kv", 7);
    cr_assert(eq(int, code, ERROR_LIMIT));
    cr_assert(eq(int, err.code, ERROR_LIMIT));
    cr_assert(eq(str, err.message, "kv: 7 pages are too many"));
}

Test(error, without_a_struct_only_the_code_comes_back)
{
    cr_assert(eq(int, error_set(NULL, ERROR_IO, "lost"), ERROR_IO));
    cr_assert(eq(int, error_prefix(NULL, "lost"), ERROR_INVALID));
}

Test(error, prefix_goes_before_the_message_and_keeps_the_code)
{
    struct error err = {0};
    error_set(&err, ERROR_UNSUPPORTED, "rope_scaling is not carried out");
    cr_assert(eq(int, error_prefix(&err, "model %s", "tiny"), ERROR_UNSUPPORTED));
    cr_assert(eq(str, err.message, "model tiny: rope_scaling is not carried out"));
}

Test(error, prefix_may_quote_the_message_it_is_put_before)
{
    struct error err = {0};
    error_set(&err, ERROR_IO, "inner");
    error_prefix(&err, "saw <%s>", err.message);
    cr_assert(eq(str, err.message, "saw <inner>: inner"));
}

Test(error, stays_one_line_whatever_it_quotes)
{
    struct error err = {0};
    error_set(&err, ERROR_INVALID, "key \"%s\"", "a\nb\x1b[31m\x7f");
    cr_assert(eq(str, err.message, "key \"a b [31m \""));
}

Test(error, a_long_message_is_cut_between_characters)
{
    char text[1001];
    for (size_t i = 0; i < sizeof text - 1; i++) {
        text[i] = "\xC3\xA9"[i % 2];
    }
    text[sizeof text - 1] = '\0';
    struct error err = {0};
    error_set(&err, ERROR_INVALID, "%s", text);
    cr_assert(eq(sz, strlen(err.message), sizeof err.message - 2));
    cr_assert(eq(int, error_prefix(&err, "x"), ERROR_INVALID));
    cr_assert(eq(sz, strlen(err.message), sizeof err.message - 1));
    cr_assert(eq(int, strncmp(err.message, "x: \xC3\xA9", 5), 0));
    error_prefix(&err, "%s", text);
    cr_assert(eq(sz, strlen(err.message), sizeof err.message - 2));
}

Test(error, exit_status_tells_bad_input_from_devices_from_the_rest)
{
    cr_assert(eq(int, error_exit_status(0), 0));
    cr_assert(eq(int, error_exit_status(ERROR_INVALID), 2));
    cr_assert(eq(int, error_exit_status(ERROR_UNSUPPORTED), 2));
    cr_assert(eq(int, error_exit_status(ERROR_LIMIT), 2));
    cr_assert(eq(int, error_exit_status(ERROR_NO_DEVICE), 3));
    cr_assert(eq(int, error_exit_status(ERROR_DEVICE_LOST), 4));
    cr_assert(eq(int, error_exit_status(ERROR_IO), 1));
    cr_assert(eq(int, error_exit_status(ERROR_MEMORY), 1));
    cr_assert(eq(int, error_exit_status(ERROR_UNAVAILABLE), 1));
}

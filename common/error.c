#include "common/error.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "common/utf8.h"

/* One line whatever it quotes: a message may hold text of a file or of a request. */
static void keep_one_line(char *message)
{
    for (char *c = message; *c != '\0'; c++) {
        if ((unsigned char)*c < 0x20 || *c == 0x7f) {
            *c = ' ';
        }
    }
    size_t length = strlen(message);
    message[length - utf8_incomplete_tail(message, length)] = '\0';
}

void error_write(struct error *err, int code, const char *format, ...)
{
    assert(code < 0);
    if (err == NULL) {
        return;
    }
    err->code = code;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(err->message, sizeof err->message, format, arguments);
    va_end(arguments);
    keep_one_line(err->message);
}

int error_prefix(struct error *err, const char *format, ...)
{
    if (err == NULL) {
        return ERROR_INVALID;
    }
    assert(err->code < 0);
    struct error longer = {.code = err->code};
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(longer.message, sizeof longer.message, format, arguments);
    va_end(arguments);
    /* What does not fit is cut off: the end of the older message. */
    size_t length = strlen(longer.message);
    const char *pieces[] = {": ", err->message};
    for (int i = 0; i < 2; i++) {
        for (const char *c = pieces[i]; *c != '\0' && length < sizeof longer.message - 1; c++) {
            longer.message[length++] = *c;
        }
    }
    longer.message[length] = '\0';
    keep_one_line(longer.message);
    *err = longer;
    return err->code;
}

int error_exit_status(int code)
{
    switch (code) {
    case 0:
        return 0;
    case ERROR_INVALID:
    case ERROR_UNSUPPORTED:
    case ERROR_LIMIT:
        return 2;
    case ERROR_NO_DEVICE:
        return 3;
    case ERROR_DEVICE_LOST:
        return 4;
    default:
        return 1;
    }
}

/*
 * Errors: a function that can fail returns 0 or a negative code of enum error_code and takes a
 * struct error * last. The first callee that fails writes one line that says what, where and what
 * to do; callers clean up and pass the code on. The struct belongs to the caller; any thread.
 */
#ifndef COMMON_ERROR_H
#define COMMON_ERROR_H

#include <stdarg.h>

enum error_code {
    ERROR_INVALID = -1,     /* input from outside is wrong: a file, a request, a flag */
    ERROR_UNSUPPORTED = -2, /* well-formed, but this build does not carry it out */
    ERROR_IO = -3,          /* the operating system said no */
    ERROR_MEMORY = -4,      /* an allocation failed */
    ERROR_LIMIT = -5,       /* over a configured limit */
    ERROR_UNAVAILABLE = -6, /* not now: draining or stopped */
    ERROR_NO_DEVICE = -7,   /* the asked-for device is not there */
    ERROR_DEVICE_LOST = -8, /* the device failed while running */
    ERROR_INTERNAL = -9,    /* what was computed cannot be used; nobody's input is to blame */
};

struct error {
    int code; /* 0 while nothing failed */
    char message[480];
};

/*
 * Writes the line and returns `code`. A NULL err only returns the code. A macro, so that a compiler
 * or an analyzer that reads one file sees which code comes back.
 */
#define error_set(err, code, ...) (error_write(err, code, __VA_ARGS__), error_returned(code))
void error_write(struct error *err, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static inline int error_returned(int code)
{
    return code;
}

/*
 * Puts "PREFIX: " before a message that must already be there, and returns its code. A NULL err has
 * lost the code: ERROR_INVALID.
 */
int error_prefix(struct error *err, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The process's exit status for a code: 2 bad input, 3 no device, 4 device lost, 1 anything else.
 */
int error_exit_status(int code);

#endif

/*
 * What goes wrong with a call, in the words of the HTTP surface: status, type, code, the field it
 * is about and one line of message. A plain struct of the caller; any thread.
 */
#ifndef SERVER_API_API_ERROR_H
#define SERVER_API_API_ERROR_H

#include <jansson.h>

struct buffer;
struct engine_counters;
struct error;

struct api_error {
    int status; /* 0 while nothing failed */
    const char *type;
    const char *code;  /* NULL: null */
    char param[128];   /* "": null */
    char message[480]; /* one line */
    int retry_after_s; /* 0: no such header */
};

/* 400 invalid_request_error with this code about this field (NULL: none). Returns ERROR_INVALID. */
int api_error_refuse(struct api_error *err, const char *code, const char *param, const char *format,
                     ...) __attribute__((format(printf, 4, 5)));

/* invalid_value: "PARAM is VALUE; it must be EXPECTED". */
int api_error_value(struct api_error *err, const char *param, const json_t *value,
                    const char *expected);

/* unsupported_parameter: "PARAM VALUE is not carried out by this build; leave it out". */
int api_error_unsupported(struct api_error *err, const char *param, const json_t *value);

/*
 * An error from below in its HTTP form; messages of internals are not passed on. `counters` know
 * the Retry-After; NULL: where the engine has given up on what ran. Returns the error's code.
 */
int api_error_from(struct api_error *err, const struct error *cause,
                   const struct engine_counters *counters);

int api_error_out_of_memory(struct api_error *err);

/* Appends {"error": {...}}. */
void api_error_append(struct buffer *out, const struct api_error *err);

#endif

/* The path of a request's target. Plain strings; any thread. */
#ifndef SERVER_HTTP_REQUEST_PATH_H
#define SERVER_HTTP_REQUEST_PATH_H

#include <stdbool.h>
#include <stddef.h>

/*
 * Writes the target's path in the one spelling that is compared with the routes (RFC 3986 6.2.2.2,
 * RFC 9112 3.2.2): without scheme and authority, escapes of unreserved characters resolved, all
 * others left, so that "/v1%2Fmodels" is not "/v1/models". The target has no query any more. False
 * when it is longer than size - 1; its beginning is written then.
 */
bool request_path_normalise(char *out, size_t size, const char *target);

/*
 * Resolves every escape of a part of a path. False when one is broken, stands for a control
 * character, or the result does not fit.
 */
bool request_path_decode(char *out, size_t size, const char *part);

#endif

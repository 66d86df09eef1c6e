/*
 * Reading JSON files from outside with jansson: every message names the file and the key, what was
 * expected and what was found. json_t objects follow jansson's reference rules. Any thread.
 */
#ifndef COMMON_JSON_H
#define COMMON_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <jansson.h>

struct error;

/* Parses a whole file (at most max_bytes); NULL and a message with line and column on failure. */
json_t *json_read_file(const char *path, size_t max_bytes, struct error *err);

/* "an object", "a string", "null", ... for messages. */
const char *json_type_name(const json_t *value);

/*
 * Typed members of an object; `where` (usually the file) starts the message. An absent or null key
 * leaves *out alone and returns 0, so the caller presets the default. Out of [min, max] or another
 * type is ERROR_INVALID.
 */
int json_get_int(const json_t *object, const char *key, int64_t min, int64_t max, int64_t *out,
                 const char *where, struct error *err);
int json_get_double(const json_t *object, const char *key, double min, double max, double *out,
                    const char *where, struct error *err);
int json_get_bool(const json_t *object, const char *key, bool *out, const char *where,
                  struct error *err);
/* *out points into the object. */
int json_get_string(const json_t *object, const char *key, const char **out, const char *where,
                    struct error *err);

#endif

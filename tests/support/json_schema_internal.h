/* Shared by checking a value and inspecting a schema; for these two alone. */
#ifndef TESTS_SUPPORT_JSON_SCHEMA_INTERNAL_H
#define TESTS_SUPPORT_JSON_SCHEMA_INTERNAL_H

#include <stddef.h>
#include <jansson.h>

#include "common/error.h"
#include "tests/support/json_pointer.h"

/* The first thing found wrong, and how far into the value that was. */
struct finding {
    struct error error;
    int depth;
};

/* "VALUE AT: message [schema AT]"; value_at NULL: about the schema alone. Returns the code. */
int json_schema_report(struct finding *finding, int code, const struct json_place *value_at,
                       const struct json_place *schema_at, const char *format, ...)
    __attribute__((format(printf, 5, 6)));

/* A short form of a value for messages: itself in out, or what it is. */
const char *json_schema_describe(const json_t *value, char *out, size_t size);

enum form {
    FORM_ANY,
    FORM_TEXT,
    FORM_NUMBER,
    FORM_COUNT, /* an integer from 0 */
    FORM_ARRAY,
    FORM_NAMES,      /* an array of strings */
    FORM_TYPES,      /* the name of a type or an array of such */
    FORM_SCHEMA,     /* a schema */
    FORM_ADDITIONAL, /* a schema, true or false */
    FORM_BRANCHES,   /* a non-empty array of schemas */
    FORM_MEMBERS,    /* an object of schemas */
    FORM_REFERENCE,
};

struct subject;

struct keyword {
    const char *name;
    enum form form;
    int (*check)(const struct subject *subject, struct finding *finding); /* NULL: annotation */
};

const struct keyword *json_schema_keywords(size_t *count);

#endif

/*
 * The fields of a request body: one table says of each its type, its range, which endpoints know
 * it, whether this build carries it out, and the value that changes nothing. Immutable; any thread.
 */
#ifndef SERVER_API_FIELDS_H
#define SERVER_API_FIELDS_H

#include <stdbool.h>
#include <stddef.h>
#include <jansson.h>

#include "server/api/api.h"

struct api_error;

/* Combined where a field takes several types. An integer may be written as 16.0. */
enum field_type {
    FIELD_BOOLEAN = 1,
    FIELD_INTEGER = 2,
    FIELD_NUMBER = 4,
    FIELD_STRING = 8,
    FIELD_ARRAY = 16,
    FIELD_OBJECT = 32,
};

enum field_endpoints {
    FIELD_COMPLETIONS = 1,
    FIELD_CHAT = 2,
    FIELD_BOTH = 3,
    FIELD_TOKENIZE = 4,
    FIELD_DETOKENIZE = 8,
};

/* What a field is besides: sampling parameters are listed by /v1/models. */
enum field_kind { FIELD_PLAIN, FIELD_SAMPLING };

struct field {
    const char *name;
    enum field_endpoints endpoints;
    unsigned types;    /* of enum field_type */
    double min, max;   /* range of a number; both 0: any. Bytes of a string, elements of an array */
    bool above_min;    /* min itself is out of range */
    const char *words; /* the strings it may be, between spaces: " none dual "; NULL: any */
    /* Carried out by this build: everything, or of `words` those in `built_words`. */
    bool built;
    const char *built_words;
    /* A JSON array of the values that may be sent although it is not built; NULL: none. */
    const char *neutral;
    enum field_kind kind;
};

const struct field *fields_table(size_t *count);

/*
 * Checks every member of a body: types, ranges, and that nothing is asked for that this build does
 * not carry out. Members that are null or no fields of this endpoint are taken out, so that whoever
 * reads the body afterwards finds only what was checked. Where `strict`, unknown members are
 * refused, those of nested objects too.
 */
int fields_check(json_t *body, enum api_endpoint endpoint, bool strict, struct api_error *err);

/* Whether `words` (" a b ") holds this text as a whole word. */
bool fields_is_word(const char *words, const char *text, size_t length);

/* Members of a checked body; NULL or `absent` where absent or null. */
const json_t *fields_get(const json_t *body, const char *name);
int64_t fields_integer(const json_t *body, const char *name, int64_t absent);
double fields_number(const json_t *body, const char *name, double absent);
bool fields_boolean(const json_t *body, const char *name, bool absent);
const char *fields_string(const json_t *body, const char *name, const char *absent);

#endif

/*
 * Places in a JSON document: written as a pointer (RFC 6901 behind "#"), and found by one. Pure
 * functions; any thread.
 */
#ifndef TESTS_SUPPORT_JSON_POINTER_H
#define TESTS_SUPPORT_JSON_POINTER_H

#include <stddef.h>
#include <jansson.h>

struct buffer;

/* The way up to the document's root: each place points at the one above, which outlives it. */
struct json_place {
    const struct json_place *above; /* NULL: the root */
    const char *name;               /* of the member; of a root, its whole pointer; NULL: index */
    size_t index;
    int depth;
};

struct json_place json_place_root(const char *pointer);
struct json_place json_place_member(const struct json_place *above, const char *name);
struct json_place json_place_item(const struct json_place *above, size_t index);
/* "#/paths/~1health" */
void json_place_append(struct buffer *out, const struct json_place *place);

/* What "#/a/b~1c" points at within the document; NULL: nothing, or not of this form. */
const json_t *json_pointer_resolve(const json_t *document, const char *pointer);

#endif

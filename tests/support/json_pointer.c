#include "tests/support/json_pointer.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "common/buffer.h"

struct json_place json_place_root(const char *pointer)
{
    return (struct json_place){.name = pointer};
}

struct json_place json_place_member(const struct json_place *above, const char *name)
{
    return (struct json_place){.above = above, .name = name, .depth = above->depth + 1};
}

struct json_place json_place_item(const struct json_place *above, size_t index)
{
    return (struct json_place){.above = above, .index = index, .depth = above->depth + 1};
}

void json_place_append(struct buffer *out, const struct json_place *place)
{
    if (!place->above) {
        buffer_append_text(out, place->name);
        return;
    }
    json_place_append(out, place->above);
    buffer_append_char(out, '/');
    if (!place->name) {
        buffer_format(out, "%zu", place->index);
        return;
    }
    for (const char *c = place->name; *c; c++) {
        if (*c == '~' || *c == '/') {
            buffer_append_text(out, *c == '~' ? "~0" : "~1");
        } else {
            buffer_append_char(out, *c);
        }
    }
}

/* One step of a pointer, [length] bytes with ~0 and ~1. */
static const json_t *resolve_step(const json_t *node, const char *step, size_t length)
{
    char name[256];
    size_t written = 0;
    if (length >= sizeof name) {
        return NULL;
    }
    for (size_t i = 0; i < length; i++) {
        bool escaped = step[i] == '~' && i + 1 < length;
        name[written++] = !escaped ? step[i] : step[i + 1] == '1' ? '/' : '~';
        i += escaped ? 1 : 0;
    }
    name[written] = '\0';
    return json_is_array(node) ? json_array_get(node, (size_t)strtoul(name, NULL, 10))
                               : json_object_get(node, name);
}

const json_t *json_pointer_resolve(const json_t *document, const char *pointer)
{
    if (strncmp(pointer, "#/", 2) != 0) {
        return NULL;
    }
    const json_t *node = document;
    for (const char *step = pointer + 2; node && step;) {
        const char *slash = strchr(step, '/');
        node = resolve_step(node, step, slash ? (size_t)(slash - step) : strlen(step));
        step = slash ? slash + 1 : NULL;
    }
    return node;
}

#include "tests/support/openapi.h"

#include <ctype.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "common/buffer.h"
#include "common/error.h"
#include "common/json.h"
#include "tests/support/json_pointer.h"
#include "tests/support/json_schema.h"

enum { DOCUMENT_BYTES_MAX = 4 << 20, SCHEMA_POINTER_MAX = 128 };

struct openapi {
    json_t *document;
};

/* ---- loading --------------------------------------------------------------------------------- */

static int inspect_node(const json_t *document, const json_t *node, const struct json_place *where,
                        struct error *err);

static int inspect_reference(const json_t *document, const json_t *reference,
                             const struct json_place *where, struct error *err)
{
    if (json_is_string(reference) && json_pointer_resolve(document, json_string_value(reference))) {
        return 0;
    }
    struct buffer pointer = {0};
    json_place_append(&pointer, where);
    int code =
        error_set(err, ERROR_INVALID, "%s: %s points at nothing in this document",
                  pointer.failed ? "$ref" : pointer.data,
                  json_is_string(reference) ? json_string_value(reference) : "what is there");
    buffer_free(&pointer);
    return code;
}

/* The root is an object, so the place above this one has a name. */
static bool is_place_of_schemas(const struct json_place *place)
{
    return place->depth == 2 && place->name && strcmp(place->name, "schemas") == 0 &&
           strcmp(place->above->name, "components") == 0;
}

static int inspect_member(const json_t *document, const char *name, const json_t *member,
                          const struct json_place *where, struct error *err)
{
    if (strcmp(name, "schema") == 0 || strcmp(name, "x-event-schema") == 0 ||
        is_place_of_schemas(where->above)) {
        return json_schema_inspect(document, member, where, err);
    }
    if (strcmp(name, "$ref") == 0) {
        return inspect_reference(document, member, where, err);
    }
    bool plain = strcmp(name, "example") == 0 || strcmp(name, "examples") == 0;
    return plain ? 0 : inspect_node(document, member, where, err);
}

/* Everything outside of schemas: finds the schemas, and references to components. */
static int inspect_node(const json_t *document, const json_t *node, const struct json_place *where,
                        struct error *err)
{
    int code = 0;
    for (size_t i = 0; !code && i < json_array_size(node); i++) {
        struct json_place item_at = json_place_item(where, i);
        code = inspect_node(document, json_array_get(node, i), &item_at, err);
    }
    const char *name;
    json_t *member;
    json_object_foreach((json_t *)node, name, member)
    {
        struct json_place member_at = json_place_member(where, name);
        code = code ? code : inspect_member(document, name, member, &member_at, err);
    }
    return code;
}

static int inspect_document(const json_t *document, const char *path, struct error *err)
{
    const char *version = json_string_value(json_object_get(document, "openapi"));
    if (!version || strncmp(version, "3.1.", 4) != 0) {
        return error_set(err, ERROR_INVALID, "%s: openapi is %s, but must be 3.1.x", path,
                         version ? version : "missing");
    }
    if (!json_is_object(json_object_get(document, "paths"))) {
        return error_set(err, ERROR_INVALID, "%s: paths is missing or no object", path);
    }
    struct json_place root = json_place_root("#");
    int code = inspect_node(document, document, &root, err);
    return code ? error_prefix(err, "%s", path) : 0;
}

int openapi_load(struct openapi **out, const char *path, struct error *err)
{
    *out = NULL;
    json_t *document = json_read_file(path, DOCUMENT_BYTES_MAX, err);
    if (!document) {
        return err ? err->code : ERROR_INVALID;
    }
    int code = inspect_document(document, path, err);
    struct openapi *openapi = code ? NULL : calloc(1, sizeof *openapi);
    if (!openapi) {
        json_decref(document);
        return code ? code : error_set(err, ERROR_MEMORY, "%s: out of memory", path);
    }
    openapi->document = document;
    *out = openapi;
    return 0;
}

void openapi_free(struct openapi *openapi)
{
    if (openapi) {
        json_decref(openapi->document);
        free(openapi);
    }
}

/* ---- finding the response -------------------------------------------------------------------- */

/* Whether path[0 .. length) is one of the template's. */
static bool path_matches(const char *template, const char *path, size_t length)
{
    const char *end = path + length;
    while (*template && path < end) {
        if (*template != '{') {
            if (*template ++ != *path++) {
                return false;
            }
            continue;
        }
        template = strchr(template, '}') + 1;
        const char *begin = path;
        while (path < end && (*template == '\0' || *path != '/')) {
            path++;
        }
        if (path == begin) {
            return false;
        }
    }
    return *template == '\0' && path == end;
}

/* The path item; a template without parameters wins. */
static const json_t *find_path(const struct openapi *openapi, const char *path)
{
    size_t length = strcspn(path, "?");
    const json_t *found = NULL;
    const char *template;
    json_t *item;
    json_object_foreach(json_object_get(openapi->document, "paths"), template, item)
    {
        bool literal = strchr(template, '{') == NULL;
        if ((literal || !found) && path_matches(template, path, length)) {
            found = item;
        }
    }
    return found;
}

static const json_t *follow(const struct openapi *openapi, const json_t *node)
{
    const char *reference = json_string_value(json_object_get(node, "$ref"));
    return reference ? json_pointer_resolve(openapi->document, reference) : node;
}

/* One of the document's own answers to what it has no path or method for. */
static int find_extension(const json_t **out, const struct openapi *openapi, const char *extension,
                          int status, int documented, struct error *err)
{
    *out = follow(openapi, json_object_get(openapi->document, extension));
    if (status != documented || !*out) {
        return error_set(err, ERROR_INVALID, "the document has no such %s",
                         documented == 404 ? "path" : "method at this path");
    }
    return 0;
}

static int find_response(const json_t **out, const struct openapi *openapi, const char *method,
                         const char *path, int status, struct error *err)
{
    const json_t *item = find_path(openapi, path);
    if (!item) {
        return find_extension(out, openapi, "x-unknown-path", status, 404, err);
    }
    char name[16];
    snprintf(name, sizeof name, "%s", strcmp(method, "HEAD") == 0 ? "GET" : method);
    for (char *c = name; *c; c++) {
        *c = (char)tolower((unsigned char)*c);
    }
    const json_t *operation = json_object_get(item, name);
    if (!operation) {
        return find_extension(out, openapi, "x-unknown-method", status, 405, err);
    }
    char number[16];
    snprintf(number, sizeof number, "%d", status);
    *out = follow(openapi, json_object_get(json_object_get(operation, "responses"), number));
    return *out ? 0
                : error_set(err, ERROR_INVALID, "the document has no such status for this method");
}

/* The media type of the response that this content type is of. */
static int find_media(const json_t **out, const json_t *response, const char *content_type,
                      char *type, size_t size, struct error *err)
{
    size_t length = content_type ? strcspn(content_type, "; \t") : 0;
    snprintf(type, size, "%.*s", (int)length, content_type ? content_type : "");
    const char *name;
    json_t *media;
    json_object_foreach(json_object_get(response, "content"), name, media)
    {
        if (strcasecmp(name, type) == 0) {
            *out = media;
            snprintf(type, size, "%s", name);
            return 0;
        }
    }
    return error_set(err, ERROR_INVALID,
                     "the document does not give this response the content type %s",
                     content_type ? content_type : "(none)");
}

/* ---- checking bodies ------------------------------------------------------------------------- */

static int check_json(const struct openapi *openapi, const json_t *schema, const json_t *value,
                      struct error *err)
{
    if (!schema) {
        return error_set(err, ERROR_INVALID, "the document has no schema for this content");
    }
    /* A schema in components is named by its own place as soon as $ref leads there. */
    struct json_place where = json_place_root("(of this content)");
    return json_schema_check(openapi->document, schema, &where, value, err);
}

static int check_json_text(const struct openapi *openapi, const json_t *schema, const char *text,
                           size_t length, json_t **parsed, struct error *err)
{
    json_error_t cause;
    json_t *value =
        json_loadb(text, length, JSON_ALLOW_NUL | JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &cause);
    if (!value) {
        return error_set(err, ERROR_INVALID, "no JSON: %s (line %d, column %d)", cause.text,
                         cause.line, cause.column);
    }
    int code = check_json(openapi, schema, value, err);
    if (parsed && !code) {
        *parsed = value;
    } else {
        json_decref(value);
    }
    return code;
}

/* Where a stream stands. */
struct events {
    const struct openapi *openapi;
    const json_t *schema;
    size_t count;
    bool ended; /* [DONE] or an error has come */
};

/* One block between blank lines. */
static int check_block(struct events *events, const char *block, size_t length, struct error *err)
{
    static const char prefix[] = "data: ";
    static const char done[] = "[DONE]";
    if (events->ended) {
        return error_set(err, ERROR_INVALID, "something follows the stream's last event");
    }
    if (memchr(block, '\n', length)) {
        return error_set(err, ERROR_INVALID, "event %zu has several lines", events->count);
    }
    if (block[0] == ':') {
        return 0;
    }
    size_t skip = strlen(prefix);
    if (length < skip || memcmp(block, prefix, skip) != 0) {
        return error_set(err, ERROR_INVALID, "event %zu does not begin with \"data: \"",
                         events->count);
    }
    if (length - skip == strlen(done) && memcmp(block + skip, done, strlen(done)) == 0) {
        events->ended = true;
        return 0;
    }
    json_t *event = NULL;
    int code =
        check_json_text(events->openapi, events->schema, block + skip, length - skip, &event, err);
    if (code) {
        return error_prefix(err, "event %zu", events->count);
    }
    events->count++;
    events->ended = json_object_get(event, "error") != NULL;
    json_decref(event);
    return 0;
}

static int check_events(const struct openapi *openapi, const json_t *schema, const char *body,
                        size_t length, struct error *err)
{
    struct events events = {.openapi = openapi, .schema = schema};
    const char *end = body + length;
    while (body < end) {
        const char *blank = memmem(body, (size_t)(end - body), "\n\n", 2);
        if (!blank) {
            return error_set(err, ERROR_INVALID, "the stream ends within event %zu", events.count);
        }
        int code = check_block(&events, body, (size_t)(blank - body), err);
        if (code) {
            return code;
        }
        body = blank + 2;
    }
    return events.ended ? 0
                        : error_set(err, ERROR_INVALID,
                                    "the stream ends after %zu events without [DONE] or an error",
                                    events.count);
}

static int check_body(const struct openapi *openapi, const json_t *media, const char *type,
                      const char *body, size_t length, struct error *err)
{
    const json_t *schema = json_object_get(media, "schema");
    if (strcmp(type, "application/json") == 0) {
        return check_json_text(openapi, schema, body, length, NULL, err);
    }
    if (strcmp(type, "text/event-stream") == 0) {
        return check_events(openapi, json_object_get(media, "x-event-schema"), body, length, err);
    }
    json_t *text = json_stringn(body, length);
    if (!text) {
        return error_set(err, ERROR_INVALID, "the body is not UTF-8");
    }
    int code = check_json(openapi, schema, text, err);
    json_decref(text);
    return code;
}

int openapi_check_response(const struct openapi *openapi, const char *method, const char *path,
                           int status, const char *content_type, const char *body, size_t length,
                           struct error *err)
{
    const json_t *response = NULL, *media = NULL;
    char type[64];
    int code = find_response(&response, openapi, method, path, status, err);
    bool bodiless = !code && !json_object_get(response, "content");
    if (!code && !bodiless) {
        code = find_media(&media, response, content_type, type, sizeof type, err);
    }
    if (!code && (bodiless || strcmp(method, "HEAD") == 0)) {
        code = length ? error_set(err, ERROR_INVALID,
                                  "there is a body of %zu bytes, but there "
                                  "must be none",
                                  length)
                      : 0;
    } else if (!code) {
        code = check_body(openapi, media, type, body, length, err);
    }
    return code ? error_prefix(err, "%s %s %d", method, path, status) : 0;
}

int openapi_check_event(const struct openapi *openapi, const char *schema_name, const json_t *event,
                        struct error *err)
{
    char pointer[SCHEMA_POINTER_MAX];
    snprintf(pointer, sizeof pointer, "#/components/schemas/%s", schema_name);
    const json_t *schema = json_pointer_resolve(openapi->document, pointer);
    if (!schema) {
        return error_set(err, ERROR_INVALID, "%s: the document has no such schema", pointer);
    }
    struct json_place where = json_place_root(pointer);
    return json_schema_check(openapi->document, schema, &where, event, err);
}

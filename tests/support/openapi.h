/*
 * Holds HTTP responses against an OpenAPI 3.1 document (docs/openapi.json): status, content type,
 * body, and every event of a stream. What the document does not speak of is a failure. Besides the
 * standard it reads three extensions:
 *   x-event-schema    beside the schema of a text/event-stream: schema of the events' JSON
 *   x-unknown-path    at the document's root: the response (404) where no path matches
 *   x-unknown-method  at the document's root: the response (405) where the path lacks the method
 * Read-only after loading; any thread.
 */
#ifndef TESTS_SUPPORT_OPENAPI_H
#define TESTS_SUPPORT_OPENAPI_H

#include <stddef.h>
#include <jansson.h>

struct error;
struct openapi;

/*
 * Reads the document and inspects all its schemas: a keyword that json_schema.h does not know, or a
 * reference to nothing, is ERROR_INVALID naming it.
 */
int openapi_load(struct openapi **out, const char *path, struct error *err);
void openapi_free(struct openapi *openapi); /* NULL is fine */

/*
 * A response to METHOD of a concrete path ("/v1/models/tiny"; a query is ignored). A parameter
 * stands for one segment, at the end of a template for all that is left. HEAD is GET without a
 * body. content_type may have parameters; NULL: none was sent. A text/event-stream has to be there
 * as a whole: comments, events, and at the end [DONE] or an event with `error`.
 * ERROR_INVALID names method, path, status, and the pointers of the offending value and schema.
 */
int openapi_check_response(const struct openapi *openapi, const char *method, const char *path,
                           int status, const char *content_type, const char *body, size_t length,
                           struct error *err);

/* Any JSON, one event say, against the schema of this name in components. */
int openapi_check_event(const struct openapi *openapi, const char *schema_name, const json_t *event,
                        struct error *err);

#endif

/*
 * Members of the objects inside a body. Only `strict` looks at them: without it unknown ones are
 * ignored, and the known ones are checked by whoever reads them. Pure functions, any thread.
 */
#ifndef SERVER_API_NESTED_FIELDS_H
#define SERVER_API_NESTED_FIELDS_H

#include <jansson.h>

struct api_error;

/*
 * Refuses the first unknown member of stream_options, response_format, a message or a content part
 * by its path, such as messages[0].foo. What is no object, or null, is left to its reader.
 */
int nested_fields_check(const json_t *body, struct api_error *err);

#endif

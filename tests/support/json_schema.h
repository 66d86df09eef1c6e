/*
 * The part of JSON Schema (2020-12) that docs/openapi.json is written in, for tests that hold JSON
 * against it. What is known: type, const, enum, required, properties, additionalProperties, items,
 * minItems, maxItems, minLength, minimum, maximum, exclusiveMinimum, anyOf, oneOf, $ref within the
 * document; the annotations title, description, default, examples. Every other keyword is refused,
 * so that none is ever silently not checked. Pure functions over the caller's JSON; any thread.
 */
#ifndef TESTS_SUPPORT_JSON_SCHEMA_H
#define TESTS_SUPPORT_JSON_SCHEMA_H

#include <jansson.h>

struct error;
struct json_place;

/*
 * Whether a schema of the document, and all within it, can be checked: known keywords of the right
 * form and references that resolve; what they point at is not followed. `where` is the schema's
 * place. ERROR_INVALID names pointer and keyword.
 */
int json_schema_inspect(const json_t *document, const json_t *schema,
                        const struct json_place *where, struct error *err);

/*
 * Holds a value against a schema that json_schema_inspect has passed. The message of ERROR_INVALID
 * has the pointers of the offending value and of the schema's keyword; where no branch of anyOf or
 * oneOf fits, those of the branch that got furthest into the value. References that lead back to
 * themselves without going into the value end in ERROR_LIMIT.
 */
int json_schema_check(const json_t *document, const json_t *schema, const struct json_place *where,
                      const json_t *value, struct error *err);

#endif

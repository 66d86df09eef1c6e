/* Golden data of tokenizers and chat templates, as tests/fixtures/unpack.sh leaves it. */
#ifndef TESTS_UNIT_MODEL_TOKENIZER_FIXTURE_H
#define TESTS_UNIT_MODEL_TOKENIZER_FIXTURE_H

#include <stdbool.h>
#include <jansson.h>

#include "common/buffer.h"
#include "server/model/tokenizer.h"

#define TOKENIZER_FIXTURES "build/fixtures/tokenizers/"

/* The lines of a .jsonl file as an array; fails the test where the file is missing. */
json_t *fixture_lines(const char *file);

/* Loads NAME.tokenizer.json; fails the test where that does not work. */
struct tokenizer *fixture_tokenizer(const char *name);

/*
 * Compare what was found with a member of a line: false, after a line on stderr with file, line
 * number (from 1), what was expected and what was found.
 */
bool fixture_ids_equal(const char *file, size_t line, const json_t *object, const char *key,
                       const struct token_list *found);
bool fixture_text_equal(const char *file, size_t line, const json_t *object, const char *key,
                        const struct buffer *found);

/* The integers of an array. The caller frees the list. */
struct token_list fixture_ids(const json_t *array);

#endif

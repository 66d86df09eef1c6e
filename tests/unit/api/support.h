/*
 * What the tests of the API layer share: an api over the tiny model's tokenizer without an engine,
 * bodies parsed the way a call does, and replies over streams that the test posts to by hand.
 */
#ifndef TESTS_UNIT_API_SUPPORT_H
#define TESTS_UNIT_API_SUPPORT_H

#include <jansson.h>

#include "server/api/reply.h"

enum {
    BOS = 0, /* ids of models/tiny/tokenizer.json */
    END_OF_TEXT = 1,
    MASK = 2,
    END_OF_TURN = 5,
    CONTEXT = 512,
    CHOICES_MAX = 8,
    OWNER = 77, /* of the calls that tests make */
};

/* Loads tokenizer and template once; later calls give the same struct, set back to its defaults. */
struct api *support_api(void);

/* The answer to a body that is refused before the engine would see it. */
struct refused {
    int status;
    json_t *body;        /* the caller releases it */
    const json_t *error; /* its member "error" */
};
struct refused support_refuse(enum api_endpoint endpoint, const char *body);
/* The same for a body with bytes that are no C string. */
struct refused support_refuse_bytes(enum api_endpoint endpoint, const char *body, size_t length);
const char *refused_text(const struct refused *refused, const char *member); /* "" for null */

/* Checks that a body of completions is accepted, and gives its parameters. */
struct api_parameters support_parameters(const char *body);

/* A reply whose streams the test writes. */
struct live {
    struct arena arena;
    struct stream streams[CHOICES_MAX];
    struct decode_params params;
    struct reply reply;
    int32_t length; /* answer positions */
};
void live_create(struct live *live, enum api_endpoint endpoint, const char *body, int32_t choices,
                 int32_t length);
void live_free(struct live *live);

/* What live_post gives as the entries of top_logprobs: fall by 0.5 from -0.5. */
int32_t live_top_token(int32_t position, int32_t rank);

/*
 * Posts a round: the canvas with MASK where undecided; settled, masked and the rest follow from it.
 * Position i has the log-probability -0.25 (i + 1).
 */
void live_post(struct live *live, int32_t choice, int32_t round, const int32_t *tokens,
               enum finish finish);

/* The body of the answer, parsed; every choice is final. The caller releases it. */
json_t *live_answer(struct live *live);
/* The events of a stream as an array; "[DONE]" is a string. The caller releases it. */
json_t *parse_events(const char *text);
/* Reads what there is to read: an array of the events' JSON, "[DONE]" as a string. */
json_t *live_events(struct live *live);

/* Ids of tokens of one byte each. */
int32_t support_byte_token(unsigned char byte);
/* Spells a text in byte tokens at tokens[0 ..) and returns how many. */
int32_t support_spell(int32_t *tokens, const char *text);

/* "choices[0].delta.content" style look-ups; NULL where a step is missing. */
const json_t *json_at(const json_t *value, const char *path);
const char *text_at(const json_t *value, const char *path);

#endif

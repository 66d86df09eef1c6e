#include "server/engine/decode.h"

#include <stddef.h>
#include <string.h>

/* Indexed by enum selection and enum cache_mode. */
static const char *const SELECTION_NAMES[] = {"steps", "threshold", "factor", "random"};
static const char *const CACHE_MODE_NAMES[] = {"none", "prefix", "dual"};

/* Index of the name, or -1. */
static int name_find(const char *const *names, size_t count, const char *name)
{
    for (size_t i = 0; i < count; i++) {
        if (strcmp(names[i], name) == 0)
            return (int)i;
    }
    return -1;
}

const char *selection_name(enum selection selection)
{
    return SELECTION_NAMES[selection];
}

bool selection_from_name(const char *name, enum selection *out)
{
    int index = name_find(SELECTION_NAMES, sizeof SELECTION_NAMES / sizeof *SELECTION_NAMES, name);
    if (index < 0)
        return false;
    *out = (enum selection)index;
    return true;
}

const char *cache_mode_name(enum cache_mode cache)
{
    return CACHE_MODE_NAMES[cache];
}

bool cache_mode_from_name(const char *name, enum cache_mode *out)
{
    int index =
        name_find(CACHE_MODE_NAMES, sizeof CACHE_MODE_NAMES / sizeof *CACHE_MODE_NAMES, name);
    if (index < 0)
        return false;
    *out = (enum cache_mode)index;
    return true;
}

struct decode_params decode_params_neutral(int32_t max_tokens, int32_t block_length)
{
    return (struct decode_params){
        .max_tokens = max_tokens,
        .block_length = block_length,
        .selection = SELECTION_STEPS,
        .cache = CACHE_NONE,
        .top_p = 1,
        .repetition_penalty = 1,
    };
}

size_t decode_allowed_words(int32_t embedding_rows)
{
    return ((size_t)embedding_rows + 31) / 32;
}

bool decode_is_stop_token(const struct decode_params *params, int32_t token)
{
    for (int32_t i = 0; i < params->stop_token_count; i++) {
        if (params->stop_tokens[i] == token)
            return true;
    }
    return false;
}

bool decode_counts_tokens(const struct decode_params *params)
{
    return params->presence_penalty != 0 || params->frequency_penalty != 0 ||
           params->repetition_penalty != 1;
}

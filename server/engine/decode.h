/*
 * What a client can ask of the decoding, and what a sequence's canvas looks like: plain structs
 * shared by the policy, the scheduler and the API. No ownership.
 */
#ifndef SERVER_ENGINE_DECODE_H
#define SERVER_ENGINE_DECODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/backend.h"
#include "server/model/config.h"

enum {
    /* The model's own and the chat template's end of turn. */
    DECODE_STOP_TOKENS_MAX = MODEL_STOP_TOKENS_MAX + 1,
    DECODE_BIASES_MAX = 1024,      /* biases of one request */
    DECODE_BANNED_WORDS_MAX = 256, /* banned words of one request */
    BANNED_WORD_BYTES_MAX = 255,   /* bytes of one of them */
};

/* Which masked positions commit in a round. */
enum selection { SELECTION_STEPS, SELECTION_THRESHOLD, SELECTION_FACTOR, SELECTION_RANDOM };

/* Which positions are recomputed in a round; all others are read from the KV cache. */
enum cache_mode { CACHE_NONE, CACHE_PREFIX, CACHE_DUAL };

const char *selection_name(enum selection selection); /* "steps", ... */
bool selection_from_name(const char *name, enum selection *out);
const char *cache_mode_name(enum cache_mode cache); /* "none", ... */
bool cache_mode_from_name(const char *name, enum cache_mode *out);

/* Bytes that the joined text of the answer must not contain. */
struct banned_word {
    const char *bytes; /* [length] length >= 1 */
    int32_t length;
};

/* What a token adds to the text; length 0: nothing (special tokens, ids without a token). */
struct token_text {
    const char *bytes; /* [length] */
    int32_t length;
};

/* One request's parameters after defaults and validation. */
struct decode_params {
    int32_t max_tokens;   /* answer positions of the canvas, >= 1 */
    int32_t block_length; /* >= 1 */
    int32_t steps;        /* rounds for the whole answer; 0: no step budget */
    enum selection selection;
    float threshold; /* of SELECTION_THRESHOLD: confidence at which a position commits */
    float factor;    /* of SELECTION_FACTOR */
    enum cache_mode cache;
    int32_t refresh_interval; /* whole-canvas window every so many rounds of a region; 0: never */
    float temperature;        /* 0: the best token */
    int32_t top_k;            /* 0: off */
    float top_p;              /* 1: off */
    float min_p;              /* 0: off */
    uint64_t seed;
    float cfg_scale;     /* 0: no guidance */
    bool eos_early_stop; /* end as soon as everything up to the first stop id is committed */
    bool ignore_eos;     /* stop ids are banned */
    bool logits_eos_inf; /* the model's EOS ids are banned before the softmax (LLaDA) */
    bool confidence_eos_eot_inf;               /* stop ids commit last: see policy_select (LLaDA) */
    float presence_penalty, frequency_penalty; /* 0: off */
    float repetition_penalty;                  /* 1: off */
    /* What follows lies in the request's arena, or wherever it outlives the request. */
    const struct token_bias *biases; /* [bias_count] a token at most once;
                                        -INFINITY bans */
    int32_t bias_count;
    const uint32_t *allowed;        /* [decode_allowed_words] bitset; NULL: all */
    const int32_t *negative_prompt; /* [negative_prompt_length] of the guidance partner; NULL: the
                                       prompt masked */
    int32_t negative_prompt_length;
    const struct banned_word *banned_words; /* [banned_word_count] */
    int32_t banned_word_count;
    int32_t top_logprobs; /* raw top entries kept for every position, 0 to HEAD_RAW_TOP_MAX */
    int32_t stop_tokens[DECODE_STOP_TOKENS_MAX];
    int32_t stop_token_count;
};

/* Neutral values: everything off, one token a round, greedy. max_tokens and block_length are set.
 */
struct decode_params decode_params_neutral(int32_t max_tokens, int32_t block_length);

/* Words of an allowed set over so many rows of the embedding. */
size_t decode_allowed_words(int32_t embedding_rows);

bool decode_is_stop_token(const struct decode_params *params, int32_t token);
/* True where any penalty is on. */
bool decode_counts_tokens(const struct decode_params *params);

enum finish {
    FINISH_NONE,      /* still running */
    FINISH_STOP,      /* a stop id ended the text */
    FINISH_LENGTH,    /* every position holds a token, none of them a stop id */
    FINISH_CANCELLED, /* the client left */
    FINISH_FAILED,    /* stream.error says why */
};

#endif

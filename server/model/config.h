/*
 * config.json and generation_config.json of a checkpoint as plain structs: the switches in which
 * the supported families differ. Plain values, no ownership.
 */
#ifndef SERVER_MODEL_CONFIG_H
#define SERVER_MODEL_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

struct error;

enum {
    MODEL_STOP_TOKENS_MAX = 16,
    MODEL_BIASES_MAX = 1100, /* of the head rows of one sequence together */
};

enum model_family { MODEL_LLADA };

/* Which cached positions a row may see. */
enum model_attention { ATTENTION_FULL, ATTENTION_BLOCK_CAUSAL };

struct model_config {
    enum model_family family;
    char model_type[64];
    enum model_attention attention;
    int32_t layers, width /* d_model */, heads, kv_heads, head_dim, rotary_dim;
    int32_t ffn_width;      /* of SwiGLU, one half */
    int32_t vocabulary;     /* ids that tokens may have (vocab_size) */
    int32_t embedding_rows; /* rows of embedding and head; may exceed vocabulary */
    int32_t max_positions;  /* context length */
    double rope_theta;
    float norm_epsilon;
    bool qkv_bias;       /* q, k, v projections have a bias */
    bool linear_bias;    /* all projections have one */
    bool qk_norm;        /* RMSNorm on every q and k head before RoPE */
    bool tied_head;      /* the head is the embedding */
    bool shifted_logits; /* logits of position i come from row i - 1 */
    int32_t mask_token;
    int32_t bos_token;                          /* -1: none */
    int32_t stop_tokens[MODEL_STOP_TOKENS_MAX]; /* every eos_token_id of both files */
    int32_t stop_token_count;
};

/*
 * Defaults of generation_config.json: length, sampling and the fields of a request that say how an
 * answer is refined, by the names they have there (max_tokens: max_new_tokens). A negative number,
 * or NAN, means that it says nothing.
 */
struct generation_defaults {
    int32_t max_tokens, block_length, steps, top_k, refresh_interval;
    double temperature, top_p, min_p, threshold, factor, cfg_scale;
    double presence_penalty, frequency_penalty, repetition_penalty;
    int32_t eos_early_stop, ignore_eos, logits_eos_inf, confidence_eos_eot_inf; /* 0 or 1 */
    char selection[32], cache[32]; /* "" where it says nothing */
};

extern const struct generation_defaults generation_defaults_none; /* says nothing at all */

/* The words that selection and cache may have, between spaces (" a b "); a build may lack some. */
extern const char generation_selections[], generation_caches[];

/*
 * Reads DIRECTORY/config.json and, where it exists, generation_config.json. ERROR_UNSUPPORTED names
 * an unknown model_type or a switch this build does not carry out; ERROR_INVALID a missing file, or
 * a value out of range with key, value and range. A key that is absent has the value that the
 * published configuration class gives it; keys of generation_config.json that are not listed above
 * are ignored.
 */
int model_config_read(struct model_config *config, struct generation_defaults *defaults,
                      const char *directory, struct error *err);

const char *model_family_name(enum model_family family); /* "LLaDA" */

#endif

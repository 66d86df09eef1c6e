/*
 * The inside of a tokenizer, shared by the tokenizer*.c files and nobody else. Everything here is
 * written by tokenizer_load alone and read-only afterwards; what an encode call needs to write
 * lives in struct encoder.
 */
#ifndef SERVER_MODEL_TOKENIZER_INTERNAL_H
#define SERVER_MODEL_TOKENIZER_INTERNAL_H

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <jansson.h>

#include "common/buffer.h"
#include "common/error.h"
#include "server/model/tokenizer.h"

/* ---- tables (tokenizer_tables.c) ---- */

/* Numbered strings, packed. */
struct token_strings {
    char *text;
    uint32_t *begin; /* [count + 1] offsets into text */
};

/* Open addressing from strings to their numbers. A zeroed index is empty and may be searched. */
struct token_index {
    struct token_index_slot {
        uint32_t hash;
        int32_t number_plus_one; /* 0 where free */
    } * slots;                   /* [mask + 1] */
    uint32_t mask;
};

struct merge {
    int32_t left, right;
    uint32_t rank;
    int32_t result_plus_one; /* 0 where free */
};

/* Open addressing from pairs of ids to merges. */
struct merge_table {
    struct merge *slots; /* [mask + 1] */
    uint64_t mask;
};

int token_index_init(struct token_index *index, size_t count);
/* The number of a string, or -1. `strings` are those the index was filled from. */
int32_t token_index_find(const struct token_index *index, const struct token_strings *strings,
                         const char *text, size_t length);
/* Returns -1, or the other number that already has this string. There must be room. */
int32_t token_index_insert(struct token_index *index, const struct token_strings *strings,
                           int32_t number);

int merge_table_init(struct merge_table *table, size_t count);
/* A pair that is already there takes the new rank, as in the reference. There must be room. */
void merge_table_put(struct merge_table *table, int32_t left, int32_t right, uint32_t rank,
                     int32_t result);
const struct merge *merge_table_find(const struct merge_table *table, int32_t left, int32_t right);

/* GPT-2's byte alphabet: the code point that stands for a byte, and back (-1 for no byte). */
uint32_t byte_alphabet_code_point(uint8_t byte);
int byte_alphabet_byte(uint32_t code_point);

/* ---- added tokens (tokenizer_added.c) ---- */

struct added_token {
    int32_t id;
    bool special, left_strip, right_strip, single_word, normalized;
};

struct added_trie_node {
    int32_t first_child, next_sibling; /* 0: none, since the root is nobody's child */
    int32_t token;                     /* index into added_tokens, or -1 */
    uint8_t byte;
};

/* A trie over bytes; the children of the root are also found by their byte. */
struct added_trie {
    struct added_trie_node *nodes; /* [capacity], the root first */
    int32_t count, capacity;
    int32_t root_child[256]; /* 0: none */
};

/* A pattern that is already there stays with its first owner. ERROR_MEMORY. */
int added_trie_insert(struct added_trie *trie, const char *text, size_t length, int32_t token);

/* ---- pre-tokenizer (tokenizer_regex.c, tokenizer_split.c) ---- */

struct split_step {
    pcre2_code *code;
    bool keep_matches, keep_gaps;
    char *name; /* the pattern as in the file, for messages */
};

enum { TOKENIZER_MAX_SPLITS = 16 };

/*
 * Compiles a Split pattern so that PCRE2 finds what Oniguruma (Ruby's syntax) finds. What the two
 * read differently is refused with a line that names it.
 */
int tokenizer_compile_regex(pcre2_code **out, const char *pattern, size_t length,
                            struct error *err);
/* The same for a text that stands for itself. */
int tokenizer_compile_literal(pcre2_code **out, const char *text, size_t length, struct error *err);
/* One word character in the sense of added tokens' single_word. */
int tokenizer_compile_word_character(pcre2_code **out, struct error *err);

/* ---- the tokenizer ---- */

enum token_flags {
    TOKEN_PRESENT = 1,
    TOKEN_SPECIAL = 2,
    TOKEN_UNWRITABLE = 4, /* the vocabulary's word is a special token's text: BPE never gives it */
};
enum normal_form { NORMAL_FORM_NONE, NORMAL_FORM_NFC, NORMAL_FORM_NFKC };

struct tokenizer {
    int32_t size;            /* one past the largest id */
    int32_t vocabulary_size; /* one past the largest id of model.vocab */
    uint8_t *flags;          /* [size] enum token_flags */
    /* [vocabulary_size + added_count] as in the file: the vocabulary by id, then the added tokens
     */
    struct token_strings content;
    struct token_strings bytes;        /* [size] as decoded */
    struct token_index by_content;     /* numbers of content */
    struct token_index whole_by_bytes; /* pre-tokens that become one token: see tokenizer_bpe.c */

    struct merge_table merges;
    int32_t byte_ids[256]; /* the token of a single byte, or -1 */
    int32_t unknown_id;    /* in place of a byte without a token; -1: such a byte vanishes */
    bool fuse_unknown;     /* a row of unknown bytes gives one token */
    bool ignore_merges;

    enum normal_form normal_form;
    struct split_step splits[TOKENIZER_MAX_SPLITS];
    int split_count;
    int prefix_space_at; /* pieces that reach this split get a leading space; -1: none do */

    struct added_token *added; /* [added_count] */
    int32_t added_count;
    struct added_trie raw_added, normalized_added;
    pcre2_code *word_character; /* NULL where no added token needs it */

    struct token_list prefix, suffix; /* what the post-processor puts around a text */

    size_t bytes_per_token; /* of a text, at most; 0: without bound */
};

/* Sets bytes_per_token from all the rest. */
void tokenizer_measure(struct tokenizer *tokenizer);

/* What tokenizer_load_steps.c reads: everything of the file but the tokens themselves. */
int tokenizer_load_normalizer(struct tokenizer *tokenizer, const json_t *step, const char *path,
                              struct error *err);
int tokenizer_load_pre_tokenizer(struct tokenizer *tokenizer, const json_t *step, const char *path,
                                 struct error *err);
/* After the tokens: it names ids. */
int tokenizer_load_post_processor(struct tokenizer *tokenizer, const json_t *step, const char *path,
                                  struct error *err);
int tokenizer_load_decoder(const json_t *step, const char *path, struct error *err);
/* A boolean that has to be there: the reference knows no default. */
int tokenizer_require_bool(const json_t *object, const char *key, bool *out, const char *path,
                           const char *where, struct error *err);
/* tokenizer_load_tokens.c: vocabulary, added tokens, merges. */
int tokenizer_load_tokens(struct tokenizer *tokenizer, const json_t *root, const char *path,
                          struct error *err);

/* While loading: texts still in the JSON. */
struct token_reader {
    struct tokenizer *tokenizer;
    const json_t *model, *vocabulary, *merges, *added;
    const char *path;
    struct error *err;
    int32_t id_limit; /* one past the largest id that the file names */
    /* [id_limit + number of added_tokens] the vocabulary by id, then the added tokens in order */
    struct token_entry {
        const char *text; /* NULL: no token */
        size_t length;
        bool claimed; /* an added token names this id */
    } * entries;
};

int token_reader_out_of_memory(const struct token_reader *reader);
/* The id of a word of model.vocab, or -1. */
int32_t tokenizer_find_in_vocabulary(const struct tokenizer *tokenizer, const char *text,
                                     size_t length);
/* tokenizer_load_tables.c, in this order, once the texts are packed and indexed. */
int token_reader_find_bytes(struct token_reader *reader);
int token_reader_read_merges(struct token_reader *reader);
int token_reader_index_whole_tokens(struct token_reader *reader);
int token_reader_build_tries(struct token_reader *reader);

/* ---- encoding ---- */

struct bpe_symbol {
    int32_t id; /* -1: merged into its left neighbour */
    int32_t previous, next;
    uint32_t rank;  /* of the merge with the next symbol; BPE_NO_RANK where there is none */
    int32_t merged; /* the id of that merge */
};

#define BPE_NO_RANK UINT32_MAX

/* Everything one encode call writes. */
struct encoder {
    const struct tokenizer *tokenizer;
    struct token_list *out;
    struct error *err;

    struct buffer run;        /* plain text collected so far */
    struct buffer normalized; /* the run in its normal form */
    struct buffer stretch;    /* template text in its normal form, while added tokens are matched */
    struct buffer prefixed;   /* a piece behind its added space */

    int32_t *code_points; /* [code_point_capacity] scratch of the normalizer */
    size_t code_point_capacity;

    struct bpe_symbol *symbols; /* [symbol_capacity] */
    uint64_t *heap;             /* [3 * symbol_capacity] rank << 32 | symbol */
    size_t symbol_capacity;

    pcre2_match_data *matches[TOKENIZER_MAX_SPLITS];
    pcre2_match_data *word_match;
    pcre2_match_context *match_limits;
};

int encoder_init(struct encoder *encoder, const struct tokenizer *tokenizer, struct token_list *out,
                 struct error *err);
void encoder_free(struct encoder *encoder);

/* Appends the ids of one pre-token's bytes. Never looks at added tokens. */
int encoder_add_word(struct encoder *encoder, const char *text, size_t length);
/* Splits normalised text into pre-tokens and adds them. */
int encoder_add_text(struct encoder *encoder, const char *text, size_t length);
/* Appends `text` in the tokenizer's normal form to `out`. */
int encoder_normalize(struct encoder *encoder, const char *text, size_t length, struct buffer *out);

/* Walks over the added tokens in a text: leftmost, then longest. */
struct added_search {
    const struct added_trie *trie;
    const char *text;
    size_t length;
    size_t position; /* where the next pattern may begin */
    size_t covered;  /* the text before this belongs to gaps and matches already given */
    size_t white_begin, white_end; /* the white space last walked over */
};

struct added_match {
    int32_t id;
    size_t gap_begin, gap_end; /* plain text before the match */
};

/* False where no token is left; the gap then reaches to the end of the text. */
bool added_search_next(struct encoder *encoder, struct added_search *search,
                       struct added_match *match);

#endif

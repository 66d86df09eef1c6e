/*
 * Added tokens in a text, matched as the reference does: a trie gives the leftmost longest pattern,
 * then the flags decide; a match that its flags refuse is passed over whole.
 */
#include "server/model/tokenizer_internal.h"

#include <stdlib.h>

#include "common/utf8.h"

static int32_t find_child(const struct added_trie *trie, int32_t node, uint8_t byte)
{
    if (node == 0) {
        return trie->root_child[byte];
    }
    int32_t child = trie->nodes[node].first_child;
    while (child != 0 && trie->nodes[child].byte != byte) {
        child = trie->nodes[child].next_sibling;
    }
    return child;
}

static int32_t add_node(struct added_trie *trie, int32_t parent, uint8_t byte)
{
    if (trie->count == trie->capacity) {
        int32_t capacity = trie->capacity == 0 ? 64 : 2 * trie->capacity;
        struct added_trie_node *grown =
            realloc(trie->nodes, (size_t)capacity * sizeof *trie->nodes);
        if (grown == NULL) {
            return -1;
        }
        trie->nodes = grown;
        trie->capacity = capacity;
    }
    int32_t node = trie->count++;
    trie->nodes[node] = (struct added_trie_node){.token = -1, .byte = byte};
    if (node != 0) {
        trie->nodes[node].next_sibling = trie->nodes[parent].first_child;
        trie->nodes[parent].first_child = node;
        if (parent == 0) {
            trie->root_child[byte] = node;
        }
    }
    return node;
}

int added_trie_insert(struct added_trie *trie, const char *text, size_t length, int32_t token)
{
    if (trie->count == 0 && add_node(trie, 0, 0) < 0) {
        return ERROR_MEMORY;
    }
    int32_t node = 0;
    for (size_t i = 0; i < length; i++) {
        int32_t child = find_child(trie, node, (uint8_t)text[i]);
        if (child == 0) {
            child = add_node(trie, node, (uint8_t)text[i]);
            if (child < 0) {
                return ERROR_MEMORY;
            }
        }
        node = child;
    }
    if (trie->nodes[node].token < 0) {
        trie->nodes[node].token = token;
    }
    return 0;
}

/* The longest pattern that begins at `text`: its token and length, or -1. */
static int32_t longest_match(const struct added_trie *trie, const char *text, size_t length,
                             size_t *match_length)
{
    int32_t token = -1;
    int32_t node = 0;
    for (size_t i = 0; i < length; i++) {
        node = find_child(trie, node, (uint8_t)text[i]);
        if (node == 0) {
            break;
        }
        if (trie->nodes[node].token >= 0) {
            token = trie->nodes[node].token;
            *match_length = i + 1;
        }
    }
    return token;
}

static size_t previous_character(const char *text, size_t at)
{
    do {
        at--;
    } while (at > 0 && ((uint8_t)text[at] & 0xc0) == 0x80);
    return at;
}

/* Where the white space before `at` begins, not before `limit`. */
static size_t white_space_begin(const char *text, size_t limit, size_t at)
{
    while (at > limit) {
        size_t before = previous_character(text, at);
        uint32_t code_point;
        utf8_next(text + before, at - before, &code_point);
        if (!utf8_is_white_space(code_point)) {
            break;
        }
        at = before;
    }
    return at;
}

/* Where the white space from `at` on ends. Remembered, so that no stretch is walked over twice. */
static size_t white_space_end(struct added_search *search, size_t at)
{
    if (at >= search->white_begin && at < search->white_end) {
        return search->white_end;
    }
    search->white_begin = at;
    while (at < search->length) {
        uint32_t code_point;
        int size = utf8_next(search->text + at, search->length - at, &code_point);
        if (!utf8_is_white_space(code_point)) {
            break;
        }
        at += (size_t)size;
    }
    search->white_end = at;
    return at;
}

static bool is_word_character(struct encoder *encoder, const char *text, size_t length)
{
    return pcre2_match(encoder->tokenizer->word_character, (PCRE2_SPTR)text, length, 0,
                       PCRE2_ANCHORED | PCRE2_NO_UTF_CHECK, encoder->word_match, NULL) > 0;
}

/* Neither side of [begin, end) is a word character. */
static bool stands_alone(struct encoder *encoder, const struct added_search *search, size_t begin,
                         size_t end)
{
    if (begin > 0) {
        size_t before = previous_character(search->text, begin);
        if (is_word_character(encoder, search->text + before, begin - before)) {
            return false;
        }
    }
    return end == search->length ||
           !is_word_character(encoder, search->text + end, search->length - end);
}

bool added_search_next(struct encoder *encoder, struct added_search *search,
                       struct added_match *match)
{
    const struct added_trie *trie = search->trie;
    while (search->position < search->length) {
        size_t begin = search->position;
        size_t pattern_length = 0;
        int32_t token = -1;
        if (trie->root_child[(uint8_t)search->text[begin]] != 0) {
            token =
                longest_match(trie, search->text + begin, search->length - begin, &pattern_length);
        }
        if (token < 0) {
            search->position++;
            continue;
        }
        size_t end = begin + pattern_length;
        search->position = end;
        const struct added_token *added = &encoder->tokenizer->added[token];
        if (added->single_word && !stands_alone(encoder, search, begin, end)) {
            continue;
        }
        if (added->left_strip) {
            size_t limit = search->covered < begin ? search->covered : begin;
            begin = white_space_begin(search->text, limit, begin);
        }
        if (added->right_strip) {
            end = white_space_end(search, end);
        }
        /*
         * Stripped white space may hold the next pattern, which then matches all the same, and ends
         * earlier than what is covered: the reference goes back to the end of that pattern.
         */
        match->id = added->id;
        match->gap_begin = search->covered;
        match->gap_end = begin > search->covered ? begin : search->covered;
        search->covered = end;
        return true;
    }
    match->id = -1;
    match->gap_begin = search->covered;
    match->gap_end = search->length;
    return false;
}

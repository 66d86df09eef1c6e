#include "server/model/tokenizer_internal.h"

#include <stdlib.h>
#include <string.h>

/* Eight bytes a step, multiply and fold: short strings are the whole traffic here. */
static uint32_t string_hash(const char *text, size_t length)
{
    uint64_t hash = 0x9e3779b97f4a7c15u ^ length;
    while (length >= 8) {
        uint64_t word;
        memcpy(&word, text, 8);
        hash = (hash ^ word) * 0xff51afd7ed558ccdu;
        hash ^= hash >> 32;
        text += 8;
        length -= 8;
    }
    uint64_t tail = 0;
    for (size_t i = 0; i < length; i++) {
        tail = tail << 8 | (uint8_t)text[i];
    }
    hash = (hash ^ tail) * 0xc4ceb9fe1a85ec53u;
    return (uint32_t)(hash >> 32) ^ (uint32_t)hash;
}

/* A power of two that leaves at least a third of the slots free. */
static size_t slots_for(size_t count)
{
    size_t slots = 16;
    while (slots < count + count / 2 + 1) {
        slots *= 2;
    }
    return slots;
}

int token_index_init(struct token_index *index, size_t count)
{
    size_t slots = slots_for(count);
    index->slots = calloc(slots, sizeof *index->slots);
    index->mask = (uint32_t)(slots - 1);
    return index->slots == NULL ? ERROR_MEMORY : 0;
}

/* The slot of a string: the one that holds it, or the free one where it belongs. */
static struct token_index_slot *index_slot(const struct token_index *index,
                                           const struct token_strings *strings, uint32_t hash,
                                           const char *text, size_t length)
{
    for (uint32_t at = hash & index->mask;; at = (at + 1) & index->mask) {
        struct token_index_slot *slot = &index->slots[at];
        if (slot->number_plus_one == 0) {
            return slot;
        }
        if (slot->hash == hash) {
            const uint32_t *begin = &strings->begin[slot->number_plus_one - 1];
            if (begin[1] - begin[0] == length &&
                memcmp(strings->text + begin[0], text, length) == 0) {
                return slot;
            }
        }
    }
}

int32_t token_index_find(const struct token_index *index, const struct token_strings *strings,
                         const char *text, size_t length)
{
    if (index->slots == NULL) {
        return -1;
    }
    return index_slot(index, strings, string_hash(text, length), text, length)->number_plus_one - 1;
}

int32_t token_index_insert(struct token_index *index, const struct token_strings *strings,
                           int32_t number)
{
    const char *text = strings->text + strings->begin[number];
    size_t length = strings->begin[number + 1] - strings->begin[number];
    uint32_t hash = string_hash(text, length);
    struct token_index_slot *slot = index_slot(index, strings, hash, text, length);
    if (slot->number_plus_one != 0) {
        return slot->number_plus_one - 1;
    }
    slot->hash = hash;
    slot->number_plus_one = number + 1;
    return -1;
}

static struct merge *merge_slot(const struct merge_table *table, int32_t left, int32_t right)
{
    uint64_t hash = ((uint64_t)(uint32_t)left << 32 | (uint32_t)right) * 0x9e3779b97f4a7c15u;
    for (uint64_t at = (hash ^ hash >> 29) >> 7 & table->mask;; at = (at + 1) & table->mask) {
        struct merge *slot = &table->slots[at];
        if (slot->result_plus_one == 0 || (slot->left == left && slot->right == right)) {
            return slot;
        }
    }
}

int merge_table_init(struct merge_table *table, size_t count)
{
    size_t slots = slots_for(count);
    table->slots = calloc(slots, sizeof *table->slots);
    table->mask = slots - 1;
    return table->slots == NULL ? ERROR_MEMORY : 0;
}

void merge_table_put(struct merge_table *table, int32_t left, int32_t right, uint32_t rank,
                     int32_t result)
{
    *merge_slot(table, left, right) =
        (struct merge){.left = left, .right = right, .rank = rank, .result_plus_one = result + 1};
}

const struct merge *merge_table_find(const struct merge_table *table, int32_t left, int32_t right)
{
    const struct merge *slot = merge_slot(table, left, right);
    return slot->result_plus_one != 0 ? slot : NULL;
}

/* Bytes that print stand for themselves; the 68 others follow one another from U+0100. */
static bool byte_stands_for_itself(int byte)
{
    return (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte != 0xad);
}

uint32_t byte_alphabet_code_point(uint8_t byte)
{
    if (byte_stands_for_itself(byte)) {
        return byte;
    }
    if (byte <= 0x20) {
        return 0x100u + byte;
    }
    return byte == 0xad ? 0x143u : 0x121u + byte - 0x7f;
}

int byte_alphabet_byte(uint32_t code_point)
{
    if (code_point < 0x100) {
        return byte_stands_for_itself((int)code_point) ? (int)code_point : -1;
    }
    if (code_point <= 0x120) {
        return (int)code_point - 0x100;
    }
    if (code_point <= 0x142) {
        return (int)code_point - 0x121 + 0x7f;
    }
    return code_point == 0x143 ? 0xad : -1;
}

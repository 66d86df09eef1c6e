/*
 * Byte-pair encoding of one pre-token: the merge of lowest rank first, the leftmost of equals.
 *
 * Short words look for it by walking over their symbols, long ones keep a heap, so that a word of n
 * bytes costs n log n. Most words never come here: `whole_by_bytes` holds every token that is what
 * its own bytes encode to, found at load by this same code.
 */
#include "server/model/tokenizer_internal.h"

#include <stdlib.h>

/* Below this many symbols a walk is faster than a heap. */
enum { BPE_WALK_SYMBOLS = 24 };

struct bpe_heap {
    uint64_t *keys; /* rank << 32 | symbol, smallest first */
    size_t count;
};

static void heap_push(struct bpe_heap *heap, uint64_t key)
{
    size_t at = heap->count++;
    while (at > 0) {
        size_t parent = (at - 1) / 2;
        if (heap->keys[parent] <= key) {
            break;
        }
        heap->keys[at] = heap->keys[parent];
        at = parent;
    }
    heap->keys[at] = key;
}

static uint64_t heap_pop(struct bpe_heap *heap)
{
    uint64_t top = heap->keys[0];
    uint64_t last = heap->keys[--heap->count];
    size_t at = 0;
    for (;;) {
        size_t child = 2 * at + 1;
        if (child >= heap->count) {
            break;
        }
        if (child + 1 < heap->count && heap->keys[child + 1] < heap->keys[child]) {
            child++;
        }
        if (heap->keys[child] >= last) {
            break;
        }
        heap->keys[at] = heap->keys[child];
        at = child;
    }
    heap->keys[at] = last;
    return top;
}

static int reserve_symbols(struct encoder *encoder, size_t count)
{
    if (count <= encoder->symbol_capacity) {
        return 0;
    }
    size_t capacity = count < 256 ? 256 : count + count / 2;
    free(encoder->symbols);
    free(encoder->heap);
    encoder->symbols = malloc(capacity * sizeof *encoder->symbols);
    /* One key per pair at the start, and each merge, of which there are fewer, adds two. */
    encoder->heap = malloc(3 * capacity * sizeof *encoder->heap);
    encoder->symbol_capacity = capacity;
    if (encoder->symbols == NULL || encoder->heap == NULL) {
        encoder->symbol_capacity = 0;
        return error_set(encoder->err, ERROR_MEMORY,
                         "tokenizer: no memory to encode a word of %zu bytes", count);
    }
    return 0;
}

/* Fills in the merge of a symbol with its right neighbour. */
static void find_merge(const struct tokenizer *tokenizer, struct bpe_symbol *symbols, int32_t at)
{
    struct bpe_symbol *symbol = &symbols[at];
    symbol->rank = BPE_NO_RANK;
    if (symbol->next >= 0) {
        const struct merge *merge =
            merge_table_find(&tokenizer->merges, symbol->id, symbols[symbol->next].id);
        if (merge != NULL) {
            symbol->rank = merge->rank;
            symbol->merged = merge->result_plus_one - 1;
        }
    }
}

/* One symbol per byte that has a token, linked. Returns how many. */
static int32_t place_symbols(const struct tokenizer *tokenizer, struct bpe_symbol *symbols,
                             const char *text, size_t length)
{
    int32_t count = 0;
    bool after_unknown = false;
    for (size_t i = 0; i < length; i++) {
        int32_t id = tokenizer->byte_ids[(uint8_t)text[i]];
        bool unknown = id < 0;
        if (unknown) {
            bool fused = after_unknown && tokenizer->fuse_unknown;
            id = fused ? -1 : tokenizer->unknown_id;
        }
        after_unknown = unknown;
        if (id >= 0) {
            symbols[count] =
                (struct bpe_symbol){.id = id, .previous = count - 1, .next = count + 1};
            count++;
        }
    }
    if (count > 0) {
        symbols[count - 1].next = -1;
    }
    for (int32_t i = 0; i < count; i++) {
        find_merge(tokenizer, symbols, i);
    }
    return count;
}

/* Carries out the merge of a symbol with its right neighbour. */
static void merge_symbols(const struct tokenizer *tokenizer, struct bpe_symbol *symbols, int32_t at)
{
    struct bpe_symbol *symbol = &symbols[at];
    struct bpe_symbol *right = &symbols[symbol->next];
    symbol->id = symbol->merged;
    symbol->next = right->next;
    if (right->next >= 0) {
        symbols[right->next].previous = at;
    }
    right->id = -1;
    right->rank = BPE_NO_RANK;
    find_merge(tokenizer, symbols, at);
    if (symbol->previous >= 0) {
        find_merge(tokenizer, symbols, symbol->previous);
    }
}

static void merge_by_walk(const struct tokenizer *tokenizer, struct bpe_symbol *symbols)
{
    for (;;) {
        int32_t best = -1;
        uint32_t best_rank = BPE_NO_RANK;
        for (int32_t at = 0; at >= 0; at = symbols[at].next) {
            if (symbols[at].rank < best_rank) {
                best_rank = symbols[at].rank;
                best = at;
            }
        }
        if (best < 0) {
            return;
        }
        merge_symbols(tokenizer, symbols, best);
    }
}

static void push_merge(struct bpe_heap *heap, const struct bpe_symbol *symbols, int32_t at)
{
    if (at >= 0 && symbols[at].rank != BPE_NO_RANK) {
        heap_push(heap, (uint64_t)symbols[at].rank << 32 | (uint32_t)at);
    }
}

static void merge_by_heap(const struct tokenizer *tokenizer, struct bpe_symbol *symbols,
                          int32_t count, uint64_t *keys)
{
    struct bpe_heap heap = {.keys = keys};
    for (int32_t i = 0; i < count; i++) {
        push_merge(&heap, symbols, i);
    }
    while (heap.count > 0) {
        uint64_t key = heap_pop(&heap);
        int32_t at = (int32_t)(key & UINT32_MAX);
        /* A symbol whose pair has changed since has another rank: its newer key is in the heap. */
        if (symbols[at].rank != key >> 32) {
            continue;
        }
        merge_symbols(tokenizer, symbols, at);
        push_merge(&heap, symbols, at);
        push_merge(&heap, symbols, symbols[at].previous);
    }
}

int encoder_add_word(struct encoder *encoder, const char *text, size_t length)
{
    const struct tokenizer *tokenizer = encoder->tokenizer;
    int32_t whole = token_index_find(&tokenizer->whole_by_bytes, &tokenizer->bytes, text, length);
    if (whole >= 0) {
        token_list_append(encoder->out, whole);
        return 0;
    }
    int result = reserve_symbols(encoder, length);
    if (result != 0) {
        return result;
    }
    struct bpe_symbol *symbols = encoder->symbols;
    int32_t count = place_symbols(tokenizer, symbols, text, length);
    if (count == 0) {
        return 0;
    }
    if (count <= BPE_WALK_SYMBOLS) {
        merge_by_walk(tokenizer, symbols);
    } else {
        merge_by_heap(tokenizer, symbols, count, encoder->heap);
    }
    for (int32_t at = 0; at >= 0; at = symbols[at].next) {
        token_list_append(encoder->out, symbols[at].id);
    }
    return 0;
}

#include <stdalign.h>
#include <stdint.h>
#include <string.h>

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include "common/arena.h"

Test(arena, pieces_are_zeroed_aligned_and_apart)
{
    struct arena arena;
    arena_init(&arena);
    unsigned char *pieces[300];
    for (size_t i = 0; i < 300; i++) {
        size_t size = i * 7 % 501;
        pieces[i] = arena_alloc(&arena, size);
        cr_assert(ne(ptr, pieces[i], NULL));
        cr_assert(eq(sz, (uintptr_t)pieces[i] % alignof(max_align_t), 0));
        for (size_t j = 0; j < size; j++) {
            cr_assert(eq(u8, pieces[i][j], 0));
        }
        memset(pieces[i], (int)(i % 251) + 1, size);
    }
    for (size_t i = 0; i < 300; i++) {
        for (size_t j = 0; j < i * 7 % 501; j++) {
            cr_assert(eq(u8, pieces[i][j], (uint8_t)(i % 251 + 1)), "piece %zu was overwritten", i);
        }
    }
    arena_free(&arena);
}

Test(arena, size_zero_gives_a_pointer_of_its_own)
{
    struct arena arena;
    arena_init(&arena);
    void *first = arena_alloc(&arena, 0);
    void *second = arena_alloc(&arena, 0);
    cr_assert(ne(ptr, first, NULL));
    cr_assert(ne(ptr, first, second));
    arena_free(&arena);
}

Test(arena, a_large_piece_leaves_the_room_of_the_block_in_use)
{
    struct arena arena;
    arena_init(&arena);
    char *before = arena_alloc(&arena, 16);
    char *large = arena_alloc(&arena, 10u << 20);
    char *after = arena_alloc(&arena, 16);
    cr_assert(ne(ptr, large, NULL));
    large[(10u << 20) - 1] = 1;
    cr_assert(eq(ptr, after, before + 16));
    arena_free(&arena);
}

Test(arena, an_uncleared_piece_is_apart_from_all_others)
{
    enum { SIZE = 5000 };
    struct arena arena;
    arena_init(&arena);
    char *first = arena_alloc_uncleared(&arena, SIZE); /* the arena has no block yet */
    char *cleared = arena_alloc(&arena, 100);
    char *second = arena_alloc_uncleared(&arena, SIZE), *small = arena_alloc_uncleared(&arena, 10);
    char *behind = arena_alloc(&arena, 100);
    cr_assert(ge(sz, arena.used, 2 * SIZE + 210));
    memset(first, 1, SIZE);
    memset(second, 2, SIZE);
    memset(small, 3, 10);
    for (int i = 0; i < 100; i++)
        cr_assert(cleared[i] == 0 && behind[i] == 0);
    cr_assert(eq(int, first[SIZE - 1], 1));
    cr_assert(eq(int, second[0], 2));
    cr_assert(eq(ptr, arena_alloc_uncleared(&arena, SIZE_MAX), NULL));
    arena_free(&arena);
}

Test(arena, copies_end_with_nul_and_may_hold_nul)
{
    struct arena arena;
    arena_init(&arena);
    char *copy = arena_copy(&arena, "a\0bc", 3);
    cr_assert(eq(int, memcmp(copy, "a\0b\0", 4), 0));
    char *empty = arena_copy(&arena, NULL, 0);
    cr_assert(eq(str, empty, ""));
    arena_free(&arena);
}

Test(arena, refuses_a_size_that_no_memory_can_have)
{
    struct arena arena;
    arena_init(&arena);
    cr_assert(eq(ptr, arena_alloc(&arena, SIZE_MAX), NULL));
    cr_assert(eq(ptr, arena_alloc(&arena, SIZE_MAX - 20), NULL));
    cr_assert(eq(ptr, arena_copy(&arena, "a", SIZE_MAX), NULL));
    cr_assert(eq(sz, arena.used, 0));
    cr_assert(ne(ptr, arena_alloc(&arena, 8), NULL));
    arena_free(&arena);
}

Test(arena, counts_what_it_handed_out_and_can_be_used_again)
{
    struct arena arena;
    arena_init(&arena);
    arena_alloc(&arena, 100);
    cr_assert(ge(sz, arena.used, 100));
    arena_free(&arena);
    cr_assert(eq(sz, arena.used, 0));
    cr_assert(eq(ptr, (void *)arena.blocks, NULL));
    cr_assert(eq(str, arena_copy(&arena, "again", 5), "again"));
    arena_free(&arena);
}

#include <stdlib.h>
#include <string.h>

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include "common/buffer.h"
#include "common/utf8.h"

#define REPLACEMENT "\xEF\xBF\xBD"

/* Reads from memory of exactly this length, so that a sanitizer sees a byte too many. */
static int next_of(const char *text, size_t length, uint32_t *code_point)
{
    char *exact = malloc(length);
    memcpy(exact, text, length);
    int step = utf8_next(exact, length, code_point);
    free(exact);
    return step;
}

Test(utf8, every_scalar_value_survives_encoding_and_reading)
{
    for (uint32_t code_point = 0; code_point <= 0x10FFFF; code_point++) {
        if (code_point >= 0xD800 && code_point <= 0xDFFF) {
            continue;
        }
        char bytes[4];
        int length = utf8_encode(bytes, code_point);
        uint32_t read = UINT32_MAX;
        if (utf8_next(bytes, (size_t)length, &read) != length || read != code_point) {
            cr_fatal("U+%04X came back as U+%04X", (unsigned)code_point, (unsigned)read);
        }
    }
}

Test(utf8, encodes_the_shortest_form_at_every_boundary)
{
    static const struct {
        uint32_t code_point;
        const char *bytes;
    } cases[] = {
        {0x7F, "\x7F"},
        {0x80, "\xC2\x80"},
        {0x7FF, "\xDF\xBF"},
        {0x800, "\xE0\xA0\x80"},
        {0xD7FF, "\xED\x9F\xBF"},
        {0xE000, "\xEE\x80\x80"},
        {0xFFFF, "\xEF\xBF\xBF"},
        {0x10000, "\xF0\x90\x80\x80"},
        {0x10FFFF, "\xF4\x8F\xBF\xBF"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char bytes[5] = {0};
        int length = utf8_encode(bytes, cases[i].code_point);
        cr_assert(eq(str, bytes, (char *)cases[i].bytes));
        cr_assert(eq(sz, (size_t)length, strlen(cases[i].bytes)));
    }
}

Test(utf8, next_measures_maximal_subparts)
{
    static const struct {
        const char *bytes;
        size_t length;
        int step;
    } cases[] = {
        {"\xE2\x82\x41", 3, -2},
        {"\xE2\x82", 2, -2},
        {"\xF0\x9F\x98", 3, -3},
        {"\xF0\x9F\x98\xF0", 4, -3},
        {"\xC0\xAF", 2, -1},
        {"\xC1\xBF", 2, -1},
        {"\xED\xA0\x80", 3, -1},
        {"\xF4\x90\x80\x80", 4, -1},
        {"\xE0\x80\x80", 3, -1},
        {"\xF0\x80\x80\x80", 4, -1},
        {"\xF5\x80\x80\x80", 4, -1},
        {"\xFF", 1, -1},
        {"\x80", 1, -1},
        {"\xC3", 1, -1},
        {"\xC3\xC3", 2, -1},
        {"\xF0\x9F\x98\x80", 4, 4},
        {"\xE2\x82\xAC", 3, 3},
        {"\xC3\xA9", 2, 2},
        {"\0", 1, 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint32_t code_point;
        int step = next_of(cases[i].bytes, cases[i].length, &code_point);
        cr_assert(eq(int, step, cases[i].step), "case %zu", i);
    }
}

static void assert_repaired(const char *text, size_t length, const char *expected)
{
    struct buffer out = {0};
    utf8_append_repaired(&out, text, length);
    cr_assert(eq(str, out.data, (char *)expected));
    buffer_free(&out);
}

Test(utf8, repair_puts_one_replacement_per_maximal_subpart)
{
    assert_repaired("\xE2\x82\x41", 3, REPLACEMENT "A");
    assert_repaired("\xF0\x9F\x98", 3, REPLACEMENT);
    assert_repaired("\xC0\xAF", 2, REPLACEMENT REPLACEMENT);
    assert_repaired("\xED\xA0\x80", 3, REPLACEMENT REPLACEMENT REPLACEMENT);
    assert_repaired("\xF4\x90\x80\x80", 4, REPLACEMENT REPLACEMENT REPLACEMENT REPLACEMENT);
    assert_repaired("a\xC3\xA9\xFFz", 5, "a\xC3\xA9" REPLACEMENT "z");
    /* The example of Unicode 15, table 3-11. */
    assert_repaired("\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41", 9,
                    REPLACEMENT REPLACEMENT REPLACEMENT REPLACEMENT "A");
}

Test(utf8, valid_length_stops_at_the_first_ill_formed_byte)
{
    cr_assert(eq(sz, utf8_valid_length("", 0), 0));
    cr_assert(eq(sz, utf8_valid_length("abc", 3), 3));
    cr_assert(eq(sz, utf8_valid_length("a\0c", 3), 3));
    cr_assert(eq(sz, utf8_valid_length("ab\xE2\x82\x41", 5), 2));
    cr_assert(eq(sz, utf8_valid_length("\xC3\xA9\xC3", 3), 2));
}

Test(utf8, incomplete_tail_counts_only_what_may_still_become_a_character)
{
    static const struct {
        const char *bytes;
        size_t length, tail;
    } cases[] = {
        {"", 0, 0},
        {"abc", 3, 0},
        {"a\xC3", 2, 1},
        {"a\xC3\xA9", 3, 0},
        {"\xE2", 1, 1},
        {"\xE2\x82", 2, 2},
        {"\xE2\x82\xAC", 3, 0},
        {"\xF0\x9F\x98", 3, 3},
        {"x\xF0\x9F\x98", 4, 3},
        {"\xF0\x9F\x98\x80", 4, 0},
        {"\xED\xA0", 2, 0}, /* a surrogate can never be finished */
        {"\xF4\x90", 2, 0}, /* nor what lies past U+10FFFF */
        {"\xE0\x80", 2, 0}, /* nor an overlong form */
        {"\xC0", 1, 0},
        {"\xFF", 1, 0},
        {"\x80\x80\x80", 3, 0}, /* continuations without a lead byte */
        {"\xC3\xA9\x80", 3, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        size_t tail = utf8_incomplete_tail(cases[i].bytes, cases[i].length);
        cr_assert(eq(sz, tail, cases[i].tail), "case %zu", i);
    }
}

Test(utf8, white_space_is_that_of_the_unicode_database)
{
    int count = 0;
    for (uint32_t code_point = 0; code_point <= 0x10FFFF; code_point++) {
        count += utf8_is_white_space(code_point);
    }
    cr_assert(eq(int, count, 25));
    static const uint32_t some[] = {0x09,   0x0D,   0x20,   0x85,   0xA0,   0x1680, 0x2000,
                                    0x200A, 0x2028, 0x2029, 0x202F, 0x205F, 0x3000};
    for (size_t i = 0; i < sizeof some / sizeof some[0]; i++) {
        cr_assert(utf8_is_white_space(some[i]), "U+%04X", (unsigned)some[i]);
    }
    cr_assert(not(utf8_is_white_space(0x200B)));
    cr_assert(not(utf8_is_white_space(0xFEFF)));
    cr_assert(not(utf8_is_white_space(0x1C)));
}

#include <string.h>

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include "common/buffer.h"

Test(buffer, grows_and_stays_terminated)
{
    struct buffer buffer = {0};
    for (int i = 0; i < 10000; i++) {
        buffer_append_char(&buffer, (char)('a' + i % 26));
        cr_assert(eq(chr, buffer.data[buffer.length], '\0'));
    }
    cr_assert(eq(sz, buffer.length, 10000));
    for (int i = 0; i < 10000; i++) {
        cr_assert(eq(chr, buffer.data[i], (char)('a' + i % 26)));
    }
    cr_assert(not(buffer.failed));
    buffer_free(&buffer);
    cr_assert(eq(ptr, buffer.data, NULL));
}

Test(buffer, appends_bytes_text_and_formats)
{
    struct buffer buffer = {0};
    buffer_append(&buffer, "a\0b", 3);
    buffer_append_text(&buffer, "-text-");
    buffer_format(&buffer, "%d/%s", 42, "x");
    cr_assert(eq(sz, buffer.length, 13));
    cr_assert(eq(int, memcmp(buffer.data, "a\0b-text-42/x", 14), 0));
    buffer_free(&buffer);
}

Test(buffer, formats_more_than_the_room_that_is_left)
{
    struct buffer buffer = {0};
    buffer_append_text(&buffer, "<");
    buffer_format(&buffer, "%05000d>", 7);
    cr_assert(eq(sz, buffer.length, 5002));
    cr_assert(eq(str, buffer.data + 4999, "07>"));
    buffer_free(&buffer);
}

Test(buffer, appending_nothing_still_gives_a_text)
{
    struct buffer buffer = {0};
    buffer_append(&buffer, NULL, 0);
    cr_assert(eq(str, buffer.data, ""));
    buffer_free(&buffer);
}

Test(buffer, a_failed_append_leaves_it_as_it_was_and_sticks)
{
    struct buffer buffer = {0};
    buffer_append_text(&buffer, "kept");
    /* The length of a bug: refused before a byte is read. */
    volatile size_t impossible = SIZE_MAX - 2;
    buffer_append(&buffer, "x", impossible);
    cr_assert(buffer.failed);
    buffer_append_text(&buffer, "later");
    buffer_format(&buffer, "%d", 1);
    cr_assert(buffer.failed);
    cr_assert(eq(str, buffer.data, "kept"));
    cr_assert(eq(sz, buffer.length, 4));
    buffer_clear(&buffer);
    cr_assert(not(buffer.failed));
    cr_assert(eq(str, buffer.data, ""));
    buffer_append_text(&buffer, "new");
    cr_assert(eq(str, buffer.data, "new"));
    buffer_free(&buffer);
}

Test(buffer, clear_keeps_the_memory)
{
    struct buffer buffer = {0};
    buffer_clear(&buffer);
    cr_assert(eq(ptr, buffer.data, NULL));
    buffer_append_text(&buffer, "some text");
    char *data = buffer.data;
    size_t capacity = buffer.capacity;
    buffer_clear(&buffer);
    cr_assert(eq(ptr, buffer.data, data));
    cr_assert(eq(sz, buffer.capacity, capacity));
    buffer_free(&buffer);
}

Test(token_list, keeps_what_is_appended_in_order)
{
    struct token_list list = {0};
    for (int32_t id = 0; id < 5000; id++) {
        token_list_append(&list, id * 3);
    }
    cr_assert(eq(sz, list.count, 5000));
    for (int32_t id = 0; id < 5000; id++) {
        cr_assert(eq(i32, list.ids[id], id * 3));
    }
    cr_assert(not(list.failed));
    token_list_free(&list);
    cr_assert(eq(sz, list.count, 0));
}

Test(token_list, after_a_failure_nothing_is_appended)
{
    struct token_list list = {0};
    token_list_append(&list, 1);
    list.failed = true;
    token_list_append(&list, 2);
    cr_assert(eq(sz, list.count, 1));
    token_list_free(&list);
}

/*
 * NFC and NFKC with utf8proc's tables, a step at a time: utf8proc_map sorts combining marks in
 * quadratic time, so that a megabyte of marks from a client would keep a thread busy for minutes.
 */
#include "server/model/tokenizer_internal.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "common/utf8.h"

/* More than any character decomposes to (18, U+FDFA). */
enum { LONGEST_DECOMPOSITION = 32, SHORT_MARK_RUN = 16 };

static int combining_class(int32_t code_point)
{
    return utf8proc_get_property(code_point)->combining_class;
}

static int reserve_code_points(struct encoder *encoder, size_t count)
{
    if (count <= encoder->code_point_capacity) {
        return 0;
    }
    size_t capacity = count + count / 2;
    int32_t *grown = realloc(encoder->code_points, capacity * sizeof *grown);
    if (grown == NULL) {
        return error_set(encoder->err, ERROR_MEMORY, "tokenizer: no memory to normalize a text");
    }
    encoder->code_points = grown;
    encoder->code_point_capacity = capacity;
    return 0;
}

/* Sorts a run of marks by class, stably. `spare` has room for the run. */
static void sort_marks(int32_t *marks, size_t count, int32_t *spare)
{
    if (count <= SHORT_MARK_RUN) {
        for (size_t i = 1; i < count; i++) {
            int32_t mark = marks[i];
            int mark_class = combining_class(mark);
            size_t at = i;
            for (; at > 0 && combining_class(marks[at - 1]) > mark_class; at--) {
                marks[at] = marks[at - 1];
            }
            marks[at] = mark;
        }
        return;
    }
    size_t begin[257] = {0};
    for (size_t i = 0; i < count; i++) {
        begin[combining_class(marks[i]) + 1]++;
    }
    for (int i = 0; i < 256; i++) {
        begin[i + 1] += begin[i];
    }
    for (size_t i = 0; i < count; i++) {
        spare[begin[combining_class(marks[i])]++] = marks[i];
    }
    memcpy(marks, spare, count * sizeof *marks);
}

static void sort_all_marks(int32_t *code_points, size_t count, int32_t *spare)
{
    for (size_t i = 0; i < count;) {
        size_t end = i;
        while (end < count && combining_class(code_points[end]) != 0) {
            end++;
        }
        sort_marks(code_points + i, end - i, spare);
        i = end + 1;
    }
}

/* A stretch that begins and ends where nothing outside can combine with it. */
static int normalize_stretch(struct encoder *encoder, const char *text, size_t length,
                             struct buffer *out)
{
    utf8proc_option_t options = UTF8PROC_STABLE | UTF8PROC_COMPOSE;
    if (encoder->tokenizer->normal_form == NORMAL_FORM_NFKC) {
        options |= UTF8PROC_COMPAT;
    }
    size_t count = 0;
    for (size_t at = 0; at < length;) {
        uint32_t code_point;
        at += (size_t)utf8_next(text + at, length - at, &code_point);
        int result = reserve_code_points(encoder, count + LONGEST_DECOMPOSITION);
        if (result != 0) {
            return result;
        }
        int boundary = 0;
        count += (size_t)utf8proc_decompose_char((int32_t)code_point, encoder->code_points + count,
                                                 LONGEST_DECOMPOSITION, options, &boundary);
    }
    int result = reserve_code_points(encoder, 2 * count);
    if (result != 0) {
        return result;
    }
    sort_all_marks(encoder->code_points, count, encoder->code_points + count);
    utf8proc_ssize_t composed =
        utf8proc_normalize_utf32(encoder->code_points, (utf8proc_ssize_t)count, options);
    for (utf8proc_ssize_t i = 0; i < composed; i++) {
        char bytes[4];
        int bytes_length = utf8_encode(bytes, (uint32_t)encoder->code_points[i]);
        buffer_append(out, bytes, (size_t)bytes_length);
    }
    return 0;
}

static size_t ascii_length(const char *text, size_t length)
{
    size_t at = 0;
    for (uint64_t word; at + 8 <= length; at += 8) {
        memcpy(&word, text + at, 8);
        if ((word & 0x8080808080808080u) != 0) {
            break;
        }
    }
    while (at < length && (text[at] & 0x80) == 0) {
        at++;
    }
    return at;
}

int encoder_normalize(struct encoder *encoder, const char *text, size_t length, struct buffer *out)
{
    if (encoder->tokenizer->normal_form == NORMAL_FORM_NONE) {
        buffer_append(out, text, length);
        return 0;
    }
    /* ASCII is its own normal form, but its last character may combine with what follows. */
    for (size_t at = 0; at < length;) {
        size_t ascii = ascii_length(text + at, length - at);
        size_t alone = at + ascii == length || ascii == 0 ? ascii : ascii - 1;
        buffer_append(out, text + at, alone);
        at += alone;
        size_t end = at + (ascii - alone);
        while (end < length && (text[end] & 0x80) != 0) {
            end++;
        }
        if (end > at) {
            int result = normalize_stretch(encoder, text + at, end - at, out);
            if (result != 0) {
                return result;
            }
        }
        at = end;
    }
    return 0;
}

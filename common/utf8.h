/* UTF-8 as bytes: reading, checking, repairing. Pure functions, any thread. */
#ifndef COMMON_UTF8_H
#define COMMON_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buffer;

/*
 * Reads the code point at text[0 .. length). Returns its length in bytes (1-4), or minus the length
 * of the maximal subpart of an ill-formed sequence there (Unicode 15, 3.9, U+FFFD substitution of
 * maximal subparts). length must be > 0.
 */
int utf8_next(const char *text, size_t length, uint32_t *code_point);

/* Writes 1-4 bytes to out and returns how many. code_point must be a scalar value. */
int utf8_encode(char out[4], uint32_t code_point);

/* Offset of the first ill-formed byte, or `length` where all is well-formed. */
size_t utf8_valid_length(const char *text, size_t length);

/* Appends the text with every maximal ill-formed subpart replaced by U+FFFD. */
void utf8_append_repaired(struct buffer *out, const char *text, size_t length);

/*
 * How many bytes at the end belong to a character that is not finished but may still be: 0-3. These
 * are the bytes a stream has to hold back.
 */
size_t utf8_incomplete_tail(const char *text, size_t length);

/* White_Space of the Unicode character database. */
bool utf8_is_white_space(uint32_t code_point);

#endif

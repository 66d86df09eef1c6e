/*
 * JSON pieces into a buffer; numbers never depend on the locale. Pure functions, any thread. Text
 * goes through log_append_json_string, so what is written is valid UTF-8 whatever the bytes were.
 */
#ifndef SERVER_API_JSON_WRITER_H
#define SERVER_API_JSON_WRITER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buffer;

/* Fixed point with at most `decimals` (0-9) digits, zeros at the end left out; NAN, INFINITY:
 * null. */
void json_write_number(struct buffer *out, double value, int decimals);
void json_write_integer(struct buffer *out, int64_t value);
void json_write_bool(struct buffer *out, bool value);
void json_write_text(struct buffer *out, const char *text);
void json_write_tokens(struct buffer *out, const int32_t *ids, int32_t count);
/* [104,105] */
void json_write_bytes(struct buffer *out, const char *bytes, size_t length);
/* Confidences, 6 decimals. */
void json_write_confidences(struct buffer *out, const float *values, int32_t count);

#endif

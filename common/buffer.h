/*
 * Growable byte buffer. The owner frees it. An append that fails for want of memory leaves the
 * buffer as it was and sets `failed`, which sticks: write everything, check once at the end.
 */
#ifndef COMMON_BUFFER_H
#define COMMON_BUFFER_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buffer {
    char *data; /* [capacity]; data[length] is always NUL once anything was written, else NULL */
    size_t length;
    size_t capacity;
    bool failed;
};

/* A zeroed struct is an empty buffer. */
void buffer_free(struct buffer *buffer);
void buffer_clear(struct buffer *buffer); /* length 0, memory kept, failed reset */
void buffer_append(struct buffer *buffer, const void *bytes, size_t length);
void buffer_append_text(struct buffer *buffer, const char *text);
void buffer_append_char(struct buffer *buffer, char c);
void buffer_format(struct buffer *buffer, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
void buffer_format_list(struct buffer *buffer, const char *format, va_list arguments)
    __attribute__((format(printf, 2, 0)));

/* Growable list of token ids, same rules. */
struct token_list {
    int32_t *ids; /* [capacity] */
    size_t count;
    size_t capacity;
    bool failed;
};

void token_list_free(struct token_list *list);
void token_list_append(struct token_list *list, int32_t id);

#endif

#include "common/utf8.h"

#include "common/buffer.h"

static const char REPLACEMENT[] = "\xEF\xBF\xBD"; /* U+FFFD */

/*
 * What may follow a lead byte (Unicode 15, table 3-7): how long the sequence is and the range of
 * its second byte, which excludes overlong forms, surrogates and everything past U+10FFFF.
 */
struct lead {
    int length; /* 0: this byte starts nothing */
    uint8_t second_low, second_high;
};

static struct lead lead_of(uint8_t byte)
{
    if (byte < 0x80) {
        return (struct lead){1, 0, 0};
    }
    if (byte < 0xC2 || byte > 0xF4) {
        return (struct lead){0, 0, 0};
    }
    if (byte < 0xE0) {
        return (struct lead){2, 0x80, 0xBF};
    }
    if (byte < 0xF0) {
        return (struct lead){3, byte == 0xE0 ? 0xA0 : 0x80, byte == 0xED ? 0x9F : 0xBF};
    }
    return (struct lead){4, byte == 0xF0 ? 0x90 : 0x80, byte == 0xF4 ? 0x8F : 0xBF};
}

int utf8_next(const char *text, size_t length, uint32_t *code_point)
{
    const uint8_t *bytes = (const uint8_t *)text;
    struct lead lead = lead_of(bytes[0]);
    if (lead.length == 0) {
        return -1;
    }
    if (lead.length == 1) {
        *code_point = bytes[0];
        return 1;
    }
    uint32_t value = bytes[0] & (0x7Fu >> lead.length);
    for (int i = 1; i < lead.length; i++) {
        uint8_t low = i == 1 ? lead.second_low : 0x80;
        uint8_t high = i == 1 ? lead.second_high : 0xBF;
        if ((size_t)i >= length || bytes[i] < low || bytes[i] > high) {
            return -i;
        }
        value = value << 6 | (bytes[i] & 0x3Fu);
    }
    *code_point = value;
    return lead.length;
}

int utf8_encode(char out[4], uint32_t code_point)
{
    if (code_point < 0x80) {
        out[0] = (char)code_point;
        return 1;
    }
    if (code_point < 0x800) {
        out[0] = (char)(0xC0 | code_point >> 6);
        out[1] = (char)(0x80 | (code_point & 0x3F));
        return 2;
    }
    if (code_point < 0x10000) {
        out[0] = (char)(0xE0 | code_point >> 12);
        out[1] = (char)(0x80 | (code_point >> 6 & 0x3F));
        out[2] = (char)(0x80 | (code_point & 0x3F));
        return 3;
    }
    out[0] = (char)(0xF0 | code_point >> 18);
    out[1] = (char)(0x80 | (code_point >> 12 & 0x3F));
    out[2] = (char)(0x80 | (code_point >> 6 & 0x3F));
    out[3] = (char)(0x80 | (code_point & 0x3F));
    return 4;
}

size_t utf8_valid_length(const char *text, size_t length)
{
    size_t offset = 0;
    while (offset < length) {
        uint32_t code_point;
        int step = utf8_next(text + offset, length - offset, &code_point);
        if (step < 0) {
            break;
        }
        offset += (size_t)step;
    }
    return offset;
}

void utf8_append_repaired(struct buffer *out, const char *text, size_t length)
{
    size_t offset = 0;
    while (offset < length) {
        size_t valid = utf8_valid_length(text + offset, length - offset);
        buffer_append(out, text + offset, valid);
        offset += valid;
        if (offset < length) {
            uint32_t code_point;
            int subpart = -utf8_next(text + offset, length - offset, &code_point);
            buffer_append(out, REPLACEMENT, sizeof REPLACEMENT - 1);
            offset += (size_t)subpart;
        }
    }
}

size_t utf8_incomplete_tail(const char *text, size_t length)
{
    for (size_t tail = 1; tail <= 3 && tail <= length; tail++) {
        const char *start = text + length - tail;
        struct lead lead = lead_of((uint8_t)*start);
        if (lead.length > (int)tail) {
            uint32_t code_point;
            return utf8_next(start, tail, &code_point) == -(int)tail ? tail : 0;
        }
        bool continuation = ((uint8_t)*start & 0xC0) == 0x80;
        if (!continuation) {
            return 0;
        }
    }
    return 0;
}

bool utf8_is_white_space(uint32_t code_point)
{
    switch (code_point) {
    case 0x20:
    case 0x85:
    case 0xA0:
    case 0x1680:
    case 0x2028:
    case 0x2029:
    case 0x202F:
    case 0x205F:
    case 0x3000:
        return true;
    default:
        return (code_point >= 0x09 && code_point <= 0x0D) ||
               (code_point >= 0x2000 && code_point <= 0x200A);
    }
}

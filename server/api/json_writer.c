#include "server/api/json_writer.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "common/buffer.h"
#include "common/log.h"

void json_write_number(struct buffer *out, double value, int decimals)
{
    assert(decimals >= 0 && decimals <= 9);
    if (!isfinite(value)) {
        buffer_append_text(out, "null");
        return;
    }
    int64_t scale = 1;
    for (int i = 0; i < decimals; i++) {
        scale *= 10;
    }
    double scaled = round(fabs(value) * (double)scale);
    if (scaled >= 9e18) { /* no place for decimals beside so many digits anyway */
        buffer_format(out, "%.0f", value);
        return;
    }
    int64_t whole = (int64_t)scaled / scale;
    int64_t fraction = (int64_t)scaled % scale;
    buffer_format(out, "%s%" PRId64, value < 0 && scaled > 0 ? "-" : "", whole);
    while (fraction != 0 && fraction % 10 == 0) {
        fraction /= 10;
        decimals--;
    }
    if (fraction != 0) {
        buffer_format(out, ".%0*" PRId64, decimals, fraction);
    }
}

void json_write_integer(struct buffer *out, int64_t value)
{
    buffer_format(out, "%" PRId64, value);
}

void json_write_bool(struct buffer *out, bool value)
{
    buffer_append_text(out, value ? "true" : "false");
}

void json_write_text(struct buffer *out, const char *text)
{
    log_append_json_string(out, text, strlen(text));
}

void json_write_tokens(struct buffer *out, const int32_t *ids, int32_t count)
{
    buffer_append_char(out, '[');
    for (int32_t i = 0; i < count; i++) {
        buffer_format(out, i ? ",%" PRId32 : "%" PRId32, ids[i]);
    }
    buffer_append_char(out, ']');
}

void json_write_bytes(struct buffer *out, const char *bytes, size_t length)
{
    buffer_append_char(out, '[');
    for (size_t i = 0; i < length; i++) {
        buffer_format(out, i ? ",%u" : "%u", (unsigned)(unsigned char)bytes[i]);
    }
    buffer_append_char(out, ']');
}

void json_write_confidences(struct buffer *out, const float *values, int32_t count)
{
    buffer_append_char(out, '[');
    for (int32_t i = 0; i < count; i++) {
        if (i) {
            buffer_append_char(out, ',');
        }
        json_write_number(out, values[i], 6);
    }
    buffer_append_char(out, ']');
}

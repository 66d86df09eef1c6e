#include "server/http/request_path.h"

#include <ctype.h>
#include <string.h>
#include <strings.h>

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c = (char)tolower((unsigned char)c);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The byte that "%XX" stands for; -1 where the text is no such escape. */
static int escaped_byte(const char *text)
{
    int high = text[0] == '%' ? hex_digit(text[1]) : -1;
    int low = high >= 0 ? hex_digit(text[2]) : -1;

    return low >= 0 ? high * 16 + low : -1;
}

static bool is_unreserved(int byte)
{
    return byte > 0 && byte < 0x80 && (isalnum(byte) || strchr("-._~", byte) != NULL);
}

/* Behind "http://host:port" of the absolute form. */
static const char *skip_authority(const char *target)
{
    static const char *const SCHEMES[] = {"http://", "https://"};

    for (size_t i = 0; i < sizeof SCHEMES / sizeof *SCHEMES; i++) {
        size_t length = strlen(SCHEMES[i]);
        if (strncasecmp(target, SCHEMES[i], length) != 0)
            continue;
        target += length + strcspn(target + length, "/");
        return *target != '\0' ? target : "/";
    }
    return target;
}

bool request_path_normalise(char *out, size_t size, const char *target)
{
    size_t length = 0;

    target = skip_authority(target);
    while (*target != '\0' && length + 1 < size) {
        int byte = escaped_byte(target);
        bool resolved = is_unreserved(byte);
        out[length++] = resolved ? (char)byte : *target;
        target += resolved ? 3 : 1;
    }
    out[length] = '\0';
    return *target == '\0';
}

bool request_path_decode(char *out, size_t size, const char *part)
{
    size_t length = 0;

    while (*part != '\0' && length + 1 < size) {
        int byte = *part == '%' ? escaped_byte(part) : (unsigned char)*part;
        if (byte < 0x20 || byte == 0x7f)
            return false;
        out[length++] = (char)byte;
        part += *part == '%' ? 3 : 1;
    }
    out[length] = '\0';
    return *part == '\0';
}

#include "server/http/request_headers.h"

#include <ctype.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "common/rng.h"

static const char *header(struct MHD_Connection *connection, const char *name)
{
    return MHD_lookup_connection_value(connection, MHD_HEADER_KIND, name);
}

static bool is_request_id(const char *text)
{
    size_t length = 0;

    for (; text[length] != '\0'; length++) {
        if (length == REQUEST_ID_MAX || text[length] <= ' ' || text[length] > '~')
            return false;
    }
    return length > 0;
}

void request_headers_id(struct MHD_Connection *connection, char out[REQUEST_ID_MAX + 1])
{
    const char *given = header(connection, "x-request-id");

    if (given != NULL && is_request_id(given))
        snprintf(out, REQUEST_ID_MAX + 1, "%s", given);
    else
        snprintf(out, REQUEST_ID_MAX + 1, "req-%014llx", (unsigned long long)rng_random_seed());
}

struct framing {
    int hosts, lengths, encodings;
    bool bad_name, bad_value, bad_length, bad_encoding;
};

/* A token of RFC 9110: no blanks, so that "Content-Length " is no other spelling of a name. */
static bool is_token(const char *text)
{
    const char *c = text;

    while (isalnum((unsigned char)*c) || (*c != '\0' && strchr("!#$%&'*+-.^_`|~", *c) != NULL))
        c++;
    return c != text && *c == '\0';
}

static bool has_control_character(const char *text)
{
    for (; *text != '\0'; text++) {
        if (((unsigned char)*text < 0x20 && *text != '\t') || *text == 0x7f)
            return true;
    }
    return false;
}

/*
 * The header itself, or what libmicrohttpd 0.9.75 makes of one with a second line (obs-fold, which
 * RFC 9112 lets a server refuse): it glues that line to the name.
 */
static bool is_or_was(const char *name, const char *header, bool *bad_name)
{
    size_t length = strlen(header);

    if (strncasecmp(name, header, length) != 0)
        return false;
    *bad_name |= name[length] != '\0';
    return true;
}

static enum MHD_Result look_at_header(void *context, enum MHD_ValueKind kind, const char *name,
                                      const char *value)
{
    struct framing *framing = context;
    (void)kind;

    if (value == NULL)
        value = "";
    framing->bad_name |= !is_token(name);
    framing->bad_value |= has_control_character(value);
    if (is_or_was(name, MHD_HTTP_HEADER_HOST, &framing->bad_name)) {
        framing->hosts++;
    } else if (is_or_was(name, MHD_HTTP_HEADER_CONTENT_LENGTH, &framing->bad_name)) {
        framing->lengths++;
        framing->bad_length |= *value == '\0' || value[strspn(value, "0123456789")] != '\0';
    } else if (is_or_was(name, MHD_HTTP_HEADER_TRANSFER_ENCODING, &framing->bad_name)) {
        framing->encodings++;
        framing->bad_encoding |= strcasecmp(value, "chunked") != 0;
    }
    return MHD_YES;
}

const char *request_headers_problem(struct MHD_Connection *connection, const char *version)
{
    bool modern = strcmp(version, MHD_HTTP_VERSION_1_1) == 0;
    struct framing framing = {0};

    MHD_get_connection_values(connection, MHD_HEADER_KIND, look_at_header, &framing);
    if (framing.bad_name)
        return "a header's name holds a blank or another character that no name has, or a header "
               "goes on in a second line; write \"Name: value\"";
    if (framing.bad_value)
        return "a header's value holds a control character; send visible characters and blanks";
    if (framing.lengths > 1 || framing.bad_length)
        return "the body's length must be told by one Content-Length, a decimal number";
    if (framing.encodings > 1 || framing.bad_encoding)
        return "the only Transfer-Encoding here is \"chunked\", given once; leave others out";
    if (framing.encodings > 0 && framing.lengths > 0)
        return "the body's length must be told by Content-Length or by \"Transfer-Encoding: "
               "chunked\", not by both";
    if (framing.encodings > 0 && !modern)
        return "HTTP/1.0 has no Transfer-Encoding; send Content-Length or use HTTP/1.1";
    if (framing.hosts > 1 || (modern && framing.hosts == 0))
        return "a request of HTTP/1.1 has just one Host header; send it once";
    return NULL;
}

bool request_headers_too_long(struct MHD_Connection *connection, size_t max_body_bytes)
{
    const char *length = header(connection, MHD_HTTP_HEADER_CONTENT_LENGTH);

    /* libmicrohttpd has refused what is not a number or does not fit 64 bits. */
    return length != NULL && strtoull(length, NULL, 10) > max_body_bytes;
}

bool request_headers_expect(struct MHD_Connection *connection)
{
    return header(connection, MHD_HTTP_HEADER_EXPECT) != NULL;
}

bool request_headers_json(struct MHD_Connection *connection)
{
    static const char JSON[] = "application/json";
    const char *type = header(connection, MHD_HTTP_HEADER_CONTENT_TYPE);
    const char *coding = header(connection, MHD_HTTP_HEADER_CONTENT_ENCODING);

    if (type == NULL || strncasecmp(type, JSON, strlen(JSON)) != 0)
        return false;
    char behind = type[strlen(JSON)];
    return (behind == '\0' || behind == ';' || isspace((unsigned char)behind)) &&
           (coding == NULL || strcasecmp(coding, "identity") == 0);
}

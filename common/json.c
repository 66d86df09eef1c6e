#include "common/json.h"

#include <errno.h>
#include <fcntl.h>
#include <float.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/buffer.h"
#include "common/error.h"

enum { READ_CHUNK = 1 << 16 };

/* ---- files ----------------------------------------------------------------------------------- */

/* A wrong path is the user's to repair; anything else is the system's. */
static void set_open_error(const char *path, int number, struct error *err)
{
    switch (number) {
    case ENOENT:
    case ENOTDIR:
        error_set(err, ERROR_INVALID, "%s: there is no such file; check the path", path);
        break;
    case EACCES:
        error_set(err, ERROR_INVALID, "%s: may not be read; check its permissions", path);
        break;
    default:
        error_set(err, ERROR_IO, "%s: cannot be opened: %s", path, strerror(number));
        break;
    }
}

static int read_descriptor(struct buffer *text, int descriptor, const char *path, size_t max_bytes,
                           struct error *err)
{
    struct stat status;
    if (fstat(descriptor, &status) == 0 && S_ISDIR(status.st_mode)) {
        return error_set(err, ERROR_INVALID, "%s: is a directory; a JSON file is needed", path);
    }
    char *chunk = malloc(READ_CHUNK);
    if (chunk == NULL) {
        return error_set(err, ERROR_MEMORY, "%s: no memory left to read it", path);
    }
    int result = 0;
    for (;;) {
        ssize_t count = read(descriptor, chunk, READ_CHUNK);
        if (count < 0 && errno == EINTR) {
            continue;
        }
        if (count < 0) {
            result = error_set(err, ERROR_IO, "%s: cannot be read: %s", path, strerror(errno));
        }
        if (count <= 0) {
            break;
        }
        buffer_append(text, chunk, (size_t)count);
        if (text->length > max_bytes) {
            result = error_set(err, ERROR_LIMIT,
                               "%s: is longer than the %zu bytes that are allowed here", path,
                               max_bytes);
            break;
        }
        if (text->failed) {
            result = error_set(err, ERROR_MEMORY, "%s: no memory left to read it", path);
            break;
        }
    }
    free(chunk);
    return result;
}

/* The whole file; text->data is not NULL where this returns true. */
static bool read_text(struct buffer *text, const char *path, size_t max_bytes, struct error *err)
{
    int descriptor = open(path, O_RDONLY | O_CLOEXEC);
    if (descriptor < 0) {
        set_open_error(path, errno, err);
        return false;
    }
    int result = read_descriptor(text, descriptor, path, max_bytes, err);
    close(descriptor);
    if (result != 0) {
        return false;
    }
    if (text->data == NULL) {
        error_set(err, ERROR_INVALID, "%s: is empty; a JSON document is needed", path);
        return false;
    }
    if (text->length >= 3 && memcmp(text->data, "\xEF\xBB\xBF", 3) == 0) {
        error_set(err, ERROR_INVALID,
                  "%s: line 1, column 1: starts with a byte order mark; save it as UTF-8 "
                  "without one",
                  path);
        return false;
    }
    return true;
}

/*
 * Checkpoints in the wild hold integers like 1000000000000000019884624838656 for "no limit", which
 * jansson refuses. Turns integers past 64 bits into reals, in place so that columns stay right: the
 * last two digits become "e2", which changes the value by less than a part in 10^16. Returns
 * whether there were any.
 */
static bool turn_huge_integers_into_reals(char *text)
{
    bool found = false;
    bool in_string = false;
    for (char *c = text; *c != '\0'; c++) {
        if (in_string) {
            if (*c == '\\' && c[1] != '\0') {
                c++;
            } else if (*c == '"') {
                in_string = false;
            }
            continue;
        }
        if (*c == '"') {
            in_string = true;
            continue;
        }
        if (*c != '-' && (*c < '0' || *c > '9')) {
            continue;
        }
        size_t length = strspn(c, "+-.0123456789eE");
        char *end;
        errno = 0;
        strtoll(c, &end, 10);
        if (end == c + length && errno == ERANGE) {
            end[-2] = 'e';
            end[-1] = '2';
            found = true;
        }
        c += length - 1;
    }
    return found;
}

static void set_parse_error(const char *path, const json_error_t *json_error, struct error *err)
{
    const char *hint = "";
    switch (json_error_code(json_error)) {
    case json_error_end_of_input_expected:
        hint = "; remove what follows the JSON document";
        break;
    case json_error_duplicate_key:
        hint = "; remove one of the two";
        break;
    case json_error_premature_end_of_input:
        hint = "; the file is cut off";
        break;
    case json_error_out_of_memory:
        error_set(err, ERROR_MEMORY, "%s: no memory left to parse it", path);
        return;
    default:
        break;
    }
    error_set(err, ERROR_INVALID, "%s: line %d, column %d: %s%s", path, json_error->line,
              json_error->column, json_error->text, hint);
}

json_t *json_read_file(const char *path, size_t max_bytes, struct error *err)
{
    const size_t flags = JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL | JSON_DECODE_ANY;
    struct buffer text = {0};
    if (!read_text(&text, path, max_bytes, err)) {
        buffer_free(&text);
        return NULL;
    }
    json_error_t json_error;
    json_t *root = json_loadb(text.data, text.length, flags, &json_error);
    if (root == NULL && json_error_code(&json_error) == json_error_numeric_overflow &&
        turn_huge_integers_into_reals(text.data)) {
        root = json_loadb(text.data, text.length, flags, &json_error);
    }
    if (root == NULL) {
        set_parse_error(path, &json_error, err);
    }
    buffer_free(&text);
    return root;
}

/* ---- members --------------------------------------------------------------------------------- */

const char *json_type_name(const json_t *value)
{
    if (value == NULL) {
        return "nothing";
    }
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "an array";
    case JSON_STRING:
        return "a string";
    case JSON_INTEGER:
        return "an integer";
    case JSON_REAL:
        return "a number with a fraction";
    case JSON_TRUE:
        return "true";
    case JSON_FALSE:
        return "false";
    case JSON_NULL:
        return "null";
    }
    return "nothing";
}

/* *value is NULL where the key is absent or null. */
static int get_member(const json_t **value, const json_t *object, const char *key,
                      const char *where, struct error *err)
{
    *value = NULL;
    if (!json_is_object(object)) {
        return error_set(err, ERROR_INVALID, "%s: must be an object with the key \"%s\", not %s",
                         where, key, json_type_name(object));
    }
    const json_t *member = json_object_get(object, key);
    if (member != NULL && !json_is_null(member)) {
        *value = member;
    }
    return 0;
}

/* What stands there, for a message: the value of a number, the type of anything else. */
static const char *describe(char *text, size_t size, const json_t *value)
{
    if (json_is_integer(value)) {
        snprintf(text, size, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
    } else if (json_is_real(value)) {
        snprintf(text, size, "%.17g", json_real_value(value));
    } else {
        snprintf(text, size, "%s", json_type_name(value));
    }
    return text;
}

int json_get_int(const json_t *object, const char *key, int64_t min, int64_t max, int64_t *out,
                 const char *where, struct error *err)
{
    const json_t *value;
    int result = get_member(&value, object, key, where, err);
    if (result != 0 || value == NULL) {
        return result;
    }
    int64_t number = json_integer_value(value);
    if (json_is_integer(value) && number >= min && number <= max) {
        *out = number;
        return 0;
    }
    char found[64];
    describe(found, sizeof found, value);
    if (max == INT64_MAX) {
        return error_set(err, ERROR_INVALID,
                         "%s: key \"%s\" must be an integer of at least %" PRId64 ", not %s", where,
                         key, min, found);
    }
    return error_set(err, ERROR_INVALID,
                     "%s: key \"%s\" must be an integer from %" PRId64 " to %" PRId64 ", not %s",
                     where, key, min, max, found);
}

int json_get_double(const json_t *object, const char *key, double min, double max, double *out,
                    const char *where, struct error *err)
{
    const json_t *value;
    int result = get_member(&value, object, key, where, err);
    if (result != 0 || value == NULL) {
        return result;
    }
    double number = json_number_value(value);
    if (json_is_number(value) && number >= min && number <= max) {
        *out = number;
        return 0;
    }
    char found[64];
    describe(found, sizeof found, value);
    if (max >= DBL_MAX) {
        return error_set(err, ERROR_INVALID,
                         "%s: key \"%s\" must be a number of at least %g, not %s", where, key, min,
                         found);
    }
    return error_set(err, ERROR_INVALID, "%s: key \"%s\" must be a number from %g to %g, not %s",
                     where, key, min, max, found);
}

int json_get_bool(const json_t *object, const char *key, bool *out, const char *where,
                  struct error *err)
{
    const json_t *value;
    int result = get_member(&value, object, key, where, err);
    if (result != 0 || value == NULL) {
        return result;
    }
    if (!json_is_boolean(value)) {
        char found[64];
        return error_set(err, ERROR_INVALID, "%s: key \"%s\" must be true or false, not %s", where,
                         key, describe(found, sizeof found, value));
    }
    *out = json_is_true(value);
    return 0;
}

int json_get_string(const json_t *object, const char *key, const char **out, const char *where,
                    struct error *err)
{
    const json_t *value;
    int result = get_member(&value, object, key, where, err);
    if (result != 0 || value == NULL) {
        return result;
    }
    if (!json_is_string(value)) {
        char found[64];
        return error_set(err, ERROR_INVALID, "%s: key \"%s\" must be a string, not %s", where, key,
                         describe(found, sizeof found, value));
    }
    const char *text = json_string_value(value);
    if (strlen(text) != json_string_length(value)) {
        return error_set(err, ERROR_INVALID,
                         "%s: key \"%s\" holds a NUL character (\\u0000); remove it", where, key);
    }
    *out = text;
    return 0;
}

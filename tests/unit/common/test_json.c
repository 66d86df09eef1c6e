#include <fcntl.h>
#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include "common/buffer.h"
#include "common/error.h"
#include "common/json.h"

enum { ENOUGH = 1 << 20 };

/* Reads the bytes through a file named "config.json" of a new directory. */
static json_t *read_bytes_limited(const char *bytes, size_t length, size_t max_bytes,
                                  struct error *err)
{
    char directory[] = "/tmp/denoised-json-XXXXXX";
    cr_assert(ne(ptr, mkdtemp(directory), NULL));
    int before = open(".", O_RDONLY | O_DIRECTORY);
    cr_assert(ge(int, before, 0));
    cr_assert(eq(int, chdir(directory), 0));
    FILE *file = fopen("config.json", "wb");
    cr_assert(ne(ptr, file, NULL));
    cr_assert(eq(sz, fwrite(bytes, 1, length, file), length));
    cr_assert(eq(int, fclose(file), 0));
    json_t *root = json_read_file("config.json", max_bytes, err);
    cr_assert(eq(int, unlink("config.json"), 0));
    cr_assert(eq(int, fchdir(before), 0));
    close(before);
    cr_assert(eq(int, rmdir(directory), 0));
    return root;
}

static json_t *read_text(const char *text, struct error *err)
{
    return read_bytes_limited(text, strlen(text), ENOUGH, err);
}

static void assert_refused(const char *bytes, size_t length, const char *message)
{
    struct error err = {0};
    json_t *root = read_bytes_limited(bytes, length, ENOUGH, &err);
    cr_assert(eq(ptr, (void *)root, NULL));
    cr_assert(eq(int, err.code, ERROR_INVALID));
    cr_assert(eq(str, err.message, (char *)message));
}

#define ASSERT_REFUSED(bytes, message) assert_refused(bytes, sizeof(bytes) - 1, message)

Test(json, reads_a_document_of_any_type)
{
    struct error err = {0};
    json_t *root = read_text(" {\"a\": [1, 2.5, \"x\\u0000y\", null]}\n", &err);
    cr_assert(eq(int, json_typeof(root), JSON_OBJECT));
    const json_t *list = json_object_get(root, "a");
    cr_assert(eq(sz, json_array_size(list), 4));
    cr_assert(eq(sz, json_string_length(json_array_get(list, 2)), 3));
    json_decref(root);
    root = read_text("42", &err);
    cr_assert(eq(int, json_typeof(root), JSON_INTEGER));
    json_decref(root);
    cr_assert(eq(int, err.code, 0));
}

Test(json, says_where_the_text_is_wrong)
{
    ASSERT_REFUSED("{\n  \"a\": 1,\n  \"b\": ?\n}",
                   "config.json: line 3, column 8: invalid token near '?'");
    ASSERT_REFUSED("{\"a\": [1, 2",
                   "config.json: line 1, column 11: ']' expected near end of file; the file is cut "
                   "off");
    ASSERT_REFUSED("{\"a\": 1}\n{}",
                   "config.json: line 2, column 1: end of file expected near '{'; remove what "
                   "follows the JSON document");
    ASSERT_REFUSED("{\"a\": 1, \"a\": 2}",
                   "config.json: line 1, column 12: duplicate object key near '\"a\"'; remove one "
                   "of the two");
}

Test(json, names_a_byte_order_mark)
{
    ASSERT_REFUSED("\xEF\xBB\xBF{}",
                   "config.json: line 1, column 1: starts with a byte order mark; save it as UTF-8 "
                   "without one");
}

Test(json, refuses_bytes_that_are_no_utf8_and_raw_nul)
{
    struct error err = {0};
    static const char ill_formed[] = "{\"a\": \"\xC0\xAF\"}", nul[] = "{\"a\": \0 1}",
                      nul_key[] = "{\"a\\u0000b\": 1}", surrogate[] = "[\"\\ud800\"]";
    cr_assert(eq(ptr, (void *)read_bytes_limited(ill_formed, 11, ENOUGH, &err), NULL));
    cr_assert(ne(ptr, strstr(err.message, "config.json: line 1, column "), NULL));
    cr_assert(eq(ptr, (void *)read_bytes_limited(nul, 10, ENOUGH, &err), NULL));
    cr_assert(ne(ptr, strstr(err.message, "config.json: line 1, column "), NULL));
    cr_assert(eq(ptr, (void *)read_bytes_limited(nul_key, 14, ENOUGH, &err), NULL));
    cr_assert(ne(ptr, strstr(err.message, "NUL byte in object key"), NULL));
    cr_assert(eq(ptr, (void *)read_bytes_limited(surrogate, 10, ENOUGH, &err), NULL));
    cr_assert(eq(int, err.code, ERROR_INVALID));
}

Test(json, refuses_a_nesting_that_would_exhaust_the_stack)
{
    struct buffer text = {0};
    for (int i = 0; i < 500000; i++) {
        buffer_append_char(&text, '[');
    }
    struct error err = {0};
    cr_assert(eq(ptr, (void *)read_bytes_limited(text.data, text.length, ENOUGH, &err), NULL));
    cr_assert(eq(int, err.code, ERROR_INVALID));
    cr_assert(ne(ptr, strstr(err.message, "maximum parsing depth reached"), NULL), "%s",
              err.message);
    buffer_free(&text);
}

Test(json, says_that_a_file_is_empty_missing_a_directory_or_unreadable)
{
    struct error err = {0};
    ASSERT_REFUSED("", "config.json: is empty; a JSON document is needed");
    cr_assert(eq(ptr, (void *)json_read_file("/tmp/no/such.json", ENOUGH, &err), NULL));
    cr_assert(eq(int, err.code, ERROR_INVALID));
    cr_assert(eq(str, err.message, "/tmp/no/such.json: there is no such file; check the path"));
    cr_assert(eq(ptr, (void *)json_read_file("/tmp", ENOUGH, &err), NULL));
    cr_assert(eq(str, err.message, "/tmp: is a directory; a JSON file is needed"));
    /* The superuser may read everything; and a leak checker needs a process that can be traced. */
    bool superuser = geteuid() == 0;
    cr_assert(eq(int, superuser ? seteuid(65534) : 0, 0));
    char path[] = "/tmp/denoised-json-XXXXXX";
    int descriptor = mkstemp(path);
    cr_assert(ge(int, descriptor, 0));
    cr_assert(eq(int, fchmod(descriptor, 0), 0));
    close(descriptor);
    json_t *root = json_read_file(path, ENOUGH, &err);
    unlink(path);
    cr_assert(eq(int, superuser ? seteuid(0) : 0, 0));
    prctl(PR_SET_DUMPABLE, 1);
    cr_assert(eq(ptr, (void *)root, NULL));
    cr_assert(ne(ptr, strstr(err.message, ": may not be read; check its permissions"), NULL));
}

Test(json, a_file_at_the_limit_is_read_and_one_past_it_is_not)
{
    struct error err = {0};
    json_t *root = read_bytes_limited("[1234]", 6, 6, &err);
    cr_assert(eq(int, json_typeof(root), JSON_ARRAY));
    json_decref(root);
    cr_assert(eq(ptr, (void *)read_bytes_limited("[1234]", 6, 5, &err), NULL));
    cr_assert(eq(int, err.code, ERROR_LIMIT));
    cr_assert(
        eq(str, err.message, "config.json: is longer than the 5 bytes that are allowed here"));
}

Test(json, integers_past_64_bits_become_reals)
{
    struct error err = {0};
    json_t *root = read_text("{\"model_max_length\": 1000000000000000019884624838656, "
                             "\"text \\\" 99999999999999999999\": \"99999999999999999999\", "
                             "\"small\": [9223372036854775807, -9223372036854775809, 1.25e3, "
                             "0.99999999999999999999, 12345678901234567890123.0]}",
                             &err);
    cr_assert(eq(int, json_typeof(root), JSON_OBJECT), "%s", err.message);
    double length = json_real_value(json_object_get(root, "model_max_length"));
    cr_assert(le(dbl, fabs(length / 1e30 - 1), 1e-15));
    const char *text = json_string_value(json_object_get(root, "text \" 99999999999999999999"));
    cr_assert(eq(str, (char *)text, "99999999999999999999"));
    const json_t *small = json_object_get(root, "small");
    cr_assert(eq(i64, json_integer_value(json_array_get(small, 0)), INT64_MAX));
    cr_assert(eq(dbl, json_real_value(json_array_get(small, 1)), -0x1p63));
    cr_assert(eq(dbl, json_real_value(json_array_get(small, 2)), 1250));
    cr_assert(eq(dbl, json_real_value(json_array_get(small, 3)), 1));
    cr_assert(eq(dbl, json_real_value(json_array_get(small, 4)), 12345678901234567890123.0));
    json_decref(root);
    cr_assert(eq(ptr, (void *)read_text("[1e999]", &err), NULL));
    cr_assert(ne(ptr, strstr(err.message, "real number overflow"), NULL));
}

/* ---- members --------------------------------------------------------------------------------- */

static json_t *parse(const char *text)
{
    json_t *root = json_loads(text, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
    cr_assert(ne(ptr, (void *)root, NULL));
    return root;
}

Test(json, absent_and_null_members_leave_the_default)
{
    struct error err = {0};
    json_t *root = parse("{\"nothing\": null}");
    static const char *const keys[] = {"nothing", "absent"};
    for (int i = 0; i < 2; i++) {
        int64_t integer = 7;
        double number = 7.5;
        bool flag = true;
        const char *text = "default";
        cr_assert(eq(int, json_get_int(root, keys[i], 0, 9, &integer, "f", &err), 0));
        cr_assert(eq(int, json_get_double(root, keys[i], 0, 9, &number, "f", &err), 0));
        cr_assert(eq(int, json_get_bool(root, keys[i], &flag, "f", &err), 0));
        cr_assert(eq(int, json_get_string(root, keys[i], &text, "f", &err), 0));
        cr_assert(eq(i64, integer, 7));
        cr_assert(eq(dbl, number, 7.5));
        cr_assert(flag);
        cr_assert(eq(str, (char *)text, "default"));
    }
    json_decref(root);
}

Test(json, members_of_the_right_type_are_read)
{
    struct error err = {0};
    json_t *root = parse("{\"i\": -3, \"d\": 0.25, \"b\": false, \"s\": \"text\"}");
    int64_t integer = 0;
    double number = 0, from_integer = 0;
    bool flag = true;
    const char *text = NULL;
    cr_assert(eq(int, json_get_int(root, "i", -3, -3, &integer, "f", &err), 0));
    cr_assert(eq(int, json_get_double(root, "d", 0.25, 0.25, &number, "f", &err), 0));
    cr_assert(eq(int, json_get_double(root, "i", -10, 0, &from_integer, "f", &err), 0));
    cr_assert(eq(int, json_get_bool(root, "b", &flag, "f", &err), 0));
    cr_assert(eq(int, json_get_string(root, "s", &text, "f", &err), 0));
    cr_assert(eq(i64, integer, -3));
    cr_assert(eq(dbl, number, 0.25));
    cr_assert(eq(dbl, from_integer, -3));
    cr_assert(not(flag));
    cr_assert(eq(str, (char *)text, "text"));
    json_decref(root);
}

static void assert_message(int code, const struct error *err, const char *message)
{
    cr_assert(eq(int, code, ERROR_INVALID));
    cr_assert(eq(str, (char *)err->message, (char *)message));
}

Test(json, messages_name_file_key_range_and_what_was_found)
{
    struct error err = {0};
    json_t *root =
        parse("{\"i\": 70000, \"d\": 1.5, \"s\": \"a\\u0000b\", \"o\": {}, \"t\": true}");
    int64_t integer = 7;
    double number = 7;
    bool flag = false;
    const char *text = "default";
    assert_message(json_get_int(root, "i", 1, 65536, &integer, "config.json", &err), &err,
                   "config.json: key \"i\" must be an integer from 1 to 65536, not 70000");
    assert_message(json_get_int(root, "i", 80000, INT64_MAX, &integer, "config.json", &err), &err,
                   "config.json: key \"i\" must be an integer of at least 80000, not 70000");
    assert_message(json_get_int(root, "d", 0, 9, &integer, "f", &err), &err,
                   "f: key \"d\" must be an integer from 0 to 9, not 1.5");
    assert_message(json_get_int(root, "s", 0, 9, &integer, "f", &err), &err,
                   "f: key \"s\" must be an integer from 0 to 9, not a string");
    assert_message(json_get_double(root, "d", 0, 1, &number, "f", &err), &err,
                   "f: key \"d\" must be a number from 0 to 1, not 1.5");
    assert_message(json_get_double(root, "d", 2, DBL_MAX, &number, "f", &err), &err,
                   "f: key \"d\" must be a number of at least 2, not 1.5");
    assert_message(json_get_double(root, "t", 0, 1, &number, "f", &err), &err,
                   "f: key \"t\" must be a number from 0 to 1, not true");
    assert_message(json_get_bool(root, "i", &flag, "f", &err), &err,
                   "f: key \"i\" must be true or false, not 70000");
    assert_message(json_get_string(root, "o", &text, "f", &err), &err,
                   "f: key \"o\" must be a string, not an object");
    assert_message(json_get_string(root, "s", &text, "f", &err), &err,
                   "f: key \"s\" holds a NUL character (\\u0000); remove it");
    cr_assert(eq(i64, integer, 7));
    cr_assert(eq(dbl, number, 7));
    cr_assert(eq(str, (char *)text, "default"));
    json_decref(root);
}

Test(json, a_document_that_is_no_object_has_no_members)
{
    struct error err = {0};
    json_t *root = parse("[1]");
    int64_t integer = 0;
    assert_message(json_get_int(root, "i", 0, 9, &integer, "config.json", &err), &err,
                   "config.json: must be an object with the key \"i\", not an array");
    json_decref(root);
    cr_assert(eq(str, (char *)json_type_name(NULL), "nothing"));
}

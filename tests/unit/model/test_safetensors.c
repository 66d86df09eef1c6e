#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <criterion/criterion.h>

#include "common/error.h"
#include "server/model/safetensors.h"
#include "tests/unit/model/temporary_directory.h"

/* A file of a header and `data_size` bytes 0, 1, 2, ..., stating `stated` as the header's length.
 */
static void write_stating(const struct temporary_directory *directory, const char *name,
                          uint64_t stated, const char *header, size_t data_size)
{
    size_t length = strlen(header), size = 8 + length + data_size;
    uint8_t *bytes = malloc(size);
    cr_assert_not_null(bytes);
    for (int i = 0; i < 8; i++)
        bytes[i] = (uint8_t)(stated >> (8 * i));
    memcpy(bytes + 8, header, length);
    for (size_t i = 0; i < data_size; i++)
        bytes[8 + length + i] = (uint8_t)i;
    temporary_write(directory, name, bytes, size);
    free(bytes);
}

static void write_file(const struct temporary_directory *directory, const char *name,
                       const char *header, size_t data_size)
{
    write_stating(directory, name, strlen(header), header, data_size);
}

static void expect_directory_refused(const struct temporary_directory *directory, int code,
                                     const char *detail)
{
    struct error err = {0};
    struct checkpoint *checkpoint = (struct checkpoint *)&err;
    int found = checkpoint_open(&checkpoint, directory->path, &err);
    cr_expect_eq(found, code, "%s: code %d: %s", detail, found, err.message);
    cr_expect_null(checkpoint);
    cr_expect_not_null(strstr(err.message, detail), "\"%s\" not in: %s", detail, err.message);
    cr_expect_null(strchr(err.message, '\n'));
}

/* One file model.safetensors of this header must be refused with a message that has `detail`. */
static void expect_header_refused(const char *header, size_t data_size, const char *detail)
{
    struct temporary_directory directory = temporary_directory_create();
    write_file(&directory, "model.safetensors", header, data_size);
    expect_directory_refused(&directory, ERROR_INVALID, detail);
    expect_directory_refused(&directory, ERROR_INVALID, "model.safetensors");
    temporary_directory_remove(&directory);
}

#define ENTRY(dtype, shape, begin, end)                                                            \
    "{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" #begin "," #end "]}"

Test(safetensors, hands_out_tensors_by_offset_and_by_name)
{
    struct temporary_directory directory = temporary_directory_create();
    write_file(&directory, "model.safetensors",
               "{\"__metadata__\":{\"format\":\"pt\"},"
               "\"b\":" ENTRY("F32", "[2,3]", 6, 30) ",\"a\":" ENTRY(
                   "BF16", "[3]", 0,
                   6) ",\"ids\":" ENTRY("I64", "[1]", 30,
                                        38) ",\"none\":" ENTRY("I8", "[0,7]", 38,
                                                               38) ",\"scalar\":" ENTRY("F16", "[]",
                                                                                        38,
                                                                                        40) "}   ",
               40);
    struct error err = {0};
    struct checkpoint *checkpoint;
    cr_assert_eq(checkpoint_open(&checkpoint, directory.path, &err), 0, "%s", err.message);
    cr_assert_eq(checkpoint_tensor_count(checkpoint), 5);
    cr_expect_str_eq(checkpoint_tensor(checkpoint, 0)->name, "a");
    cr_expect_str_eq(checkpoint_tensor(checkpoint, 1)->name, "b");
    cr_expect_str_eq(checkpoint_tensor(checkpoint, 2)->name, "ids");

    const struct tensor *b = checkpoint_find(checkpoint, "b");
    cr_assert_eq(b, checkpoint_tensor(checkpoint, 1));
    cr_expect(b->supported && b->dtype == DTYPE_FLOAT32);
    cr_expect(b->dimensions == 2 && b->shape[0] == 2 && b->shape[1] == 3 && b->size == 24);
    cr_expect_eq(*(const uint8_t *)b->data, 6);
    cr_expect_str_eq(b->file, "model.safetensors");
    char text[32];
    cr_expect_str_eq(tensor_shape_text(b, text, sizeof text), "[2, 3]");
    cr_expect_str_eq(tensor_shape_text(b, text, 5), "[2, ");
    cr_expect_eq(tensor_elements(b), 6);

    const struct tensor *ids = checkpoint_find(checkpoint, "ids");
    cr_expect(!ids->supported);
    cr_expect_str_eq(ids->dtype_name, "I64");
    cr_expect_eq(checkpoint_find(checkpoint, "scalar")->dimensions, 0);
    cr_expect_eq(checkpoint_find(checkpoint, "none")->size, 0);
    cr_expect_null(checkpoint_find(checkpoint, "c"));
    cr_expect_null(checkpoint_find(checkpoint, "__metadata__"));

    /* Dropped pages are read again. */
    checkpoint_drop_pages(checkpoint, b);
    cr_expect_eq(*(const uint8_t *)b->data, 6);
    checkpoint_close(checkpoint);
    temporary_directory_remove(&directory);
}

Test(safetensors, refuses_files_that_are_none)
{
    struct temporary_directory directory = temporary_directory_create();
    expect_directory_refused(&directory, ERROR_INVALID, "model.safetensors.index.json");
    temporary_write(&directory, "model.safetensors", "", 0);
    expect_directory_refused(&directory, ERROR_INVALID, "empty");
    temporary_write(&directory, "model.safetensors", "1234567", 7);
    expect_directory_refused(&directory, ERROR_INVALID, "7 bytes");
    write_stating(&directory, "model.safetensors", 3, "{}", 0);
    expect_directory_refused(&directory, ERROR_INVALID, "header of 3 bytes");
    write_stating(&directory, "model.safetensors", 100000001, "{}", 0);
    expect_directory_refused(&directory, ERROR_INVALID, "100000001");
    write_stating(&directory, "model.safetensors", UINT64_MAX, "{}", 0);
    expect_directory_refused(&directory, ERROR_INVALID, "18446744073709551615");
    write_stating(&directory, "model.safetensors", UINT64_MAX - 7, "{}", 0);
    expect_directory_refused(&directory, ERROR_INVALID, "truncated");

    /* Over the limit in a file (of holes) that is long enough for it. */
    write_stating(&directory, "model.safetensors", 100000001, "{}", 0);
    cr_assert_eq(truncate(temporary_path(&directory, "model.safetensors"), 100000200), 0);
    expect_directory_refused(&directory, ERROR_INVALID, "100000001");

    cr_assert_eq(unlink(temporary_path(&directory, "model.safetensors")), 0);
    cr_assert_eq(symlink("nothing", temporary_path(&directory, "model.safetensors")), 0);
    expect_directory_refused(&directory, ERROR_INVALID, "model.safetensors");
    cr_assert_eq(unlink(temporary_path(&directory, "model.safetensors")), 0);
    cr_assert_eq(mkdir(temporary_path(&directory, "model.safetensors"), 0700), 0);
    expect_directory_refused(&directory, ERROR_INVALID, "a directory");
    cr_assert_eq(rmdir(temporary_path(&directory, "model.safetensors")), 0);
    cr_assert_eq(mkfifo(temporary_path(&directory, "model.safetensors"), 0600), 0);
    expect_directory_refused(&directory, ERROR_INVALID, "special");
    temporary_directory_remove(&directory);

    expect_directory_refused(&(struct temporary_directory){"/nonexistent"}, ERROR_INVALID,
                             "/nonexistent");
}

Test(safetensors, refuses_a_header_that_is_no_object_of_tensors)
{
    expect_header_refused("not json", 0, "no JSON");
    expect_header_refused("{\"a\":", 0, "no JSON");
    expect_header_refused("{} {}", 0, "no JSON");
    expect_header_refused("[]", 0, "an array");
    expect_header_refused("{\"a\":1}", 0, "\"a\"");
    expect_header_refused("{\"__metadata__\":[]}", 0, "__metadata__");
    expect_header_refused("{\"\":" ENTRY("I8", "[1]", 0, 1) "}", 1, "name");
    expect_header_refused("{\"a\":" ENTRY("I8", "[1]", 0, 1) ",\"a\":" ENTRY("I8", "[1]", 1, 2) "}",
                          2, "duplicate");
    expect_header_refused("{\"a\":{\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "\"dtype\"");
    expect_header_refused("{\"a\":{\"dtype\":\"I8\",\"data_offsets\":[0,1]}}", 1, "\"shape\"");
    expect_header_refused("{\"a\":{\"dtype\":\"I8\",\"shape\":[1]}}", 1, "\"data_offsets\"");
}

Test(safetensors, refuses_shapes_and_types_that_do_not_fit_the_data)
{
    expect_header_refused("{\"a\":" ENTRY("Q4", "[2]", 0, 1) "}", 1, "\"Q4\"");
    expect_header_refused("{\"a\":" ENTRY("F32", "[2]", 0, 7) "}", 7, "[2] of F32");
    expect_header_refused("{\"a\":" ENTRY("F32", "[2]", 0, 4) "}", 4, "4 bytes");
    expect_header_refused("{\"a\":" ENTRY("F4", "[3]", 0, 1) "}", 1, "[3] of F4");
    expect_header_refused("{\"a\":" ENTRY("I8", "[-1]", 0, 1) "}", 1, "negative");
    expect_header_refused("{\"a\":" ENTRY("I8", "[1.0]", 0, 1) "}", 1, "shape");
    expect_header_refused("{\"a\":" ENTRY("I8", "[1,1,1,1,1,1,1,1,1]", 0, 1) "}", 1,
                          "9 dimensions");
    /* 2^32 * 2^32 elements wrap to 0; 2^62 elements of 4 bytes do so as well. */
    expect_header_refused("{\"a\":" ENTRY("I8", "[4294967296,4294967296]", 0, 0) "}", 0, "2^63");
    expect_header_refused("{\"a\":" ENTRY("F32", "[4611686018427387904]", 0, 0) "}", 0,
                          "do not fit");
    expect_header_refused("{\"a\":" ENTRY("I8", "[9223372036854775808]", 0, 1) "}", 1, "no JSON");
}

Test(safetensors, refuses_offsets_outside_the_file)
{
    expect_header_refused("{\"a\":" ENTRY("I8", "[4]", 0, 4) "}", 3, "truncated");
    expect_header_refused("{\"a\":" ENTRY("I8", "[4]", 4, 0) "}", 4, "[4, 0]");
    expect_header_refused("{\"a\":" ENTRY("I8", "[4]", -4, 0) "}", 4, "-4");
    expect_header_refused(
        "{\"a\":" ENTRY("I8", "[1]", 9223372036854775807, 9223372036854775807) "}", 4,
        "9223372036854775807");
    expect_header_refused("{\"a\":" ENTRY("I8", "[1]", 0, 9223372036854775808) "}", 4, "no JSON");
    expect_header_refused("{\"a\":" ENTRY("I8", "[1]", 0, 18446744073709551617) "}", 4, "no JSON");
    expect_header_refused("{\"a\":{\"dtype\":\"I8\",\"shape\":[1],\"data_offsets\":[0,1,1]}}", 1,
                          "data_offsets");
    expect_header_refused("{\"a\":{\"dtype\":\"I8\",\"shape\":[1],\"data_offsets\":[0,\"1\"]}}", 1,
                          "data_offsets");
}

Test(safetensors, refuses_overlaps_and_holes)
{
    expect_header_refused("{\"a\":" ENTRY("I8", "[4]", 0, 4) ",\"b\":" ENTRY("I8", "[4]", 3, 7) "}",
                          7, "overlaps");
    expect_header_refused("{\"a\":" ENTRY("I8", "[4]", 0, 4) ",\"b\":" ENTRY("I8", "[4]", 0, 4) "}",
                          4, "overlaps");
    expect_header_refused("{\"a\":" ENTRY("I8", "[4]", 0, 4) ",\"b\":" ENTRY("I8", "[2]", 5, 7) "}",
                          7, "1 bytes before");
    expect_header_refused("{\"a\":" ENTRY("I8", "[2]", 2, 4) "}", 4, "2 bytes before");
    expect_header_refused("{\"a\":" ENTRY("I8", "[2]", 0, 2) "}", 5, "last 3 bytes");
}

/* ---- shards ---------------------------------------------------------------------------------- */

static struct temporary_directory two_shards(const char *weight_map)
{
    struct temporary_directory directory = temporary_directory_create();
    write_file(&directory, "one.safetensors", "{\"a\":" ENTRY("I8", "[2]", 0, 2) "}", 2);
    write_file(&directory, "two.safetensors", "{\"b\":" ENTRY("I8", "[3]", 0, 3) "}", 3);
    temporary_write_text(&directory, "model.safetensors.index.json", weight_map);
    return directory;
}

static void expect_index_refused(const char *weight_map, const char *detail)
{
    struct temporary_directory directory = two_shards(weight_map);
    expect_directory_refused(&directory, ERROR_INVALID, detail);
    temporary_directory_remove(&directory);
}

Test(safetensors, joins_shards)
{
    struct temporary_directory directory =
        two_shards("{\"weight_map\":{\"b\":\"two.safetensors\",\"a\":\"one.safetensors\"}}");
    struct error err = {0};
    struct checkpoint *checkpoint;
    cr_assert_eq(checkpoint_open(&checkpoint, directory.path, &err), 0, "%s", err.message);
    cr_assert_eq(checkpoint_tensor_count(checkpoint), 2);
    cr_expect_str_eq(checkpoint_find(checkpoint, "a")->file, "one.safetensors");
    cr_expect_str_eq(checkpoint_find(checkpoint, "b")->file, "two.safetensors");
    checkpoint_close(checkpoint);
    temporary_directory_remove(&directory);
}

Test(safetensors, refuses_an_index_that_does_not_fit_its_shards)
{
    expect_index_refused("{\"weight_map\":{\"a\":\"one.safetensors\"}", "line");
    expect_index_refused("[]", "weight_map");
    expect_index_refused("{\"weight_map\":{}}", "empty");
    expect_index_refused("{\"weight_map\":[]}", "an array");
    expect_index_refused("{\"weight_map\":{\"a\":1}}", "\"a\"");
    expect_index_refused("{\"weight_map\":{\"a\":\"one.safetensors\",\"b\":\"six.safetensors\"}}",
                         "six.safetensors");
    expect_index_refused("{\"weight_map\":{\"a\":\"one.safetensors\",\"b\":\"one.safetensors\"}}",
                         "\"b\" is missing from one.safetensors");
    expect_index_refused("{\"weight_map\":{\"a\":\"two.safetensors\",\"b\":\"one.safetensors\"}}",
                         "lies in");
    expect_index_refused("{\"weight_map\":{\"a\":\"one.safetensors\",\"c\":\"two.safetensors\"}}",
                         "\"c\" is missing from two.safetensors");
    expect_index_refused("{\"weight_map\":{\"a\":\"one.safetensors\",\"a\":\"two.safetensors\"}}",
                         "uplicate");
}

Test(safetensors, refuses_a_tensor_that_the_index_leaves_out)
{
    struct temporary_directory directory =
        two_shards("{\"weight_map\":{\"a\":\"one.safetensors\"}}");
    write_file(&directory, "one.safetensors",
               "{\"a\":" ENTRY("I8", "[2]", 0, 2) ",\"extra\":" ENTRY("I8", "[2]", 2, 4) "}", 4);
    expect_directory_refused(&directory, ERROR_INVALID, "\"extra\" of one.safetensors");
    temporary_directory_remove(&directory);
}

Test(safetensors, refuses_shards_outside_the_directory)
{
    static const char *const names[] = {"../one.safetensors", "/tmp/one.safetensors",
                                        "./one.safetensors",  "one.safetensors\\u0000.safetensors",
                                        ".safetensors",       "",
                                        "config.json"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char map[256];
        snprintf(map, sizeof map, "{\"weight_map\":{\"a\":\"%s\"}}", names[i]);
        expect_index_refused(map, "plain name");
    }
}

Test(safetensors, refuses_one_name_in_two_shards)
{
    struct temporary_directory directory =
        two_shards("{\"weight_map\":{\"a\":\"one.safetensors\",\"b\":\"two.safetensors\"}}");
    write_file(&directory, "two.safetensors",
               "{\"a\":" ENTRY("I8", "[2]", 0, 2) ",\"b\":" ENTRY("I8", "[3]", 2, 5) "}", 5);
    expect_directory_refused(&directory, ERROR_INVALID, "lies in one.safetensors and in two");
    temporary_directory_remove(&directory);
}

Test(safetensors, takes_a_single_file_of_another_name)
{
    struct temporary_directory directory = temporary_directory_create();
    write_file(&directory, "weights.safetensors", "{\"a\":" ENTRY("I8", "[2]", 0, 2) "}", 2);
    struct error err = {0};
    struct checkpoint *checkpoint;
    cr_assert_eq(checkpoint_open(&checkpoint, directory.path, &err), 0, "%s", err.message);
    cr_expect_str_eq(checkpoint_tensor(checkpoint, 0)->file, "weights.safetensors");
    checkpoint_close(checkpoint);
    write_file(&directory, "more.safetensors", "{\"b\":" ENTRY("I8", "[2]", 0, 2) "}", 2);
    expect_directory_refused(&directory, ERROR_INVALID, "2 .safetensors files");
    temporary_directory_remove(&directory);
}

/* Whatever byte of a good file is another, it opens or is refused; nothing else may happen. */
Test(safetensors, survives_every_changed_byte)
{
    static const char header[] =
        "{\"a\":" ENTRY("F32", "[2,1]", 0, 8) ",\"b\":" ENTRY("I8", "[3]", 8, 11) "}";
    struct temporary_directory directory = temporary_directory_create();
    static const uint8_t changes[] = {0x00, 0x01, 0x20, 0x22, 0x2d, 0x39, 0x7b, 0x7d, 0x80, 0xff};
    write_file(&directory, "good", header, 11);
    uint8_t bytes[8 + sizeof header - 1 + 11];
    FILE *good = fopen(temporary_path(&directory, "good"), "rb");
    cr_assert(good != NULL && fread(bytes, sizeof bytes, 1, good) == 1);
    fclose(good);
    int opened = 0, refused = 0;
    for (size_t place = 0; place < sizeof bytes; place++) {
        for (size_t i = 0; i < sizeof changes; i++) {
            uint8_t kept = bytes[place];
            bytes[place] = changes[i];
            temporary_write(&directory, "bad", bytes, sizeof bytes);
            bytes[place] = kept;
            struct error err = {0};
            struct checkpoint *checkpoint = NULL;
            if (checkpoint_open_file(&checkpoint, temporary_path(&directory, "bad"), &err) == 0)
                opened++;
            else
                refused += err.code == ERROR_INVALID;
            checkpoint_close(checkpoint);
        }
    }
    cr_expect_eq(opened + refused, (int)(sizeof bytes * sizeof changes));
    cr_expect(opened > 0 && refused > 0);
    /* And every shorter one is refused. */
    for (size_t size = 0; size < sizeof bytes; size++) {
        struct error err = {0};
        struct checkpoint *checkpoint = NULL;
        temporary_write(&directory, "short", bytes, size);
        int code = checkpoint_open_file(&checkpoint, temporary_path(&directory, "short"), &err);
        cr_expect_eq(code, ERROR_INVALID, "%zu bytes: %s", size, err.message);
    }
    temporary_directory_remove(&directory);
}

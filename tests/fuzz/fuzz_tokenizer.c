/*
 * tokenizer.json up to the first NUL; what follows that is a text for it. What it makes of the text
 * is decoded and encoded again.
 */
#include <stdlib.h>
#include <string.h>

#include "common/buffer.h"
#include "common/error.h"
#include "common/utf8.h"
#include "server/model/tokenizer.h"
#include "tests/fuzz/fuzz.h"

static void use(const struct tokenizer *tokenizer, const char *text, size_t length)
{
    struct text_segment halves[] = {{0, length / 2, true}, {length / 2, length, false}};
    for (unsigned flags = 0; flags < 4; flags++) {
        struct token_list ids = {0};
        struct buffer decoded = {0};
        struct error err = {0};
        tokenizer_encode(tokenizer, text, length, flags, &ids, &err);
        for (size_t i = 0; i < ids.count; i++) {
            if (!tokenizer_has_id(tokenizer, ids.ids[i])) {
                abort();
            }
        }
        tokenizer_decode(tokenizer, ids.ids, ids.count, flags & 1, &decoded);
        if (utf8_valid_length(decoded.data ? decoded.data : "", decoded.length) != decoded.length) {
            abort();
        }
        buffer_free(&decoded);
        token_list_free(&ids);
    }
    struct token_list ids = {0};
    struct error err = {0};
    tokenizer_encode_segments(tokenizer, text, length, halves, 2, &ids, &err);
    token_list_free(&ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char sample[] = "Hello, wor\xc3\xa9ld!  12345 <|eot|>\n\n\xf0\x9f\x98\x80 don't";
    const uint8_t *end = size > 0 ? memchr(data, '\0', size) : NULL;
    size_t length = end ? (size_t)(end - data) : size;
    const char *path = fuzz_file(data, length);
    struct tokenizer *tokenizer;
    struct error err = {0};
    if (!path || tokenizer_load(&tokenizer, path, &err)) {
        return 0;
    }
    use(tokenizer, sample, sizeof sample - 1);
    if (end) {
        use(tokenizer, (const char *)end + 1, size - length - 1);
    }
    tokenizer_free(tokenizer);
    return 0;
}

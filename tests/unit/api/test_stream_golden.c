/* The golden streams: what an append-only stream sends after every token, as the server cuts it. */
#include <string.h>

#include <criterion/criterion.h>

#include "common/utf8.h"
#include "server/api/answer_text.h"
#include "server/model/tokenizer.h"
#include "tests/unit/model/tokenizer_fixture.h"

static bool has_special(const struct tokenizer *tokenizer, const struct token_list *ids)
{
    for (size_t i = 0; i < ids->count; i++) {
        if (tokenizer_is_special(tokenizer, ids->ids[i]))
            return true;
    }
    return false;
}

/* Settles the ids one by one. Special ones give no text here, so of those lines only the whole
 * counts. */
static bool streams_as_expected(const struct tokenizer *tokenizer, size_t line,
                                const json_t *object)
{
    struct token_list ids = fixture_ids(json_object_get(object, "ids"));
    const json_t *emitted = json_object_get(object, "emitted");
    const struct answer_rules rules = {.tokenizer = tokenizer, .mask_token = -1};
    bool special = has_special(tokenizer, &ids), equal = json_array_size(emitted) == ids.count;
    struct answer_text text = {0};
    struct buffer all = {0}, whole = {0};
    size_t sent = 0;
    for (size_t i = 0; equal && i < ids.count; i++) {
        struct buffer piece = {0};
        answer_text_read(&text, &rules, ids.ids, (int32_t)i + 1,
                         i + 1 == ids.count ? ANSWER_LENGTH : ANSWER_OPEN);
        if (text.safe > sent)
            utf8_append_repaired(&piece, text.bytes.data + sent, text.safe - sent);
        sent = text.safe > sent ? text.safe : sent;
        json_t *step = json_pack("{s:O}", "emitted", json_array_get(emitted, i));
        equal = special || fixture_text_equal("stream.jsonl", line, step, "emitted", &piece);
        json_decref(step);
        buffer_append(&all, piece.data, piece.length);
        buffer_free(&piece);
    }
    tokenizer_decode(tokenizer, ids.ids, ids.count, true, &whole);
    equal = equal && whole.length == all.length &&
            (all.length == 0 || memcmp(whole.data, all.data, all.length) == 0);
    buffer_free(&text.bytes);
    buffer_free(&whole);
    buffer_free(&all);
    token_list_free(&ids);
    return equal;
}

Test(stream_golden, text_is_sent_as_soon_as_its_characters_are_whole)
{
    struct tokenizer *tokenizer = fixture_tokenizer("qwen3");
    json_t *lines = fixture_lines("stream.jsonl");
    cr_assert_eq(json_array_size(lines), 80);
    for (size_t i = 0; i < json_array_size(lines); i++) {
        cr_expect(streams_as_expected(tokenizer, i + 1, json_array_get(lines, i)),
                  "stream.jsonl:%zu", i + 1);
    }
    json_decref(lines);
    tokenizer_free(tokenizer);
}

/* Log-probabilities in both forms, and the echoed prompt. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/rng.h"
#include "tests/unit/api/support.h"

enum { LENGTH = 16 };

static void spell_and_stop(int32_t tokens[LENGTH], const char *text)
{
    int32_t count = support_spell(tokens, text);
    for (int32_t i = count; i < LENGTH; i++) {
        tokens[i] = END_OF_TEXT;
    }
}

static json_t *answer_to(const char *body, enum api_endpoint endpoint, const int32_t *tokens)
{
    struct live live;
    live_create(&live, endpoint, body, 1, LENGTH);
    live_post(&live, 0, 4, tokens, FINISH_STOP);
    json_t *answer = live_answer(&live);
    live_free(&live);
    return answer;
}

static void expect_json(const json_t *value, const char *expected)
{
    json_t *other = json_loads(expected, JSON_DECODE_ANY, NULL);
    char *dumped = json_dumps(value, JSON_ENCODE_ANY);
    cr_assert_not_null(other, "%s", expected);
    cr_expect(json_equal(value, other), "%s is not %s", dumped, expected);
    free(dumped);
    json_decref(other);
}

Test(logprobs, chat_has_content_with_token_bytes_and_top_entries)
{
    int32_t tokens[LENGTH];
    spell_and_stop(tokens, "Hi");
    json_t *answer =
        answer_to("{\"logprobs\":true,\"top_logprobs\":3}", API_CHAT_COMPLETIONS, tokens);
    const json_t *content = json_at(answer, "choices[0].logprobs.content");
    cr_assert_eq(json_array_size(content), 2);
    cr_expect(json_is_null(json_at(answer, "choices[0].logprobs.refusal")));
    cr_expect_str_eq(text_at(content, "[1].token"), "i");
    cr_expect_eq(json_number_value(json_at(content, "[1].logprob")), -0.5);
    expect_json(json_at(content, "[1].bytes"), "[105]");
    cr_assert_eq(json_array_size(json_at(content, "[1].top_logprobs")), 3);
    double last = 0;
    for (size_t i = 0; i < 3; i++) {
        const json_t *entry = json_array_get(json_at(content, "[1].top_logprobs"), i);
        double logprob = json_number_value(json_at(entry, "logprob"));
        cr_expect_lt(logprob, last, "best first");
        last = logprob;
        size_t length;
        const char *bytes =
            tokenizer_token_bytes(support_api()->tokenizer, live_top_token(1, (int32_t)i), &length);
        cr_expect_eq(json_integer_value(json_at(entry, "bytes[0]")), (unsigned char)bytes[0]);
    }
    json_decref(answer);
}

Test(logprobs, without_top_entries_the_chosen_ones_stand_alone)
{
    int32_t tokens[LENGTH];
    spell_and_stop(tokens, "Hi");
    json_t *chat = answer_to("{\"logprobs\":true}", API_CHAT_COMPLETIONS, tokens);
    expect_json(json_at(chat, "choices[0].logprobs"),
                "{\"content\":[{\"token\":\"H\",\"logprob\":-0.25,\"bytes\":[72],"
                "\"top_logprobs\":[]},{\"token\":\"i\",\"logprob\":-0.5,\"bytes\":[105],"
                "\"top_logprobs\":[]}],\"refusal\":null}");
    json_decref(chat);
    json_t *text = answer_to("{\"logprobs\":0}", API_COMPLETIONS, tokens);
    expect_json(json_at(text, "choices[0].logprobs"),
                "{\"tokens\":[\"H\",\"i\"],\"token_logprobs\":[-0.25,-0.5],"
                "\"top_logprobs\":null,\"text_offset\":[0,1]}");
    json_decref(text);
    json_t *empty =
        answer_to("{\"logprobs\":false,\"top_logprobs\":0}", API_CHAT_COMPLETIONS, tokens);
    cr_expect(json_is_null(json_at(empty, "choices[0].logprobs")));
    json_decref(empty);
    spell_and_stop(tokens, "");
    empty = answer_to("{\"logprobs\":true}", API_CHAT_COMPLETIONS, tokens);
    expect_json(json_at(empty, "choices[0].logprobs"), "{\"content\":[],\"refusal\":null}");
    json_decref(empty);
}

Test(logprobs, every_number_of_top_entries_is_met_in_both_forms)
{
    int32_t tokens[LENGTH];
    spell_and_stop(tokens, "abcdefghijklmno");
    for (int top = 1; top <= 20; top++) {
        char body[64];
        snprintf(body, sizeof body, "{\"logprobs\":%d}", top);
        json_t *text = answer_to(body, API_COMPLETIONS, tokens);
        snprintf(body, sizeof body, "{\"logprobs\":true,\"top_logprobs\":%d}", top);
        json_t *chat = answer_to(body, API_CHAT_COMPLETIONS, tokens);
        for (size_t i = 0; i < 15; i++) {
            const json_t *entries =
                json_array_get(json_at(text, "choices[0].logprobs.top_logprobs"), i);
            cr_assert_eq(json_object_size(entries), top, "no two of them under one name");
            const json_t *token = json_array_get(json_at(chat, "choices[0].logprobs.content"), i);
            cr_assert_eq(json_array_size(json_at(token, "top_logprobs")), top);
        }
        json_decref(text);
        json_decref(chat);
    }
}

Test(logprobs, tokens_that_are_parts_of_characters_are_told_apart)
{
    int32_t tokens[LENGTH];
    spell_and_stop(tokens, "\xc3\xa9x");
    tokens[3] = BOS;
    tokens[4] = support_byte_token('!');
    tokens[5] = support_byte_token(0);
    json_t *text = answer_to("{\"logprobs\":0}", API_COMPLETIONS, tokens);
    cr_expect_eq(json_string_length(json_at(text, "choices[0].text")), 5);
    expect_json(json_at(text, "choices[0].logprobs.tokens"),
                "[\"bytes:\\\\xc3\",\"bytes:\\\\xa9\",\"x\",\"<|startoftext|>\",\"!\","
                "\"bytes:\\\\x00\"]");
    expect_json(json_at(text, "choices[0].logprobs.text_offset"), "[0,0,1,2,2,3]");
    json_decref(text);
    json_t *chat = answer_to("{\"logprobs\":true}", API_CHAT_COMPLETIONS, tokens);
    expect_json(json_at(chat, "choices[0].logprobs.content[1].bytes"), "[169]");
    json_decref(chat);
}

Test(logprobs, equal_texts_of_two_tokens_keep_their_own_names)
{
    struct live live;
    int32_t tokens[LENGTH];
    live_create(&live, API_COMPLETIONS, "{\"logprobs\":2}", 1, LENGTH);
    spell_and_stop(tokens, "a");
    live_post(&live, 0, 1, tokens, FINISH_STOP);
    struct draft *draft = &live.streams[0].draft;
    draft->top_token[0] = draft->top_token[1] = tokens[0];
    json_t *answer = live_answer(&live);
    char expected[64];
    snprintf(expected, sizeof expected, "{\"a\":-0.5,\"token_id:%d\":-1.0}", (int)tokens[0]);
    const json_t *top = json_at(answer, "choices[0].logprobs.top_logprobs[0]");
    cr_expect_eq(json_number_value(json_object_get(top, "a")), -0.5);
    cr_expect_eq(json_object_size(top), 2, "%s", expected);
    json_decref(answer);
    live_free(&live);
}

Test(logprobs, values_that_json_lacks_are_written_as_numbers)
{
    struct live live;
    int32_t tokens[LENGTH];
    live_create(&live, API_COMPLETIONS, "{\"logprobs\":1}", 1, LENGTH);
    spell_and_stop(tokens, "ab");
    live_post(&live, 0, 1, tokens, FINISH_STOP);
    struct draft *draft = &live.streams[0].draft;
    draft->raw_logprob[0] = 1e-7f;
    draft->raw_logprob[1] = -INFINITY;
    draft->top_token[1] = -1; /* a vocabulary with no more */
    json_t *answer = live_answer(&live);
    expect_json(json_at(answer, "choices[0].logprobs.token_logprobs"), "[0,-9999]");
    cr_expect_eq(json_object_size(json_at(answer, "choices[0].logprobs.top_logprobs[1]")), 0);
    json_decref(answer);
    live_free(&live);
}

static void set_echo(struct live *live, const char *text)
{
    live->reply.choices[0].echo = text;
    live->reply.choices[0].echo_length = strlen(text);
}

Test(echo, the_prompt_stands_before_the_answer_with_null_logprobs)
{
    struct live live;
    int32_t tokens[LENGTH], prompt[3] = {BOS};
    live_create(&live, API_COMPLETIONS, "{\"echo\":true,\"logprobs\":1}", 1, LENGTH);
    support_spell(prompt + 1, "On");
    live.reply.choices[0].prompt = prompt;
    set_echo(&live, "On");
    spell_and_stop(tokens, "ab");
    live_post(&live, 0, 1, tokens, FINISH_STOP);
    json_t *answer = live_answer(&live);
    cr_expect_str_eq(text_at(answer, "choices[0].text"), "Onab");
    cr_expect_eq(json_integer_value(json_at(answer, "usage.completion_tokens")), 2);
    const json_t *logprobs = json_at(answer, "choices[0].logprobs");
    expect_json(json_at(logprobs, "tokens"), "[\"<|startoftext|>\",\"O\",\"n\",\"a\",\"b\"]");
    expect_json(json_at(logprobs, "token_logprobs"), "[null,null,null,-0.25,-0.5]");
    cr_expect(json_is_null(json_at(logprobs, "top_logprobs[2]")));
    cr_expect_eq(json_object_size(json_at(logprobs, "top_logprobs[3]")), 1);
    expect_json(json_at(logprobs, "text_offset"), "[0,0,1,2,3]");
    json_decref(answer);
    live_free(&live);
}

Test(echo, a_stream_begins_with_it)
{
    struct live live;
    int32_t tokens[LENGTH];
    live_create(&live, API_COMPLETIONS, "{\"echo\":true,\"stream\":true}", 1, LENGTH);
    set_echo(&live, "Once");
    json_t *events = live_events(&live);
    cr_assert_eq(json_array_size(events), 1, "before any round");
    cr_expect_str_eq(text_at(events, "[0].choices[0].text"), "Once");
    cr_expect(json_is_null(json_at(events, "[0].choices[0].logprobs")));
    json_decref(events);
    spell_and_stop(tokens, "ab");
    live_post(&live, 0, 1, tokens, FINISH_STOP);
    events = live_events(&live);
    cr_expect_str_eq(text_at(events, "[0].choices[0].text"), "ab");
    json_decref(events);
    live_free(&live);
}

Test(echo, every_draft_shows_it)
{
    struct live live;
    int32_t tokens[LENGTH];
    live_create(&live, API_COMPLETIONS,
                "{\"echo\":true,\"stream\":true,\"diffusing\":true,\"logprobs\":0}", 1, 4);
    set_echo(&live, "Once");
    support_spell(tokens, "abcd");
    tokens[1] = MASK;
    live_post(&live, 0, 1, tokens, FINISH_NONE);
    json_t *events = live_events(&live);
    cr_expect_str_eq(text_at(events, "[0].choices[0].text"), "Oncea░cd");
    cr_expect(json_is_null(json_at(events, "[0].choices[0].logprobs")));
    json_decref(events);
    tokens[1] = support_byte_token('b');
    live_post(&live, 0, 2, tokens, FINISH_LENGTH);
    events = live_events(&live);
    cr_expect_str_eq(text_at(events, "[0].choices[0].text"), "Onceabcd");
    cr_expect_eq(json_array_size(json_at(events, "[0].choices[0].logprobs.tokens")), 3 + 4);
    json_decref(events);
    live_free(&live);
}

/* A small generator of its own, so that a failing case can be run again. */
static uint32_t draw(uint32_t *state, uint32_t below)
{
    *state += 1;
    return rng_word(13, *state, 1, RNG_RANDOM_ORDER, 0) % below;
}

static void draw_canvas(int32_t *tokens, int32_t length, uint32_t *state)
{
    static const char bytes[] = "ab\xe2\x96\x91\xf0\x9f\x98\x80\xff\x80 abc";
    for (int32_t i = 0; i < length; i++) {
        uint32_t kind = draw(state, 30);
        tokens[i] = kind == 0   ? END_OF_TURN
                    : kind <= 2 ? BOS
                    : kind < 24
                        ? support_byte_token((unsigned char)bytes[draw(state, sizeof bytes - 1)])
                        : (int32_t)(300 + draw(state, 3700));
    }
}

/* Joins what each event's logprobs list; every list of `chat` is content. */
static void join_lists(json_t *joined, const json_t *events, bool chat)
{
    static const char *const lists[] = {"tokens", "token_logprobs", "top_logprobs", "text_offset"};
    for (size_t i = 0; i < json_array_size(events); i++) {
        const json_t *choice = json_at(json_array_get(events, i), "choices[0]");
        const json_t *logprobs = json_at(choice, "logprobs");
        if (!logprobs || json_is_null(logprobs)) {
            continue;
        }
        for (size_t k = 0; k < (chat ? 1 : 4); k++) {
            const char *name = chat ? "content" : lists[k];
            cr_assert_gt(json_array_size(json_object_get(logprobs, name)), 0);
            json_array_extend(json_object_get(joined, name), json_object_get(logprobs, name));
        }
    }
}

static const char *const stream_bodies[] = {
    "{\"stream\":true,\"logprobs\":3}",
    "{\"stream\":true,\"logprobs\":2,\"echo\":true}",
    "{\"stream\":true,\"logprobs\":1,\"stop\":[\"aba\",\"b\\u2591\"]}",
    "{\"stream\":true,\"logprobs\":true,\"top_logprobs\":2,\"stop\":[\"abcab\",\"bc\"]}",
};

static void run_trial(uint32_t trial, uint32_t *state)
{
    bool chat = trial % 4 == 3;
    enum api_endpoint endpoint = chat ? API_CHAT_COMPLETIONS : API_COMPLETIONS;
    struct live live, whole;
    int32_t target[LENGTH], tokens[LENGTH];
    live_create(&live, endpoint, stream_bodies[trial % 4], 1, LENGTH);
    live_create(&whole, endpoint, stream_bodies[trial % 4], 1, LENGTH);
    set_echo(&live, "Once \xc3\xa9 upon");
    set_echo(&whole, "Once \xc3\xa9 upon");
    draw_canvas(target, LENGTH, state);
    json_t *joined = json_pack("{s:[],s:[],s:[],s:[],s:[]}", "content", "tokens", "token_logprobs",
                               "top_logprobs", "text_offset");
    for (int32_t i = 0; i < LENGTH; i++) {
        tokens[i] = MASK;
    }
    for (int32_t i = 0, round = 1; i < LENGTH; round++) {
        for (uint32_t more = 1 + draw(state, 4); more > 0 && i < LENGTH; more--, i++) {
            tokens[i] = target[i];
        }
        enum finish finish = i < LENGTH ? FINISH_NONE : FINISH_LENGTH;
        live_post(&live, 0, round, tokens, finish);
        live_post(&whole, 0, round, tokens, finish);
        json_t *events = live_events(&live);
        join_lists(joined, events, chat);
        json_decref(events);
    }
    json_t *answer = live_answer(&whole);
    json_t *logprobs = json_deep_copy(json_at(answer, "choices[0].logprobs"));
    json_object_del(logprobs, "refusal");
    const char *name;
    json_t *list;
    json_object_foreach(logprobs, name, list)
    {
        char *expected = json_dumps(list, 0), *found = json_dumps(json_object_get(joined, name), 0);
        cr_assert_str_eq(found, expected, "trial %u, %s", (unsigned)trial, name);
        free(expected);
        free(found);
    }
    cr_assert(live.reply.ended);
    json_decref(logprobs);
    json_decref(joined);
    json_decref(answer);
    live_free(&live);
    live_free(&whole);
}

Test(logprobs, the_lists_of_a_stream_joined_are_those_of_the_answer)
{
    uint32_t state = 0;
    for (uint32_t trial = 0; trial < 400; trial++) {
        run_trial(trial, &state);
    }
}

Test(logprobs, a_token_is_listed_with_the_delta_in_which_its_text_begins)
{
    struct live live;
    int32_t tokens[LENGTH];
    live_create(&live, API_COMPLETIONS, "{\"stream\":true,\"logprobs\":0,\"stop\":\"ENDX\"}", 1,
                LENGTH);
    for (int32_t i = 0; i < LENGTH; i++) {
        tokens[i] = MASK;
    }
    support_spell(tokens, "aEN");
    live_post(&live, 0, 1, tokens, FINISH_NONE);
    json_t *events = live_events(&live);
    expect_json(json_at(events, "[0].choices[0].logprobs.tokens"), "[\"a\"]");
    json_decref(events);
    tokens[3] = BOS;
    tokens[4] = END_OF_TEXT;
    live_post(&live, 0, 2, tokens, FINISH_STOP);
    events = live_events(&live);
    expect_json(json_at(events, "[0].choices[0].logprobs.tokens"), "[\"E\",\"N\"]");
    expect_json(json_at(events, "[1].choices[0].logprobs.tokens"), "[\"<|startoftext|>\"]");
    expect_json(json_at(events, "[1].choices[0].logprobs.text_offset"), "[3]");
    json_decref(events);
    live_free(&live);
}

Test(logprobs, top_logprobs_needs_logprobs)
{
    struct refused refused =
        support_refuse(API_CHAT_COMPLETIONS, "{\"top_logprobs\":3,\"messages\":[{\"role\":\"user\","
                                             "\"content\":\"a\"}]}");
    cr_expect_str_eq(refused_text(&refused, "param"), "top_logprobs");
    cr_expect_str_eq(refused_text(&refused, "code"), "invalid_value");
    json_decref(refused.body);
}

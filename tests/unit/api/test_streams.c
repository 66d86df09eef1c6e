/* Drafts posted by hand become server-sent events. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/error.h"
#include "common/rng.h"
#include "tests/unit/api/support.h"

enum { LENGTH = 16 };

static void all_masked(int32_t *tokens, int32_t length)
{
    for (int32_t i = 0; i < length; i++) {
        tokens[i] = MASK;
    }
}

static const char *last_text(const json_t *events)
{
    return json_string_value(json_array_get(events, json_array_size(events) - 1));
}

Test(streams, a_chat_opens_with_the_role_and_closes_with_reason_usage_and_done)
{
    struct live live;
    int32_t tokens[LENGTH];
    live_create(&live, API_CHAT_COMPLETIONS,
                "{\"stream\":true,\"stream_options\":{\"include_usage\":true}}", 1, LENGTH);
    all_masked(tokens, LENGTH);
    json_t *events = live_events(&live);
    cr_assert_eq(json_array_size(events), 1);
    cr_expect_str_eq(text_at(events, "[0].choices[0].delta.role"), "assistant");
    cr_expect_str_eq(text_at(events, "[0].choices[0].delta.content"), "");
    cr_expect_str_eq(text_at(events, "[0].object"), "chat.completion.chunk");
    cr_expect(json_is_null(json_at(events, "[0].choices[0].finish_reason")));
    cr_expect(json_is_null(json_at(events, "[0].usage")));
    json_decref(events);

    support_spell(tokens, "Hi!");
    live_post(&live, 0, 1, tokens, FINISH_NONE);
    events = live_events(&live);
    cr_assert_eq(json_array_size(events), 1);
    cr_expect_str_eq(text_at(events, "[0].choices[0].delta.content"), "Hi!");
    cr_expect_null(json_at(events, "[0].choices[0].delta.role"));
    json_decref(events);

    tokens[3] = END_OF_TURN;
    live_post(&live, 0, 2, tokens, FINISH_STOP);
    events = live_events(&live);
    cr_assert_eq(json_array_size(events), 3);
    cr_expect_eq(json_object_size(json_at(events, "[0].choices[0].delta")), 0);
    cr_expect_str_eq(text_at(events, "[0].choices[0].finish_reason"), "stop");
    cr_expect_eq(json_array_size(json_at(events, "[1].choices")), 0);
    cr_expect_eq(json_integer_value(json_at(events, "[1].usage.completion_tokens")), 3);
    cr_expect_eq(json_number_value(json_at(events, "[1].denoised.queue_ms")), 2.5);
    cr_expect_eq(json_number_value(json_at(events, "[1].denoised.compute_ms")), 2);
    cr_expect_str_eq(last_text(events), "[DONE]");
    json_decref(events);
    struct buffer out = {0};
    cr_expect_eq(events_next(&live.reply, &out), -1);
    live_free(&live);
}

Test(streams, only_settled_text_is_sent)
{
    struct live live;
    int32_t tokens[LENGTH];
    live_create(&live, API_COMPLETIONS, "{\"stream\":true,\"return_token_ids\":true}", 1, LENGTH);
    support_spell(tokens, "0123456789abcdef");
    tokens[1] = MASK;
    live_post(&live, 0, 1, tokens, FINISH_NONE);
    json_t *events = live_events(&live);
    cr_assert_eq(json_array_size(events), 1);
    cr_expect_str_eq(text_at(events, "[0].choices[0].text"), "0");
    json_decref(events);
    tokens[1] = support_byte_token('1');
    live_post(&live, 0, 2, tokens, FINISH_LENGTH);
    events = live_events(&live);
    cr_assert_eq(json_array_size(events), 3);
    cr_expect_str_eq(text_at(events, "[0].choices[0].text"), "123456789abcdef");
    cr_expect_str_eq(text_at(events, "[1].choices[0].text"), "");
    cr_expect_str_eq(text_at(events, "[1].choices[0].finish_reason"), "length");
    cr_expect_eq(json_array_size(json_at(events, "[1].choices[0].token_ids")), LENGTH);
    cr_expect_not_null(json_at(events, "[1].denoised.queue_ms"), "in the last event");
    json_decref(events);
    live_free(&live);
}

Test(streams, half_a_character_is_held_back)
{
    struct live live;
    int32_t tokens[LENGTH];
    live_create(&live, API_COMPLETIONS, "{\"stream\":true}", 1, LENGTH);
    static const char spelled[] = "a\xf0\x9f\x98\x80z";
    const char *expected[] = {"a", NULL, NULL, NULL, "\xf0\x9f\x98\x80", "z"};
    all_masked(tokens, LENGTH);
    for (int32_t i = 0; i < 6; i++) {
        tokens[i] = support_byte_token((unsigned char)spelled[i]);
        live_post(&live, 0, i + 1, tokens, FINISH_NONE);
        json_t *events = live_events(&live);
        const char *text = text_at(events, "[0].choices[0].text");
        if (expected[i]) {
            cr_expect_str_eq(text, expected[i]);
        } else {
            cr_expect_null(text);
        }
        json_decref(events);
    }
    live_free(&live);
}

Test(streams, what_could_begin_a_stop_string_is_held_back)
{
    struct live live;
    int32_t tokens[LENGTH];
    live_create(&live, API_COMPLETIONS, "{\"stream\":true,\"stop\":[\"END.\",\"NDX\"]}", 1, LENGTH);
    static const char spelled[] = "aENENDb";
    const char *expected[] = {"a", NULL, NULL, "EN", NULL, NULL, "ENDb"};
    all_masked(tokens, LENGTH);
    for (int32_t i = 0; i < 7; i++) {
        tokens[i] = support_byte_token((unsigned char)spelled[i]);
        live_post(&live, 0, i + 1, tokens, FINISH_NONE);
        json_t *events = live_events(&live);
        const char *text = text_at(events, "[0].choices[0].text");
        if (expected[i]) {
            cr_expect_str_eq(text, expected[i]);
        } else {
            cr_expect_null(text, "%s", text);
        }
        json_decref(events);
    }
    support_spell(tokens + 7, "cNDX");
    live_post(&live, 0, 9, tokens, FINISH_NONE);
    json_t *events = live_events(&live);
    cr_assert_eq(json_array_size(events), 3);
    cr_expect_str_eq(text_at(events, "[0].choices[0].text"), "c");
    cr_expect_str_eq(text_at(events, "[1].choices[0].finish_reason"), "stop");
    cr_expect_str_eq(last_text(events), "[DONE]");
    json_decref(events);
    live_free(&live);
}

Test(streams, an_engine_failure_is_an_error_event_without_done)
{
    struct live live;
    live_create(&live, API_COMPLETIONS, "{\"stream\":true}", 2, LENGTH);
    struct error lost = {.code = ERROR_DEVICE_LOST, .message = "cudaErrorIllegalAddress at 0x1"};
    stream_fail(&live.streams[1], FINISH_FAILED, &lost);
    json_t *events = live_events(&live);
    cr_assert_eq(json_array_size(events), 1);
    cr_expect_str_eq(text_at(events, "[0].error.code"), "device_lost");
    cr_expect_str_eq(text_at(events, "[0].error.type"), "unavailable_error");
    cr_expect_null(strstr(text_at(events, "[0].error.message"), "cuda"), "no internals");
    json_decref(events);
    live_free(&live);
}

/* What was written to stderr meanwhile; the caller frees it. */
static char *logged_by(struct live *live, json_t **events)
{
    FILE *file = tmpfile();
    int saved = dup(STDERR_FILENO);
    cr_assert(file && saved >= 0 && dup2(fileno(file), STDERR_FILENO) >= 0);
    *events = live_events(live);
    dup2(saved, STDERR_FILENO);
    close(saved);
    char *text = calloc(1, 4096);
    cr_assert_geq(pread(fileno(file), text, 4095, 0), 0);
    fclose(file);
    return text;
}

Test(streams, what_the_model_gets_wrong_is_a_500_and_its_cause_is_logged_alone)
{
    struct live live;
    live_create(&live, API_COMPLETIONS, "{\"stream\":true}", 1, LENGTH);
    struct error broken = {.code = ERROR_INTERNAL, .message = "round 3: \"logits\" are not finite"};
    stream_fail(&live.streams[0], FINISH_FAILED, &broken);
    json_t *events;
    char *log = logged_by(&live, &events);
    cr_expect_str_eq(text_at(events, "[0].error.type"), "server_error");
    cr_expect_null(strstr(text_at(events, "[0].error.message"), "finite"), "no internals");
    cr_expect_not_null(strstr(log, "are not finite"), "%s", log);
    cr_expect_not_null(strstr(log, live.reply.id), "%s", log);
    free(log);
    json_decref(events);
    live_free(&live);
}

Test(diffusing, every_round_shows_the_whole_answer_and_what_changed)
{
    struct live live;
    int32_t tokens[LENGTH];
    live_create(&live, API_CHAT_COMPLETIONS, "{\"stream\":true,\"diffusing\":true}", 1, 4);
    all_masked(tokens, 4);
    tokens[0] = support_byte_token('c');
    tokens[2] = support_byte_token('t');
    live_post(&live, 0, 1, tokens, FINISH_NONE);
    json_t *events = live_events(&live);
    cr_assert_eq(json_array_size(events), 1);
    cr_expect_str_eq(text_at(events, "[0].choices[0].delta.content"), "c░t░");
    cr_expect_str_eq(text_at(events, "[0].choices[0].delta.role"), "assistant");
    json_t *expected =
        json_pack("{s:i, s:i, s:i, s:i, s:i, s:i, s:[i,i], s:f, s:i, s:b, s:[{s:i,s:i,s:s,s:f},"
                  "{s:i,s:i,s:s,s:f}]}",
                  "index", 0, "round", 1, "of", 4, "masked", 2, "committed", 2, "revised", 0,
                  "block", 0, 4, "elapsed_ms", 3.5, "skipped", 0, "final", 0, "tokens", "p", 0,
                  "id", tokens[0], "t", "c", "c", 0.5, "p", 2, "id", tokens[2], "t", "t", "c", 0.5);
    cr_assert_not_null(expected);
    char *dumped = json_dumps(json_at(events, "[0].denoised"), 0);
    cr_expect(json_equal(expected, json_at(events, "[0].denoised")), "%s", dumped);
    free(dumped);
    json_decref(expected);
    json_decref(events);

    tokens[0] = support_byte_token('b'); /* revised */
    tokens[2] = MASK;                    /* masked again */
    tokens[1] = END_OF_TURN;
    live_post(&live, 0, 2, tokens, FINISH_NONE);
    live_post(&live, 0, 4, tokens, FINISH_NONE); /* the newest of those not read yet counts */
    events = live_events(&live);
    cr_assert_eq(json_array_size(events), 1);
    cr_expect_str_eq(text_at(events, "[0].choices[0].delta.content"), "b");
    cr_expect_eq(json_integer_value(json_at(events, "[0].denoised.skipped")), 2);
    cr_expect_str_eq(text_at(events, "[0].denoised.tokens[0].t"), "b");
    cr_expect_str_eq(text_at(events, "[0].denoised.tokens[0].old"), "c");
    cr_expect_str_eq(text_at(events, "[0].denoised.tokens[1].t"), "", "a stop id has no text");
    cr_expect_null(json_at(events, "[0].denoised.tokens[1].old"));
    cr_expect(json_is_null(json_at(events, "[0].denoised.tokens[2].t")), "masked again");
    cr_expect_str_eq(text_at(events, "[0].denoised.tokens[2].old"), "t");
    json_decref(events);

    live_post(&live, 0, 4, tokens, FINISH_STOP);
    events = live_events(&live);
    cr_assert_eq(json_array_size(events), 3);
    cr_expect(json_is_true(json_at(events, "[0].denoised.final")));
    cr_expect_eq(json_array_size(json_at(events, "[0].denoised.tokens")), 0);
    cr_expect_eq(json_integer_value(json_at(events, "[0].denoised.skipped")), 0);
    cr_expect_str_eq(text_at(events, "[0].choices[0].delta.content"), "b");
    cr_expect_str_eq(text_at(events, "[0].choices[0].finish_reason"), "stop");
    cr_expect_eq(json_integer_value(json_at(events, "[1].usage.completion_tokens")), 1);
    cr_expect_str_eq(last_text(events), "[DONE]");
    json_decref(events);
    live_free(&live);
}

/* '_' in the pattern is a masked position, every other byte a token of its own. */
static void expect_draft(const char *pattern, const char *text)
{
    struct live live;
    int32_t tokens[LENGTH];
    live_create(&live, API_COMPLETIONS, "{\"diffusing_mask\":\"#\"}", 1, LENGTH);
    int32_t count = support_spell(tokens, pattern);
    for (int32_t i = 0; i < count; i++) {
        tokens[i] = pattern[i] == '_' ? MASK : tokens[i];
    }
    struct buffer out = {0}, scratch = {0};
    answer_text_append_draft(&out, &live.reply.rules, tokens, count, &scratch);
    cr_expect_str_eq(out.data ? out.data : "", text);
    buffer_free(&out);
    buffer_free(&scratch);
    live_free(&live);
}

Test(diffusing, bytes_of_a_character_that_a_mask_leaves_unfinished_show_as_masks)
{
    expect_draft("ab__c", "ab##c");
    expect_draft("a\xe2_\x91z", "a###z");
    expect_draft("\xe2\x96_z", "###z");
    expect_draft("_\x96\x91z", "###z");
    expect_draft("\xe2\x96\x91_", "\xe2\x96\x91#");
    expect_draft("_\xe2\x96\x91", "#\xe2\x96\x91");
    expect_draft("_\xe2_\x96_", "#####");
    expect_draft("a\xe2", "a\xef\xbf\xbd");   /* no mask beside it: as in the answer */
    expect_draft("\xe2z_", "\xef\xbf\xbdz#"); /* broken for good */
    expect_draft("", "");
    expect_draft("____", "####");
}

/* A small generator of its own, so that a failing case can be run again. */
static uint32_t next_word(uint32_t *state, uint32_t below)
{
    *state += 1;
    return rng_word(11, *state, 1, RNG_RANDOM_ORDER, 0) % below;
}

/* Tokens that make trouble: parts of characters, specials, stop strings, now and then a stop id. */
static void draw_canvas(int32_t *tokens, int32_t length, uint32_t *state)
{
    static const char bytes[] = "ab\xe2\x96\x91\xf0\x9f\x98\x80\xff\x80"
                                "abc";
    for (int32_t i = 0; i < length; i++) {
        uint32_t draw = next_word(state, 40);
        tokens[i] =
            draw == 0   ? END_OF_TURN
            : draw == 1 ? BOS
            : draw < 30
                ? support_byte_token((unsigned char)bytes[next_word(state, sizeof bytes - 1)])
                : (int32_t)(300 + next_word(state, 3700));
    }
}

static void append_deltas(struct buffer *text, const json_t *events)
{
    for (size_t i = 0; i < json_array_size(events); i++) {
        const json_t *piece = json_at(json_array_get(events, i), "choices[0].text");
        buffer_append(text, json_string_value(piece) ? json_string_value(piece) : "",
                      json_string_length(piece));
    }
}

/* Both replies see the same posts; the order of commits and of reads is drawn. */
static void run_schedule(struct live *live, struct live *whole, const int32_t *target,
                         uint32_t *state, struct buffer *joined)
{
    int32_t tokens[LENGTH * 2], left = live->length;
    all_masked(tokens, live->length);
    for (int32_t round = 1; left > 0; round++) {
        for (int32_t i = 0; i < live->length; i++) {
            if (tokens[i] == MASK && next_word(state, 3) == 0) {
                tokens[i] = target[i];
                left--;
            }
        }
        bool stopped = false;
        for (int32_t i = 0; i < live->length; i++) {
            stopped = stopped || tokens[i] == END_OF_TURN;
        }
        enum finish finish = left > 0 ? FINISH_NONE : stopped ? FINISH_STOP : FINISH_LENGTH;
        live_post(live, 0, round, tokens, finish);
        live_post(whole, 0, round, tokens, finish);
        if (next_word(state, 2) || finish != FINISH_NONE) {
            json_t *events = live_events(live);
            append_deltas(joined, events);
            if (live->reply.ended && json_array_size(events) > 0) {
                cr_expect_str_eq(last_text(events), "[DONE]");
            }
            json_decref(events);
        }
    }
}

Test(streams, deltas_joined_are_the_answer_for_any_schedule)
{
    static const char *const bodies[] = {
        "{\"stream\":true}",
        "{\"stream\":true,\"stop\":[\"aba\",\"b\\u2591\"]}",
        "{\"stream\":true,\"stop\":[\"abcab\",\"bc\"],\"eos_early_stop\":false}",
    };
    uint32_t state = 0;
    for (int32_t trial = 0; trial < 600; trial++) {
        struct live live, whole;
        int32_t target[LENGTH * 2];
        live_create(&live, API_COMPLETIONS, bodies[trial % 3], 1, LENGTH * 2);
        live_create(&whole, API_COMPLETIONS, bodies[trial % 3], 1, LENGTH * 2);
        draw_canvas(target, live.length, &state);
        struct buffer joined = {0};
        run_schedule(&live, &whole, target, &state, &joined);
        cr_expect(live.reply.ended);
        json_t *answer = live_answer(&whole);
        const json_t *text = json_at(answer, "choices[0].text");
        cr_assert_eq(json_string_length(text), joined.length, "trial %d: '%s' and '%s'", (int)trial,
                     json_string_value(text), joined.data);
        cr_expect(joined.length == 0 ||
                  memcmp(json_string_value(text), joined.data, joined.length) == 0);
        json_decref(answer);
        buffer_free(&joined);
        live_free(&live);
        live_free(&whole);
    }
}

Test(diffusing, changes_rebuild_every_canvas_and_the_last_draft_is_the_answer)
{
    uint32_t state = 50000;
    for (int32_t trial = 0; trial < 100; trial++) {
        struct live live;
        int32_t seen[LENGTH], tokens[LENGTH];
        live_create(&live, API_COMPLETIONS, "{\"stream\":true,\"diffusing\":true}", 1, LENGTH);
        all_masked(seen, LENGTH);
        int32_t counted = 0;
        for (int32_t round = 1; round <= 12; round++) {
            draw_canvas(tokens, LENGTH, &state);
            for (int32_t i = 0; round < 12 && i < LENGTH; i++) {
                tokens[i] = next_word(&state, 2) ? MASK : tokens[i];
            }
            live_post(&live, 0, round, tokens, round == 12 ? FINISH_STOP : FINISH_NONE);
            if (round < 12 && next_word(&state, 2)) {
                continue;
            }
            json_t *events = live_events(&live);
            const json_t *denoised = json_at(events, "[0].denoised");
            counted += 1 + (int32_t)json_integer_value(json_at(denoised, "skipped"));
            const json_t *changes = json_at(denoised, "tokens");
            for (size_t i = 0; i < json_array_size(changes); i++) {
                const json_t *change = json_array_get(changes, i);
                seen[json_integer_value(json_at(change, "p"))] =
                    (int32_t)json_integer_value(json_at(change, "id"));
            }
            cr_assert_eq(memcmp(seen, tokens, sizeof seen), 0, "trial %d", (int)trial);
            cr_assert_eq(json_integer_value(json_at(denoised, "masked")) +
                             json_integer_value(json_at(denoised, "committed")),
                         LENGTH);
            json_decref(events);
        }
        cr_expect_eq(counted, 12, "every round is delivered or counted as skipped");
        live_free(&live);
    }
}

#include "server/engine/stream.h"

#include <criterion/criterion.h>

#include "common/arena.h"
#include "server/engine/request.h"

enum { LENGTH = 4, MASK = 99 };

struct reader {
    struct arena arena;
    struct stream stream;
    struct draft mine, copy;
    int wakes, suspensions;
};

static void count_wake(void *context)
{
    ((struct reader *)context)->wakes++;
}

static void count_suspension(void *context)
{
    ((struct reader *)context)->suspensions++;
}

static void setup(struct reader *reader)
{
    struct error err = {0};
    *reader = (struct reader){0};
    arena_init(&reader->arena);
    cr_assert_eq(stream_init(&reader->stream, &reader->arena, LENGTH, 0, MASK, &err), 0);
    cr_assert_eq(draft_create(&reader->mine, &reader->arena, LENGTH, 0, MASK, &err), 0);
    cr_assert_eq(draft_create(&reader->copy, &reader->arena, LENGTH, 0, MASK, &err), 0);
    stream_set_wake(&reader->stream, count_wake, reader);
}

static void teardown(struct reader *reader)
{
    stream_destroy(&reader->stream);
    arena_free(&reader->arena);
}

static void post_round(struct reader *reader, int32_t round)
{
    reader->mine.round = round;
    reader->mine.tokens[round - 1] = 10 * round;
    reader->mine.confidence[round - 1] = 0.5f;
    reader->mine.raw_logprob[round - 1] = -(float)round;
    stream_post(&reader->stream, &reader->mine);
}

static bool wait_newer(struct reader *reader, uint64_t version)
{
    return stream_wait(&reader->stream, version, count_suspension, reader);
}

Test(stream, a_new_stream_shows_nothing_but_masks)
{
    struct reader reader;
    setup(&reader);
    cr_expect_eq(stream_read(&reader.stream, &reader.copy), 0);
    cr_expect_eq(reader.copy.masked, LENGTH);
    cr_expect_eq(reader.copy.of, -1);
    for (int i = 0; i < LENGTH; i++)
        cr_expect_eq(reader.copy.tokens[i], MASK);
    cr_expect_not(stream_finished(&reader.stream));
    teardown(&reader);
}

/* Memory that nobody has touched costs nothing: thousands of requests may wait. */
Test(stream, top_entries_are_not_touched_before_the_first_round)
{
    enum { TOPS = 2 };
    struct reader reader = {0};
    struct error err = {0};
    arena_init(&reader.arena);
    cr_assert_eq(stream_init(&reader.stream, &reader.arena, LENGTH, TOPS, MASK, &err), 0);
    cr_assert_eq(draft_create(&reader.mine, &reader.arena, LENGTH, TOPS, MASK, &err), 0);
    cr_assert_eq(draft_create(&reader.copy, &reader.arena, LENGTH, TOPS, MASK, &err), 0);
    reader.copy.top_token[0] = 77;
    stream_read(&reader.stream, &reader.copy);
    cr_expect_eq(reader.copy.top_token[0], 77);
    reader.mine.top_token[1] = 5;
    reader.mine.top_logprob[1] = -0.5f;
    post_round(&reader, 1);
    stream_read(&reader.stream, &reader.copy);
    cr_expect_eq(reader.copy.top_token[1], 5);
    cr_expect_float_eq((double)reader.copy.top_logprob[1], -0.5, 0);
    teardown(&reader);
}

Test(stream, a_reader_gets_a_copy_of_the_newest_draft)
{
    struct reader reader;
    setup(&reader);
    post_round(&reader, 1);
    post_round(&reader, 2);
    cr_expect_eq(stream_read(&reader.stream, &reader.copy), 2, "two posts, one newer draft");
    cr_expect_eq(reader.copy.round, 2);
    cr_expect_eq(reader.copy.tokens[0], 10);
    cr_expect_eq(reader.copy.tokens[1], 20);
    cr_expect_float_eq((double)reader.copy.raw_logprob[1], -2, 0);
    post_round(&reader, 3);
    cr_expect_eq(reader.copy.tokens[2], MASK, "the copy is the reader's own");
    teardown(&reader);
}

Test(stream, a_waiting_reader_is_woken_exactly_once)
{
    struct reader reader;
    setup(&reader);
    cr_assert(wait_newer(&reader, 0));
    cr_expect_eq(reader.suspensions, 1);
    cr_expect_eq(reader.wakes, 0);
    post_round(&reader, 1);
    post_round(&reader, 2);
    cr_expect_eq(reader.wakes, 1);
    teardown(&reader);
}

Test(stream, a_reader_that_missed_a_post_does_not_wait)
{
    struct reader reader;
    setup(&reader);
    uint64_t version = stream_read(&reader.stream, &reader.copy);
    post_round(&reader, 1);
    cr_expect_eq(reader.wakes, 0, "nobody waited");
    cr_expect_not(wait_newer(&reader, version));
    cr_expect_eq(reader.suspensions, 0);
    version = stream_read(&reader.stream, &reader.copy);
    cr_expect(wait_newer(&reader, version));
    teardown(&reader);
}

Test(stream, a_failure_ends_an_unfinished_draft_and_wakes)
{
    struct reader reader;
    setup(&reader);
    post_round(&reader, 1);
    cr_expect_not(stream_finished(&reader.stream));
    cr_assert(wait_newer(&reader, 1));
    struct error error = {0};
    error_set(&error, ERROR_DEVICE_LOST, "gone");
    stream_fail(&reader.stream, FINISH_FAILED, &error);
    cr_expect_eq(reader.wakes, 1);
    cr_expect(stream_finished(&reader.stream));
    stream_read(&reader.stream, &reader.copy);
    cr_expect_eq(reader.copy.finish, FINISH_FAILED);
    cr_expect_eq(reader.copy.round, 1);
    cr_expect_eq(reader.stream.error.code, ERROR_DEVICE_LOST);
    cr_expect_str_eq(reader.stream.error.message, "gone");
    teardown(&reader);
}

Test(stream, what_is_final_stays)
{
    struct reader reader;
    setup(&reader);
    reader.mine.finish = FINISH_LENGTH;
    post_round(&reader, 1);
    struct error error = {0};
    error_set(&error, ERROR_DEVICE_LOST, "gone");
    stream_fail(&reader.stream, FINISH_FAILED, &error);
    stream_read(&reader.stream, &reader.copy);
    cr_expect_eq(reader.copy.finish, FINISH_LENGTH);
    cr_expect_eq(reader.stream.error.code, 0);
    teardown(&reader);
}

Test(stream, nobody_waits_for_a_stream_that_is_over)
{
    struct reader reader;
    setup(&reader);
    stream_fail(&reader.stream, FINISH_CANCELLED, NULL);
    uint64_t version = stream_read(&reader.stream, &reader.copy);
    cr_expect_not(wait_newer(&reader, version));
    cr_expect_eq(reader.stream.error.code, 0);
    stream_fail(&reader.stream, FINISH_FAILED, NULL);
    stream_read(&reader.stream, &reader.copy);
    cr_expect_eq(reader.copy.finish, FINISH_CANCELLED, "the first end counts");
    teardown(&reader);
}

Test(request, a_request_lives_until_its_last_reference)
{
    struct request *request;
    struct error err = {0};
    const int32_t prompt[] = {5, 6};
    const struct decode_params params = decode_params_neutral(LENGTH, 2);
    cr_assert_eq(request_create(&request, prompt, 2, &params, MASK, &err), 0);
    cr_expect_eq(request->prompt[1], 6);
    cr_expect_eq(request->deadline_us, INT64_MAX);
    cr_expect_eq(request_retain(request), request);
    request_release(request);
    request_cancel(request);
    cr_expect_eq(atomic_load(&request->ending), REQUEST_CANCELLED);
    request_release(request);
    request_release(NULL);
}

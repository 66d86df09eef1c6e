/* Whole answers and plain streams of the two endpoints, and the GET routes. */
#include <criterion/criterion.h>
#include <string.h>

#include "tests/http/client.h"

static struct server_process server;

static void start(void)
{
    cr_assert(server_process_start(&server, NULL));
}

static void stop(void)
{
    cr_assert_eq(server_process_stop(&server), 0);
}

TestSuite(answers, .init = start, .fini = stop);

#define COMPLETION                                                                                 \
    "\"prompt\":\"Once upon a time\",\"max_tokens\":48,\"seed\":1,\"ignore_eos\":true"
#define CHAT                                                                                       \
    "\"messages\":[{\"role\":\"user\",\"content\":\"Tell me a story.\"}],\"max_tokens\":48,"       \
    "\"seed\":1,\"ignore_eos\":true"

static json_t *first_choice(const json_t *body)
{
    return json_array_get(json_object_get(body, "choices"), 0);
}

Test(answers, completion_has_text_usage_and_timing_headers)
{
    struct reply reply = client_send(&server, "POST", "/v1/completions", "{" COMPLETION "}");
    json_t *body = reply_json(&reply);
    json_t *usage = json_object_get(body, "usage");
    char value[200];

    cr_assert_eq(reply.status, 200, "%s", reply.body.data);
    cr_assert_str_eq(json_string_value(json_object_get(body, "object")), "text_completion");
    cr_assert_gt(json_string_length(json_object_get(first_choice(body), "text")), 0u);
    cr_assert_eq(json_integer_value(json_object_get(usage, "completion_tokens")), 48);
    cr_assert(head_value(reply.head.data, "content-type", value, sizeof value));
    cr_assert_str_eq(value, "application/json");
    cr_assert(head_value(reply.head.data, "x-denoised-queue-ms", value, sizeof value));
    cr_assert_geq(strtod(value, NULL), 0);
    cr_assert(head_value(reply.head.data, "x-denoised-compute-ms", value, sizeof value));
    cr_assert_gt(strtod(value, NULL), 0);
    json_decref(body);
    reply_free(&reply);
}

/* The text of an answer and the deltas of its stream. */
static void expect_stream_equals_answer(const char *path, const char *fields)
{
    struct buffer whole_request = {0}, stream_request = {0}, joined = {0};

    buffer_format(&whole_request, "{%s}", fields);
    buffer_format(&stream_request, "{%s,\"stream\":true}", fields);
    struct reply whole = client_send(&server, "POST", path, whole_request.data);
    struct reply stream = client_send(&server, "POST", path, stream_request.data);
    json_t *body = reply_json(&whole);
    json_t *message = json_object_get(first_choice(body), "message");
    const char *text =
        json_string_value(message != NULL ? json_object_get(message, "content")
                                          : json_object_get(first_choice(body), "text"));
    struct events events = events_parse(stream.body.data);
    json_t *last = first_choice(json_array_get(events.list, json_array_size(events.list) - 1));

    cr_assert_eq(whole.status, 200, "%s", whole.body.data);
    cr_assert_eq(stream.status, 200, "%s", stream.body.data);
    events_join(events.list, &joined);
    cr_assert_str_eq(joined.data, text);
    cr_assert_gt(json_array_size(events.list), 2u, "all at once is no stream");
    cr_assert(events.done);
    cr_assert_str_eq(json_string_value(json_object_get(last, "finish_reason")),
                     json_string_value(json_object_get(first_choice(body), "finish_reason")));
    json_decref(body);
    json_decref(events.list);
    buffer_free(&joined);
    buffer_free(&whole_request);
    buffer_free(&stream_request);
    reply_free(&whole);
    reply_free(&stream);
}

Test(answers, streamed_completion_joins_to_the_unstreamed_text)
{
    expect_stream_equals_answer("/v1/completions", COMPLETION);
}

Test(answers, streamed_chat_joins_to_the_unstreamed_text)
{
    expect_stream_equals_answer("/v1/chat/completions", CHAT);
}

Test(answers, stream_headers_forbid_caching_and_buffering)
{
    struct reply reply =
        client_send(&server, "POST", "/v1/completions", "{" COMPLETION ",\"stream\":true}");
    char value[200];

    cr_assert(head_value(reply.head.data, "content-type", value, sizeof value));
    cr_assert_str_eq(value, "text/event-stream");
    cr_assert(head_value(reply.head.data, "cache-control", value, sizeof value));
    cr_assert_str_eq(value, "no-cache");
    cr_assert(head_value(reply.head.data, "x-accel-buffering", value, sizeof value));
    cr_assert_str_eq(value, "no");
    cr_assert(head_value(reply.head.data, "x-request-id", value, sizeof value));
    reply_free(&reply);
}

Test(answers, diffusing_stream_shows_every_round_until_nothing_is_masked)
{
    struct reply reply = client_send(&server, "POST", "/v1/chat/completions",
                                     "{" CHAT ",\"stream\":true,\"diffusing\":true}");
    struct events events = events_parse(reply.body.data);
    json_int_t round = 0, masked = 48;
    int finals = 0;
    size_t i;
    json_t *event;

    json_array_foreach(events.list, i, event)
    {
        json_t *state = json_object_get(event, "denoised");
        if (json_array_size(json_object_get(event, "choices")) == 0)
            continue; /* usage */
        cr_assert_eq(finals, 0, "a draft behind the final one");
        cr_assert_gt(json_integer_value(json_object_get(state, "round")), round);
        round = json_integer_value(json_object_get(state, "round"));
        masked = json_integer_value(json_object_get(state, "masked"));
        cr_assert_eq(json_integer_value(json_object_get(state, "committed")), 48 - masked);
        cr_assert(json_is_array(json_object_get(state, "tokens")));
        cr_assert_eq(json_array_size(json_object_get(state, "block")), 2u);
        cr_assert(json_is_number(json_object_get(state, "elapsed_ms")));
        cr_assert(json_is_integer(json_object_get(state, "skipped")));
        bool final = json_is_true(json_object_get(state, "final"));
        finals += final;
        cr_assert_eq(json_is_string(json_object_get(first_choice(event), "finish_reason")), final);
    }
    cr_assert_eq(finals, 1);
    cr_assert_eq(masked, 0);
    cr_assert(events.done);
    json_decref(events.list);
    reply_free(&reply);
}

static void expect_request_id(const char *header, const char *expected)
{
    struct reply reply = client_send_with(&server, "GET", "/health", NULL, header);
    char value[200];

    cr_assert(head_value(reply.head.data, "x-request-id", value, sizeof value));
    if (expected != NULL)
        cr_assert_str_eq(value, expected);
    else
        cr_assert_eq(strncmp(value, "req-", 4), 0, "%s", value);
    reply_free(&reply);
}

Test(answers, request_id_is_the_clients_if_it_is_short_and_visible)
{
    char longest[160] = "x-request-id: ", longer[192];

    memset(longest + strlen(longest), 'x', 128);
    snprintf(longer, sizeof longer, "%sx", longest);
    expect_request_id("x-request-id: abc/1-2_3~!", "abc/1-2_3~!");
    expect_request_id(longest, longest + 14);
    expect_request_id(longer, NULL);
    expect_request_id("x-request-id: with space", NULL);
    expect_request_id("x-request-id: \xc3\xa4", NULL);
    expect_request_id(NULL, NULL);
}

Test(answers, health_ready_and_models_answer_get_and_head_alike)
{
    static const char *const PATHS[] = {"/health", "/ready", "/v1/models", "/v1/models/tiny"};

    for (size_t i = 0; i < sizeof PATHS / sizeof *PATHS; i++) {
        struct reply get = client_send(&server, "GET", PATHS[i], NULL);
        struct reply head = client_send(&server, "HEAD", PATHS[i], NULL);
        char length[32], head_length[32];

        cr_assert_eq(get.status, 200, "%s: %ld", PATHS[i], get.status);
        cr_assert_eq(head.status, 200, "%s: %ld", PATHS[i], head.status);
        cr_assert_eq(head.body.length, 0u);
        cr_assert(head_value(get.head.data, "content-length", length, sizeof length));
        cr_assert(head_value(head.head.data, "content-length", head_length, sizeof head_length));
        cr_assert_str_eq(head_length, length);
        json_decref(reply_json(&get));
        reply_free(&get);
        reply_free(&head);
    }
}

Test(answers, models_lists_the_served_model)
{
    struct reply reply = client_send(&server, "GET", "/v1/models", NULL);
    json_t *body = reply_json(&reply);
    json_t *model = json_array_get(json_object_get(body, "data"), 0);

    cr_assert_str_eq(json_string_value(json_object_get(body, "object")), "list");
    cr_assert_str_eq(json_string_value(json_object_get(model, "id")), "tiny");
    cr_assert_eq(json_integer_value(json_object_get(model, "context_length")), 512);
    json_decref(body);
    reply_free(&reply);
}

Test(answers, a_body_on_get_is_ignored)
{
    struct reply reply = client_send(&server, "GET", "/health", "{\"anything\": 1}");

    cr_assert_eq(reply.status, 200);
    reply_free(&reply);
}

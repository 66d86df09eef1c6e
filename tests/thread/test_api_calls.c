/*
 * Calls of several threads against a running engine: readers that suspend on a condition and are
 * woken by the engine, streams of several choices, a thread that cancels while others work, and one
 * that ends requests by their ids. A plain program, to be run under ThreadSanitizer too.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/buffer.h"
#include "common/clock.h"
#include "common/error.h"
#include "server/api/api.h"
#include "server/engine/engine.h"

enum { READERS = 4, CALLS_EACH = 6 };

static struct api api;
static atomic_int failed; /* checks */

static void check(bool holds, const char *what)
{
    if (!holds) {
        atomic_fetch_add(&failed, 1);
        printf("FAILED: %s\n", what);
    }
}

/* Stands for a connection: suspended until woken. */
struct connection {
    pthread_mutex_t lock;
    pthread_cond_t resumed;
    bool suspended;
};

static void suspend(void *context)
{
    struct connection *connection = context;
    pthread_mutex_lock(&connection->lock);
    connection->suspended = true;
    pthread_mutex_unlock(&connection->lock);
}

static void wake(void *context)
{
    struct connection *connection = context;
    pthread_mutex_lock(&connection->lock);
    connection->suspended = false;
    pthread_cond_signal(&connection->resumed);
    pthread_mutex_unlock(&connection->lock);
}

static void wait_for_news(struct api_call *call, struct connection *connection)
{
    if (!api_call_wait(call, suspend, connection)) {
        return;
    }
    pthread_mutex_lock(&connection->lock);
    while (connection->suspended) {
        pthread_cond_wait(&connection->resumed, &connection->lock);
    }
    pthread_mutex_unlock(&connection->lock);
}

static void read_whole(struct api_call *call, struct connection *connection, struct buffer *out)
{
    char piece[512];
    ptrdiff_t length;
    while ((length = api_call_read(call, piece, sizeof piece)) >= 0) {
        buffer_append(out, piece, (size_t)length);
        if (length == 0) {
            wait_for_news(call, connection);
        }
    }
}

static void *cancel_call(void *context)
{
    api_call_cancel(context);
    return NULL;
}

/* Ends the call by its id: once it runs, or never if it was quicker. */
static void *end_call(void *context)
{
    const char *id = context;
    for (int i = 0; i < 1000 && !api_cancel(&api, id, strlen(id), 1); i++) {
        check(!api_cancel(&api, id, strlen(id), 2), "another owner does not find it");
    }
    return NULL;
}

enum manner { UNDISTURBED, LEFT, ENDED };

/* One call from prepare to free; disturbed by another thread meanwhile where asked. */
static void run_call(struct connection *connection, const char *body, enum manner manner)
{
    struct api_call *call = api_call_create(&api, API_COMPLETIONS, clock_now_us(), 1);
    pthread_t canceller;
    char id[64];
    snprintf(id, sizeof id, "%s", api_call_summarise(call).id);
    bool cancel = (manner == LEFT && pthread_create(&canceller, NULL, cancel_call, call) == 0) ||
                  (manner == ENDED && pthread_create(&canceller, NULL, end_call, id) == 0);
    api_call_prepare(call, body, strlen(body), wake, connection);
    enum api_state state;
    while ((state = api_call_poll(call)) == API_STATE_WAITING) {
        wait_for_news(call, connection);
    }
    struct buffer text = {0};
    if (state == API_STATE_STREAM) {
        read_whole(call, connection, &text);
        check(manner == LEFT || strstr(text.data, "data: [DONE]\n\n") != NULL,
              "a stream ends with [DONE]");
    } else {
        int status = api_call_answer(call).status;
        check(status == 200 || (manner == LEFT && status == 503), "an answer comes");
    }
    buffer_free(&text);
    if (cancel) {
        pthread_join(canceller, NULL);
    }
    api_call_free(call);
}

static void *run_reader(void *context)
{
    static const char *const bodies[] = {
        "{\"prompt\":\"Once\",\"max_tokens\":12}",
        "{\"prompt\":\"Once\",\"max_tokens\":12,\"stream\":true,\"n\":2,\"temperature\":1}",
        "{\"prompt\":\"Once\",\"max_tokens\":12,\"n\":3,\"temperature\":1,\"stop\":\"e\"}",
        "{\"prompt\":[\"a\",\"b\"],\"max_tokens\":8,\"stream\":true,\"diffusing\":true}",
    };
    int first = *(int *)context;
    struct connection connection = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, false};
    for (int i = 0; i < CALLS_EACH; i++) {
        run_call(&connection, bodies[(first + i) % 4], (enum manner)((first + i) % 3));
    }
    return NULL;
}

static void must(int code, const struct error *err)
{
    if (code) {
        printf("FAILED: %s\n", err->message);
        exit(1);
    }
}

int main(void)
{
    struct error err = {0};
    struct backend *backend;
    struct model *model;
    struct tokenizer *tokenizer;
    struct backend_options options = {.threads = 1, .dtype = DTYPE_FLOAT32};
    must(backend_create(&backend, "cpu", &options, &err), &err);
    must(model_load(&model, "models/tiny", backend, &err), &err);
    must(tokenizer_load(&tokenizer, "models/tiny/tokenizer.json", &err), &err);
    struct engine_options limits = {.max_sequences = 4,
                                    .max_rows_per_tick = 512,
                                    .queue_limit = 32,
                                    .kv_cache_tokens = 1024,
                                    .token_limit = tokenizer_size(tokenizer)};
    api = (struct api){.tokenizer = tokenizer,
                       .config = model->config,
                       .generation = model->defaults,
                       .calls = call_registry_create(),
                       .settings = {-1, -1, -1, -1, -1, -1, -1, NULL, NULL},
                       .model_name = "tiny",
                       .system_fingerprint = "test",
                       .max_choices = 8};
    must(engine_create(&api.engine, model, &limits, &err), &err);
    must(engine_start(api.engine, &err), &err);
    pthread_t readers[READERS];
    int first[READERS];
    for (int i = 0; i < READERS; i++) {
        first[i] = i;
        check(pthread_create(&readers[i], NULL, run_reader, &first[i]) == 0, "a thread starts");
    }
    for (int i = 0; i < READERS; i++) {
        pthread_join(readers[i], NULL);
    }
    check(engine_wait_idle(api.engine, 60000000), "nothing is left running");
    engine_stop(api.engine);
    engine_free(api.engine);
    model_free(model);
    tokenizer_free(tokenizer);
    call_registry_free(api.calls);
    /* All of it is one test. */
    int failures = atomic_load(&failed);
    printf("%d passed, %d failed, 0 skipped\n", failures == 0, failures);
    return failures > 0;
}

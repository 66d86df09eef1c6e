/*
 * One tokenizer, many threads that encode and decode at once: each gets what a thread alone gets. A
 * plain program, to be run under ThreadSanitizer too.
 */
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "common/buffer.h"
#include "common/error.h"
#include "server/model/tokenizer.h"

enum { THREADS = 4, ROUNDS = 50 };

static const char text[] =
    "<W> the cafe\xcc\x81 <R>   1234 New York\n\n\n\n<L> it's zebra dog, xabcd "
    "\xe4\xb8\xad\xe6\x96\x87 <a><b><c> and a word of many letters";

struct worker {
    const struct tokenizer *tokenizer;
    const struct token_list *expected;
    int failures;
};

static bool equal_lists(const struct token_list *a, const struct token_list *b)
{
    return a->count == b->count && memcmp(a->ids, b->ids, a->count * sizeof *a->ids) == 0;
}

static void *work(void *context)
{
    struct worker *worker = context;
    for (int round = 0; round < ROUNDS; round++) {
        struct token_list ids = {0};
        struct buffer decoded = {0};
        struct error err = {0};
        int result = tokenizer_encode(worker->tokenizer, text, sizeof text - 1,
                                      TOKENIZER_MATCH_ADDED, &ids, &err);
        worker->failures += result != 0 || !equal_lists(&ids, worker->expected);
        tokenizer_decode(worker->tokenizer, ids.ids, ids.count, true, &decoded);
        worker->failures += decoded.failed || strstr(decoded.data, "New York") == NULL;
        buffer_free(&decoded);
        token_list_free(&ids);
    }
    return NULL;
}

int main(void)
{
    struct tokenizer *tokenizer;
    struct token_list expected = {0};
    struct error err = {0};
    if (tokenizer_load(&tokenizer, "build/fixtures/tokenizers/added_flags.tokenizer.json", &err) !=
            0 ||
        tokenizer_encode(tokenizer, text, sizeof text - 1, TOKENIZER_MATCH_ADDED, &expected,
                         &err) != 0) {
        printf("FAILED: %s\n0 passed, 1 failed, 0 skipped\n", err.message);
        return 1;
    }
    struct worker workers[THREADS];
    pthread_t threads[THREADS];
    int passed = 0;
    int failed = 0;
    for (int i = 0; i < THREADS; i++) {
        workers[i] = (struct worker){.tokenizer = tokenizer, .expected = &expected};
        if (pthread_create(&threads[i], NULL, work, &workers[i]) != 0) {
            printf("FAILED: no thread could be started\n0 passed, 1 failed, 0 skipped\n");
            return 1;
        }
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        if (workers[i].failures == 0) {
            passed++;
        } else {
            failed++;
            printf("FAILED: thread %d: %d differences\n", i, workers[i].failures);
        }
    }
    token_list_free(&expected);
    tokenizer_free(tokenizer);
    printf("%d passed, %d failed, 0 skipped\n", passed, failed);
    return failed == 0 ? 0 : 1;
}

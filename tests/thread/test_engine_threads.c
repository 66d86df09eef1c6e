/*
 * The engine's thread on the fake backend among clients that submit, read, read slowly, cancel and
 * vanish, while it drains, stops or loses its device. A plain program, to be run under
 * ThreadSanitizer too.
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "common/arena.h"
#include "common/error.h"
#include "common/rng.h"
#include "server/engine/engine.h"
#include "tests/support/fake_backend.h"

enum { CLIENTS = 4, CONTEXT = 96, PATIENCE_S = 60 };

static int passed;        /* scenarios */
static atomic_int failed; /* checks */

static void check(bool holds, const char *what)
{
    if (holds)
        return;
    atomic_fetch_add(&failed, 1);
    printf("FAILED: %s\n", what);
}

/* Without this nothing can be tested any more. */
static void require(bool holds, const char *what)
{
    if (holds)
        return;
    printf("FAILED: %s\n0 passed, 1 failed, 0 skipped\n", what);
    exit(1);
}

/* ---- one client ------------------------------------------------------------------------------ */

enum manner { READS_ALL, READS_THE_END, CANCELS, VANISHES, MANNERS };

struct client {
    struct engine *engine;
    uint64_t seed;
    int requests;
    sem_t woken;
    atomic_int suspensions, wakes;
    int accepted, siblings; /* the latter came with some of the former */
    int refused_for_good;   /* by draining, stop or a lost device */
    int failures;           /* requests that ended as FINISH_FAILED */
};

static void wake_client(void *context)
{
    struct client *client = context;
    atomic_fetch_add(&client->wakes, 1);
    sem_post(&client->woken);
}

static void suspend_client(void *context)
{
    atomic_fetch_add(&((struct client *)context)->suspensions, 1);
}

static struct request *make_request(struct client *client, uint32_t number)
{
    uint32_t word = rng_word(client->seed, number, 0, 0, 0);
    struct decode_params params = decode_params_neutral(1 + (int32_t)(word % 40), 8);
    params.cache = (enum cache_mode)(word >> 8 & 1 ? CACHE_DUAL : CACHE_NONE);
    params.cfg_scale = (word >> 9 & 3) == 0 ? 1 : 0;
    params.steps = (int32_t)(word >> 12 & 7);
    const int32_t prompt[] = {1 + (int32_t)(word >> 16 & 31), 2, 3};
    struct request *request;
    struct error err = {0};
    require(request_create(&request, prompt, 3, &params, FAKE_MASK_TOKEN, &err) == 0,
            "a request is created");
    stream_set_wake(&request->stream, wake_client, client);
    return request;
}

/* For every second request one more answer, which nobody reads; else NULL. */
static struct request *make_sibling(const struct client *client, struct request *first,
                                    uint32_t number)
{
    struct request *sibling = NULL;
    struct error err = {0};
    if (rng_word(client->seed, number, 2, 0, 0) & 1)
        require(request_create_sibling(&sibling, first, 1, FAKE_MASK_TOKEN, &err) == 0,
                "a sibling is created");
    return sibling;
}

static void wait_until_woken(struct client *client)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += PATIENCE_S;
    int result;
    do {
        result = sem_timedwait(&client->woken, &until);
    } while (result != 0 && errno == EINTR);
    require(result == 0, "a suspended reader is woken");
}

/* Drafts only ever grow. */
static void check_progress(const struct draft *before, const struct draft *now)
{
    if (now->round < before->round || now->masked > before->masked ||
        now->settled < before->settled)
        check(false, "a later draft is not behind an earlier one");
}

/* Reads draft after draft until the request is over. */
static void follow(struct client *client, struct request *request, enum manner manner)
{
    struct arena arena;
    struct error err = {0};
    struct draft copy, before = {0};
    int32_t length = request->params.max_tokens;
    arena_init(&arena);
    require(draft_create(&copy, &arena, length, 0, FAKE_MASK_TOKEN, &err) == 0, "memory");
    before.masked = length;
    for (int reads = 0;; reads++) {
        uint64_t version = stream_read(&request->stream, &copy);
        check_progress(&before, &copy);
        before = copy; /* its numbers; the arrays are the copy's */
        if (stream_finished(&request->stream))
            break;
        if (manner == CANCELS && reads == 2)
            request_cancel(request);
        if (stream_wait(&request->stream, version, suspend_client, client))
            wait_until_woken(client);
    }
    stream_read(&request->stream, &copy);
    if (request->stream.error.code != 0)
        client->failures++;
    else if (manner != CANCELS)
        check(copy.finish == FINISH_LENGTH && copy.masked == 0, "the answer is whole");
    arena_free(&arena);
}

static void follow_the_end(struct client *client, struct request *request)
{
    while (!stream_finished(&request->stream)) {
        /* Version 0: any post since the beginning will do, so this one mostly does not wait. */
        if (stream_wait(&request->stream, 0, suspend_client, client))
            wait_until_woken(client);
        sched_yield();
    }
    client->failures += request->stream.error.code != 0;
}

/* False when the engine takes no more requests. The sibling may be NULL. */
static bool submit_patiently(struct client *client, struct request *request,
                             struct request *sibling)
{
    struct request *const requests[] = {request, sibling};
    struct error err = {0};
    int rc;
    while ((rc = engine_submit_all(client->engine, requests, sibling != NULL ? 2 : 1, &err)) ==
           ERROR_LIMIT)
        sched_yield();
    if (rc == 0) {
        client->accepted++;
        client->siblings += sibling != NULL;
        return true;
    }
    check(rc == ERROR_UNAVAILABLE || rc == ERROR_DEVICE_LOST, "a refusal has a known reason");
    client->refused_for_good++;
    return false;
}

static void *client_run(void *context)
{
    struct client *client = context;
    for (int i = 0; i < client->requests; i++) {
        struct request *request = make_request(client, (uint32_t)i);
        enum manner manner = (enum manner)(rng_word(client->seed, (uint32_t)i, 1, 0, 0) % MANNERS);
        struct request *sibling = make_sibling(client, request, (uint32_t)i);
        bool taken = submit_patiently(client, request, sibling);
        request_release(sibling);
        if (taken && manner == READS_THE_END) {
            follow_the_end(client, request);
        } else if (taken && manner == VANISHES) {
            stream_set_wake(&request->stream, NULL, NULL);
            request_cancel(request);
        } else if (taken) {
            follow(client, request, manner);
        }
        request_release(request);
        if (!taken)
            break;
    }
    return NULL;
}

/* ---- an engine among clients ----------------------------------------------------------------- */

struct scene {
    struct model *model;
    struct engine *engine;
    struct client clients[CLIENTS];
    pthread_t threads[CLIENTS];
};

static void scene_begin(struct scene *scene, int requests, int64_t lose_device_at)
{
    const struct engine_options options = {
        .max_sequences = 3,
        .max_rows_per_tick = 200,
        .queue_limit = 3,
        .kv_cache_tokens = 512,
        .token_limit = FAKE_VOCABULARY,
    };
    struct error err = {0};
    scene->model = fake_model_create(
        &(struct fake_options){.max_positions = CONTEXT, .lose_device_at = lose_device_at});
    require(scene->model != NULL &&
                engine_create(&scene->engine, scene->model, &options, &err) == 0 &&
                engine_start(scene->engine, &err) == 0,
            "an engine starts");
    for (int i = 0; i < CLIENTS; i++) {
        struct client *client = &scene->clients[i];
        *client =
            (struct client){.engine = scene->engine, .seed = (uint64_t)i + 1, .requests = requests};
        require(sem_init(&client->woken, 0, 0) == 0 &&
                    pthread_create(&scene->threads[i], NULL, client_run, client) == 0,
                "a client starts");
    }
}

static void scene_join(struct scene *scene)
{
    for (int i = 0; i < CLIENTS; i++) {
        pthread_join(scene->threads[i], NULL);
        struct client *client = &scene->clients[i];
        check(atomic_load(&client->wakes) == atomic_load(&client->suspensions),
              "every suspension was ended by exactly one wake");
    }
}

static void scene_end(struct scene *scene)
{
    engine_free(scene->engine);
    check(fake_model_violations(scene->model) == 0, "the backend's contract was kept");
    model_free(scene->model);
    for (int i = 0; i < CLIENTS; i++)
        sem_destroy(&scene->clients[i].woken);
}

static void check_idle(const struct engine *engine)
{
    const struct engine_counters counters = engine_counters_read(engine);
    check(counters.running == 0 && counters.waiting == 0 && counters.kv_pages_used == 0,
          "an idle engine holds nothing");
}

/* Lets the engine get to work before something happens to it. */
static void wait_for_rounds(const struct engine *engine, uint64_t rounds)
{
    while (engine_counters_read(engine).rounds < rounds)
        sched_yield();
}

static void test_everything_accepted_ends(void)
{
    enum { REQUESTS = 300 };
    struct scene scene = {0};
    scene_begin(&scene, REQUESTS, 0);
    scene_join(&scene);
    check(engine_wait_idle(scene.engine, INT64_C(1000000) * PATIENCE_S),
          "the engine comes to rest");
    check_idle(scene.engine);
    uint64_t accepted = 0;
    for (int i = 0; i < CLIENTS; i++) {
        check(scene.clients[i].accepted == REQUESTS, "every request is accepted in the end");
        check(scene.clients[i].failures == 0, "no request fails");
        accepted += (uint64_t)(scene.clients[i].accepted + scene.clients[i].siblings);
    }
    const struct engine_counters counters = engine_counters_read(scene.engine);
    check(counters.finished + counters.cancelled == accepted, "every request is counted once");
    scene_end(&scene);
}

static void test_draining(void)
{
    struct scene scene = {0};
    scene_begin(&scene, 1000000, 0);
    wait_for_rounds(scene.engine, 500);
    engine_drain(scene.engine);
    check(engine_wait_idle(scene.engine, INT64_C(1000000) * PATIENCE_S), "a drain comes to an end");
    check_idle(scene.engine);
    scene_join(&scene);
    for (int i = 0; i < CLIENTS; i++) {
        check(scene.clients[i].refused_for_good == 1, "a draining engine refuses");
        check(scene.clients[i].failures == 0, "a draining engine finishes what it has");
    }
    engine_stop(scene.engine);
    scene_end(&scene);
}

static void test_stopping_under_load(void)
{
    struct scene scene = {0};
    scene_begin(&scene, 1000000, 0);
    wait_for_rounds(scene.engine, 500);
    engine_stop(scene.engine);
    scene_join(&scene);
    check_idle(scene.engine);
    for (int i = 0; i < CLIENTS; i++)
        check(scene.clients[i].refused_for_good == 1, "a stopped engine refuses");
    scene_end(&scene);
}

static void test_losing_the_device_under_load(void)
{
    struct scene scene = {0};
    scene_begin(&scene, 1000000, 400);
    scene_join(&scene);
    check(engine_wait_idle(scene.engine, INT64_C(1000000) * PATIENCE_S), "nothing hangs");
    check_idle(scene.engine);
    uint64_t accepted = 0;
    for (int i = 0; i < CLIENTS; i++)
        accepted += (uint64_t)(scene.clients[i].accepted + scene.clients[i].siblings);
    const struct engine_counters counters = engine_counters_read(scene.engine);
    check(counters.finished + counters.cancelled < accepted, "a lost device fails what runs");
    check(counters.device_lost, "the loss is counted");
    scene_end(&scene);
}

/* The thread sleeps after every request and has to be woken by the next. */
static void test_waking_the_sleeping_engine(void)
{
    struct scene scene = {0};
    scene_begin(&scene, 0, 0);
    scene_join(&scene);
    struct client *client = &scene.clients[0];
    for (uint32_t i = 0; i < 500; i++) {
        struct request *request = make_request(client, i);
        require(submit_patiently(client, request, NULL), "an idle engine takes a request");
        follow(client, request, READS_ALL);
        request_release(request);
        if (i % 2 == 0)
            check(engine_wait_idle(scene.engine, INT64_C(1000000) * PATIENCE_S), "it sleeps again");
    }
    scene_end(&scene);
}

static void run(void (*scenario)(void))
{
    int before = atomic_load(&failed);
    scenario();
    passed += atomic_load(&failed) == before;
}

int main(void)
{
    run(test_everything_accepted_ends);
    run(test_waking_the_sleeping_engine);
    for (int i = 0; i < 5; i++) {
        run(test_draining);
        run(test_stopping_under_load);
        run(test_losing_the_device_under_load);
    }
    printf("%d passed, %d failed, 0 skipped\n", passed, atomic_load(&failed));
    return atomic_load(&failed) == 0 ? 0 : 1;
}

/* The scheduler: blocks in turn, the threads of a block as fibers that run until they must wait. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <vector>

#include "tests/simt/emulation.h"
#include "tests/simt/fiber.h"
#include "tests/simt/simt_internal.h"

enum { THREADS_MAX = 1024, POISON = 0xff, SHARED_ALIGNMENT = 128 };

enum thread_state { READY, AT_BARRIER, AT_WARP_OPERATION, LEFT };

/* 16 bytes under way to shared memory. */
struct async_copy {
    char *to;
    char bytes[16];
    uint32_t group; /* number of the commit that closes it */
};

struct thread {
    struct fiber *fiber;
    enum thread_state state;
    const char *operation; /* that it waits at */
    struct simt_site site;
    std::vector<struct async_copy> copies; /* in the order of issue */
    uint32_t groups;                       /* committed so far */
};

/* An operation that some lanes of its mask have arrived at. mask 0: none. */
struct warp_operation {
    const char *name;
    struct simt_site site;
    uint32_t mask, arrived;
    void *operands[SIMT_WARP];
};

/* One launch; the emulation runs one at a time, on the thread that launches. */
static struct {
    const char *name;
    struct simt_grid grid;
    void (*run)(const void *context);
    const void *context;
    uint32_t block_x, block_y, thread; /* of the running one */
    char *shared;
    /* Every lane waits in one at most. */
    struct warp_operation operations[THREADS_MAX / SIMT_WARP][SIMT_WARP + 1];
} launch;
static struct thread threads[THREADS_MAX];
static enum simt_order the_order;
static uint64_t order_state;

void simt_set_order(enum simt_order order)
{
    the_order = order;
    order_state = 1;
}

int simt_order_by_name(enum simt_order *order, const char *name)
{
    static const char *const NAMES[] = {"ascending", "descending", "seeded"};
    for (int i = 0; i < 3; i++) {
        if (strcmp(NAMES[i], name) == 0) {
            *order = (enum simt_order)i;
            return 0;
        }
    }
    return -1;
}

uint32_t simt_thread()
{
    return launch.thread;
}

uint32_t simt_block_x()
{
    return launch.block_x;
}

uint32_t simt_block_y()
{
    return launch.block_y;
}

uint32_t simt_grid_x()
{
    return launch.grid.x;
}

char *simt_shared()
{
    return launch.shared;
}

void simt_fail(const char *operation, struct simt_site site, const char *format, ...)
{
    char what[400];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(what, sizeof what, format, arguments);
    va_end(arguments);
    fprintf(stderr, "simt: kernel %s, block (%u, %u), thread %u (lane %u), %s at %s:%d: %s\n",
            launch.name, launch.block_x, launch.block_y, launch.thread, launch.thread % SIMT_WARP,
            operation, site.file, site.line, what);
    abort();
}

void simt_check_shared(const char *operation, struct simt_site site, const void *memory,
                       size_t size)
{
    const char *begin = (const char *)memory;
    if (begin < launch.shared || begin + size > launch.shared + launch.grid.shared)
        simt_fail(operation, site, "%p is no shared memory of the block", memory);
    if ((uintptr_t)begin % size != 0)
        simt_fail(operation, site, "%p is not aligned to %zu bytes", memory, size);
}

static void wait_at(enum thread_state state, const char *operation, struct simt_site site)
{
    struct thread *self = &threads[launch.thread];
    self->state = state;
    self->operation = operation;
    self->site = site;
    fiber_wait();
}

void simt_barrier(struct simt_site site)
{
    wait_at(AT_BARRIER, "barrier", site);
}

static bool same_operation(const struct warp_operation *a, const char *name, uint32_t mask,
                           struct simt_site site)
{
    return a->name == name && a->mask == mask && a->site.line == site.line &&
           a->site.file == site.file;
}

/*
 * The one that others of the mask have arrived at, or a free place. Lanes of the mask may still be
 * in another operation that they will leave; where they never do, fail_stuck finds out.
 */
static struct warp_operation *find_operation(const char *name, uint32_t mask, struct simt_site site)
{
    struct warp_operation *free_place = nullptr;
    for (struct warp_operation &operation : launch.operations[launch.thread / SIMT_WARP]) {
        if (operation.mask == 0)
            free_place = &operation;
        else if (same_operation(&operation, name, mask, site))
            return &operation;
    }
    *free_place = {name, site, mask, 0, {}};
    return free_place;
}

void simt_warp_arrive(const char *name, uint32_t mask, struct simt_site site, void *operands,
                      void (*perform)(void *const operands[SIMT_WARP], uint32_t mask))
{
    uint32_t lane = launch.thread % SIMT_WARP, first = launch.thread - lane;
    if ((mask >> lane & 1) == 0)
        simt_fail(name, site, "the mask %08x does not name this lane", mask);
    struct warp_operation *operation = find_operation(name, mask, site);
    operation->operands[lane] = operands;
    operation->arrived |= 1u << lane;
    if (operation->arrived != mask) {
        wait_at(AT_WARP_OPERATION, name, site);
        return;
    }
    perform(operation->operands, mask);
    for (uint32_t i = 0; i < SIMT_WARP; i++) {
        if ((mask >> i & 1) != 0)
            threads[first + i].state = READY;
    }
    operation->mask = 0;
}

void simt_copy_async(void *shared, const void *global, bool valid, struct simt_site site)
{
    struct thread *self = &threads[launch.thread];
    struct async_copy copy = {(char *)shared, {}, self->groups};
    simt_check_shared("copy_async", site, shared, sizeof copy.bytes);
    if ((uintptr_t)global % sizeof copy.bytes != 0)
        simt_fail("copy_async", site, "the source %p is not aligned to 16 bytes", global);
    if (valid)
        memcpy(copy.bytes, global, sizeof copy.bytes);
    /* On the device the bytes may land from now on: who still reads the old ones is wrong. */
    memset(shared, POISON, sizeof copy.bytes);
    self->copies.push_back(copy);
}

void simt_load_fresh(uint32_t (&out)[4], const void *from, struct simt_site site)
{
    if ((uintptr_t)from % sizeof out != 0)
        simt_fail("load_fresh", site, "%p is not aligned to 16 bytes", from);
    memcpy(out, from, sizeof out);
}

/* Reads all of it, so that what lies outside of an allocation is found. */
void simt_prefetch(const void *global, uint32_t bytes, struct simt_site site)
{
    const volatile char *from = (const volatile char *)global;
    if ((uintptr_t)global % 16 != 0 || bytes % 16 != 0)
        simt_fail("prefetch", site, "%u bytes at %p are no multiples of 16", bytes, global);
    for (uint32_t i = 0; i < bytes; i++)
        (void)from[i];
}

void simt_copy_commit()
{
    threads[launch.thread].groups++;
}

void simt_copy_wait_newest(uint32_t newest)
{
    struct thread *self = &threads[launch.thread];
    size_t landed = 0;
    while (landed < self->copies.size() && self->copies[landed].group + newest < self->groups) {
        memcpy(self->copies[landed].to, self->copies[landed].bytes, 16);
        landed++;
    }
    self->copies.erase(self->copies.begin(), self->copies.begin() + (ptrdiff_t)landed);
}

static void run_thread(void *)
{
    launch.run(launch.context);
}

static uint32_t random_below(uint32_t limit)
{
    order_state = order_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((order_state >> 33) * limit >> 31);
}

static void fill_order(uint32_t *order, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        order[i] = the_order == SIMT_DESCENDING ? count - 1 - i : i;
    for (uint32_t i = count; the_order == SIMT_SEEDED && i > 1; i--) {
        uint32_t other = random_below(i), swapped = order[i - 1];
        order[i - 1] = order[other];
        order[other] = swapped;
    }
}

/* Names a lane that thread `stuck` waits for in an operation of its warp. */
[[noreturn]] static void fail_stuck_lane(uint32_t stuck)
{
    const struct thread *thread = &threads[stuck];
    uint32_t lane = stuck % SIMT_WARP, missing = 0;
    for (const struct warp_operation &operation : launch.operations[stuck / SIMT_WARP]) {
        if (operation.mask != 0 && (operation.arrived >> lane & 1) != 0)
            missing = operation.mask & ~operation.arrived;
    }
    uint32_t absent = stuck - lane + (uint32_t)__builtin_ctz(missing);
    if (absent >= launch.grid.threads || threads[absent].state == LEFT)
        simt_fail(thread->operation, thread->site,
                  "lanes %08x of the mask never arrive: thread %u has left the kernel", missing,
                  absent);
    simt_fail(thread->operation, thread->site,
              "lanes %08x of the mask never arrive: thread %u waits in %s at %s:%d", missing,
              absent, threads[absent].operation, threads[absent].site.file,
              threads[absent].site.line);
}

/* Names a thread that waits for ever. */
[[noreturn]] static void fail_stuck(uint32_t stuck)
{
    const struct thread *thread = &threads[stuck];
    launch.thread = stuck;
    if (thread->state == AT_WARP_OPERATION)
        fail_stuck_lane(stuck);
    for (uint32_t i = 0; i < launch.grid.threads; i++) {
        if (threads[i].state == LEFT)
            simt_fail(thread->operation, thread->site, "thread %u has left the kernel", i);
        if (threads[i].site.line != thread->site.line)
            simt_fail(thread->operation, thread->site, "thread %u waits in %s at %s:%d", i,
                      threads[i].operation, threads[i].site.file, threads[i].site.line);
    }
    simt_fail(thread->operation, thread->site, "the other threads never arrive");
}

/* Lets the threads go on when all of them are at one barrier. */
static bool open_barrier()
{
    const struct thread *first = &threads[0];
    for (uint32_t i = 0; i < launch.grid.threads; i++) {
        if (threads[i].state != AT_BARRIER || threads[i].site.line != first->site.line ||
            threads[i].site.file != first->site.file)
            return false;
    }
    for (uint32_t i = 0; i < launch.grid.threads; i++)
        threads[i].state = READY;
    return true;
}

static void run_one(uint32_t index)
{
    struct thread *thread = &threads[index];
    launch.thread = index;
    if (!fiber_run(thread->fiber))
        return;
    thread->state = LEFT;
    if (!thread->copies.empty())
        simt_fail("return", {launch.name, 0}, "an asynchronous copy was never waited for");
}

/* Runs each of `count` threads that can run once; returns how many could. */
static uint32_t run_ready(const uint32_t *order, uint32_t count)
{
    uint32_t ran = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (threads[order[i]].state != READY)
            continue;
        run_one(order[i]);
        ran++;
    }
    return ran;
}

/*
 * Until every thread waits at a barrier or has left. A warp goes as far as it can before the next
 * one starts, so that what it should have waited for is not there; in the seeded order the warps
 * move side by side.
 */
static void run_to_barrier(const uint32_t *order)
{
    uint32_t together = the_order == SIMT_SEEDED ? launch.grid.threads : (uint32_t)SIMT_WARP;
    for (uint32_t first = 0; first < launch.grid.threads; first += together) {
        while (run_ready(order + first, together) > 0) {
        }
    }
}

static void run_block()
{
    uint32_t order[THREADS_MAX], left = 0;
    memset(launch.shared, POISON, launch.grid.shared);
    fill_order(order, launch.grid.threads);
    for (uint32_t i = 0; i < launch.grid.threads; i++) {
        if (threads[i].fiber == nullptr)
            threads[i].fiber = fiber_create();
        threads[i].state = READY;
        threads[i].groups = 0;
        fiber_give(threads[i].fiber, run_thread, nullptr);
    }
    while (left < launch.grid.threads) {
        run_to_barrier(order);
        left = 0;
        for (uint32_t i = 0; i < launch.grid.threads; i++)
            left += threads[i].state == LEFT;
        if (left == launch.grid.threads || open_barrier())
            continue;
        for (uint32_t i = 0; i < launch.grid.threads; i++) {
            if (threads[i].state != LEFT)
                fail_stuck(i);
        }
    }
}

void simt_run(const char *name, const struct simt_grid *grid, void (*run)(const void *context),
              const void *context)
{
    launch.name = name;
    launch.grid = *grid;
    launch.run = run;
    launch.context = context;
    launch.block_x = launch.block_y = launch.thread = 0;
    if (grid->threads == 0 || grid->threads > THREADS_MAX || grid->threads % SIMT_WARP != 0)
        simt_fail("launch", {name, 0}, "%u threads are no whole warps up to %d", grid->threads,
                  THREADS_MAX);
    /* Of the very size, so that AddressSanitizer sees what lies behind. */
    if (posix_memalign((void **)&launch.shared, SHARED_ALIGNMENT, grid->shared + 1) != 0)
        simt_fail("launch", {name, 0}, "no memory for %zu bytes", grid->shared);
    for (launch.block_y = 0; launch.block_y < grid->y; launch.block_y++) {
        for (launch.block_x = 0; launch.block_x < grid->x; launch.block_x++)
            run_block();
    }
    free(launch.shared);
    launch.shared = nullptr;
}

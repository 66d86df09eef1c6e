#include "server/engine/intake.h"

#include <stddef.h>

/* Its address, never its content, marks a closed intake. */
static struct request closed_marker;

void intake_init(struct intake *intake)
{
    atomic_init(&intake->newest, NULL);
}

bool intake_push(struct intake *intake, struct request *request)
{
    struct request *newest = atomic_load(&intake->newest);
    do {
        if (newest == &closed_marker)
            return false;
        request->next = newest;
        /* Sequentially consistent: the engine's thread looks here after it says that it sleeps. */
    } while (!atomic_compare_exchange_weak(&intake->newest, &newest, request));
    return true;
}

bool intake_is_empty(const struct intake *intake)
{
    struct request *newest = atomic_load(&intake->newest);
    return newest == NULL || newest == &closed_marker;
}

static struct request *reverse(struct request *newest)
{
    struct request *oldest = NULL;
    while (newest != NULL) {
        struct request *older = newest->next;
        newest->next = oldest;
        oldest = newest;
        newest = older;
    }
    return oldest;
}

static struct request *intake_exchange(struct intake *intake, struct request *with)
{
    struct request *newest = atomic_exchange(&intake->newest, with);
    return newest == &closed_marker ? NULL : reverse(newest);
}

struct request *intake_take(struct intake *intake)
{
    /* A plain look first: an exchange on every tick would only move the cache line about. */
    return intake_is_empty(intake) ? NULL : intake_exchange(intake, NULL);
}

struct request *intake_close(struct intake *intake)
{
    return intake_exchange(intake, &closed_marker);
}

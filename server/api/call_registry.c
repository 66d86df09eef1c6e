/* The calls that run, by id: a hash with lists, for POST /v1/requests/{id}/cancel. */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "server/api/call_internal.h"

enum { BUCKETS = 256 };

struct call_registry {
    pthread_mutex_t lock;
    struct api_call *buckets[BUCKETS];
};

struct call_registry *call_registry_create(void)
{
    struct call_registry *registry = calloc(1, sizeof *registry);
    if (registry && pthread_mutex_init(&registry->lock, NULL) != 0) {
        free(registry);
        return NULL;
    }
    return registry;
}

void call_registry_free(struct call_registry *registry)
{
    if (registry) {
        pthread_mutex_destroy(&registry->lock);
        free(registry);
    }
}

/* FNV-1a; ids are random already. */
static struct api_call **bucket_of(struct call_registry *registry, const char *id, size_t length)
{
    uint32_t hash = 2166136261u;
    for (size_t i = 0; i < length; i++) {
        hash = (hash ^ (unsigned char)id[i]) * 16777619u;
    }
    return &registry->buckets[hash % BUCKETS];
}

void call_registry_add(struct call_registry *registry, struct api_call *call)
{
    if (!registry) {
        return;
    }
    pthread_mutex_lock(&registry->lock);
    struct api_call **bucket = bucket_of(registry, call->id, strlen(call->id));
    call->next = *bucket;
    call->link = bucket;
    if (call->next) {
        call->next->link = &call->next;
    }
    *bucket = call;
    pthread_mutex_unlock(&registry->lock);
}

void call_registry_remove(struct call_registry *registry, struct api_call *call)
{
    if (!registry) {
        return;
    }
    pthread_mutex_lock(&registry->lock);
    if (call->link) {
        *call->link = call->next;
        if (call->next) {
            call->next->link = call->link;
        }
        call->link = NULL;
    }
    pthread_mutex_unlock(&registry->lock);
}

static bool still_runs(const struct api_call *call)
{
    for (int32_t i = 0; i < call->reply.choice_count; i++) {
        if (!stream_finished(&call->requests[i]->stream)) {
            return true;
        }
    }
    return false;
}

bool api_cancel(const struct api *api, const char *id, size_t id_length, uint64_t owner)
{
    struct call_registry *registry = api->calls;
    bool found = false;
    if (!registry) {
        return false;
    }
    pthread_mutex_lock(&registry->lock);
    struct api_call *call = *bucket_of(registry, id, id_length);
    while (call && (strlen(call->id) != id_length || memcmp(call->id, id, id_length) != 0)) {
        call = call->next;
    }
    if (call && call->owner == owner && still_runs(call)) {
        found = true;
        atomic_store(&call->reply.cancelled, true);
        api_call_cancel(call);
    }
    pthread_mutex_unlock(&registry->lock);
    return found;
}

/*
 * The pool of KV cache pages: which page ids are free. Whole canvases take and give back their
 * pages; nothing is ever shared or moved. Owned by the engine thread.
 */
#ifndef SERVER_ENGINE_KV_PAGES_H
#define SERVER_ENGINE_KV_PAGES_H

#include <stdbool.h>
#include <stdint.h>

struct error;

struct kv_pages {
    int32_t *free; /* [total] a stack of free page ids, the first `total - used` are valid */
    int32_t total, used;
};

/* All of [0, total) are free. */
int kv_pages_create(struct kv_pages *pages, int32_t total, struct error *err);
void kv_pages_free(struct kv_pages *pages);

/* Pages that `positions` positions need. */
int32_t kv_pages_needed(int64_t positions);

/* Writes count page ids to out; false, and nothing taken, when fewer are free. */
bool kv_pages_take(struct kv_pages *pages, int32_t *out, int32_t count);
/* The ids must have been taken. */
void kv_pages_give(struct kv_pages *pages, const int32_t *ids, int32_t count);

#endif

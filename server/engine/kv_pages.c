#include "server/engine/kv_pages.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "kernels/backend.h"

int kv_pages_create(struct kv_pages *pages, int32_t total, struct error *err)
{
    assert(total >= 1);
    *pages = (struct kv_pages){.total = total};
    pages->free = malloc((size_t)total * sizeof *pages->free);
    if (pages->free == NULL)
        return error_set(err, ERROR_MEMORY,
                         "out of memory for the list of %d KV pages: lower kv_cache_tokens", total);
    /* Low ids on top of the stack: a lightly used server touches little of the pool. */
    for (int32_t i = 0; i < total; i++)
        pages->free[i] = total - 1 - i;
    return 0;
}

void kv_pages_free(struct kv_pages *pages)
{
    free(pages->free);
    *pages = (struct kv_pages){0};
}

int32_t kv_pages_needed(int64_t positions)
{
    return (int32_t)((positions + KV_PAGE_POSITIONS - 1) / KV_PAGE_POSITIONS);
}

bool kv_pages_take(struct kv_pages *pages, int32_t *out, int32_t count)
{
    int32_t left = pages->total - pages->used;
    if (count > left)
        return false;
    for (int32_t i = 0; i < count; i++)
        out[i] = pages->free[left - 1 - i];
    pages->used += count;
    return true;
}

void kv_pages_give(struct kv_pages *pages, const int32_t *ids, int32_t count)
{
    assert(count <= pages->used);
    int32_t left = pages->total - pages->used;
    memcpy(pages->free + left, ids, (size_t)count * sizeof *ids);
    pages->used -= count;
}

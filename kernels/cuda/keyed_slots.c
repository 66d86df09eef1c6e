#include "kernels/cuda/keyed_slots.h"

#include <stdlib.h>
#include <string.h>
#include "common/error.h"

struct keyed_slots {
    int32_t capacity, used;
    uint64_t clock;
    struct slot {
        struct slot_key key;
        uint64_t used_at;
    } slot[];
};

struct slot_key plan_key(int32_t lines, int64_t rows, int64_t columns, int32_t form)
{
    return (struct slot_key){{lines, (int32_t)rows, (int32_t)columns, form}};
}

/* Programs are positive, so that a body's key is never that of a head. */
struct slot_key body_key(int32_t program, int32_t row_bucket, bool parts)
{
    return (struct slot_key){{program, row_bucket, parts, 0}};
}

struct slot_key head_key(int32_t program, int32_t head_row_bucket, int32_t line_bucket,
                         uint32_t kinds)
{
    return (struct slot_key){{-program, head_row_bucket, line_bucket, (int32_t)kinds}};
}

int keyed_slots_create(struct keyed_slots **out, int32_t capacity, struct error *err)
{
    size_t size = sizeof(struct keyed_slots) + (size_t)capacity * sizeof(struct slot);
    *out = calloc(1, size);
    if (*out == NULL)
        return error_set(err, ERROR_MEMORY, "cannot allocate %d slots; free some memory",
                         (int)capacity);
    (*out)->capacity = capacity;
    return 0;
}

void keyed_slots_destroy(struct keyed_slots *slots)
{
    free(slots);
}

/* A few hundred keys of 16 bytes: a scan takes less than the launch that follows it. */
int32_t keyed_slots_find(struct keyed_slots *slots, struct slot_key key, bool *is_new)
{
    int32_t oldest = 0;
    slots->clock++;
    for (int32_t i = 0; i < slots->used; i++) {
        if (memcmp(&slots->slot[i].key, &key, sizeof key) == 0) {
            slots->slot[i].used_at = slots->clock;
            *is_new = false;
            return i;
        }
        if (slots->slot[i].used_at < slots->slot[oldest].used_at)
            oldest = i;
    }
    if (slots->used < slots->capacity)
        oldest = slots->used++;
    slots->slot[oldest] = (struct slot){key, slots->clock};
    *is_new = true;
    return oldest;
}

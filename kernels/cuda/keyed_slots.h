/*
 * A fixed table from small keys to numbered slots, for what is expensive to make and cheap to keep:
 * GEMM plans and recordings of a step. The slots' content is the owner's. One owner thread;
 * nothing here allocates after keyed_slots_create.
 */
#ifndef KERNELS_CUDA_KEYED_SLOTS_H
#define KERNELS_CUDA_KEYED_SLOTS_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct error;

/* What a plan or a recording was made for. */
struct slot_key {
    int32_t part[4];
};

/*
 * A product of [lines, columns] by a weight [rows, columns]. The number of lines is that of the
 * row bucket: a plan for each exact number would never be used again. `form` is a number of the
 * owner: what the product writes, and how.
 */
struct slot_key plan_key(int32_t lines, int64_t rows, int64_t columns, int32_t form);

/*
 * A recording of a step up to the head, and one of its head: what decides which kernels are
 * launched with which grids. Everything else lies in device memory at fixed addresses. `kinds` are
 * bits of the head's: which kinds of head rows there are. With `parts` a body merges those of
 * attention.
 */
struct slot_key body_key(int32_t program, int32_t row_bucket, bool parts);
struct slot_key head_key(int32_t program, int32_t head_row_bucket, int32_t line_bucket,
                         uint32_t kinds);

struct keyed_slots;

int keyed_slots_create(struct keyed_slots **out, int32_t capacity, struct error *err);
void keyed_slots_destroy(struct keyed_slots *slots); /* NULL is fine */

/*
 * The slot of a key, in [0, capacity). Where it is new, *is_new is set, and the slot was free or
 * that of the key which was not used for the longest time: the owner frees what it held.
 */
int32_t keyed_slots_find(struct keyed_slots *slots, struct slot_key key, bool *is_new);

#ifdef __cplusplus
}
#endif

#endif

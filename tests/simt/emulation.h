/*
 * Between the parts of the emulation, and for its users: in which order the threads run, what is
 * enqueued, and what goes wrong on demand.
 */
#ifndef TESTS_SIMT_EMULATION_H
#define TESTS_SIMT_EMULATION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/cuda/queue.h"

#ifdef __cplusplus
extern "C" {
#endif

enum simt_order { SIMT_ASCENDING, SIMT_DESCENDING, SIMT_SEEDED };

/* Of every launch from here on. SIMT_SEEDED: another order for every block, always the same ones.
 */
void simt_set_order(enum simt_order order);

/* 0 for one of "ascending", "descending", "seeded"; -1 for another name. */
int simt_order_by_name(enum simt_order *order, const char *name);

/*
 * Calls run(context) now, or, on a recorder, keeps a copy of the context's `size` bytes and calls
 * it whenever the recording is launched. For kernels, and for what the host does in their place.
 */
void simt_enqueue(struct simt_queue *queue, void (*run)(const void *context), const void *context,
                  size_t size);

/* Makes the uploads that were enqueued so far. Whoever looks at device memory comes after it. */
void simt_finish_uploads(void);

/* How many products were enqueued that are the library's on a device. */
int64_t simt_library_products(void);

/* From here on no recording can be made, as where a library's call cannot be captured. */
void simt_refuse_recordings(bool refuse);

/* From here on a recording counts as faster than all that were timed before it. */
void simt_prefer_later_recordings(bool prefer);

#ifdef __cplusplus
}
#endif

#endif

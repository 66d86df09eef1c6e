/*
 * Stacks to switch between on one thread; what the emulation runs a device thread on. A fiber is
 * made once and given work again and again, so that its stack's frames always return: what
 * AddressSanitizer knows of it stays right.
 */
#ifndef TESTS_SIMT_FIBER_H
#define TESTS_SIMT_FIBER_H

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

struct fiber;

/* Aborts with a message where there is no memory. The fiber is idle, and kept until the program
 * ends. */
struct fiber *fiber_create(void);

/*
 * From outside of fibers: runs the fiber, with new work where it is idle, until it waits or its
 * work returns. True when it has returned.
 */
void fiber_give(struct fiber *fiber, void (*work)(void *context), void *context);
bool fiber_run(struct fiber *fiber);

/* From inside: back to the caller of fiber_run, until it is called again. */
void fiber_wait(void);

#ifdef __cplusplus
}
#endif

#endif

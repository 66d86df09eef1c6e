/*
 * Stacks to switch between on one thread; what the emulation runs a device thread on. A fiber is
 * made once and given work again and again, so that its stack's frames always return: what
 * AddressSanitizer knows of it stays right.
 */
#ifndef TESTS_SIMT_FIBER_H
#define TESTS_SIMT_FIBER_H

#ifdef __cplusplus
extern "C" {
#endif

struct fiber;

/* Idle, and kept until the program ends. Aborts with a message where there is no memory. */
struct fiber *fiber_create(void);

/* For an idle fiber: `work` is what it does next. Returns which fiber goes on then, as below. */
void fiber_give(struct fiber *fiber, struct fiber *(*work)(void));

/* From outside of fibers: goes on in this one, until one of them passes to NULL. */
void fiber_run(struct fiber *first);

/* From inside: goes on in another fiber, or, NULL, behind fiber_run, until this one is passed to.
 */
void fiber_pass(struct fiber *to);

#ifdef __cplusplus
}
#endif

#endif

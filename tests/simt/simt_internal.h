/* What the scheduler offers to the operations of a warp. */
#ifndef TESTS_SIMT_SIMT_INTERNAL_H
#define TESTS_SIMT_SIMT_INTERNAL_H

#include "kernels/cuda/simt.h"

/*
 * The running lane arrives with its operands at an operation of its warp. When the last lane of the
 * mask is there, perform(operands of all lanes by number, mask) computes all results in place.
 */
void simt_warp_arrive(const char *operation, uint32_t mask, struct simt_site site, void *operands,
                      void (*perform)(void *const operands[SIMT_WARP], uint32_t mask));

/* Ends the program with a message about the running thread. */
[[noreturn]] void simt_fail(const char *operation, struct simt_site site, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Fails unless [memory, memory + size) is shared memory of the block, aligned to `size`. */
void simt_check_shared(const char *operation, struct simt_site site, const void *memory,
                       size_t size);

#endif

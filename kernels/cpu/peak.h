/*
 * What a CPU can do at most, to compare the kernels with: loops of one product instruction over
 * registers alone, and loops that only read memory. Pure functions; any thread. Rates come from
 * running a loop on all threads together: `denoised bench kernels` does.
 */
#ifndef KERNELS_CPU_PEAK_H
#define KERNELS_CPU_PEAK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "kernels/dtype.h"

/*
 * Sums in flight in every loop: more than latency times throughput of any product instruction (6
 * cycles, one a cycle; 5 cycles, two a cycle), so that no step waits for the one before it. The
 * sets with 16 registers keep 12 sums and the factors there, those with 32 keep 24. Where an
 * addition of one cycle follows the product, sums wait for that alone and 8 are enough.
 */
enum { PEAK_SUMS_OF_16 = 12, PEAK_SUMS_OF_32 = 24, PEAK_SUMS_ADDED = 8 };

/* Runs the loop `repetitions` times. The result has no meaning, but depends on every product. */
typedef float cpu_peak_products(int64_t repetitions);

cpu_peak_products cpu_peak_float32_scalar, cpu_peak_int8_scalar;
cpu_peak_products cpu_peak_float32_avx2, cpu_peak_int8_avx2;
cpu_peak_products cpu_peak_float32_avx512;
cpu_peak_products cpu_peak_bfloat16_avx512bf16;
cpu_peak_products cpu_peak_int8_avx512vnni;

struct cpu_peak {
    const char *instruction; /* "vdpbf16ps, 512 bits" */
    int64_t operations;      /* of one repetition; multiplying and adding are two */
    cpu_peak_products *run;
};

/*
 * The best product instruction that an instruction set (struct cpu_instructions.name) has for a
 * dtype; where it has none, the one that it computes in after widening. The set must be present.
 * DTYPE_FLOAT16 and DTYPE_FP8 are no dtypes of a product here: false.
 */
bool cpu_peak_find(struct cpu_peak *out, const char *instructions, enum dtype dtype);

/*
 * Reads size bytes (a multiple of 256) at `from` (aligned to 64 bytes) with the set's widest loads.
 * The result has no meaning; it is there so that the loads are.
 */
typedef uint32_t cpu_peak_read(const void *from, size_t size);

cpu_peak_read cpu_peak_read_scalar, cpu_peak_read_avx2, cpu_peak_read_avx512;

cpu_peak_read *cpu_peak_reader(const char *instructions);

#endif

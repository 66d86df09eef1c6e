/* Which loop belongs to which instruction set. */
#include "kernels/cpu/peak.h"

#include <string.h>

enum {
    OPERATIONS_128 = PEAK_SUMS_OF_16 * 4 * 2, /* 4 floats, times and plus */
    OPERATIONS_256 = PEAK_SUMS_OF_16 * 8 * 2,
    OPERATIONS_512 = PEAK_SUMS_OF_32 * 16 * 2,
};

static const struct cpu_peak MULTIPLY_AND_ADD = {"mulps and addps, 128 bits", OPERATIONS_128,
                                                 cpu_peak_float32_scalar};
static const struct cpu_peak FMA_256 = {"vfmadd231ps, 256 bits", OPERATIONS_256,
                                        cpu_peak_float32_avx2};
static const struct cpu_peak FMA_512 = {"vfmadd231ps, 512 bits", OPERATIONS_512,
                                        cpu_peak_float32_avx512};
static const struct cpu_peak BFLOAT16_PAIRS_512 = {
    "vdpbf16ps, 512 bits", 2 * OPERATIONS_512 /* of pairs */, cpu_peak_bfloat16_avx512bf16};
/* Products of int8: how many a vector has, times and plus. */
static const struct cpu_peak INT16_PAIRS_128 = {"pmaddwd and paddd, 128 bits",
                                                PEAK_SUMS_ADDED * 8 * 2, cpu_peak_int8_scalar};
static const struct cpu_peak INT8_FOURS_256 = {"vpmaddubsw, vpmaddwd and vpaddd, 256 bits",
                                               PEAK_SUMS_ADDED * 32 * 2, cpu_peak_int8_avx2};
static const struct cpu_peak INT8_FOURS_512 = {"vpdpbusd, 512 bits", 4 * OPERATIONS_512,
                                               cpu_peak_int8_avx512vnni};

static bool is_avx512(const char *instructions)
{
    return strncmp(instructions, "avx512", 6) == 0;
}

static const struct cpu_peak *float32_peak(const char *instructions)
{
    if (is_avx512(instructions))
        return &FMA_512;
    return strcmp(instructions, "avx2") == 0 ? &FMA_256 : &MULTIPLY_AND_ADD;
}

static const struct cpu_peak *int8_peak(const char *instructions)
{
    if (strcmp(instructions, "avx512vnni") == 0 || strcmp(instructions, "avx512bf16") == 0)
        return &INT8_FOURS_512;
    return strcmp(instructions, "scalar") == 0 ? &INT16_PAIRS_128 : &INT8_FOURS_256;
}

bool cpu_peak_find(struct cpu_peak *out, const char *instructions, enum dtype dtype)
{
    switch (dtype) {
    case DTYPE_FLOAT32:
        *out = *float32_peak(instructions);
        return true;
    case DTYPE_BFLOAT16:
        *out = strcmp(instructions, "avx512bf16") == 0 ? BFLOAT16_PAIRS_512
                                                       : *float32_peak(instructions);
        return true;
    case DTYPE_INT8:
        *out = *int8_peak(instructions);
        return true;
    case DTYPE_FLOAT16:
    case DTYPE_FP8:
        break;
    }
    return false;
}

cpu_peak_read *cpu_peak_reader(const char *instructions)
{
    if (is_avx512(instructions))
        return cpu_peak_read_avx512;
    return strcmp(instructions, "avx2") == 0 ? cpu_peak_read_avx2 : cpu_peak_read_scalar;
}

#include "kernels/cpu/instructions.h"

#include <stdio.h>
#include <string.h>

#include "common/error.h"
#include "kernels/cpu/cpu.h"

static bool has_scalar(void)
{
    return true;
}

static bool has_avx2(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

static bool has_avx512(void)
{
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}

static bool has_avx512vnni(void)
{
    return has_avx512() && __builtin_cpu_supports("avx512vnni");
}

/* No CPU has BF16 without VNNI. */
static bool has_avx512bf16(void)
{
    return has_avx512vnni() && __builtin_cpu_supports("avx512bf16");
}

/*
 * Intel's cores take two cycles for a vdpbf16ps of 512 bits and half a cycle for a multiply-add in
 * float32, so widening is twice as fast there; AMD's (Zen 4 and later) gain from the instruction.
 */
static bool gains_from_bfloat16_products(void)
{
    return has_avx512bf16() && !__builtin_cpu_is("intel");
}

static const struct {
    const char *name;
    bool (*present)(void);
    bool (*preferred)(void);
    cpu_product_int8 *product_int8;
    cpu_product *product[2]; /* by dtype, as the others */
    cpu_softmax *softmax[2];
    cpu_accumulate *accumulate[2];
    const struct cpu_elementwise *elementwise;
} SETS[] = {
    /* The best first. A name says what runs: nothing else is asked of the CPU later on. */
    {"avx512bf16",
     has_avx512bf16,
     gains_from_bfloat16_products,
     cpu_product_int8_avx512vnni,
     {cpu_product_float32_avx512, cpu_product_bfloat16_avx512bf16},
     {cpu_softmax_avx512, cpu_softmax_avx512bf16},
     {cpu_accumulate_float32_avx512, cpu_accumulate_bfloat16_avx512bf16},
     CPU_ELEMENTWISE_AVX512BF16},
    {"avx512vnni",
     has_avx512vnni,
     has_avx512vnni,
     cpu_product_int8_avx512vnni,
     {cpu_product_float32_avx512, cpu_product_bfloat16_avx512},
     {cpu_softmax_avx512, cpu_softmax_avx512},
     {cpu_accumulate_float32_avx512, cpu_accumulate_bfloat16_avx512},
     CPU_ELEMENTWISE_AVX512},
    {"avx512",
     has_avx512,
     has_avx512,
     cpu_product_int8_avx2,
     {cpu_product_float32_avx512, cpu_product_bfloat16_avx512},
     {cpu_softmax_avx512, cpu_softmax_avx512},
     {cpu_accumulate_float32_avx512, cpu_accumulate_bfloat16_avx512},
     CPU_ELEMENTWISE_AVX512},
    {"avx2",
     has_avx2,
     has_avx2,
     cpu_product_int8_avx2,
     {cpu_product_float32_avx2, cpu_product_bfloat16_avx2},
     {cpu_softmax_avx2, cpu_softmax_avx2},
     {cpu_accumulate_float32_avx2, cpu_accumulate_bfloat16_avx2},
     CPU_ELEMENTWISE_AVX2},
    {"scalar",
     has_scalar,
     has_scalar,
     cpu_product_int8_scalar,
     {cpu_product_float32_scalar, cpu_product_bfloat16_scalar},
     {cpu_softmax_scalar, cpu_softmax_scalar},
     {cpu_accumulate_float32_scalar, cpu_accumulate_bfloat16_scalar},
     CPU_ELEMENTWISE_SCALAR},
};
enum { SET_COUNT = sizeof SETS / sizeof SETS[0] };

bool cpu_prefers_bfloat16(void)
{
    return has_avx512bf16();
}

int cpu_instructions_choose(struct cpu_instructions *out, const char *name, enum dtype dtype,
                            struct error *err)
{
    char present[64] = "";
    for (int i = 0; i < SET_COUNT; i++) {
        if (!SETS[i].present())
            continue;
        if (name == NULL ? SETS[i].preferred() : strcmp(name, SETS[i].name) == 0) {
            out->name = SETS[i].name;
            out->product = SETS[i].product[dtype];
            out->product_int8 = SETS[i].product_int8;
            out->softmax = SETS[i].softmax[dtype];
            out->accumulate = SETS[i].accumulate[dtype];
            out->elementwise = &SETS[i].elementwise[dtype];
            out->elementwise_float32 = &SETS[i].elementwise[DTYPE_FLOAT32];
            return 0;
        }
        size_t used = strlen(present);
        snprintf(present + used, sizeof present - used, "%s%s", used > 0 ? ", " : "", SETS[i].name);
    }
    return error_set(err, ERROR_INVALID,
                     "instruction set \"%s\" is unknown or missing on this CPU, which has: %s",
                     name, present);
}

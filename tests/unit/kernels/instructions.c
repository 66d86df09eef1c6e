/* What the names of the cpu backend's instruction sets stand for. */
#include "kernels/cpu/instructions.h"
#include <criterion/criterion.h>
#include <string.h>
#include "common/error.h"
#include "kernels/cpu/peak.h"

static void choose(struct cpu_instructions *out, const char *name, enum dtype dtype)
{
    struct error err = {0};
    if (cpu_instructions_choose(out, name, dtype, &err) != 0)
        cr_skip_test("%s", err.message);
    cr_assert_str_eq(out->name, name);
}

/*
 * The conformance suite runs avx512vnni with int8 weights alone, because nothing else differs from
 * avx512.
 */
Test(instructions, vnni_adds_products_of_int8_and_nothing_else)
{
    for (int dtype = DTYPE_FLOAT32; dtype <= DTYPE_BFLOAT16; dtype++) {
        struct cpu_instructions plain, vnni;
        memset(&plain, 0, sizeof plain);
        memset(&vnni, 0, sizeof vnni);
        choose(&plain, "avx512", (enum dtype)dtype);
        choose(&vnni, "avx512vnni", (enum dtype)dtype);
        cr_assert_neq(plain.product_int8, vnni.product_int8);
        plain.product_int8 = vnni.product_int8;
        plain.name = vnni.name;
        cr_assert_eq(memcmp(&plain, &vnni, sizeof plain), 0);
    }
}

Test(instructions, avx512_does_without_vnni_on_every_cpu)
{
    struct cpu_instructions avx512, avx2;
    struct cpu_peak peak;
    choose(&avx512, "avx512", DTYPE_FLOAT32);
    choose(&avx2, "avx2", DTYPE_FLOAT32);
    cr_assert_eq(avx512.product_int8, avx2.product_int8);
    cr_assert(cpu_peak_find(&peak, "avx512", DTYPE_INT8));
    cr_assert_null(strstr(peak.instruction, "vpdpbusd"), "%s", peak.instruction);
    cr_assert(cpu_peak_find(&peak, "avx512vnni", DTYPE_INT8));
    cr_assert_not_null(strstr(peak.instruction, "vpdpbusd"), "%s", peak.instruction);
}

/* A dtype's best set is the one that is taken where none is named. */
Test(instructions, the_best_set_has_vnni_where_the_cpu_has_it)
{
    struct cpu_instructions best, vnni;
    struct error err = {0};
    cr_assert_eq(cpu_instructions_choose(&best, NULL, DTYPE_BFLOAT16, &err), 0, "%s", err.message);
    choose(&vnni, "avx512vnni", DTYPE_BFLOAT16);
    cr_assert_eq(best.product_int8, vnni.product_int8, "%s", best.name);
}

/* Scores that are infinite, which no product of finite rows gives. */
#include <criterion/criterion.h>
#include <math.h>
#include "common/error.h"
#include "kernels/cpu/instructions.h"

enum { SCORES = KV_PAGE_POSITIONS };
static const char *const SETS[] = {"scalar", "avx2", "avx512"};

static const struct cpu_elementwise *elementwise_of(const char *set)
{
    struct cpu_instructions chosen;
    struct error err = {0};
    if (cpu_instructions_choose(&chosen, set, DTYPE_FLOAT32, &err) != 0)
        return NULL; /* this CPU lacks it */
    return chosen.elementwise;
}

Test(softmax, a_page_of_minus_infinity_weighs_nothing)
{
    for (size_t i = 0; i < sizeof SETS / sizeof SETS[0]; i++) {
        const struct cpu_elementwise *elementwise = elementwise_of(SETS[i]);
        if (elementwise == NULL)
            continue;
        float scores[SCORES], maximum = -INFINITY, sum = 0;
        for (int j = 0; j < SCORES; j++)
            scores[j] = -INFINITY;
        elementwise->softmax_page(scores, SCORES, 0.5f, &maximum, &sum);
        cr_assert_eq(sum, 0, "%s", SETS[i]);
        for (int j = 0; j < SCORES; j++) {
            cr_assert_eq(scores[j], 0, "%s", SETS[i]);
            scores[j] = 3;
        }
        elementwise->softmax_page(scores, SCORES, 0.5f, &maximum, &sum);
        cr_expect_eq(sum, SCORES, "%s: %g", SETS[i], (double)sum);
        cr_expect_eq(scores[SCORES - 1], 1, "%s", SETS[i]);
    }
}

Test(softmax, a_score_that_is_nan_makes_the_sum_nan)
{
    for (size_t i = 0; i < sizeof SETS / sizeof SETS[0]; i++) {
        const struct cpu_elementwise *elementwise = elementwise_of(SETS[i]);
        if (elementwise == NULL)
            continue;
        float scores[SCORES], maximum = -INFINITY, sum = 0;
        for (int j = 0; j < SCORES; j++)
            scores[j] = j == 7 ? NAN : -INFINITY;
        elementwise->softmax_page(scores, SCORES, 0.5f, &maximum, &sum);
        cr_expect(isnan(sum), "%s", SETS[i]);
    }
}

/* The rate at which places become free, which Retry-After is made of. */
#include <criterion/criterion.h>

#include "server/engine/counters.h"

enum { SECOND = 1000000 };

static void work(struct counters *counters, int from, int to, int freed)
{
    for (int second = from; second < to; second++) {
        counters_begin_tick(counters, (int64_t)second * SECOND);
        counters_begin_tick(counters, (int64_t)second * SECOND + SECOND / 2);
        atomic_fetch_add(&counters->outstanding, freed);
        counters_free_places(counters, freed);
    }
}

Test(pace, without_work_it_is_a_second)
{
    struct counters counters = {0};

    cr_expect_eq(counters_seconds_until(&counters, 0), 1);
    cr_expect_eq(counters_seconds_until(&counters, 1000), 1);
}

Test(pace, the_wait_follows_the_rate_of_the_last_seconds)
{
    struct counters counters = {0};

    work(&counters, 0, 100, 10);
    cr_expect_eq(counters_seconds_until(&counters, 0), 1);
    cr_expect_eq(counters_seconds_until(&counters, 200), 20);
    work(&counters, 100, 130, 2);
    cr_expect_eq(counters_seconds_until(&counters, 200), 100, "what was before is forgotten");
    cr_expect_eq(atomic_load(&counters.outstanding), 0);
}

Test(pace, idle_time_does_not_slow_the_rate)
{
    struct counters counters = {0};

    work(&counters, 0, 5, 10);
    work(&counters, 20, 25, 10);
    cr_expect_eq(counters_seconds_until(&counters, 100), 10);
    work(&counters, 5000, 5001, 1);
    cr_expect_eq(counters_seconds_until(&counters, 100), 100, "nor does what is long over count");
}

Test(pace, the_wait_is_bounded_where_nothing_ends)
{
    struct counters counters = {0};

    work(&counters, 0, 3, 0);
    cr_expect_eq(counters_seconds_until(&counters, 10), 30);
    work(&counters, 3, 40, 0);
    cr_expect_eq(counters_seconds_until(&counters, 10), PACE_LONGEST_S);
}

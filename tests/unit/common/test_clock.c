#include <time.h>

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include "common/clock.h"
#include "common/cpu_count.h"

Test(clock, monotonic_time_never_runs_backwards)
{
    int64_t before = clock_now_us();
    for (int i = 0; i < 1000; i++) {
        int64_t now = clock_now_us();
        cr_assert(ge(i64, now, before));
        before = now;
    }
}

Test(clock, wall_time_counts_microseconds_since_1970)
{
    int64_t before = (int64_t)time(NULL) - 1;
    int64_t wall = clock_wall_us();
    int64_t after = (int64_t)time(NULL) + 1;
    cr_assert(ge(i64, wall, before * 1000000));
    cr_assert(le(i64, wall, after * 1000000));
}

Test(cpu_count, a_quota_is_rounded_down_to_at_least_one)
{
    cr_assert(eq(int, cpu_count_of_quota("400000 100000\n"), 4));
    cr_assert(eq(int, cpu_count_of_quota("150000 100000\n"), 1));
    cr_assert(eq(int, cpu_count_of_quota("50000 100000\n"), 1));
    cr_assert(eq(int, cpu_count_of_quota("9223372036854775807 1\n"), 2147483647));
}

Test(cpu_count, no_quota_and_no_such_line_are_zero)
{
    static const char *const lines[] = {"max 100000\n", "",         "\n",       "100000",
                                        "100000 ",      "100000 x", "0 100000", "-5 100000",
                                        "100000 0",     "100000 -1"};
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
        cr_assert(eq(int, cpu_count_of_quota(lines[i]), 0), "line %zu", i);
    }
}

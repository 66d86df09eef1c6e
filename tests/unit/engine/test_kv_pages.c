#include "server/engine/kv_pages.h"

#include <string.h>

#include <criterion/criterion.h>

#include "common/error.h"

Test(kv_pages, every_page_is_handed_out_once)
{
    struct kv_pages pages;
    struct error err = {0};
    cr_assert_eq(kv_pages_create(&pages, 10, &err), 0);
    int32_t ids[10];
    cr_assert(kv_pages_take(&pages, ids, 4));
    cr_assert(kv_pages_take(&pages, ids + 4, 6));
    bool seen[10] = {false};
    for (int i = 0; i < 10; i++) {
        cr_assert(ids[i] >= 0 && ids[i] < 10 && !seen[ids[i]]);
        seen[ids[i]] = true;
    }
    kv_pages_free(&pages);
}

Test(kv_pages, too_large_a_wish_takes_nothing)
{
    struct kv_pages pages;
    struct error err = {0};
    cr_assert_eq(kv_pages_create(&pages, 3, &err), 0);
    int32_t ids[4];
    cr_assert(kv_pages_take(&pages, ids, 2));
    cr_expect_not(kv_pages_take(&pages, ids + 2, 2));
    cr_expect_eq(pages.used, 2);
    cr_expect(kv_pages_take(&pages, ids + 2, 1));
    cr_expect_not(kv_pages_take(&pages, ids + 3, 1));
    kv_pages_free(&pages);
}

Test(kv_pages, pages_given_back_in_any_order_can_be_taken_again)
{
    enum { TOTAL = 12 };
    struct kv_pages pages;
    struct error err = {0};
    cr_assert_eq(kv_pages_create(&pages, TOTAL, &err), 0);
    int32_t a[5], b[4], c[3], all[TOTAL];
    cr_assert(kv_pages_take(&pages, a, 5) && kv_pages_take(&pages, b, 4) &&
              kv_pages_take(&pages, c, 3));
    kv_pages_give(&pages, b, 4);
    kv_pages_give(&pages, a, 5);
    cr_expect_eq(pages.used, 3);
    kv_pages_give(&pages, c, 3);
    cr_assert(kv_pages_take(&pages, all, TOTAL));
    int sum = 0;
    for (int i = 0; i < TOTAL; i++)
        sum += 1 << all[i];
    cr_expect_eq(sum, (1 << TOTAL) - 1);
    kv_pages_free(&pages);
}

Test(kv_pages, a_page_holds_64_positions)
{
    cr_expect_eq(kv_pages_needed(1), 1);
    cr_expect_eq(kv_pages_needed(64), 1);
    cr_expect_eq(kv_pages_needed(65), 2);
    cr_expect_eq(kv_pages_needed(4096), 64);
}

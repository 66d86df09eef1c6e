/* What is said while a model loads. */
#include <criterion/criterion.h>

#include "server/model/load_progress.h"

Test(load_progress, names_the_share_the_bytes_and_the_rate)
{
    struct load_progress progress = {.total = 16000000000, .done = 4000000000};
    char text[100];

    load_progress_text(text, sizeof text, &progress, 2000000);
    cr_expect_str_eq(text, "loading: 25 %, 4.0 of 16.0 GB, 2.0 GB/s");
    progress = (struct load_progress){0};
    load_progress_text(text, sizeof text, &progress, 0);
    cr_expect_str_eq(text, "loading: 100 %, 0.0 of 0.0 MB, 0.0 MB/s");
}

Test(load_progress, of_what_is_over_within_a_second_says_nothing)
{
    struct load_progress progress;

    load_progress_begin(&progress, 10);
    load_progress_add(&progress, 10);
    load_progress_end(&progress);
    cr_expect_not(progress.shown);
    cr_expect_eq(progress.done, 10);
}

Test(load_progress, of_what_took_longer_says_at_the_end_how_fast_it_was)
{
    struct load_progress progress;

    load_progress_begin(&progress, 10);
    progress.started_us -= 2000000;
    progress.shown_us = progress.started_us + 1999000;
    load_progress_add(&progress, 10);
    cr_expect_not(progress.shown, "the last line is too young");
    load_progress_end(&progress);
    cr_expect(progress.shown);
}

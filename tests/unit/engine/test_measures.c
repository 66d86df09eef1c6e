/* Histograms and counters for whoever watches the engine. */
#include <criterion/criterion.h>

#include "tests/unit/engine/harness.h"

static uint64_t count(const struct histogram *histogram)
{
    uint64_t sum = 0;
    for (int i = 0; i <= HISTOGRAM_BUCKETS; i++)
        sum += histogram->counts[i];
    return sum;
}

Test(measures, every_tick_with_rows_is_observed_once_in_each_phase)
{
    struct harness harness;
    const struct engine_options options = harness_options(3, 0);
    harness_create(&harness, &options);
    const struct decode_params params = decode_params_neutral(8, 8);
    harness_tick(&harness); /* without work */
    struct request *requests[3];
    for (int32_t i = 0; i < 3; i++) {
        requests[i] = harness_request(8, i, &params);
        harness_submit(&harness, requests[i]);
    }
    harness_run(&harness);
    const struct engine_histograms *histograms = engine_histograms(harness.engine);
    cr_expect_eq(count(&histograms->pack), 8);
    cr_expect_eq(count(&histograms->forward), 8);
    cr_expect_eq(count(&histograms->select), 8);
    for (int i = 0; i <= ENGINE_ROW_BUCKETS; i++)
        cr_expect_eq(histograms->rows[i], i == 6 ? 8 : 0, "48 rows are 33 to 64");
    for (int32_t i = 0; i < 3; i++)
        request_release(requests[i]);
    harness_free(&harness);
}

Test(measures, times_to_the_first_draft_and_to_the_end_count_from_the_arrival)
{
    struct harness harness;
    const struct engine_options options = harness_options(4, 0);
    harness_create(&harness, &options);
    const struct decode_params params = decode_params_neutral(8, 8);
    struct request *finished = harness_request(8, 1, &params);
    struct request *cancelled = harness_request(8, 2, &params);
    finished->arrival_us = -400000;
    cancelled->arrival_us = -400000;
    harness_submit(&harness, finished);
    harness_submit(&harness, cancelled);
    harness_tick(&harness);
    const struct engine_histograms *histograms = engine_histograms(harness.engine);
    cr_expect_eq(count(&histograms->first_draft), 2, "once a request");
    cr_expect_geq(histograms->first_draft.sum_us, 2 * 401000);
    cr_expect_lt(histograms->first_draft.sum_us, 2 * 500000);
    request_cancel(cancelled);
    harness_run(&harness);
    cr_expect_eq(count(&histograms->first_draft), 2);
    cr_expect_eq(count(&histograms->answer), 1, "requests that finish");
    cr_expect_geq(histograms->answer.sum_us, 408000);
    request_release(finished);
    request_release(cancelled);
    harness_free(&harness);
}

Test(measures, a_request_that_ends_behind_its_deadline_is_a_miss)
{
    struct harness harness;
    const struct engine_options options = harness_options(4, 0);
    harness_create(&harness, &options);
    const struct decode_params params = decode_params_neutral(8, 8);
    const int64_t deadlines_us[] = {7000, 3600000000, INT64_MAX}; /* it ends at 8 ms or later */
    struct request *requests[3];
    for (int32_t i = 0; i < 3; i++) {
        requests[i] = harness_request(8, i, &params);
        requests[i]->deadline_us = deadlines_us[i];
    }
    harness_submit(&harness, requests[0]);
    harness_submit(&harness, requests[1]);
    harness_run(&harness);
    harness_submit(&harness, requests[2]);
    harness_run(&harness);
    cr_expect_eq(engine_counters_read(harness.engine).deadline_misses, 1);
    for (int32_t i = 0; i < 3; i++)
        request_release(requests[i]);
    harness_free(&harness);
}

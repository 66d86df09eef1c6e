#include <criterion/criterion.h>

#include "common/buffer.h"
#include "common/metrics.h"

Test(metrics, a_histogram_is_written_cumulatively_with_sum_and_count)
{
    struct histogram histogram = {0};
    struct buffer out = {0};

    histogram_observe_us(&histogram, 100);      /* on a bound: belongs to it */
    histogram_observe_us(&histogram, 1500);     /* le 0.002 */
    histogram_observe_us(&histogram, 99000000); /* above every bound */
    metrics_append_head(&out, "t_seconds", "histogram", "Time.");
    metrics_append_histogram(&out, "t_seconds", "phase=\"all\"", &histogram);
    cr_expect_not_null(strstr(out.data, "# TYPE t_seconds histogram\n"));
    cr_expect_not_null(strstr(out.data, "t_seconds_bucket{phase=\"all\",le=\"0.0001\"} 1\n"));
    cr_expect_not_null(strstr(out.data, "t_seconds_bucket{phase=\"all\",le=\"0.001\"} 1\n"));
    cr_expect_not_null(strstr(out.data, "t_seconds_bucket{phase=\"all\",le=\"0.002\"} 2\n"));
    cr_expect_not_null(strstr(out.data, "t_seconds_bucket{phase=\"all\",le=\"10\"} 2\n"));
    cr_expect_not_null(strstr(out.data, "t_seconds_bucket{phase=\"all\",le=\"+Inf\"} 3\n"));
    cr_expect_not_null(strstr(out.data, "t_seconds_sum{phase=\"all\"} 99.0016\n"));
    cr_expect_not_null(strstr(out.data, "t_seconds_count{phase=\"all\"} 3\n"));
    buffer_free(&out);
}

Test(metrics, series_without_labels_have_no_braces)
{
    struct histogram histogram = {0};
    struct buffer out = {0};

    metrics_append_value(&out, "a_total", NULL, 3);
    metrics_append_value(&out, "b", "k=\"v\"", 0.5);
    metrics_append_histogram(&out, "h", NULL, &histogram);
    cr_expect_not_null(strstr(out.data, "a_total 3\nb{k=\"v\"} 0.5\n"));
    cr_expect_not_null(strstr(out.data, "h_bucket{le=\"0.0001\"} 0\n"));
    cr_expect_not_null(strstr(out.data, "h_sum 0\nh_count 0\n"));
    buffer_free(&out);
}

Test(metrics, label_values_are_escaped)
{
    struct buffer out = {0};

    metrics_append_escaped(&out, "a\"b\\c\nd");
    cr_expect_str_eq(out.data, "a\\\"b\\\\c\\nd");
    buffer_free(&out);
}

/* Bodies of /version and /props, and the metrics. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/api/support_server.h"

static json_t *parse(struct buffer *body)
{
    json_t *json = json_loadb(body->data, body->length, 0, NULL);
    cr_assert_not_null(json, "%s", body->data);
    buffer_free(body);
    return json;
}

Test(operations, version_names_the_build)
{
    struct buffer body = {0};
    api_version_body(support_api(), &body);
    json_t *json = parse(&body);
    cr_expect_str_eq(text_at(json, "version"), "test");
    json_decref(json);
}

Test(operations, props_say_what_a_request_gets, .timeout = 60)
{
    struct server server = server_start(3, 5);
    struct buffer body = {0};
    server.api->settings.threshold = 0.75;
    server.api->settings.block_length = 16;
    server.api->generation.cfg_scale = 0.5;
    server.api->generation.ignore_eos = 1;
    server.api->settings.steps = 8;
    server.api->max_body_bytes = 1000;
    api_props_body(server.api, &body);
    json_t *props = parse(&body);
    cr_expect_str_eq(text_at(props, "build.version"), "test");
    cr_expect_str_eq(text_at(props, "model.name"), "tiny");
    cr_expect_str_eq(text_at(props, "model.family"), "LLaDA");
    cr_expect_eq(json_integer_value(json_at(props, "model.context_length")),
                 server.api->config.max_positions);
    cr_expect_str_eq(text_at(props, "device.description"), "cpu, scalar, 1 thread");
    cr_expect_str_eq(text_at(props, "device.dtype"), "float32");
    cr_expect_eq(json_integer_value(json_at(props, "limits.max_sequences")), 3);
    cr_expect_eq(json_integer_value(json_at(props, "limits.queue_limit")), 5);
    cr_expect_eq(json_integer_value(json_at(props, "limits.max_body_bytes")), 1000);
    cr_expect_eq(json_number_value(json_at(props, "defaults.threshold")), 0.75);
    cr_expect_eq(json_integer_value(json_at(props, "defaults.block_length")), 16);
    cr_expect_eq(json_number_value(json_at(props, "defaults.cfg_scale")), 0.5);
    cr_expect(json_is_true(json_at(props, "defaults.ignore_eos")));
    cr_expect(json_is_false(json_at(props, "defaults.logits_eos_inf")));
    cr_expect_str_eq(text_at(props, "defaults.diffusing_mask"), "░");
    cr_expect_eq(json_object_size(json_at(props, "presets")), 4);
    cr_expect_eq(json_number_value(json_at(props, "presets.instant.threshold")), 0.6);
    cr_expect_eq(json_number_value(json_at(props, "presets.low.threshold")), 0.8);
    cr_expect_eq(json_number_value(json_at(props, "presets.medium.threshold")), 0.9);
    cr_expect_str_eq(text_at(props, "presets.high.selection"), "steps");
    cr_expect_str_eq(text_at(props, "presets.high.cache"), "none");
    cr_expect_eq(json_integer_value(json_at(props, "presets.high.steps")),
                 json_integer_value(json_at(props, "defaults.max_tokens")));
    cr_expect(json_is_null(json_at(props, "presets.low.steps")));
    cr_expect_eq(json_integer_value(json_at(props, "limits.canvas")),
                 server.api->config.max_positions);
    json_decref(props);
    server_stop(&server);
}

/* The value of a sample; a missing one fails the test. */
static double sample(const char *metrics, const char *name)
{
    char line[128];
    snprintf(line, sizeof line, "\n%s ", name);
    const char *found = strstr(metrics, line);
    cr_assert_not_null(found, "%s", name);
    return strtod(found + strlen(line), NULL);
}

/* Every sample follows the HELP and TYPE of its family, which come once. */
static void check_exposition(char *metrics)
{
    char family[128] = "", *rest = NULL;
    for (char *line = strtok_r(metrics, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        cr_expect_eq(strncmp(line[0] == '#' ? line + 7 : line, "denoised_", 9), 0, "%s", line);
        if (strncmp(line, "# TYPE ", 7) == 0) {
            sscanf(line + 7, "%127s", family);
        } else if (line[0] != '#') {
            cr_expect_eq(strncmp(line, family, strlen(family)), 0, "%s under %s", line, family);
        }
    }
}

Test(operations, metrics_count_what_the_engine_did, .timeout = 60)
{
    struct server server = server_start(2, 2);
    struct buffer before = {0}, after = {0};
    api_append_metrics(server.api, &before);
    cr_expect_eq(sample(before.data, "denoised_rounds_total"), 0);
    cr_expect_eq(sample(before.data, "denoised_num_requests_running"), 0);
    json_decref(server_ask(&server, API_COMPLETIONS,
                           "{\"prompt\":\"a\",\"max_tokens\":8,\"selection\":\"steps\"}"));
    struct api_call *waiting = server_begin(&server, API_COMPLETIONS, "{\"prompt\":\"a\"}");
    api_append_metrics(server.api, &after);
    cr_expect_gt(sample(after.data, "denoised_rounds_total"), 0);
    cr_expect_gt(sample(after.data, "denoised_committed_tokens_total"), 0);
    cr_expect_eq(sample(after.data, "denoised_finished_total"), 1);
    cr_expect_eq(sample(after.data, "denoised_num_requests_waiting"), 1);
    cr_expect_eq(sample(after.data, "denoised_kv_cache_usage_ratio"), 0);
    cr_expect_eq(sample(after.data, "denoised_time_to_answer_seconds_count"), 1);
    cr_expect_eq(sample(after.data, "denoised_rows_per_tick_count"),
                 sample(after.data, "denoised_ticks_total"));
    cr_expect_not_null(strstr(after.data, "denoised_build_info{version=\"test\",model=\"tiny\","
                                          "device=\"cpu\",dtype=\"float32\"} 1\n"));
    check_exposition(after.data);
    api_call_free(waiting);
    buffer_free(&before);
    buffer_free(&after);
    server_stop(&server);
}

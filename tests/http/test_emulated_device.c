/*
 * The program on a device of its own, which is the emulation of tests/simt under the name "cuda":
 * memory, recordings, and what the server does when the device is lost.
 */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/http/client.h"
#include "tests/http/program.h"

enum { PROMPTS = 3 };
static const char *const TEXTS[PROMPTS] = {"Once upon a time", "The cat", "One day, a boy"};

static struct server_process server;

/* Beside the program that the other tests run. */
static void use_emulation(void)
{
    const char *binary = getenv("DENOISED_BINARY");
    char path[400];

    snprintf(path, sizeof path, "%s", binary != NULL ? binary : "build/release/denoised");
    char *slash = strrchr(path, '/');
    cr_assert_not_null(slash);
    snprintf(slash, sizeof path - (size_t)(slash - path), "/simt/denoised");
    cr_assert_eq(setenv("DENOISED_BINARY", path, 1), 0);
}

/* The texts of a completion of the first `count` prompts from `first` on. */
static json_t *complete(int first, int count)
{
    json_t *prompts = json_array();
    for (int i = 0; i < count; i++)
        json_array_append_new(prompts, json_string(TEXTS[first + i]));
    json_t *request = json_pack("{s:o, s:i, s:i, s:i, s:b}", "prompt", prompts, "max_tokens", 12,
                                "temperature", 0, "steps", 3, "ignore_eos", 1);
    char *body = json_dumps(request, 0);
    struct reply reply = client_send(&server, "POST", "/v1/completions", body);
    cr_assert_eq(reply.status, 200, "%s", reply.body.data);
    json_t *answer = reply_json(&reply), *texts = json_array();
    cr_assert_eq(json_array_size(json_object_get(answer, "choices")), (size_t)count);
    for (int i = 0; i < count; i++)
        json_array_append(
            texts,
            json_object_get(json_array_get(json_object_get(answer, "choices"), (size_t)i), "text"));
    json_decref(answer);
    json_decref(request);
    reply_free(&reply);
    free(body);
    return texts;
}

static void expect_device(const char *description)
{
    struct reply props = client_send(&server, "GET", "/props", NULL);
    cr_expect_not_null(strstr(props.body.data, "\"device\":{\"name\":\"cuda\""), "%s",
                       props.body.data);
    cr_expect_not_null(strstr(props.body.data, description), "%s", props.body.data);
    reply_free(&props);
}

static void expect_same_alone(void)
{
    json_t *together = complete(0, PROMPTS);
    for (int i = 0; i < PROMPTS; i++) {
        json_t *alone = complete(i, 1);
        cr_expect_str_eq(json_string_value(json_array_get(alone, 0)),
                         json_string_value(json_array_get(together, (size_t)i)), "\"%s\"",
                         TEXTS[i]);
        cr_expect_gt(json_string_length(json_array_get(alone, 0)), 0);
        json_decref(alone);
    }
    json_decref(together);
}

/* By default, and whoever is asked to compute the products. */
Test(emulated_device, answers_several_sequences_as_each_of_them_alone)
{
    const struct {
        const char *instructions, *description;
    } runs[] = {{NULL, "cuda"}, {"library", ", library, "}, {"own", ", own, "}};
    use_emulation();
    for (int i = 0; i < 3; i++) {
        const char *flag = runs[i].instructions != NULL ? "--instructions" : NULL;
        cr_assert(server_process_start(
            &server, (const char *const[]){"--device", "cuda", flag, runs[i].instructions, NULL}));
        expect_device(runs[i].description);
        expect_same_alone();
        cr_expect_eq(server_process_stop(&server), 0);
    }
}

Test(emulated_device, is_the_best_one_where_it_is_there)
{
    use_emulation();
    cr_assert(server_process_start(&server, (const char *const[]){"--device", "auto", NULL}));
    expect_device("cuda");
    cr_expect_eq(server_process_stop(&server), 0);
}

Test(emulated_device, that_is_lost_ends_every_request_and_the_server)
{
    char path[] = "/tmp/denoised-fault-XXXXXX";
    int fd = mkstemp(path);

    cr_assert_geq(fd, 0);
    close(fd);
    unlink(path);
    use_emulation();
    setenv("SIMT_FAULT", path, 1);
    cr_assert(server_process_start(&server, (const char *const[]){"--device", "cuda", NULL}));
    json_decref(complete(0, 1));
    fd = open(path, O_CREAT | O_WRONLY, 0600);
    cr_assert_geq(fd, 0);
    close(fd);
    struct reply reply =
        client_send(&server, "POST", "/v1/completions", "{\"prompt\":\"a\",\"max_tokens\":4}");
    expect_error(&reply, 503, "unavailable_error", "device_lost");
    reply_free(&reply);
    /* It may have ended by now; until then it is not ready. */
    int ready = socket_open(&server);
    struct buffer in = {0};
    if (ready >= 0 &&
        socket_send(ready, "GET /ready HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
                           "\r\n") &&
        socket_read_until(ready, &in, "\r\n"))
        cr_expect_not_null(strstr(in.data, " 503 "), "%s", in.data);
    buffer_free(&in);
    if (ready >= 0)
        close(ready);
    cr_expect_eq(server_process_wait(&server), 4);
    unlink(path);
}

Test(emulated_device, whose_loss_ends_a_start_too)
{
    struct server_process failed;

    use_emulation();
    setenv("SIMT_FAULT", "/dev/null", 1);
    cr_expect_eq(server_process_try(&failed, (const char *const[]){"--device", "cuda", NULL}), 4);
    cr_expect_not_null(strstr(failed.log.data, "device failed"), "%s", failed.log.data);
    buffer_free(&failed.log);
}

static void expect_no_room(const char *bytes, const char *const *arguments, const char *first)
{
    struct server_process failed;

    setenv("SIMT_MEMORY", bytes, 1);
    cr_expect_eq(server_process_try(&failed, arguments), 2);
    cr_expect_not_null(strstr(failed.log.data, "MB of device cuda: "), "%s", failed.log.data);
    const char *uses = strstr(failed.log.data, "cuda: ");
    cr_expect(uses != NULL && strncmp(uses + 6, first, strlen(first)) == 0, "%s", failed.log.data);
    cr_expect_not_null(strstr(failed.log.data, ": lower kv_cache_tokens"));
    buffer_free(&failed.log);
}

/* Of these bytes 512 MB are kept for the driver. */
Test(emulated_device, with_too_little_memory_is_exit_2_naming_the_key_to_lower)
{
    use_emulation();
    expect_no_room("600000000",
                   (const char *const[]){"--device", "cuda", "--kv-cache-tokens", "16384", NULL},
                   "KV pool");
    expect_no_room("540000000", (const char *const[]){"--device", "cuda", NULL}, "activations");
}

/* All that is left, in whole pages, where that is less than what max_sequences could use. */
Test(emulated_device, gives_the_kv_pool_what_weights_and_activations_leave)
{
    use_emulation();
    setenv("SIMT_MEMORY", "640000000", 1);
    cr_assert(server_process_start(&server, (const char *const[]){"--device", "cuda", NULL}));
    struct reply metrics = client_send(&server, "GET", "/metrics", NULL);
    const char *pages = strstr(metrics.body.data, "\ndenoised_kv_pages_total ");
    cr_assert_not_null(pages);
    /* 103.1 MB, less 6 MB of weights and 59 MB of activations, in pages of 393 kB. */
    double total = atof(pages + strlen("\ndenoised_kv_pages_total "));
    cr_expect(total > 80 && total < 115, "%g pages", total);
    const char *pool = strstr(metrics.body.data, "\ndenoised_memory_bytes{use=\"kv_pool\"} ");
    cr_assert_not_null(pool);
    cr_expect_float_eq(atof(strchr(pool, '}') + 1), total * 393216, 1);
    reply_free(&metrics);
    cr_expect_eq(server_process_stop(&server), 0);
}

Test(emulated_device, is_measured_by_the_benchmarks)
{
    use_emulation();
    struct outcome rounds =
        RUN("bench", "rounds", "--quick", "--json", "--device", "cuda", "--dtype", "bfloat16");
    cr_assert_eq(rounds.status, 0, "%s", rounds.log.data);
    json_t *document = json_loads(rounds.out.data, 0, NULL);
    cr_expect_str_eq(json_string_value(json_object_get(document, "device")), "cuda");
    cr_expect_eq(json_array_size(json_object_get(document, "rounds")), 2);
    cr_expect_eq(json_array_size(json_object_get(document, "calls")), 6);
    const json_t *memory = json_object_get(document, "memory");
    cr_expect_gt(json_number_value(json_object_get(memory, "copy_gb_per_s")), 0);
    cr_expect_null(json_object_get(memory, "read_gb_per_s"));
    json_decref(document);
    outcome_free(&rounds);

    struct outcome kernels =
        RUN("bench", "kernels", "--quick", "--device", "cuda", "--dtype", "bfloat16");
    cr_expect_eq(kernels.status, 0, "%s", kernels.log.data);
    cr_expect(output_contains(&kernels.out, "rope_store"), "%s", kernels.out.data);
    outcome_free(&kernels);
}

/* In the middle of the operations: what was measured until then stays, and says why it ends. */
Test(emulated_device, whose_loss_ends_a_benchmark_with_a_report_of_what_it_had)
{
    const char *path = "build/test-bench-lost.json";
    json_error_t error;

    use_emulation();
    remove(path);
    setenv("SIMT_FAULT_AFTER", "40", 1);
    struct outcome kernels = RUN("bench", "kernels", "--quick", "--device", "cuda", "--dtype",
                                 "bfloat16", "--report", path);
    cr_expect_eq(kernels.status, 4, "%s", kernels.log.data);
    json_t *document = json_load_file(path, 0, &error);
    cr_assert_not_null(document, "%s", error.text);
    size_t rows = json_array_size(json_object_get(document, "kernels"));
    /* None of the last product's rows: nothing is measured on a device that failed. */
    cr_expect(rows > 0 && rows < 7, "%zu rows", rows);
    cr_expect(json_is_false(json_object_get(document, "complete")));
    const char *why = json_string_value(json_object_get(document, "error"));
    cr_expect(why != NULL && strstr(why, "device failed") != NULL);
    json_decref(document);
    outcome_free(&kernels);
    remove(path);
}

/* With the peak of its products beside them. */
Test(emulated_device, is_measured_with_fp8_weights)
{
    use_emulation();
    struct outcome kernels =
        RUN("bench", "kernels", "--quick", "--json", "--device", "cuda", "--dtype", "fp8");
    cr_assert_eq(kernels.status, 0, "%s", kernels.log.data);
    json_t *document = json_loads(kernels.out.data, 0, NULL);
    cr_expect_str_eq(json_string_value(json_object_get(document, "weight_dtype")), "fp8");
    cr_expect_eq(json_array_size(json_object_get(document, "kernels")), 16);
    json_decref(document);
    outcome_free(&kernels);
}

/* Of the formats that the best device computes in. */
Test(emulated_device, is_what_inspect_counts_memory_for)
{
    use_emulation();
    struct outcome outcome = RUN("inspect", "models/tiny");
    cr_expect_eq(outcome.status, 0, "%s", outcome.log.data);
    cr_expect(output_contains(&outcome.out, "\n  fp8 "), "%s", outcome.out.data);
    cr_expect(!output_contains(&outcome.out, "\n  float32 "), "%s", outcome.out.data);
    outcome_free(&outcome);
}

/*
 * The program with the CUDA backend where there is no GPU: build/gpu/denoised, which `make` builds
 * where nvcc is. A driver that fails as it is told (tests/support/driver/fake_driver.c) takes the
 * place of NVIDIA's; further down, a runtime on the host that of CUDA's.
 */
#include <criterion/criterion.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/http/client.h"
#include "tests/http/program.h"

#define PROGRAM         "build/gpu/denoised"
#define FAKE_DRIVER     "build/gpu/tests"
#define PROGRAM_ON_HOST "build/gpu/tests/denoised"
#define HOST_LIBRARIES  "build/release/runtime"

static struct server_process server;

/* Every test is a process of its own. */
static void need_program(const char *drivers)
{
#ifdef __SANITIZE_ADDRESS__
    cr_skip_test(PROGRAM " has no sanitizers: it is tested with the release build");
#endif
    if (access(PROGRAM, X_OK) != 0)
        cr_skip_test(PROGRAM " was not built: there is no nvcc");
    setenv("DENOISED_BINARY", PROGRAM, 1);
    if (drivers != NULL)
        setenv("LD_LIBRARY_PATH", drivers, 1);
}

static void expect_exit_3(const char *cause)
{
    struct server_process failed;

    cr_expect_eq(server_process_try(&failed, (const char *const[]){"--device", "cuda", NULL}), 3);
    cr_expect_not_null(strstr(failed.log.data, cause), "%s", failed.log.data);
    cr_expect_not_null(strstr(failed.log.data, "use device cpu"), "%s", failed.log.data);
    buffer_free(&failed.log);
}

Test(gpu_program, no_driver_is_exit_3)
{
    need_program(NULL);
    if (dlopen("libcuda.so.1", RTLD_LAZY) != NULL)
        cr_skip_test("this machine has an NVIDIA driver");
    expect_exit_3("device \"cuda\": there is no NVIDIA driver");
}

Test(gpu_program, an_old_driver_is_exit_3_with_both_versions)
{
    need_program(FAKE_DRIVER);
    setenv("FAKE_DRIVER_VERSION", "12040", 1);
    expect_exit_3("the NVIDIA driver serves CUDA 12.4 at most, and this build needs 13.0");
}

Test(gpu_program, a_driver_without_devices_is_exit_3)
{
    need_program(FAKE_DRIVER);
    expect_exit_3("the NVIDIA driver finds no device");
}

Test(gpu_program, a_driver_that_fails_is_exit_3_with_its_reason)
{
    need_program(FAKE_DRIVER);
    setenv("FAKE_DRIVER_INIT", "999", 1);
    expect_exit_3("device \"cuda\" cannot be used (");
}

/* And says nothing of it: where no device is, none is missed. */
Test(gpu_program, device_auto_serves_on_the_cpu_where_there_is_no_gpu)
{
    need_program(FAKE_DRIVER);
    cr_assert(server_process_start(&server, (const char *const[]){"--device", "auto", NULL}));
    expect_answers_on_the_cpu(&server);
    server_process_signal(&server, SIGTERM);
    cr_expect(server_process_wait_for_log(&server, "stopped"));
    cr_expect_null(strstr(server.log.data, "cuda"), "%s", server.log.data);
    cr_expect_null(strstr(server.log.data, "warning"), "%s", server.log.data);
    cr_expect_eq(server_process_wait(&server), 0);
}

/* Where one should be, its user wants to know. */
Test(gpu_program, device_auto_says_why_it_serves_on_the_cpu_where_there_is_an_old_driver)
{
    need_program(FAKE_DRIVER);
    setenv("FAKE_DRIVER_VERSION", "12040", 1);
    cr_assert(server_process_start(&server, (const char *const[]){"--device", "auto", NULL}));
    server_process_signal(&server, SIGTERM);
    cr_expect(server_process_wait_for_log(&server, "stopped"));
    cr_expect_not_null(strstr(server.log.data, "warning: device \"cuda\": the NVIDIA driver"), "%s",
                       server.log.data);
    cr_expect_not_null(strstr(server.log.data, "\"computes_on\":\"cpu\""), "%s", server.log.data);
    cr_expect_eq(server_process_wait(&server), 0);
}

/*
 * The same program on a CUDA runtime of the host (tests/runtime): a device whose kernels do
 * nothing. What it answers means nothing, but how it comes to it does.
 */
static void need_program_on_host(const char *libraries)
{
    need_program(NULL);
    setenv("DENOISED_BINARY", PROGRAM_ON_HOST, 1);
    if (libraries != NULL)
        setenv("LD_LIBRARY_PATH", libraries, 1);
}

static int try_on_host(void)
{
    return server_process_try(&server, (const char *const[]){"--device", "cuda", NULL});
}

static void expect_log(const char *text)
{
    cr_expect_not_null(strstr(server.log.data, text), "%s", server.log.data);
}

Test(gpu_program, an_old_chip_is_exit_3_with_what_is_needed)
{
    need_program_on_host(HOST_LIBRARIES);
    setenv("HOST_RUNTIME_DEVICE", "7.5", 1);
    expect_exit_3("has compute capability 7.5, but 8.0 or newer is needed");
}

/* In front of whatever the system has. */
Test(gpu_program, a_cublaslt_that_cannot_be_used_is_exit_3_with_what_to_install)
{
    char folder[] = "/tmp/denoised-cublaslt-XXXXXX", library[80], target[PATH_MAX];
    cr_assert_not_null(mkdtemp(folder));
    snprintf(library, sizeof library, "%s/libcublasLt.so.13", folder);
    need_program_on_host(folder);

    int empty = open(library, O_CREAT | O_WRONLY, 0600);
    cr_assert_geq(empty, 0);
    close(empty);
    expect_exit_3("cuBLASLt cannot be loaded");
    cr_assert_eq(unlink(library), 0);

    cr_assert_not_null(realpath(FAKE_DRIVER "/libcuda.so.1", target));
    cr_assert_eq(symlink(target, library), 0);
    expect_exit_3("libcublasLt.so.13 has no cublasLtCreate; install CUDA 13's libraries");
    cr_assert_eq(unlink(library), 0);
    cr_assert_eq(rmdir(folder), 0);
}

Test(gpu_program, too_little_memory_is_exit_2_with_the_keys)
{
    need_program_on_host(HOST_LIBRARIES);
    setenv("HOST_RUNTIME_MEMORY", "600000000", 1);
    cr_expect_eq(try_on_host(), 2);
    expect_log("do not fit into the available");
    expect_log("lower max_rows_per_tick");
    buffer_free(&server.log);
}

/* What the estimate lets pass: something else took the memory meanwhile. */
Test(gpu_program, an_allocation_that_fails_is_named)
{
    need_program_on_host(HOST_LIBRARIES);
    setenv("HOST_RUNTIME_FAIL", "cudaMalloc:40", 1);
    cr_expect_eq(try_on_host(), 1);
    expect_log("on the device (out of memory); use a smaller model or limits");
    buffer_free(&server.log);
}

Test(gpu_program, rehearses_on_a_device_and_stops)
{
    need_program_on_host(HOST_LIBRARIES);
    cr_assert(
        server_process_start(&server, (const char *const[]){"--device", "cuda", "--dtype", "fp8",
                                                            "--log-level", "debug", NULL}));
    server_process_signal(&server, SIGTERM);
    cr_expect(server_process_wait_for_log(&server, "stopped"));
    expect_log("algorithms of a product were tried");
    expect_log("a recorded step was timed \"rows\":32,\"own_products\":1");
    cr_expect_null(strstr(server.log.data, "cannot be recorded"), "%s", server.log.data);
    cr_expect_eq(server_process_wait(&server), 0);
}

Test(gpu_program, starts_without_recordings_where_the_device_refuses_them)
{
    need_program_on_host(HOST_LIBRARIES);
    setenv("HOST_RUNTIME_FAIL", "cudaGraphInstantiate:1+", 1);
    cr_assert(server_process_start(&server, (const char *const[]){"--device", "cuda", NULL}));
    server_process_signal(&server, SIGTERM);
    cr_expect(server_process_wait_for_log(&server, "stopped"));
    expect_log("warning: this step cannot be recorded as a CUDA graph: out of memory");
    cr_expect_eq(server_process_wait(&server), 0);
}

Test(gpu_program, a_device_that_fails_ends_the_start_with_its_reason)
{
    need_program_on_host(HOST_LIBRARIES);
    setenv("HOST_RUNTIME_FAIL", "cudaStreamSynchronize:20", 1);
    cr_expect_eq(try_on_host(), 4);
    expect_log("the CUDA device failed; restart the server: unspecified launch failure");
    buffer_free(&server.log);
}

/* Steps of every bucket and dtype, with their trials and recordings. */
Test(gpu_program, benchmarks_run_through_on_a_device)
{
    need_program_on_host(HOST_LIBRARIES);
    struct outcome rounds = RUN("bench", "rounds", "--device", "cuda", "--quick");
    struct outcome kernels = RUN("bench", "kernels", "--device", "cuda", "--quick");
    cr_expect_eq(rounds.status, 0, "%s", rounds.log.data);
    cr_expect_eq(kernels.status, 0, "%s", kernels.log.data);
    outcome_free(&rounds);
    outcome_free(&kernels);
}

/* All that a GPU is asked for, of a small model, with products that compute nothing. */
Test(gpu_program, the_whole_plan_of_rounds_is_in_the_report)
{
    static const char *const formats[] = {"bfloat16", "fp8", "int8"};
    json_t *row;
    size_t i;

    need_program_on_host(HOST_LIBRARIES);
    setenv("HOST_CUBLASLT_IDLE", "1", 1);
    struct outcome outcome = RUN("bench", "rounds", "--device", "cuda", "--shape", "tiny", "--json",
                                 "--price-per-hour", "3");
    cr_assert_eq(outcome.status, 0, "%s", outcome.log.data);
    json_t *document = json_loads(outcome.out.data, 0, NULL);
    const json_t *rounds = json_object_get(document, "rounds");
    cr_assert_eq(json_array_size(rounds), 3 * 8);
    json_array_foreach(rounds, i, row)
    {
        cr_expect_str_eq(json_string_value(json_object_get(row, "weight_dtype")), formats[i / 8]);
        cr_expect_eq(json_integer_value(json_object_get(row, "sequences")), 1 << i % 8);
        cr_expect_eq(json_integer_value(json_object_get(row, "rows")), 32 << i % 8);
        cr_expect_eq(json_object_size(json_object_get(row, "tokens_per_second")), 4);
    }
    cr_expect_eq(json_array_size(json_object_get(document, "canvases")), 3 * 3);
    cr_expect_eq(json_array_size(json_object_get(document, "one_by_one")), 3 * 2);
    const json_t *calls = json_object_get(document, "calls");
    cr_assert_eq(json_array_size(calls), 3 * 2 * 7);
    json_array_foreach(calls, i, row)
    {
        if (i % 7 < 6)
            cr_expect_eq(json_integer_value(json_object_get(row, "steps")), 3 + (int)(i % 7 % 3));
        cr_expect(json_is_boolean(json_object_get(row, "within_800_ms")));
        cr_expect(json_is_real(json_object_get(row, "price_of_million_tokens")));
        cr_expect(json_is_real(json_object_get(row, "host_gap_percent")));
    }
    json_decref(document);
    outcome_free(&outcome);
}

/*
 * The program with the CUDA backend where there is no GPU: build/gpu/denoised, which `make` builds
 * where nvcc is. A driver that fails as it is told (tests/support/driver/fake_driver.c) takes the
 * place of NVIDIA's.
 */
#include <criterion/criterion.h>
#include <dlfcn.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/http/client.h"

#define PROGRAM     "build/gpu/denoised"
#define FAKE_DRIVER "build/gpu/tests"

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

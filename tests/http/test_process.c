/* What the process itself shows: memory, threads, exit statuses. */
#include <criterion/criterion.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "tests/http/client.h"

static struct server_process server;

#ifndef __SANITIZE_ADDRESS__ /* it keeps what was freed for a while */
static long resident_bytes(void)
{
    char path[64];
    long total = 0, resident = 0;

    snprintf(path, sizeof path, "/proc/%d/statm", (int)server.pid);
    FILE *file = fopen(path, "r");
    cr_assert_not_null(file);
    cr_assert_eq(fscanf(file, "%ld %ld", &total, &resident), 2);
    fclose(file);
    return resident * sysconf(_SC_PAGESIZE);
}

Test(process, a_long_body_is_let_go_before_its_answer_is_there)
{
    enum { WARM_UP = 3, REQUESTS = 9, LENGTH = 4 << 20 };
    struct buffer body = {0};
    int fds[REQUESTS];

    /*
     * One sequence at a time: all but the first wait behind answers that take long. One thread of
     * each kind, so that what malloc keeps for its next body is there after the first few.
     */
    cr_assert(server_process_start(&server,
                                   (const char *const[]){"--max-sequences", "1", "--event-threads",
                                                         "1", "--preparation-threads", "1", NULL}));
    buffer_append_text(&body, "{\"prompt\":\"a\",\"max_tokens\":180,\"steps\":180,\"n\":4,"
                              "\"ignore_eos\":true,\"stream\":true,\"unknown\":\"");
    for (int i = 0; i < LENGTH; i += 64)
        buffer_append_text(&body,
                           "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx");
    buffer_append_text(&body, "\"}");
    long before = 0;
    for (int i = 0; i < REQUESTS; i++) {
        struct buffer in = {0};
        if (i == WARM_UP)
            before = resident_bytes();
        fds[i] = socket_open(&server);
        cr_assert(socket_post(fds[i], "/v1/completions", body.data, ""));
        cr_assert(socket_read_until(fds[i], &in, " 200 OK\r\n"));
        buffer_free(&in);
    }
    long kept = resident_bytes() - before;
    cr_expect_lt(kept, 2 * LENGTH, "%ld bytes for %d waiting requests", kept, REQUESTS - WARM_UP);
    for (int i = 0; i < REQUESTS; i++)
        close(fds[i]);
    buffer_free(&body);
    cr_expect_eq(server_process_stop(&server), 0);
}
#endif

static bool has_thread(const char *name)
{
    char path[300], line[32];
    bool found = false;

    snprintf(path, sizeof path, "/proc/%d/task", (int)server.pid);
    DIR *tasks = opendir(path);
    cr_assert_not_null(tasks);
    for (struct dirent *task = readdir(tasks); task != NULL; task = readdir(tasks)) {
        snprintf(path, sizeof path, "/proc/%d/task/%s/comm", (int)server.pid, task->d_name);
        FILE *file = fopen(path, "r");
        if (file == NULL)
            continue;
        if (fgets(line, sizeof line, file) != NULL && strncmp(line, name, strlen(name)) == 0)
            found |= line[strlen(name)] == '\n';
        fclose(file);
    }
    closedir(tasks);
    return found;
}

Test(process, its_threads_have_names)
{
    static const char *const NAMES[] = {"engine", "http-prepare", "http-watch"};

    cr_assert(server_process_start(&server, NULL));
    /* An answer: every thread has begun. */
    struct reply reply =
        client_send(&server, "POST", "/v1/completions", "{\"prompt\":\"a\",\"max_tokens\":4}");
    cr_assert_eq(reply.status, 200);
    reply_free(&reply);
    for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++)
        cr_expect(has_thread(NAMES[i]), "%s", NAMES[i]);
    cr_expect_eq(server_process_stop(&server), 0);
}

Test(process, a_device_that_this_build_lacks_is_exit_3)
{
    struct server_process failed;

    cr_expect_eq(server_process_try(&failed, (const char *const[]){"--device", "cuda", NULL}), 3);
    cr_expect_not_null(strstr(failed.log.data, "device \"cuda\": this build has no such backend"),
                       "%s", failed.log.data);
    buffer_free(&failed.log);
}

Test(process, device_auto_serves_on_the_cpu_where_there_is_no_other)
{
    cr_assert(server_process_start(&server, (const char *const[]){"--device", "auto", NULL}));
    expect_answers_on_the_cpu(&server);
    cr_expect_eq(server_process_stop(&server), 0);
}

Test(process, a_dtype_that_the_device_lacks_is_exit_2)
{
    struct server_process failed;

    cr_expect_eq(server_process_try(&failed, (const char *const[]){"--dtype", "fp8", NULL}), 2);
    cr_expect_not_null(
        strstr(failed.log.data, "dtype \"fp8\": device cpu has float32, bfloat16 and int8"), "%s",
        failed.log.data);
    buffer_free(&failed.log);
}

static void expect_no_room(const char *const *arguments, const char *first)
{
    struct server_process failed;

    cr_expect_eq(server_process_try(&failed, arguments), 2);
    cr_expect_not_null(strstr(failed.log.data, "MB do not fit into the available"), "%s",
                       failed.log.data);
    const char *uses = strstr(failed.log.data, " MB: ");
    cr_expect(uses != NULL && strncmp(uses + 5, first, strlen(first)) == 0, "%s", failed.log.data);
    cr_expect_not_null(strstr(failed.log.data, ": lower kv_cache_tokens"));
    cr_expect_not_null(strstr(failed.log.data, ": lower max_rows_per_tick"));
    cr_expect_null(strchr(strchr(failed.log.data, '\n') + 1, '\n'), "one line: %s",
                   failed.log.data);
    buffer_free(&failed.log);
}

/* Before a byte of it is taken: 13 TB of keys and values. */
Test(process, memory_that_is_not_there_is_exit_2_naming_the_key_to_lower)
{
    expect_no_room((const char *const[]){"--kv-cache-tokens", "1073741824", NULL}, "KV pool");
    expect_no_room((const char *const[]){"--kv-cache-tokens", "1073741824", "--dtype", "bfloat16",
                                         "--max-rows-per-tick", "1048576", "--device", "ref", NULL},
                   "KV pool");
}

/* 9 GB of activations: more than the address space that the process gets. */
Test(process, an_allocation_that_fails_names_the_key_to_lower)
{
    const struct rlimit limit = {(rlim_t)3 << 30, (rlim_t)3 << 30};
    struct server_process failed;

#ifdef __SANITIZE_ADDRESS__
    cr_skip_test("AddressSanitizer takes more address space than the limit of this test");
#endif
    cr_assert_eq(setrlimit(RLIMIT_AS, &limit), 0);
    cr_expect_gt(
        server_process_try(&failed, (const char *const[]){"--max-rows-per-tick", "500000", NULL}),
        0);
    cr_expect_not_null(strstr(failed.log.data, "MB: lower max_rows_per_tick; KV pool"), "%s",
                       failed.log.data);
    buffer_free(&failed.log);
}

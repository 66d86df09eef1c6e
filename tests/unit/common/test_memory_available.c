/* What a made-up machine says of its memory. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "common/memory_available.h"

static char root[] = "/tmp/denoised-memory-XXXXXX";

static void make_directory(const char *path)
{
    char full[200];

    snprintf(full, sizeof full, "%s%s", root, path);
    cr_assert_eq(mkdir(full, 0700), 0, "%s", full);
}

static void write_file(const char *path, const char *text)
{
    char full[200];

    snprintf(full, sizeof full, "%s%s", root, path);
    FILE *file = fopen(full, "w");
    cr_assert_not_null(file, "%s", full);
    fputs(text, file);
    fclose(file);
}

static void make_machine(void)
{
    static const char *const directories[] = {"/proc",
                                              "/proc/self",
                                              "/sys",
                                              "/sys/fs",
                                              "/sys/fs/cgroup",
                                              "/sys/fs/cgroup/a",
                                              "/sys/fs/cgroup/a/b"};

    cr_assert_not_null(mkdtemp(root));
    for (size_t i = 0; i < sizeof directories / sizeof *directories; i++)
        make_directory(directories[i]);
}

static void remove_machine(void)
{
    char command[100];

    snprintf(command, sizeof command, "rm -r %s", root);
    cr_expect_eq(system(command), 0);
}

TestSuite(memory_available, .init = make_machine, .fini = remove_machine);

Test(memory_available, is_unknown_where_nothing_tells)
{
    cr_expect_eq(memory_available(root), INT64_MAX);
}

Test(memory_available, counts_what_the_machine_can_give_not_what_is_free)
{
    write_file("/proc/meminfo", "MemTotal: 9000 kB\nMemFree: 100 kB\nMemAvailable:    7000 kB\n");
    cr_expect_eq(memory_available(root), 7000 * 1024);
    write_file("/proc/self/cgroup", "0::/a/b\n");
    write_file("/sys/fs/cgroup/a/b/memory.max", "max\n");
    cr_expect_eq(memory_available(root), 7000 * 1024);
}

Test(memory_available, is_at_most_what_the_group_or_one_above_may_take)
{
    write_file("/proc/meminfo", "MemAvailable: 7000 kB\n");
    write_file("/proc/self/cgroup", "4:memory:/old\n0::/a/b\n");
    write_file("/sys/fs/cgroup/a/b/memory.max", "5000000\n");
    cr_expect_eq(memory_available(root), 5000000);
    write_file("/sys/fs/cgroup/a/memory.max", "4000000\n");
    cr_expect_eq(memory_available(root), 4000000);
    write_file("/sys/fs/cgroup/memory.max", "3000000\n");
    cr_expect_eq(memory_available(root), 3000000);
}

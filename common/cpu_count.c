#include "common/cpu_count.h"

#include <errno.h>
#include <limits.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CPU_MASK_LARGEST = 1 << 16 };

static int count_affinity(void)
{
    for (int cpus = CPU_SETSIZE; cpus <= CPU_MASK_LARGEST; cpus *= 2) {
        cpu_set_t *mask = CPU_ALLOC((size_t)cpus);
        if (mask == NULL) {
            return 1;
        }
        size_t size = CPU_ALLOC_SIZE((size_t)cpus);
        int status = sched_getaffinity(0, size, mask);
        int count = status == 0 ? CPU_COUNT_S(size, mask) : 0;
        int number = errno;
        CPU_FREE(mask);
        if (status == 0) {
            return count > 0 ? count : 1;
        }
        if (number != EINVAL) {
            return 1;
        }
        /* EINVAL: the kernel knows more CPUs than the mask has bits. */
    }
    return 1;
}

int cpu_count_of_quota(const char *line)
{
    char *end;
    long long quota = strtoll(line, &end, 10);
    if (end == line || *end != ' ') {
        return 0;
    }
    const char *second = end + 1;
    long long period = strtoll(second, &end, 10);
    if (end == second || quota <= 0 || period <= 0) {
        return 0;
    }
    long long cpus = quota / period;
    return cpus < 1 ? 1 : cpus > INT_MAX ? INT_MAX : (int)cpus;
}

static bool read_line(char *line, int size, const char *path)
{
    FILE *file = fopen(path, "re");
    if (file == NULL) {
        return false;
    }
    bool found = fgets(line, size, file) != NULL;
    fclose(file);
    return found;
}

/* This process's group below /sys/fs/cgroup: the line "0::/path" of /proc/self/cgroup. */
static bool read_cgroup_path(char *path, size_t size)
{
    FILE *file = fopen("/proc/self/cgroup", "re");
    if (file == NULL) {
        return false;
    }
    char line[PATH_MAX];
    bool found = false;
    while (!found && fgets(line, sizeof line, file) != NULL) {
        if (strncmp(line, "0::/", 4) == 0) {
            line[strcspn(line, "\n")] = '\0';
            found = (size_t)snprintf(path, size, "%s", line + 3) < size;
        }
    }
    fclose(file);
    return found;
}

/* The smallest quota of the group and all groups above it; INT_MAX where there is none. */
static int count_quota(void)
{
    char group[PATH_MAX / 2];
    int smallest = INT_MAX;
    if (!read_cgroup_path(group, sizeof group)) {
        return smallest;
    }
    for (;;) {
        char path[PATH_MAX], line[128];
        snprintf(path, sizeof path, "/sys/fs/cgroup%s/cpu.max", group);
        int cpus = read_line(line, sizeof line, path) ? cpu_count_of_quota(line) : 0;
        if (cpus > 0 && cpus < smallest) {
            smallest = cpus;
        }
        char *slash = strrchr(group, '/');
        if (slash == NULL) {
            return smallest;
        }
        *slash = '\0';
    }
}

int cpu_count(void)
{
    int affinity = count_affinity();
    int quota = count_quota();
    return quota < affinity ? quota : affinity;
}

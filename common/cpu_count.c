#include "common/cpu_count.h"

#include <errno.h>
#include <limits.h>
#include <sched.h>
#include <stdlib.h>

#include "common/cgroup.h"

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

static int64_t quota_of_line(const char *line)
{
    return cpu_count_of_quota(line);
}

int cpu_count(void)
{
    int affinity = count_affinity();
    int64_t quota = cgroup_smallest("", "cpu.max", quota_of_line);
    return quota < affinity ? (int)quota : affinity;
}

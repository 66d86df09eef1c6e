#include "common/memory_available.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/cgroup.h"

static int64_t machine_available(const char *root)
{
    char line[PATH_MAX];
    snprintf(line, sizeof line, "%s/proc/meminfo", root);
    FILE *file = fopen(line, "re");
    if (file == NULL) {
        return INT64_MAX;
    }
    long long kib = -1;
    while (kib < 0 && fgets(line, sizeof line, file) != NULL) {
        if (sscanf(line, "MemAvailable: %lld kB", &kib) != 1) {
            kib = -1;
        }
    }
    fclose(file);
    return kib < 0 || kib > INT64_MAX / 1024 ? INT64_MAX : kib * 1024;
}

/* "max" is none. */
static int64_t limit_of_line(const char *line)
{
    return strtoll(line, NULL, 10);
}

int64_t memory_available(const char *root)
{
    int64_t machine = machine_available(root);
    int64_t group = cgroup_smallest(root, "memory.max", limit_of_line);
    return group < machine ? group : machine;
}

#include "common/cgroup.h"

#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

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
static bool read_group(const char *root, char *path, size_t size)
{
    char line[PATH_MAX];
    snprintf(line, sizeof line, "%s/proc/self/cgroup", root);
    FILE *file = fopen(line, "re");
    if (file == NULL) {
        return false;
    }
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

int64_t cgroup_smallest(const char *root, const char *file, int64_t (*limit_of)(const char *line))
{
    char group[PATH_MAX / 2];
    int64_t smallest = INT64_MAX;
    if (!read_group(root, group, sizeof group)) {
        return smallest;
    }
    for (;;) {
        char path[2 * PATH_MAX], line[128];
        snprintf(path, sizeof path, "%s/sys/fs/cgroup%s/%s", root, group, file);
        int64_t limit = read_line(line, sizeof line, path) ? limit_of(line) : 0;
        if (limit > 0 && limit < smallest) {
            smallest = limit;
        }
        char *slash = strrchr(group, '/');
        if (slash == NULL) {
            return smallest;
        }
        *slash = '\0';
    }
}

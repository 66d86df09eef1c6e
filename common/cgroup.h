/*
 * Limits of the control groups (version 2) that this process is in. Reads files at every call; any
 * thread.
 */
#ifndef COMMON_CGROUP_H
#define COMMON_CGROUP_H

#include <stdint.h>

/*
 * The smallest limit that `file` ("cpu.max") of this process's group and of all groups above it
 * sets; INT64_MAX where there is none. limit_of reads the file's first line: 0 for no limit. Paths
 * begin with `root`, "" for the machine's own.
 */
int64_t cgroup_smallest(const char *root, const char *file, int64_t (*limit_of)(const char *line));

#endif
